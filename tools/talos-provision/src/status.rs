//! Status of a Cluster: facts, evidence and conditions.

use std::collections::BTreeSet;

use documents::{Condition, Deferred, Intent, Reason, Refusal};
use schemars::JsonSchema;
use serde::Serialize;

use crate::money::Money;
use crate::observe::{Observation, failing_check};
use crate::pki::Pki;
use crate::plan::{Node, Step};
use crate::session::Session;
use crate::spec::Role;
use crate::{Error, gate};

/// Conditions that need an answer of a machine or of Kubernetes.
const NOT_ASKED: [&str; 4] = ["Configured", "Etcd", "Api", "Nodes"];

/// Facts that other documents may refer to.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// URL of the Kubernetes API, for example `https://203.0.113.7:6443`.
    pub endpoint: Deferred<String>,
    /// Machines that exist, ordered by name.
    pub nodes: Vec<NodeFacts>,
    /// Ids of the images from which the machines were created. An image belongs to one project of the
    /// cloud and outlives the machines, so it proves later that a token is of the same project.
    pub images: BTreeSet<u64>,
    /// Monthly cost of everything that exists, net, for example `14.66`.
    pub monthly_cost: Money,
    /// Currency of the account, for example `EUR`. Absent while nothing exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// Facts about one machine.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Name of the server and host name of the machine, for example `prod-work-1`.
    pub name: String,
    /// Role of the machine. `null` if the server has lost its label.
    pub role: Option<Role>,
    /// Id of the server.
    pub id: u64,
    /// Hetzner's server type, for example `cax11`.
    pub r#type: String,
    /// Location of the server, for example `fsn1`.
    pub location: String,
    /// Public IPv4 address.
    pub address: Option<String>,
    /// Version of Talos, for example `v1.13.9`, or the reason for which it is unknown.
    pub talos: String,
}

/// Digest that binds the observed state to the declared state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Evidence {
    /// Type of the digested object: the name of a certificate, or `configuration`.
    #[serde(rename = "type")]
    pub about: String,
    /// Name of the machine whose configuration was digested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// SHA-256 digest in lower-case hex.
    pub sha256: String,
}

/// The status of a Cluster.
pub type Status = documents::Status<Facts, Evidence, Step>;

/// Returns the status of a document for which `steps` are left.
pub(crate) fn status(
    session: &Session<'_>,
    observation: &Observation,
    steps: Vec<Step>,
    intent: Intent,
) -> Result<Status, Error> {
    match intent {
        Intent::Plan if session.credentials().is_none() => Ok(seen_by_reader(observation, steps)),
        Intent::Plan | Intent::Apply | Intent::Verify if steps.is_empty() => {
            complete(session, observation)
        }
        Intent::Plan | Intent::Apply | Intent::Verify => {
            let refusals = gate::machines(session, observation, &steps)?;
            let planned = Status::planned(Some(facts(observation)), steps);
            Ok(refused(session, "apply", planned, refusals))
        }
        Intent::PlanDestroy if steps.is_empty() => {
            Ok(Status::destroyed("no resource of the cluster exists"))
        }
        Intent::PlanDestroy => planned_destroy(session, observation, steps),
        Intent::Destroy => destroyed(session, observation),
    }
}

/// Returns the status of a cluster for which no step is left.
fn complete(session: &Session<'_>, observation: &Observation) -> Result<Status, Error> {
    let keys = session.keys()?;
    let checks = observation.conditions(session.spec().network.cni);
    let ready = match failing_check(&checks) {
        None => {
            let machines = observation.desired.machines.len();
            let message = format!("machines: {machines}, all checks pass");
            Condition::ready(true, Reason::Provisioned, message)
        }
        Some(why) => Condition::ready(false, Reason::NotConverged, why),
    };
    let mut status = Status::new(ready);
    status.conditions.extend(checks);
    status.observed = Some(facts(observation));
    status.evidence = evidence(observation, &keys.pki);
    if let Deferred::Value(endpoint) = &observation.endpoint {
        let control_planes = observation.control_planes();
        for (what, access, text) in keys.pki.clients(session.name(), endpoint, &control_planes) {
            let sealed = contract::seal(&session.project.spec, access, text.as_bytes())?;
            status.sealed.insert(what.to_owned(), sealed);
        }
    }
    Ok(status)
}

/// Returns the status for a caller that has no more than `READER_KEY`.
fn seen_by_reader(observation: &Observation, steps: Vec<Step>) -> Status {
    let not_asked = "not asked: this needs the key of talos-provision";
    let mut facts = facts(observation);
    for node in &mut facts.nodes {
        not_asked.clone_into(&mut node.talos);
    }
    let mut status = if steps.is_empty() {
        let message = "the cloud is as declared; machines and Kubernetes were not asked, because only \
                       READER_KEY is set and the key of talos-provision is not";
        let ready = Condition::unknown("Ready", Reason::ReaderAccess, message);
        Status { observed: Some(facts), ..Status::new(ready) }
    } else {
        Status::planned(Some(facts), steps)
    };
    let unknown = |about| Condition::unknown(about, Reason::ReaderAccess, not_asked);
    status.conditions.extend(NOT_ASKED.map(unknown));
    status
}

fn planned_destroy(
    session: &Session<'_>,
    observation: &Observation,
    steps: Vec<Step>,
) -> Result<Status, Error> {
    let refusals = gate::whole(session, &observation.cloud)?;
    let leftovers = session.cloud.describe(&session.leftovers(&observation.cloud)?)?;
    let mut planned = refused(session, "destroy", Status::planned(None, steps), refusals);
    if !leftovers.names.is_empty() {
        let what = format!(
            "other programs created {}, and `destroy` leaves it, at {} per month",
            leftovers.names.join(", "),
            leftovers.monthly.with_currency()
        );
        documents::note(session.name(), &what);
        planned.conditions.push(Condition::new("Leftovers", true, Reason::MadeByOthers, what));
    }
    Ok(planned)
}

/// Returns the status after the last step of a `destroy`, with the names of what other people and
/// programs own.
fn destroyed(session: &Session<'_>, observation: &Observation) -> Result<Status, Error> {
    let cloud = &observation.cloud;
    let resources = cloud.resources.keys().map(ToString::to_string);
    let foreign = resources.chain(cloud.servers.keys().cloned());
    let leftovers = session.cloud.describe(&session.leftovers(cloud)?)?;
    let kept: Vec<_> = foreign.chain(leftovers.names.iter().cloned()).collect();
    let cost = if leftovers.names.is_empty() {
        String::new()
    } else {
        format!("; together {} per month", leftovers.monthly.with_currency())
    };
    Ok(Status::destroyed(if kept.is_empty() {
        "no resource of the cluster is left".to_owned()
    } else {
        format!("left, because others created it: {}{cost}", kept.join(", "))
    }))
}

/// Adds to `status` what `verb` would refuse to remove.
fn refused(
    session: &Session<'_>,
    verb: &str,
    mut status: Status,
    refusals: Vec<Refusal>,
) -> Status {
    for refusal in &refusals {
        documents::note(session.name(), format_args!("`{verb}` will refuse: {}", refusal.message));
    }
    status.refusals = refusals;
    status
}

/// Returns the facts of an observation.
pub(crate) fn facts(observation: &Observation) -> Facts {
    let ours = observation.actual.servers.iter().filter(|(_, server)| server.ours);
    let node = |(name, server): (&String, &crate::plan::Server)| NodeFacts {
        name: name.clone(),
        role: server.role,
        id: server.id,
        r#type: server.r#type.clone(),
        location: server.location.clone(),
        address: server.address.clone(),
        talos: match &server.node {
            Node::Configured { talos, .. } => talos.clone(),
            Node::Maintenance => "waits for its configuration".to_owned(),
            Node::Unreachable { .. } => "does not answer".to_owned(),
            Node::Foreign { .. } => "is not of this cluster".to_owned(),
        },
    };
    Facts {
        endpoint: observation.endpoint.clone(),
        nodes: ours.clone().map(node).collect(),
        images: ours.filter_map(|(_, server)| server.image).collect(),
        monthly_cost: observation.monthly_cost(),
        currency: observation.monthly_cost().currency().map(|currency| currency.to_string()),
    }
}

/// Returns the digests of the authorities and of the configuration of every machine.
fn evidence(observation: &Observation, pki: &Pki) -> Vec<Evidence> {
    let authorities = pki.fingerprints.iter().map(|(name, sha256)| Evidence {
        about: (*name).to_owned(),
        name: None,
        sha256: sha256.clone(),
    });
    let servers = observation.actual.servers.iter();
    let configured = servers.filter_map(|(name, server)| match &server.node {
        Node::Configured { sha256, .. } if server.ours => Some(Evidence {
            about: "configuration".to_owned(),
            name: Some(name.clone()),
            sha256: sha256.clone(),
        }),
        _ => None,
    });
    authorities.chain(configured).collect()
}
