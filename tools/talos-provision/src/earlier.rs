//! Facts of an earlier run, which the input has in the document's own status.
//!
//! Another version of this program may have written the status, so a field that cannot be read counts as
//! absent and does not hide the other fields.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::spec::Role;

/// Facts of an earlier run.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct EarlierFacts {
    #[serde(deserialize_with = "readable")]
    endpoint: Option<String>,
    #[serde(deserialize_with = "readable")]
    nodes: Vec<EarlierNode>,
    #[serde(deserialize_with = "readable")]
    images: Vec<Option<u64>>,
}

/// Machine of an earlier run.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct EarlierNode {
    #[serde(deserialize_with = "readable")]
    name: Option<String>,
    #[serde(deserialize_with = "readable")]
    id: Option<u64>,
    #[serde(deserialize_with = "readable")]
    role: Option<String>,
    #[serde(deserialize_with = "readable")]
    address: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EarlierStatus {
    #[serde(deserialize_with = "readable")]
    observed: EarlierFacts,
}

/// Deserialises a value, or returns the default in place of a value that cannot be read.
fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

impl EarlierFacts {
    /// Reads the facts from the document's own status.
    pub(crate) fn read(status: &Value) -> Self {
        EarlierStatus::deserialize(status).unwrap_or_default().observed
    }

    /// Returns the URL of the Kubernetes API; `None` while the cloud has not assigned its address.
    pub(crate) fn endpoint(self) -> Option<String> {
        self.endpoint.filter(|endpoint| endpoint.starts_with("https://"))
    }

    /// Returns the addresses of the control planes.
    pub(crate) fn control_planes(&self) -> Vec<String> {
        let is_control =
            |node: &&EarlierNode| node.role.as_deref() == Some(Role::Controlplane.as_str());
        self.nodes.iter().filter(is_control).filter_map(|node| node.address.clone()).collect()
    }

    /// Returns the servers, each with name and id, for example `prod-work-1 (42)`.
    pub(crate) fn servers(&self) -> Vec<String> {
        let named = |node: &EarlierNode| Some(format!("{} ({})", node.name.as_ref()?, node.id?));
        self.nodes.iter().filter_map(named).collect()
    }

    /// Returns the ids of the servers.
    pub(crate) fn server_ids(&self) -> BTreeSet<u64> {
        self.nodes.iter().filter_map(|node| node.id).collect()
    }

    /// Returns the ids of the images from which the servers were created.
    pub(crate) fn images(&self) -> impl Iterator<Item = u64> {
        self.images.iter().copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_of_an_earlier_run_are_read_from_the_status() {
        let facts = || {
            EarlierFacts::read(&json!({"observed": {
                "endpoint": "https://203.0.113.7:6443",
                "nodes": [
                    {"name": "prod-1", "id": 1, "role": "controlplane", "address": "203.0.113.7"},
                    {"name": "prod-2", "id": 2, "role": "worker", "address": "203.0.113.8"},
                    {"name": "prod-3", "id": 3, "role": null, "address": null},
                ],
                "images": [7, 8],
            }}))
        };
        assert_eq!(facts().servers(), ["prod-1 (1)", "prod-2 (2)", "prod-3 (3)"]);
        assert_eq!(facts().server_ids(), [1, 2, 3].into());
        assert_eq!(facts().control_planes(), ["203.0.113.7"]);
        assert_eq!(facts().images().collect::<Vec<_>>(), [7, 8]);
        assert_eq!(facts().endpoint().as_deref(), Some("https://203.0.113.7:6443"));
    }

    #[test]
    fn a_field_that_cannot_be_read_does_not_hide_the_others() {
        let status = json!({"observed": {
            "endpoint": {"afterApply": true},
            "nodes": [{"name": "prod-1", "id": "one"}, {"name": "prod-2", "id": 2, "role": 5}],
        }});
        assert_eq!(EarlierFacts::read(&status).servers(), ["prod-2 (2)"]);
        assert_eq!(EarlierFacts::read(&status).endpoint(), None);
        for status in [json!(null), json!({}), json!({"observed": null}), json!("text")] {
            assert_eq!(EarlierFacts::read(&status), EarlierFacts::default(), "{status}");
        }
    }
}
