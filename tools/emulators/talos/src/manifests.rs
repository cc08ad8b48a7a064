//! Objects that Talos creates in a new cluster so that nodes can join.

use serde_json::{Value, json};

use crate::config::Configuration;

/// Returns the objects as one list.
pub(crate) fn bootstrap(config: &Configuration) -> Value {
    let (id, secret) = &config.token;
    let nodes = "system:bootstrappers:nodes";
    let bind = |name: &str, role: &str, group: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "subjects": [{"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"},
        })
    };
    let role = "system:certificates.k8s.io:certificatesigningrequests";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "stringData": {
                "token-id": id, "token-secret": secret,
                "usage-bootstrap-authentication": "true",
                "auth-extra-groups": nodes,
            },
        },
        bind("system-bootstrap-node-bootstrapper", "system:node-bootstrapper", nodes),
        bind("system-bootstrap-approve-node-client-csr", &format!("{role}:nodeclient"), nodes),
        bind("system-bootstrap-node-renewal", &format!("{role}:selfnodeclient"), "system:nodes"),
    ]})
}

/// Returns the inline manifests of the configuration, each a YAML stream.
pub(crate) fn inline(config: &Configuration) -> Vec<String> {
    let list = config.main.pointer("/cluster/inlineManifests").and_then(Value::as_array);
    let contents = list.into_iter().flatten().filter_map(|manifest| manifest["contents"].as_str());
    contents.map(str::to_owned).collect()
}
