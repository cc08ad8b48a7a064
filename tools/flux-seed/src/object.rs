//! What tells one object of a cluster from another, and in which order objects come.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// The one namespace of Flux.
pub(crate) const NAMESPACE: &str = "flux-system";

/// By which the API server finds an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Group and version.
    pub api_version: String,
    /// What it is.
    pub kind: String,
    /// Where it is, unless it belongs to the whole cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Which it is.
    pub name: String,
}

impl Identity {
    /// The identity of `object`; an object that lacks one gets an empty one, which nothing has.
    pub(crate) fn of(object: &Value) -> Self {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).map(str::to_owned);
        Self {
            api_version: text("/apiVersion").unwrap_or_default(),
            kind: text("/kind").unwrap_or_default(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap_or_default(),
        }
    }

    /// What an entry of a Kustomization's inventory stands for:
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

    /// Whether both name one object: an object is served under each version of its group.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.name == other.name
            && self.namespace == other.namespace
            && self.group() == other.group()
    }

    /// The group of its API; the core group's is empty.
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

/// Which objects must be there, and work, before others come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// What others are made of, or live in.
    Definitions,
    /// What others ask for by name.
    Classes,
    /// Everything else.
    Rest,
}

/// Where an object stands in the order of applying; removing is the reverse.
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
    let place = KINDS.iter().position(|it| *it == identity.kind).unwrap_or(KINDS.len());
    let stage = match place {
        0..=2 => Stage::Definitions,
        3..=7 => Stage::Classes,
        _ => Stage::Rest,
    };
    (stage, place, identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_an_inventory_names_its_object() {
        let of = |id| Identity::of_entry(id, "v1").expect("an entry");
        assert_eq!(of("default_greeter_apps_Deployment").to_string(), "Deployment default/greeter");
        assert_eq!(of("default_greeter_apps_Deployment").api_version, "apps/v1");
        assert_eq!(of("_flux__read_rbac.authorization.k8s.io_ClusterRole").name, "flux:read");
        assert_eq!(of("default_a_b__Service").name, "a_b");
        assert_eq!(of("_data__PersistentVolume").api_version, "v1");
        for wrong in ["", "a", "a_b", "a_b_c", "___", "_name_group_"] {
            assert_eq!(Identity::of_entry(wrong, "v1"), None, "{wrong}");
        }
    }
}
