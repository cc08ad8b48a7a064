//! Identity of a Kubernetes object, and the order in which objects are applied.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// Namespace of Flux's installation.
pub(crate) const NAMESPACE: &str = "flux-system";

/// Identity of an object in the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// API group and version, for example `apps/v1`.
    pub api_version: String,
    /// Kind, for example `Deployment`.
    pub kind: String,
    /// Namespace; absent for a cluster-wide object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name, for example `source-controller`.
    pub name: String,
}

impl Identity {
    /// Returns the identity of `object`. A missing field becomes an empty text, which no object has.
    pub(crate) fn of(object: &Value) -> Self {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Self {
            api_version: text("/apiVersion").unwrap_or_default(),
            kind: text("/kind").unwrap_or_default(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap_or_default(),
        }
    }

    /// Parses an entry of a Kustomization's inventory:
    /// `<namespace>_<name>_<group>_<kind>`, where `__` in a name means `:`.
    pub(crate) fn of_entry(id: &str, version: &str) -> Option<Self> {
        let (namespace, rest) = id.split_once('_')?;
        let (rest, kind) = rest.rsplit_once('_')?;
        let (name, group) = rest.rsplit_once('_')?;
        if name.is_empty() || kind.is_empty() || version.is_empty() {
            return None;
        }
        let separator = if group.is_empty() { "" } else { "/" };
        Some(Self {
            api_version: format!("{group}{separator}{version}"),
            kind: kind.to_owned(),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            name: name.replace("__", ":"),
        })
    }

    /// Whether both identities name the same object. The API server serves an object under each version
    /// of its group.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.name == other.name
            && self.namespace == other.namespace
            && self.group() == other.group()
    }

    /// Returns the API group, which is empty for the core group.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Stage of an `apply`. Every object of a stage must be ready before the next stage begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Definitions, Namespaces and cluster roles: other objects are instances of them or are inside them.
    Definitions,
    /// Classes that other objects refer to by name.
    Classes,
    /// Every other kind, for example workloads.
    Rest,
}

/// Returns the sort key of an object in the order of an `apply`. Removal uses the reverse order.
pub(crate) fn order(identity: &Identity) -> (Stage, usize, &Identity) {
    const KINDS: [&str; 20] = [
        "CustomResourceDefinition",
        "Namespace",
        "ClusterRole",
        "StorageClass",
        "IngressClass",
        "GatewayClass",
        "RuntimeClass",
        "PriorityClass",
        "ClusterRoleBinding",
        "ResourceQuota",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ConfigMap",
        "Secret",
        "Service",
        "NetworkPolicy",
        "Deployment",
        "OCIRepository",
        "Kustomization",
    ];
    let position = KINDS.iter().position(|kind| *kind == identity.kind).unwrap_or(KINDS.len());
    let stage = match position {
        0..=2 => Stage::Definitions,
        3..=7 => Stage::Classes,
        _ => Stage::Rest,
    };
    (stage, position, identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_entry_parses_an_inventory_entry_and_rejects_an_incomplete_one() {
        let entry = |id| Identity::of_entry(id, "v1").expect("an entry");
        assert_eq!(
            entry("default_greeter_apps_Deployment").to_string(),
            "Deployment default/greeter"
        );
        assert_eq!(entry("default_greeter_apps_Deployment").api_version, "apps/v1");
        assert_eq!(entry("_flux__read_rbac.authorization.k8s.io_ClusterRole").name, "flux:read");
        assert_eq!(entry("default_a_b__Service").name, "a_b");
        assert_eq!(entry("_data__PersistentVolume").api_version, "v1");
        for wrong in ["", "a", "a_b", "a_b_c", "___", "_name_group_"] {
            assert_eq!(Identity::of_entry(wrong, "v1"), None, "{wrong}");
        }
    }
}
