//! Client of the Kubernetes API: readiness, stored objects, and the removal of pods from a machine.
//!
//! The client trusts only the derived authority, and authenticates as the derived administrator.

pub(crate) mod drain;

use std::collections::BTreeMap;
use std::time::Duration;

use contract::labels::CORDONED;
use documents::WritePermit;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::Error;
use crate::pki::Pki;

/// Timeout of one request, in seconds.
const CALL_SECONDS_MAX: u64 = 10;
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Node that is registered in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegisteredNode {
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// Address in the private network of the machines.
    pub(crate) address: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether the node is cordoned: the scheduler assigns no new pods to it.
    pub(crate) unschedulable: bool,
    /// Whether this program cordoned the node.
    pub(crate) cordoned_by_us: bool,
}

impl RegisteredNode {
    fn parse(node: &Value) -> Option<Self> {
        let list = |path| node.pointer(path).and_then(Value::as_array).into_iter().flatten();
        let mut ready = list("/status/conditions").filter(|about| about["type"] == "Ready");
        let mut internal =
            list("/status/addresses").filter(|address| address["type"] == "InternalIP");
        let internal = internal.find_map(|address| address["address"].as_str());
        let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
        let labels =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Some(Self {
            name: node["metadata"]["name"].as_str()?.to_owned(),
            ready: ready.any(|about| about["status"] == "True"),
            address: internal.map(str::to_owned),
            labels: labels.collect(),
            unschedulable: node["spec"]["unschedulable"] == true,
            cordoned_by_us: node["metadata"]["annotations"][CORDONED].is_string(),
        })
    }
}

/// Returns the URL of one control plane's API server, for use when the endpoint does not answer.
/// Talos puts the addresses of a node into the certificate of its API server (v1.13,
/// `kubernetes_cert_sans.go`).
pub(crate) fn endpoint_at(address: &str) -> String {
    format!("https://{address}:6443")
}

/// Failure of a request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The API answered with this status and body.
    Status(u16, Value),
    /// The API did not answer, or its answer could not be read.
    Unreachable(String),
}

impl Failure {
    /// Returns the API's own message for people.
    pub(crate) fn text(&self, path: &str) -> String {
        match self {
            Self::Unreachable(why) => why.clone(),
            Self::Status(status, body) => match body["message"].as_str() {
                Some(message) => format!("{path} answered {status}: {message}"),
                None => format!("{path} answered {status}"),
            },
        }
    }
}

pub(crate) struct Reader {
    agent: Agent,
    endpoint: String,
}

impl Reader {
    pub(crate) fn new(pki: &Pki, endpoint: &str) -> Result<Self, Error> {
        let admin = &pki.kubernetes_admin;
        let chain = [Certificate::from_der(&admin.certificate).to_owned()];
        let key = PrivateKey::from_pem(admin.key_pem().as_bytes());
        let key = key.map_err(|error| Error::Keys(error.to_string()))?;
        let root = [Certificate::from_der(&pki.kubernetes.certificate).to_owned()];
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&root))
            .client_cert(Some(ClientCert::new_with_certs(&chain, key)));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(CALL_SECONDS_MAX)))
            .proxy(None)
            .max_idle_connections(0)
            .tls_config(tls.build())
            .build();
        Ok(Self { agent: config.into(), endpoint: endpoint.to_owned() })
    }

    /// Asks whether the API server is ready. The error holds the reason.
    pub(crate) fn readyz(&self) -> Result<(), String> {
        self.call("GET", "/readyz", None).map(drop).map_err(|why| why.text("/readyz"))
    }

    /// Lists the registered nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<RegisteredNode>, String> {
        Ok(self.list("/api/v1/nodes")?.iter().filter_map(RegisteredNode::parse).collect())
    }

    /// Returns the items of a list. An answer without `items` is an error, because an empty list
    /// has an empty array.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>, String> {
        let mut answer = self.call("GET", path, None).map_err(|why| why.text(path))?;
        match answer.get_mut("items").map(Value::take).unwrap_or_default() {
            Value::Array(items) => Ok(items),
            _ => Err(format!("{path} answered no list")),
        }
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        documents::detail("-", format_args!("{method} {path}"));
        let silent = |why: ureq::Error| Failure::Unreachable(why.to_string());
        let url = format!("{}{path}", self.endpoint);
        let kind =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = ureq::http::Request::builder().method(method).uri(url);
        let request = request.header("Content-Type", kind).header("Accept", "application/json");
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(body).map_err(|why| Failure::Unreachable(why.to_string()))?;
        let mut answer = self.agent.run(request).map_err(silent)?;
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(silent)?;
        // `/readyz` answers with plain text.
        let parsed = serde_json::from_str(&text);
        match answer.status().as_u16() {
            200..=299 if path == "/readyz" => Ok(Value::Null),
            200..=299 => parsed.map_err(|why| Failure::Unreachable(why.to_string())),
            status => Err(Failure::Status(status, parsed.unwrap_or_default())),
        }
    }
}

/// Writes to the cluster that a [`Reader`] reads.
pub(crate) struct Writer<'a>(&'a Reader);

impl<'a> Writer<'a> {
    pub(crate) fn new(reader: &'a Reader, _permit: &WritePermit) -> Self {
        Self(reader)
    }

    /// Deletes the node of a machine that is gone. A node that does not exist counts as deleted.
    pub(crate) fn forget(&self, name: &str) -> Result<(), String> {
        let path = format!("/api/v1/nodes/{name}");
        match self.0.call("DELETE", &path, None) {
            Ok(_) | Err(Failure::Status(404, _)) => Ok(()),
            Err(why) => Err(why.text(&path)),
        }
    }

    /// Cordons a node, so that it takes no new pods. A node that a person cordoned gets no
    /// annotation.
    pub(crate) fn cordon(&self, node: &RegisteredNode) -> Result<(), String> {
        if node.unschedulable {
            return Ok(());
        }
        let marked = json!({CORDONED: "its machine is being removed"});
        self.patch(
            node,
            &json!({"spec": {"unschedulable": true}, "metadata": {"annotations": marked}}),
        )
    }

    /// Uncordons a node that [`Self::cordon`] cordoned.
    pub(crate) fn uncordon(&self, node: &RegisteredNode) -> Result<(), String> {
        let unmarked = json!({CORDONED: null});
        self.patch(
            node,
            &json!({"spec": {"unschedulable": null}, "metadata": {"annotations": unmarked}}),
        )
    }

    fn patch(&self, node: &RegisteredNode, patch: &Value) -> Result<(), String> {
        let url = format!("/api/v1/nodes/{}", node.name);
        self.0.call("PATCH", &url, Some(patch)).map(drop).map_err(|why| why.text(&url))
    }
}
