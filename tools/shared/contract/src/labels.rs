//! Labels and annotations of the group `holistic` on Kubernetes objects and cloud resources.
//!
//! Each key has one owner here, although one program may write it and another read it. Labels of
//! Hetzner Cloud allow the same characters as labels of Kubernetes
//! (<https://docs.hetzner.cloud/reference/cloud#labels>).

/// Label of every Kubernetes object that data-drain creates: the name of the Drain.
pub const DRAIN: &str = "holistic/drain";

/// Label of every Kubernetes object that flux-seed applies: the name of the Delivery.
pub const DELIVERY: &str = "holistic/delivery";

/// Label of the `ConfigMap`s in which flux-seed records what `destroy` deletes.
pub const DELIVERY_RECORD: &str = "flux-seed.holistic/record";

/// Annotation of a claim, a `PersistentVolume` or a Namespace that may be deleted although a drain holds
/// it. The value is the digest of the receipt ([`crate::VerifiedReceipt::digest`]). flux-seed writes it,
/// and the admission policy of data-drain reads it.
pub const RECEIPT: &str = "data-drain.holistic/receipt";

/// Annotation of a workload that data-drain has stopped: its number of replicas before. flux-seed reads
/// it to tell a stopped workload from one that a person has excluded from Flux.
pub const REPLICAS: &str = "data-drain.holistic/replicas";

/// Annotation of a workload that data-drain has stopped: the value of
/// `kustomize.toolkit.fluxcd.io/reconcile` before.
pub const RECONCILE: &str = "data-drain.holistic/reconcile";

/// Annotation of a claim: the node on which its pod ran before data-drain stopped the workload.
pub const NODE: &str = "data-drain.holistic/node";

/// Annotation of data-drain's Lease: a counter that changes while the holder is alive.
pub const HEARTBEAT: &str = "data-drain.holistic/heartbeat";

/// Annotation of a node that talos-provision has cordoned because its machine is being removed. Only such
/// a node is uncordoned when its machine is declared again.
pub const CORDONED: &str = "holistic/cordoned";

/// Label of a cloud resource: the name of the Project.
pub const PROJECT: &str = "holistic/project";

/// Label of a cloud resource: the name of the Cluster.
pub const CLUSTER: &str = "holistic/cluster";

/// Label of a server: its role, `controlplane` or `worker`.
pub const ROLE: &str = "holistic/role";

/// Label of a server: the name of its pool.
pub const POOL: &str = "holistic/pool";

/// Label of a server that is being removed. The load balancer does not forward to it.
pub const REMOVING: &str = "holistic/removing";

/// Label of the network of a cluster that is being destroyed: the number of control planes when the data
/// gate was passed.
pub const DESTROYING: &str = "holistic/destroying";

/// Label of the network of a cluster: the record of whether etcd was started.
pub const ETCD: &str = "holistic/etcd";

/// Label of a temporary server that writes an image of Talos: a number that no other such server has.
pub const BUILDER: &str = "holistic/builder";

/// Label of a temporary server that has written its image and has proved it: the beginning of the
/// SHA-256 digest of the image.
pub const WRITTEN: &str = "holistic/written";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_is_a_unique_qualified_name_of_the_group() {
        let keys = [
            DRAIN,
            DELIVERY,
            DELIVERY_RECORD,
            RECEIPT,
            REPLICAS,
            RECONCILE,
            NODE,
            HEARTBEAT,
            CORDONED,
            PROJECT,
            CLUSTER,
            ROLE,
            POOL,
            REMOVING,
            DESTROYING,
            ETCD,
            BUILDER,
            WRITTEN,
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
        for key in keys {
            let (prefix, name) = key.split_once('/').expect("a prefix");
            assert!(prefix == "holistic" || prefix.ends_with(".holistic"), "{key}");
            assert!(
                name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_lowercase()),
                "{key}"
            );
        }
    }
}
