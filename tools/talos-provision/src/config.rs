//! Machine configurations for Talos 1.13, byte for byte as Talos's own generator writes them.
//!
//! **Invariant:** a configuration is a function of the arguments. Two machines differ in their host
//! name, and in the contents of patches.

mod decode;
mod keys;
mod patch;
mod rules;
mod scalar;
mod schema;
mod unique;
mod yaml;

use serde_json::{Value, json};
use zeroize::Zeroizing;

pub use keys::Keys;
pub(crate) use keys::{keys, keys_in};
pub use patch::Patch;
pub(crate) use rules::{Refusal, check};
pub(crate) use unique::addresses;
pub use yaml::{At, Mistake};

use crate::emit;
use crate::pki::Bundle;
use crate::spec::Role;

/// Inputs that the configurations of all machines of a cluster share.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// Name of the cluster, for example `prod`.
    pub cluster: &'a str,
    /// URL of the Kubernetes API, including the port: `https://prod.example.org:6443`.
    pub endpoint: &'a str,
    /// Version of Kubernetes without `v`, for example `1.36.3`.
    pub kubernetes: &'a str,
    /// Secrets of the cluster.
    pub bundle: &'a Bundle,
}

/// Generates the configuration of a machine with the role `role`, as a list of documents.
#[must_use]
pub fn generate(common: &Common<'_>, role: Role) -> Vec<Value> {
    let root = json!({
        "version": "v1alpha1",
        "debug": false,
        "persist": true,
        "machine": machine(common, role),
        "cluster": cluster(common, role),
    });
    let hostname = json!({"apiVersion": "v1alpha1", "kind": "HostnameConfig", "auto": "stable"});
    vec![root, hostname]
}

/// Applies `patches` to `documents`, in their order.
///
/// # Errors
///
/// Names the field of a patch that does not fit, and the reason.
pub fn patched<'a>(
    documents: Vec<Value>,
    patches: impl IntoIterator<Item = &'a Patch>,
) -> Result<Vec<Value>, Mistake> {
    patches.into_iter().try_fold(documents, |documents, patch| patch.apply(documents))
}

/// Returns why a node with this role would refuse the documents, each reason with the path of its value.
#[must_use]
pub fn refusals(documents: &[Value], role: Role) -> Vec<String> {
    let refusals = check(documents, role);
    refusals.into_iter().map(|refusal| format!("{} {}", refusal.path, refusal.message)).collect()
}

/// Returns the documents as YAML, in the form in which a machine receives them.
#[must_use]
pub fn render(documents: &[Value]) -> Zeroizing<String> {
    Zeroizing::new(emit::documents(documents))
}

fn machine(common: &Common<'_>, role: Role) -> Value {
    let bundle = common.bundle;
    let control = role == Role::Controlplane;
    let mut machine = json!({
        "type": role.as_str(),
        "token": *bundle.trustd_token,
        "ca": {"crt": bundle.os.crt, "key": if control { &bundle.os.key } else { "" }},
        "certSANs": [],
        "kubelet": {
            "image": format!("ghcr.io/siderolabs/kubelet:v{}", common.kubernetes),
            "defaultRuntimeSeccompProfileEnabled": true,
            "disableManifestsDirectory": true,
        },
        "install": {"wipe": false, "grubUseUKICmdline": true},
        "features": {
            "diskQuotaSupport": true,
            "kubePrism": {"enabled": true, "port": 7445},
            "hostDNS": {"enabled": true, "forwardKubeDNSToHost": true},
        },
    });
    if control {
        machine["nodeLabels"] =
            json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    }
    machine
}

fn cluster(common: &Common<'_>, role: Role) -> Value {
    let bundle = common.bundle;
    let image =
        |name: &str| json!({"image": format!("registry.k8s.io/{name}:v{}", common.kubernetes)});
    let discovery = json!({
        "enabled": true,
        "registries": {"kubernetes": {"disabled": true}, "service": {}},
    });
    let network = json!({
        "dnsDomain": "cluster.local",
        "podSubnets": ["10.244.0.0/16"],
        "serviceSubnets": ["10.96.0.0/12"],
    });
    if role == Role::Worker {
        return json!({
            "id": *bundle.id,
            "secret": *bundle.secret,
            "controlPlane": {"endpoint": common.endpoint},
            "clusterName": common.cluster,
            "network": network,
            "token": *bundle.bootstrap_token,
            "ca": {"crt": bundle.kubernetes.crt, "key": ""},
            "discovery": discovery,
        });
    }
    let pair = |pair: &crate::pki::Pair| json!({"crt": pair.crt, "key": *pair.key});
    let mut api_server = image("kube-apiserver");
    api_server["admissionControl"] =
        json!([{"name": "PodSecurity", "configuration": pod_security()}]);
    api_server["auditPolicy"] = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [{"level": "Metadata"}],
    });
    json!({
        "id": *bundle.id,
        "secret": *bundle.secret,
        "controlPlane": {"endpoint": common.endpoint},
        "clusterName": common.cluster,
        "network": network,
        "token": *bundle.bootstrap_token,
        "secretboxEncryptionSecret": *bundle.secretbox,
        "ca": pair(&bundle.kubernetes),
        "aggregatorCA": pair(&bundle.aggregator),
        "serviceAccount": {"key": *bundle.service_account},
        "apiServer": api_server,
        "controllerManager": image("kube-controller-manager"),
        "proxy": image("kube-proxy"),
        "scheduler": image("kube-scheduler"),
        "discovery": discovery,
        "etcd": {"ca": pair(&bundle.etcd)},
    })
}

fn pod_security() -> Value {
    json!({
        "apiVersion": "pod-security.admission.config.k8s.io/v1alpha1",
        "defaults": {
            "audit": "restricted",
            "audit-version": "latest",
            "enforce": "baseline",
            "enforce-version": "latest",
            "warn": "restricted",
            "warn-version": "latest",
        },
        "exemptions": {"namespaces": ["kube-system"], "runtimeClasses": [], "usernames": []},
        "kind": "PodSecurityConfiguration",
    })
}
