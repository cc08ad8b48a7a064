//! Resources of other programs that outlive the cluster and are billed.

use std::collections::BTreeSet;

use contract::labels::CLUSTER;
use serde_json::Value;

use super::model::Price;
use super::{CloudState, Reader};
use crate::Error;
use crate::money::Money;

/// Resource that another program created for the cluster, and that outlives the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    family: &'static str,
    id: u64,
}

/// Existing leftovers for people, and their monthly cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// One entry for each resource, for example `volume pvc-1 (4711), 0.44 EUR per month`.
    pub(crate) names: Vec<String>,
    /// Monthly cost of all of them, as far as prices are known.
    pub(crate) monthly: Money,
}

impl Reader {
    /// Lists resources that other programs created in our network, attached to our servers or
    /// labelled with our cluster: load balancers of a cloud controller, and volumes of a storage
    /// driver. They outlive the cluster and are billed.
    ///
    /// A volume whose pod does not run is attached to no server. Hetzner's CSI driver v2.22.1 writes
    /// the label `managed-by` on each volume (`internal/driver/controller.go`), and the labels of
    /// `HCLOUD_VOLUME_EXTRA_LABELS`, which `deployments/manifests/cloud/storage-driver.yaml` sets.
    /// Hetzner's cloud controller manager labels a load balancer with the UID of its Service alone,
    /// and attaches it to the network (v1.35.0, `internal/hcops/load_balancer.go`).
    pub(crate) fn leftovers(&self, cloud: &CloudState) -> Result<Vec<Leftover>, Error> {
        let ours: BTreeSet<u64> = cloud
            .resources
            .values()
            .filter(|resource| resource.ours)
            .map(|resource| resource.id)
            .collect();
        let theirs = cloud.attached_balancers.difference(&ours);
        let theirs = theirs.map(|id| Leftover { family: "load_balancers", id: *id });
        let mut leftovers: Vec<_> = theirs.collect();
        let servers = cloud.servers.values().filter(|server| server.ours);
        let mut volumes: BTreeSet<u64> =
            servers.flat_map(|server| server.volumes.iter().copied()).collect();
        let selector = format!("managed-by=csi-driver,{CLUSTER}={}", self.scope.cluster);
        let labelled = self.list("volumes", Some(("label_selector", selector.as_str())))?;
        volumes.extend(labelled.iter().filter_map(|volume| volume["id"].as_u64()));
        leftovers.extend(volumes.into_iter().map(|id| Leftover { family: "volumes", id }));
        Ok(leftovers)
    }

    /// Describes those of `leftovers` that still exist, with their cost.
    pub(crate) fn describe(&self, leftovers: &[Leftover]) -> Result<Leftovers, Error> {
        let mut described = Leftovers::default();
        for Leftover { family, id } in leftovers {
            let Some(found) = self.has(family, *id)? else { continue };
            let monthly = self.monthly(family, &found)?;
            let price = monthly.map_or_else(
                || "price unknown".to_owned(),
                |price| format!("{} per month", price.with_currency()),
            );
            let name = found["name"].as_str().unwrap_or_default();
            let kind = if *family == "volumes" { "volume" } else { "load balancer" };
            described.names.push(format!("{kind} {name} ({id}), {price}"));
            described.monthly = described.monthly + monthly.unwrap_or_default();
        }
        Ok(described)
    }

    /// Returns the monthly price of a load balancer or of a volume.
    fn monthly(&self, family: &str, found: &Value) -> Result<Option<Money>, Error> {
        let pricing = self.pricing()?;
        Ok(if family == "volumes" {
            found["size"].as_u64().and_then(|size| pricing.volume(size))
        } else {
            let prices = found["load_balancer_type"]["prices"].clone();
            let prices: Vec<Price> = serde_json::from_value(prices).unwrap_or_default();
            let location = found["location"]["name"].as_str().unwrap_or_default();
            pricing.monthly(&prices, location)
        })
    }
}
