//! Kinds that an API server serves, read from aggregated discovery.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kstatus::text;

/// A kind that the API server serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServedKind {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
}

impl ServedKind {
    /// Returns the name that a `CustomResourceDefinition` of this kind has.
    pub(crate) fn definition(&self) -> String {
        let group = self.api_version.split_once('/').map_or("", |(group, _)| group);
        format!("{}.{group}", self.plural)
    }
}

/// Result of aggregated discovery.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Kinds whose objects can be listed.
    pub(crate) kinds: Vec<ServedKind>,
    /// API versions whose server does not answer, so that their objects are unknown.
    pub(crate) silent: Vec<String>,
}

impl Served {
    /// Adds the groups of one response. A kind in several versions of a group is added once, with the
    /// preferred version, which is the first.
    pub(crate) fn read(&mut self, list: &Value) {
        for group in list["items"].as_array().into_iter().flatten() {
            let name = text(&group["metadata"], "name");
            let mut known = BTreeSet::new();
            for version in group["versions"].as_array().into_iter().flatten() {
                let separator = if name.is_empty() { "" } else { "/" };
                let api_version = format!("{name}{separator}{}", text(version, "version"));
                if version["freshness"] == "Stale" {
                    self.silent.push(api_version.clone());
                }
                for resource in version["resources"].as_array().into_iter().flatten() {
                    let kind = text(&resource["responseKind"], "kind");
                    let verbs = resource["verbs"].as_array().into_iter().flatten();
                    let lists = verbs.into_iter().any(|verb| verb == "list");
                    // Events and metrics hold no state and change while they are listed.
                    let passing = kind == "Event" || name.ends_with("metrics.k8s.io");
                    let plural = text(resource, "resource");
                    if lists && !passing && !kind.is_empty() && known.insert(plural.to_owned()) {
                        self.kinds.push(ServedKind {
                            api_version: api_version.clone(),
                            kind: kind.to_owned(),
                            plural: plural.to_owned(),
                            namespaced: resource["scope"] == "Namespaced",
                        });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn read_lists_each_kind_once_and_names_an_api_that_does_not_answer() {
        let resource = |name: &str, kind: &str, verbs: &[&str]| json!({"resource": name, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": verbs});
        let hpa =
            |kinds: &[Value]| json!({"version": "v2", "resources": kinds, "freshness": "Current"});
        let list = json!({"items": [
            {"metadata": {"name": "autoscaling"}, "versions": [
                hpa(&[resource("horizontalpodautoscalers", "HorizontalPodAutoscaler", &["list"])]),
                {"version": "v1", "resources": [
                    resource("horizontalpodautoscalers", "HorizontalPodAutoscaler", &["list"]),
                    resource("others", "Other", &["list"]),
                    resource("reviews", "Review", &["create"]),
                ]},
            ]},
            {"metadata": {"name": "example.org"}, "versions": [{"version": "v1", "freshness": "Stale"}]},
            {"metadata": {}, "versions": [{"version": "v1", "resources": [
                resource("events", "Event", &["list"]), resource("pods", "Pod", &["list"]),
            ]}]},
        ]});
        let mut served = Served::default();
        served.read(&list);
        let names: Vec<_> =
            served.kinds.iter().map(|kind| format!("{} {}", kind.api_version, kind.kind)).collect();
        assert_eq!(
            names,
            ["autoscaling/v2 HorizontalPodAutoscaler", "autoscaling/v1 Other", "v1 Pod"]
        );
        assert_eq!(served.silent, ["example.org/v1"]);
    }
}
