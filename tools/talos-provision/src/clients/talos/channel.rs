//! Connection to one machine, and calls on it. A connection is used once and never reopened,
//! so that it never outlives a boot of the machine.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use talos_api::MESSAGE_BYTES_MAX;
use talos_api::cosi::resource::state_client::StateClient;
use talos_api::machine::machine_service_client::MachineServiceClient;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, GrpcMethod, Request, Response, Status, Streaming};

/// Timeout for opening a connection, in seconds.
const CONNECT_SECONDS_MAX: u64 = 4;
/// Timeout of one call, in seconds.
const CALL_SECONDS_MAX: u64 = 15;

/// Reason for which a connection failed.
#[derive(Clone, Debug)]
pub(super) enum Closed {
    /// The machine does not answer, or does not speak TLS.
    Unreachable(String),
    /// The machine shows a certificate that the cluster's authority has not signed.
    Foreign(String),
}

/// Channel that reports the name of every call before it is sent.
type ReportedChannel = InterceptedService<Channel, Report>;
type Report = fn(Request<()>) -> Result<Request<()>, Status>;

/// Open connection to one machine, with a client of each service.
pub(super) struct Connection {
    pub(super) machine: MachineServiceClient<ReportedChannel>,
    pub(super) state: StateClient<ReportedChannel>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Self, Closed> {
        let limit = Duration::from_secs(CONNECT_SECONDS_MAX);
        let opened = timeout(limit, Self::connect(address, tls)).await;
        opened.unwrap_or_else(|_| Err(Closed::Unreachable(format!("no answer from {address}"))))
    }

    async fn connect(address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Self, Closed> {
        let silent =
            |error: &dyn std::error::Error| Closed::Unreachable(format!("{address}: {error}"));
        let stream = TcpStream::connect(address).await.map_err(|error| silent(&error))?;
        let _ = stream.set_nodelay(true); // measured: without it, a request takes 40 ms longer
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|error| match certificate_error(&error) {
            Some(why) => Closed::Foreign(why),
            None => silent(&error),
        })?;
        let mut once = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let stream = once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { stream }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let origin = format!("https://{address}").parse().map_err(|error| silent(&error))?;
        let endpoint = endpoint.map_err(|error| silent(&error))?.origin(origin);
        let endpoint = endpoint.timeout(Duration::from_secs(CALL_SECONDS_MAX));
        let channel =
            endpoint.connect_with_connector(connector).await.map_err(|error| silent(&error))?;
        let channel = ReportedChannel::new(channel, report);
        let machine = MachineServiceClient::new(channel.clone());
        let state = StateClient::new(channel);
        Ok(Self {
            machine: machine
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            state: state
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        })
    }
}

/// Writes the path of a call to standard error, if the user asked for details.
#[expect(clippy::unnecessary_wraps, reason = "tonic's signature")]
fn report(request: Request<()>) -> Result<Request<()>, Status> {
    if let Some(method) = request.extensions().get::<GrpcMethod<'_>>() {
        documents::detail("-", format!("/{}/{}", method.service(), method.method()));
    }
    Ok(request)
}

/// Awaits the answer to a call, within [`CALL_SECONDS_MAX`].
pub(super) async fn answer<A>(
    call: impl Future<Output = Result<Response<A>, Status>>,
) -> Result<A, Status> {
    Ok(in_time(call).await?.into_inner())
}

/// Returns the single message of an answer that wraps a list.
pub(super) fn single<M>(messages: Vec<M>) -> Result<M, Status> {
    let message = messages.into_iter().next();
    message.ok_or_else(|| Status::new(Code::Internal, "the answer contains no message"))
}

/// Returns at most the first `most` messages of a call that answers with a stream.
pub(super) async fn first_messages<M>(
    call: impl Future<Output = Result<Response<Streaming<M>>, Status>>,
    most: usize,
) -> Result<Vec<M>, Status> {
    in_time(async {
        let mut answer = call.await?.into_inner();
        let mut messages = Vec::new();
        while messages.len() < most {
            let Some(message) = answer.message().await? else { break };
            messages.push(message);
        }
        Ok(messages)
    })
    .await
}

async fn in_time<A>(call: impl Future<Output = Result<A, Status>>) -> Result<A, Status> {
    let answer = timeout(Duration::from_secs(CALL_SECONDS_MAX), call).await;
    answer.map_err(|_| Status::new(Code::DeadlineExceeded, "no answer in time"))?
}

/// Returns the reason, if the certificate of the machine was rejected.
fn certificate_error(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match inner {
        rustls::Error::InvalidCertificate(why) => Some(match why {
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature => {
                "another authority signed the machine's certificate".to_owned()
            }
            why => format!("the machine's certificate is not valid: {why}"),
        }),
        _ => None,
    }
}
