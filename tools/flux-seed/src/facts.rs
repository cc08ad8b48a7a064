//! Reads the live objects from which [`crate::graph`] computes the deletions.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Error;
use crate::clients::cluster::Reader;
use crate::graph::{ClusterFacts, uid};
use crate::kstatus::text;
use crate::object::Identity;
use crate::scan::Scan;

impl ClusterFacts {
    /// Reads every live object that the graph needs.
    pub(crate) fn read(reader: &Reader) -> Result<Self, Error> {
        let scan = Scan::of(reader)?;
        // Any served version of an API will do, because the fields used here are the same in each.
        let full = |group: &str, kind: &str| {
            let served = scan.kinds.iter().find(|served| {
                let served_group =
                    served.api_version.split_once('/').map_or("", |(group, _)| group);
                served_group == group && served.kind == kind
            });
            served.map_or(Ok(Vec::new()), |served| {
                reader.list(&served.api_version, &served.kind, None)
            })
        };
        Ok(Self {
            kustomizations: full("kustomize.toolkit.fluxcd.io", "Kustomization")?,
            releases: full("helm.toolkit.fluxcd.io", "HelmRelease")?,
            stateful_sets: full("apps", "StatefulSet")?,
            services: full("", "Service")?,
            claims: full("", "PersistentVolumeClaim")?,
            volumes: full("", "PersistentVolume")?,
            pods: full("", "Pod")?,
            scan,
        })
    }

    /// Returns the UIDs of the pods that mount claims and of all owners of those pods.
    pub(crate) fn claim_users(&self) -> BTreeSet<String> {
        let mut users = BTreeSet::new();
        for pod in &self.pods {
            let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
            let mounts = volumes.into_iter().any(|volume| {
                volume["persistentVolumeClaim"].is_object() || volume["ephemeral"].is_object()
            });
            if mounts {
                users.extend(self.owners(pod));
            }
        }
        let sets = self.stateful_sets.iter();
        users.extend(sets.filter(|set| set["spec"]["volumeClaimTemplates"].is_array()).map(uid));
        users
    }

    /// Returns the pods whose owners include the workload with this UID.
    pub(crate) fn pods_of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Value> {
        self.pods.iter().filter(move |pod| {
            uid(pod) != workload && self.owners(pod).iter().any(|owner| owner == workload)
        })
    }

    /// Returns the UIDs of an object and of all its owners.
    fn owners(&self, object: &Value) -> Vec<String> {
        let mut uids = vec![uid(object)];
        let mut index = 0;
        let mut pending = vec![object];
        while let Some(object) = pending.get(index).copied() {
            index += 1;
            let references = object["metadata"]["ownerReferences"].as_array();
            for owner in references.into_iter().flatten().map(|owner| text(owner, "uid")) {
                if !uids.iter().any(|known| known == owner) {
                    uids.push(owner.to_owned());
                    pending.extend(self.scan.objects.iter().find(|object| uid(object) == owner));
                }
            }
        }
        uids
    }
}

impl Scan {
    /// Whether a `CustomResourceDefinition` defines the kind of this object.
    pub(crate) fn is_defined(&self, id: &Identity) -> bool {
        let kind = self.kinds.iter().find(|served| {
            let group = served.api_version.split_once('/').map_or("", |(group, _)| group);
            group == id.group() && served.kind == id.kind
        });
        let name = kind.map(crate::clients::cluster::served::ServedKind::definition);
        name.is_some_and(|name| {
            self.objects.iter().any(|object| {
                object["kind"] == "CustomResourceDefinition" && object["metadata"]["name"] == name
            })
        })
    }
}
