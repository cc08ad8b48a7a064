//! Data gate: volumes and pods that must be safe before machines are removed.
//!
//! [`contract::gate::judge`] decides. This module collects the facts from the live cluster. It asks
//! at the endpoint and at the address of every control plane, because the load balancer or a
//! control plane may be missing. A cluster that does not answer closes the gate, unless the cloud
//! records that etcd was never started.

use contract::gate::{self, Facts, Loss, Verdict};
use documents::{Deferred, Refusal};

use crate::Error;
use crate::clients::hetzner::CloudState;
use crate::clients::kubernetes;
use crate::clients::kubernetes::drain;
use crate::desired;
use crate::labels;
use crate::observe::Observation;
use crate::plan::{History, Kind, Step};
use crate::session::Session;
use crate::spec::Role;

/// Returns the reasons that forbid the removal of the whole cluster.
pub(crate) fn whole(session: &Session<'_>, cloud: &CloudState) -> Result<Vec<Refusal>, Error> {
    if !cloud.servers.values().any(|server| server.ours) {
        return Ok(Vec::new());
    }
    let loss = Loss { cluster: true, ..Loss::default() };
    let verdict = verdict(session, cloud, &loss)?;
    if verdict.closed.is_some() && gate_was_passed(cloud) {
        return Ok(Vec::new());
    }
    Ok(verdict.refusals())
}

/// Returns the reasons that forbid the removals in `steps`: volumes whose only copy is on these
/// machines, and pods that an eviction would lose.
pub(crate) fn machines(
    session: &Session<'_>,
    now: &Observation,
    steps: &[Step],
) -> Result<Vec<Refusal>, Error> {
    let name = |step: &Step| match step {
        Step::RemoveServer { name, .. } => Some(name.clone()),
        _ => None,
    };
    let loss = Loss { nodes: steps.iter().filter_map(name).collect(), ..Loss::default() };
    if loss.nodes.is_empty() {
        return Ok(Vec::new());
    }
    let mut refusals = verdict(session, &now.cloud, &loss)?.refusals();
    let (Deferred::Value(endpoint), Ok(())) = (&now.endpoint, &now.kubernetes.ready) else {
        return Ok(refusals);
    };
    let reader = session.kubernetes(endpoint)?;
    let goes = |node: &&kubernetes::RegisteredNode| loss.nodes.contains(&node.name);
    for node in now.kubernetes.nodes.iter().filter(goes) {
        refusals.extend(drain::blocked(&reader, &node.name, session.spec().removal)?);
    }
    Ok(refusals)
}

/// Fails if `refusals` is not empty.
pub(crate) fn pass(cluster: &str, refusals: Vec<Refusal>) -> Result<(), Error> {
    if refusals.is_empty() {
        return Ok(());
    }
    Err(Error::NotDrained { cluster: cluster.to_owned(), refusals })
}

fn verdict(session: &Session<'_>, cloud: &CloudState, loss: &Loss) -> Result<Verdict, Error> {
    let (project, cluster) = (session.project, session.name());
    let facts = facts(session, cloud)?;
    let receipts = match facts {
        Facts::Live(_) => contract::receipts_of_cluster(session.stream, project, cluster)?,
        Facts::NeverBegan | Facts::Unknown { .. } => Vec::new(),
    };
    Ok(gate::judge(loss, &session.spec().data_on_destroy, &receipts, &facts))
}

/// Asks the live cluster, at its endpoint and then at each control plane, until one answers.
fn facts(session: &Session<'_>, cloud: &CloudState) -> Result<Facts, Error> {
    if !History::read(&cloud.resources, &cloud.servers).has_begun() {
        return Ok(Facts::NeverBegan);
    }
    let endpoint = match desired::endpoint(session.spec(), cloud) {
        Deferred::Value(endpoint) => Some(("the endpoint".to_owned(), endpoint)),
        Deferred::AfterApply => None,
    };
    let controls = cloud.servers.iter().filter(|(_, server)| {
        server.ours && server.role.is_none_or(|role| role == Role::Controlplane)
    });
    let controls = controls.filter_map(|(name, server)| {
        Some((name.clone(), kubernetes::endpoint_at(server.address.as_deref()?)))
    });
    let mut unknown = Vec::new();
    for (name, endpoint) in endpoint.into_iter().chain(controls) {
        documents::check_interrupt()?;
        let reader = session.kubernetes(&endpoint)?;
        match Facts::ask(|path| reader.list(path).map_err(|error| error.to_string())) {
            Facts::Unknown { why } => unknown.push(format!("{name}: {why}")),
            facts => return Ok(facts),
        }
    }
    if unknown.is_empty() {
        unknown.push("no control plane has an address".to_owned());
    }
    Ok(Facts::Unknown { why: unknown.join("; ") })
}

/// Returns whether an earlier `destroy` of this cluster passed the gate and has removed a control
/// plane since.
fn gate_was_passed(cloud: &CloudState) -> bool {
    let network = cloud
        .resources
        .iter()
        .find(|(resource, found)| resource.kind == Kind::Network && found.ours);
    let before = network.and_then(|(_, found)| labels::destroyed_from(&found.labels));
    before.is_some_and(|before| control_planes(cloud) < before)
}

/// Returns the number of control planes that carry our labels.
pub(crate) fn control_planes(cloud: &CloudState) -> usize {
    let servers = cloud.servers.values().filter(|server| server.ours);
    servers.filter(|server| server.role == Some(Role::Controlplane)).count()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::money::Money;
    use crate::plan::{Node, ObservedResource, Power, ResourceSpec, Server, SharedResource};

    fn cloud(label: Option<&str>, controls: u64, workers: u64) -> CloudState {
        let labels = label.map(|value| ("holistic/destroying".to_owned(), value.to_owned()));
        let network = ObservedResource {
            id: 1,
            ours: true,
            labels: labels.into_iter().collect(),
            spec: ResourceSpec::PlacementGroup,
            networks: BTreeSet::new(),
            address: None,
            location: None,
            monthly: Money::default(),
        };
        let resource = SharedResource { kind: Kind::Network, name: "c".to_owned() };
        let server = |(id, role)| {
            let server = Server {
                id,
                ours: true,
                role: Some(role),
                r#type: String::new(),
                location: String::new(),
                address: None,
                power: Power::On,
                labels: BTreeMap::new(),
                networks: BTreeSet::new(),
                firewalls: BTreeSet::new(),
                group: None,
                image: None,
                volumes: Vec::new(),
                monthly: Money::default(),
                node: Node::Maintenance,
            };
            (format!("c-{id}"), server)
        };
        let controls = (0..controls).map(|id| (id, Role::Controlplane));
        let workers = (100..100 + workers).map(|id| (id, Role::Worker));
        CloudState {
            resources: BTreeMap::from([(resource, network)]),
            servers: controls.chain(workers).map(server).collect(),
            ..CloudState::default()
        }
    }

    // hazard: A `destroy` that was cut short cannot go on, or goes on although it never passed the
    // gate.
    // class: Silence is taken for consent.
    // members: a mark without a removed machine, an unreadable mark
    // now: it goes on only after an earlier run passed the gate and removed a control plane
    #[test]
    fn destroy_continues_without_an_answer_only_after_it_removed_a_control_plane() {
        for (label, controls, passed) in [
            (None, 0, false),
            (None, 3, false),
            (Some("3"), 3, false),
            (Some("3"), 2, true),
            (Some("1"), 1, false),
            (Some("1"), 0, true),
            (Some("true"), 0, false),
            (Some(""), 0, false),
        ] {
            assert_eq!(gate_was_passed(&cloud(label, controls, 2)), passed, "{label:?} {controls}");
        }
    }
}
