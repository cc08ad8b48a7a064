//! The Talos API of one machine: the listener, its connections, and the choice of a service.

mod apply;
mod client;
mod cluster;
mod etcd;
mod lifecycle;
mod methods;
mod proxy;
mod service;
mod state;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use talos_api::MESSAGE_BYTES_MAX;
use talos_api::cluster::cluster_service_server::{self, ClusterServiceServer};
use talos_api::cosi::resource::state_server::{self, StateServer};
use talos_api::machine::machine_service_server::{self, MachineServiceServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;

use self::client::Client;
use self::proxy::Route;
use crate::machine::Machine;
use crate::pki;

pub(crate) use self::client::Access;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most concurrent connections, so that clients cannot exhaust file descriptors.
const CONNECTIONS_MAX: usize = 256;

/// Stream of messages that answers a call.
pub(crate) type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// A served API. Dropping the value ends the listener and its connections.
pub(crate) struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listener {
    pub(crate) fn start(
        machine: Arc<Machine>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        access: Access,
    ) -> Self {
        Self(tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(tls);
            let mut connections = JoinSet::new();
            loop {
                if connections.len() >= CONNECTIONS_MAX {
                    connections.join_next().await;
                }
                while connections.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                connections.spawn(connection(machine.clone(), acceptor.clone(), stream, access));
            }
        }))
    }
}

async fn connection(
    machine: Arc<Machine>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    access: Access,
) {
    let _ = stream.set_nodelay(true);
    // TLS itself reports a failed handshake to the client.
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let organizations =
        certificates.first().map(|certificate| pki::organizations(certificate)).unwrap_or_default();
    let client = Client::new(machine, access, &organizations);
    let service = service_fn(move |request| answer(client.clone(), request));
    let mut server = http2::Builder::new(TokioExecutor::new());
    let _ = server.max_concurrent_streams(64).serve_connection(TokioIo::new(stream), service).await;
}

/// Answers with the service that the path names, or forwards the call to the machines that its metadata
/// names. A service refuses a method that it does not have.
async fn answer(client: Client, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    match Route::of(&client, &path, request.headers()) {
        Ok(Route::Here) => {}
        Ok(route) => {
            let forwarded = proxy::forward(&client, route, request).await;
            return Ok(forwarded.unwrap_or_else(Status::into_http));
        }
        Err(status) => return Ok(status.into_http()),
    }
    match path.split('/').nth(1).unwrap_or_default() {
        machine_service_server::SERVICE_NAME => {
            let server = MachineServiceServer::new(client);
            server.max_decoding_message_size(MESSAGE_BYTES_MAX).call(request).await
        }
        cluster_service_server::SERVICE_NAME => {
            let server = ClusterServiceServer::new(client);
            server.max_decoding_message_size(MESSAGE_BYTES_MAX).call(request).await
        }
        state_server::SERVICE_NAME => {
            let server = StateServer::new(client);
            server.max_decoding_message_size(MESSAGE_BYTES_MAX).call(request).await
        }
        _ => Ok(Status::unimplemented(format!("the emulator has no {path}")).into_http()),
    }
}
