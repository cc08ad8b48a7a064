//! Connection to one machine, and calls on it. A connection is used once and never reopened,
//! so that it never outlives a boot of the machine.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::wire;

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

/// Open connection to one machine.
pub(super) struct Connection(Grpc<Channel>);

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
        let client = Grpc::new(channel)
            .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
        Ok(Self(client))
    }

    /// Calls a method of the machine service, and returns its single message.
    pub(super) async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + Debug + 'static,
    {
        let reply: wire::Reply<A> = self.unary(path, request).await?;
        let message = reply.messages.into_iter().next();
        message.ok_or_else(|| Status::new(Code::Internal, "the answer contains no message"))
    }

    /// Calls a method that answers with a stream, and returns at most the first `most` messages.
    pub(super) async fn stream<Q, A>(
        &mut self,
        path: &'static str,
        request: Q,
        most: usize,
    ) -> Result<Vec<A>, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        documents::detail("-", path);
        let call = async {
            let ready = self.0.ready().await;
            ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
            let path = http::uri::PathAndQuery::from_static(path);
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            let answer = self.0.server_streaming(Request::new(request), path, codec).await?;
            let mut answer = answer.into_inner();
            let mut messages = Vec::new();
            while messages.len() < most {
                let Some(message) = answer.message().await? else { break };
                messages.push(message);
            }
            Ok(messages)
        };
        let answer = timeout(Duration::from_secs(CALL_SECONDS_MAX), call).await;
        answer.map_err(|_| Status::new(Code::DeadlineExceeded, "no answer in time"))?
    }

    /// Calls a method whose answer is not wrapped in a [`wire::Reply`].
    pub(super) async fn unary<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        documents::detail("-", path);
        let call = async {
            let ready = self.0.ready().await;
            ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
            let path = http::uri::PathAndQuery::from_static(path);
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            self.0.unary(Request::new(request), path, codec).await
        };
        let answer = timeout(Duration::from_secs(CALL_SECONDS_MAX), call).await;
        let late = |_| Status::new(Code::DeadlineExceeded, "no answer in time");
        Ok(answer.map_err(late)??.into_inner())
    }
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
