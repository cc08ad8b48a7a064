//! Client of the Kubernetes API: readiness, stored objects, and the removal of pods from a machine.
//!
//! The client trusts only the derived authority, and authenticates as the derived administrator.

pub(crate) mod drain;

use std::collections::BTreeMap;
use std::time::Duration;

use ::kubernetes::{Change, Kubeconfig, Request, Settings};
use contract::labels::CORDONED;
use documents::WritePermit;
use serde_json::{Value, json};

use crate::Error;
use crate::pki::Pki;

/// Silence is normal while a control plane starts, so that the deadline is short.
const SETTINGS: Settings =
    Settings { manager: "talos-provision", deadline: Duration::from_secs(10) };

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

pub(crate) struct Reader(::kubernetes::Reader);

impl Reader {
    /// Prepares a connection to `endpoint` with the derived authority and the derived administrator.
    pub(crate) fn new(pki: &Pki, endpoint: &str) -> Result<Self, Error> {
        let admin = &pki.kubernetes_admin;
        let (certificate, key) = (admin.certificate_pem(), admin.key_pem());
        let authority = &pki.kubernetes.certificate;
        let accepted = Kubeconfig::from_certificates(endpoint, authority, &certificate, &key);
        let opened = accepted.and_then(|kubeconfig| Self::open(&kubeconfig));
        opened.map_err(|error| Error::Keys(error.to_string()))
    }

    fn open(kubeconfig: &Kubeconfig) -> Result<Self, ::kubernetes::Error> {
        ::kubernetes::Reader::open(kubeconfig, SETTINGS).map(Self)
    }

    /// Asks once whether the API server is ready. The error holds the reason.
    pub(crate) fn readyz(&self) -> Result<(), ::kubernetes::Error> {
        self.0.check(&Request::get("/readyz").once())
    }

    /// Lists the registered nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<RegisteredNode>, ::kubernetes::Error> {
        Ok(self.list("/api/v1/nodes")?.iter().filter_map(RegisteredNode::parse).collect())
    }

    /// Returns all items of the list at `path`.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>, ::kubernetes::Error> {
        self.0.list(&Request::get(path))
    }
}

/// Writes to the cluster that a [`Reader`] reads.
pub(crate) struct Writer<'a> {
    reader: &'a Reader,
    send: Box<dyn Fn(&Change) -> ChangeResult + 'a>,
}

/// Answer to a change: the object, or a `Status`.
type ChangeResult = Result<Value, ::kubernetes::Error>;

impl<'a> Writer<'a> {
    pub(crate) fn new(reader: &'a Reader, permit: &WritePermit) -> Self {
        let api = ::kubernetes::Writer::of(&reader.0, permit);
        Self { reader, send: Box::new(move |change| api.send(change)) }
    }

    /// Deletes the node of a machine that is gone. A node that does not exist counts as deleted.
    pub(crate) fn forget(&self, name: &str) -> Result<(), Error> {
        match (self.send)(&Change::delete(&format!("/api/v1/nodes/{name}"), &json!({}))) {
            Err(::kubernetes::Error::NotFound { .. }) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Cordons a node, so that it takes no new pods. A node that a person cordoned gets no
    /// annotation.
    pub(crate) fn cordon(&self, node: &RegisteredNode) -> Result<(), Error> {
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
    pub(crate) fn uncordon(&self, node: &RegisteredNode) -> Result<(), Error> {
        let unmarked = json!({CORDONED: null});
        self.patch(
            node,
            &json!({"spec": {"unschedulable": null}, "metadata": {"annotations": unmarked}}),
        )
    }

    fn patch(&self, node: &RegisteredNode, patch: &Value) -> Result<(), Error> {
        let change = Change::merge(&format!("/api/v1/nodes/{}", node.name), patch);
        Ok((self.send)(&change).map(drop)?)
    }
}
