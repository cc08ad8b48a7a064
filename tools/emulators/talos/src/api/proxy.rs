//! Calls that a client addresses to other machines. A control plane forwards them, as apid does.
//!
//! A client names the machines in the metadata `node` or `nodes` (`talosctl -n`). Talos v1.13.9 decides in
//! `internal/app/apid/pkg/director/director.go`, and adds the machine's name to each answer of a call to
//! `nodes` (`internal/app/apid/pkg/backend/apid.go`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use prost::Message;
use talos_api::MESSAGE_BYTES_MAX;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _, service_fn};

use super::client::{Access, Client};
use crate::kind::Kind;
use crate::tls;

const NODE: &str = "node";
const NODES: &str = "nodes";
/// Metadata of a call that was forwarded already.
const PROXY_FROM: &str = "proxyfrom";
/// Services whose answers can be merged.
const MERGED: [&str; 2] = ["/machine.MachineService/", "/cluster.ClusterService/"];
/// Methods that answer with a stream.
const STREAMS: [&str; 5] = ["Events", "HealthCheck", "Kubeconfig", "List", "Read"];
/// Bytes before each message of gRPC: whether it is compressed, and its length.
const FRAME_BYTES: usize = 5;

/// Machines that a call is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The machine to which the client is connected.
    Here,
    /// Another machine, whose answer is passed on.
    One(String),
    /// Several machines, whose answers are merged.
    Many(Vec<String>),
}

impl Route {
    /// Decides by the metadata of a call.
    pub(super) fn of(client: &Client, path: &str, headers: &HeaderMap) -> Result<Self, Status> {
        // In maintenance mode apid forwards nothing (`NodeRoutingDisabled`).
        if client.access() == Access::Maintenance || headers.contains_key(PROXY_FROM) {
            return Ok(Self::Here);
        }
        let values = |name| -> Vec<String> {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.map(str::to_owned).collect()
        };
        let (mut node, mut nodes) = (values(NODE), values(NODES));
        if node.len() > 1 {
            return Err(Status::invalid_argument("node metadata must be single-valued"));
        }
        let machine = client.any_machine();
        let forwards = machine.active().is_some_and(|config| config.kind == Kind::ControlPlane);
        if !forwards {
            let is_here = |name: &String| {
                let address = name.parse::<IpAddr>();
                address.map_or(*name == machine.hostname(), |address| address == machine.address)
            };
            node.retain(|name| !is_here(name));
            nodes = if nodes.len() == 1 && is_here(&nodes[0]) { Vec::new() } else { nodes };
        }
        let route = match (node.pop(), nodes.is_empty()) {
            (None, true) => return Ok(Self::Here),
            (Some(node), true) => Self::One(node),
            (_, false) if !MERGED.iter().any(|service| path.starts_with(service)) => {
                return Err(Status::invalid_argument(format!(
                    "one-2-many proxying is not supported for method {path}"
                )));
            }
            (_, false) => Self::Many(nodes),
        };
        if forwards { Ok(route) } else { Err(Status::permission_denied("no request forwarding")) }
    }
}

/// Forwards a call to the machines of `route`.
pub(super) async fn forward(
    client: &Client,
    route: Route,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let is_stream = STREAMS.contains(&method.as_str());
    match route {
        Route::Here => Err(Status::internal("the call is for this machine")),
        Route::One(target) => send(client, &target, request.map(Body::new)).await,
        Route::Many(targets) if is_stream => match targets.as_slice() {
            [target] => send(client, target, request.map(Body::new)).await,
            _ => Err(Status::unimplemented("the emulator forwards a stream of one machine only")),
        },
        Route::Many(targets) => {
            let (parts, body) = request.into_parts();
            let body = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Status::resource_exhausted(error.to_string()))?;
            let body = body.to_bytes();
            let mut merged = Vec::new();
            for target in targets {
                let request =
                    Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
                let answer = match send(client, &target, request).await {
                    Ok(response) => message(response).await,
                    Err(status) => Err(status),
                };
                merged.extend(named(&target, answer));
            }
            Ok(framed(&merged))
        }
    }
}

/// Sends a call to another machine. This machine shows a certificate with the client's role, and trusts the
/// cluster's authority only.
async fn send(
    client: &Client,
    target: &str,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let unavailable = |why: &dyn std::fmt::Display| Status::unavailable(why.to_string());
    let address = target
        .parse::<Ipv4Addr>()
        .map_err(|_| unavailable(&format!("dial tcp: lookup {target}: no such host")))?;
    let address = SocketAddr::from((address, talos_api::PORT));
    let tls = client.peer_tls().map_err(|error| unavailable(&error))?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| unavailable(&error))?;
    let mut channel: Channel =
        endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                tls::connect(address, tls).await.map(TokioIo::new).map_err(std::io::Error::from)
            }
        }));
    let headers = request.headers_mut();
    headers.remove(NODE);
    headers.remove(NODES);
    headers.insert(PROXY_FROM, HeaderValue::from_static("lab"));
    let channel = channel.ready().await.map_err(|error| unavailable(&error))?;
    channel.call(request).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        unavailable(&format!("connection error: {}", cause.unwrap_or_else(|| error.to_string())))
    })
}

/// Returns the single message of an answer, or its error.
async fn message(response: Response<Body>) -> Result<Bytes, Status> {
    let (parts, body) = response.into_parts();
    let failed = |headers: &HeaderMap| {
        Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
    };
    if let Some(status) = failed(&parts.headers) {
        return Err(status);
    }
    let collected = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
    let collected = collected.map_err(|error| Status::internal(error.to_string()))?;
    if let Some(status) = collected.trailers().and_then(failed) {
        return Err(status);
    }
    let bytes = collected.to_bytes();
    if bytes.len() < FRAME_BYTES {
        return Err(Status::internal("the answer contains no message"));
    }
    Ok(bytes.slice(FRAME_BYTES..))
}

/// An answer that wraps a list: the messages, still encoded.
#[derive(Clone, PartialEq, Message)]
struct Wrapped {
    #[prost(bytes = "vec", repeated, tag = "1")]
    messages: Vec<Vec<u8>>,
}

/// The first field of every message in such a list.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
}

/// `common.Metadata` of Talos.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    hostname: String,
    #[prost(string, tag = "2")]
    error: String,
    #[prost(message, optional, tag = "3")]
    status: Option<RpcStatus>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Returns the answer of one machine with the machine's name. A list of messages may be appended to another.
fn named(target: &str, answer: Result<Bytes, Status>) -> Vec<u8> {
    let hostname = target.to_owned();
    let metadata = |metadata| Named { metadata: Some(metadata) }.encode_to_vec();
    let failed = |status: &Status| {
        let (code, message) = (i32::from(status.code()), status.message().to_owned());
        let error = format!("rpc error: code = {:?} desc = {message}", status.code());
        let status = Some(RpcStatus { code, message });
        Wrapped { messages: vec![metadata(Metadata { hostname: hostname.clone(), error, status })] }
    };
    let wrapped = match answer.map(Wrapped::decode) {
        Ok(Ok(mut wrapped)) => {
            let name = metadata(Metadata { hostname: hostname.clone(), ..Metadata::default() });
            for message in &mut wrapped.messages {
                message.extend(&name);
            }
            wrapped
        }
        Ok(Err(error)) => failed(&Status::internal(error.to_string())),
        Err(status) => failed(&status),
    };
    wrapped.encode_to_vec()
}

/// Returns a successful answer with one message.
fn framed(message: &[u8]) -> Response<Body> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from(frame)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use talos_api::machine::{Hostname, HostnameResponse};

    use super::*;

    #[test]
    fn merged_answers_name_their_machine_and_keep_errors_apart() {
        let messages = vec![Hostname { hostname: "prod-work-1".to_owned() }];
        let answer = HostnameResponse { messages }.encode_to_vec();
        let mut merged = named("127.72.1.2", Ok(answer.into()));
        merged.extend(named("127.72.1.9", Err(Status::unavailable("no route to host"))));
        let wrapped = Wrapped::decode(merged.as_slice()).expect("a list");
        let names: Vec<_> = wrapped
            .messages
            .iter()
            .map(|message| Named::decode(message.as_slice()).expect("a name").metadata)
            .map(|metadata| metadata.expect("metadata"))
            .collect();
        assert_eq!((names[0].hostname.as_str(), names[0].error.as_str()), ("127.72.1.2", ""));
        assert_eq!(names[1].status.as_ref().map(|status| status.code), Some(14));
        let answers = HostnameResponse::decode(merged.as_slice()).expect("answers").messages;
        assert_eq!(answers[0].hostname, "prod-work-1");
        assert_eq!(answers[1].hostname, "");
    }
}
