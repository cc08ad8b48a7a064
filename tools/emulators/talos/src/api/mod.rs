//! The Talos API of one machine: the listener, the roles of clients, and the dispatch of methods.

mod apply;
mod cluster;
mod etcd;
mod lifecycle;
mod service;
mod state;

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::ServerConfig;
use talos_provision::wire::{Empty, MESSAGE_BYTES_MAX, Reboot, Shutdown, path};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::machine::Machine;
use crate::pki;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most concurrent connections, so that clients cannot exhaust file descriptors.
const CONNECTIONS_MAX: usize = 256;

/// Stream of messages that answers a call.
pub(crate) type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// Authentication of the API's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// No certificate: every client is a reader, and may apply a configuration.
    Maintenance,
    /// A certificate of the configuration's authority, which names the client's roles.
    Configured,
}

/// Role of a client. Each role includes the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    None,
    Reader,
    Operator,
    Admin,
}

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
    let role = match access {
        Access::Maintenance => Role::Reader,
        Access::Configured => certificates
            .first()
            .map_or(Role::None, |certificate| role(&pki::organizations(certificate))),
    };
    let service = service_fn(move |request| {
        let machine = machine.clone();
        async move { Ok::<_, Infallible>(answer(machine, access, role, request).await) }
    });
    let mut server = http2::Builder::new(TokioExecutor::new());
    let _ = server.max_concurrent_streams(64).serve_connection(TokioIo::new(stream), service).await;
}

/// Returns the greatest of the roles that a certificate names.
fn role(organizations: &[String]) -> Role {
    let roles = organizations.iter().map(|organization| match organization.as_str() {
        "os:admin" => Role::Admin,
        "os:operator" => Role::Operator,
        "os:reader" => Role::Reader,
        _ => Role::None,
    });
    roles.max().unwrap_or(Role::None)
}

/// Returns the least role that may call a method, or `None` for a method that the emulator does not have.
fn needed(method: &str) -> Option<Role> {
    Some(match method {
        path::VERSION
        | path::HOSTNAME
        | path::SERVICE_LIST
        | path::EVENTS
        | path::ETCD_MEMBER_LIST
        | path::ETCD_STATUS
        | path::ETCD_ALARM_LIST
        | path::HEALTH_CHECK
        | path::LIST
        | path::STATE_GET
        | path::STATE_LIST => Role::Reader,
        path::REBOOT | path::SHUTDOWN => Role::Operator,
        path::APPLY_CONFIGURATION
        | path::BOOTSTRAP
        | path::KUBECONFIG
        | path::READ
        | path::RESET
        | path::ETCD_LEAVE_CLUSTER
        | path::ETCD_REMOVE_MEMBER_BY_ID => Role::Admin,
        _ => return None,
    })
}

async fn answer(
    machine: Arc<Machine>,
    access: Access,
    role: Role,
    request: Request<Incoming>,
) -> Response<Body> {
    let method = request.uri().path().to_owned();
    let Some(needed) = needed(&method) else {
        return Status::unimplemented(format!("the emulator has no {method}")).into_http();
    };
    let applies = access == Access::Maintenance && method == path::APPLY_CONFIGURATION;
    if role < needed && !applies {
        return Status::permission_denied("not authorized").into_http();
    }
    match method.as_str() {
        path::VERSION => {
            unary(request, move |_: Empty| ready(Ok(service::version(&machine)))).await
        }
        path::HOSTNAME => {
            unary(request, move |_: Empty| ready(Ok(service::hostname(&machine)))).await
        }
        path::SERVICE_LIST => {
            unary(request, move |_: Empty| ready(Ok(service::services(&machine)))).await
        }
        path::BOOTSTRAP => {
            unary(request, move |asked| ready(service::bootstrap(&machine, asked))).await
        }
        path::KUBECONFIG => {
            streaming(request, move |_: Empty| ready(service::kubeconfig(&machine))).await
        }
        path::READ => streaming(request, move |asked| ready(service::read(&machine, &asked))).await,
        path::LIST => streaming(request, move |asked| ready(service::list(&machine, &asked))).await,
        path::EVENTS => {
            streaming(request, move |asked| ready(Ok(service::events(&machine, asked)))).await
        }
        path::APPLY_CONFIGURATION => {
            unary(request, move |asked| ready(apply::apply(&machine, access, &asked))).await
        }
        path::RESET => unary(request, move |asked| ready(lifecycle::reset(&machine, &asked))).await,
        path::REBOOT => unary(request, move |_: Reboot| ready(lifecycle::reboot(&machine))).await,
        path::SHUTDOWN => {
            unary(request, move |_: Shutdown| ready(lifecycle::shutdown(&machine))).await
        }
        path::ETCD_MEMBER_LIST => {
            unary(request, move |asked| etcd::members(machine.clone(), asked)).await
        }
        path::ETCD_STATUS => unary(request, move |_: Empty| etcd::status(machine.clone())).await,
        path::ETCD_ALARM_LIST => {
            unary(request, move |_: Empty| ready(etcd::alarms(&machine))).await
        }
        path::ETCD_LEAVE_CLUSTER => {
            unary(request, move |_: Empty| etcd::leave(machine.clone())).await
        }
        path::ETCD_REMOVE_MEMBER_BY_ID => {
            unary(request, move |asked| etcd::remove(machine.clone(), asked)).await
        }
        path::HEALTH_CHECK => {
            streaming(request, move |asked| ready(cluster::health(&machine, &asked))).await
        }
        path::STATE_GET => {
            unary(request, move |asked| ready(state::get(&machine, role, asked))).await
        }
        path::STATE_LIST => {
            streaming(request, move |asked| ready(state::list(&machine, role, &asked))).await
        }
        _ => Status::new(Code::Internal, "the method has a role and no handler").into_http(),
    }
}

async fn unary<Q, A, F, W>(request: Request<Incoming>, mut handler: F) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnMut(Q) -> W,
    W: Future<Output = Result<A, Status>>,
{
    let service = tower::service_fn(move |asked: tonic::Request<Q>| {
        let answer = handler(asked.into_inner());
        async move { answer.await.map(tonic::Response::new) }
    });
    let codec = ProstCodec::<A, Q>::default();
    Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX).unary(service, request).await
}

async fn streaming<Q, A, F, W>(request: Request<Incoming>, mut handler: F) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnMut(Q) -> W,
    W: Future<Output = Result<Answers<A>, Status>>,
{
    let service = tower::service_fn(move |asked: tonic::Request<Q>| {
        let answer = handler(asked.into_inner());
        async move { answer.await.map(tonic::Response::new) }
    });
    let codec = ProstCodec::<A, Q>::default();
    Grpc::new(codec)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .server_streaming(service, request)
        .await
}
