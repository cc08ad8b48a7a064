//! What a status says of what is there: facts, evidence, conditions. Data in, data out.

use std::collections::{BTreeMap, BTreeSet};

use documents::{Condition, Deferred};
use schemars::JsonSchema;
use serde::Serialize;

use crate::kubernetes::RegisteredNode;
use crate::money::Money;
use crate::pki::Pki;
use crate::plan::{Etcd, Node, Power, Step, Wanted, World};
use crate::spec::{Cni, Role};
use crate::talos::NodeState;
use crate::wire::Stage;

/// Facts that other documents may refer to.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// Where the Kubernetes API answers.
    pub endpoint: Deferred<String>,
    /// The machines that are there, by name.
    pub nodes: Vec<Seen>,
    /// The ids of the images that they were made from. An image belongs to one project of the cloud,
    /// and stays when machines go: it shows later that a token is of the same project.
    pub images: BTreeSet<u64>,
    /// What all that is there costs in a month: euros, net.
    pub monthly_cost: Money,
}

/// A machine that is there.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Its name, which is its host name, too.
    pub name: String,
    /// What it does.
    pub role: Option<Role>,
    /// The number of its server.
    pub id: u64,
    /// Hetzner's type of server.
    pub r#type: String,
    /// Where it stands.
    pub location: String,
    /// Its public address.
    pub address: Option<String>,
    /// What runs on it: the version of Talos, or why that is not known.
    pub talos: String,
}

/// A digest that binds what is there to what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Evidence {
    /// What was digested: a certificate, or `configuration` of a machine.
    #[serde(rename = "type")]
    pub of: String,
    /// Of which machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its digest, lower-case hex.
    pub sha256: String,
}

/// The status of a Cluster.
pub type Status = documents::Status<Observed, Evidence, Step>;

/// One look at everything.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) endpoint: Deferred<String>,
    pub(crate) wanted: Wanted,
    pub(crate) world: World,
    /// What the machines say, by name.
    pub(crate) node_states: BTreeMap<String, NodeState>,
    pub(crate) kubernetes: Kubernetes,
}

/// What the Kubernetes API says.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    pub(crate) ready: Result<(), String>,
    pub(crate) nodes: Vec<RegisteredNode>,
}

impl Observation {
    pub(crate) fn observed(&self) -> Observed {
        let ours = self.world.servers.iter().filter(|(_, server)| server.ours);
        let seen = ours.clone().map(|(name, server)| Seen {
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
        });
        let things = self.world.resources.values().filter(|it| it.ours).map(|it| it.monthly);
        Observed {
            endpoint: self.endpoint.clone(),
            nodes: seen.collect(),
            images: ours.clone().filter_map(|(_, server)| server.image).collect(),
            monthly_cost: ours.map(|(_, server)| server.monthly).chain(things).sum(),
        }
    }

    /// Where Talos's API answers for all machines.
    pub(crate) fn control_planes(&self) -> Vec<String> {
        let controls = self.world.servers.values().filter(|it| it.ours);
        let controls = controls.filter(|it| it.role == Some(Role::Controlplane));
        controls.filter_map(|it| it.address.clone()).collect()
    }

    /// Of the authorities, and of what every machine says that it was given.
    pub(crate) fn evidence(&self, pki: &Pki) -> Vec<Evidence> {
        let authorities = pki.fingerprints.iter().map(|(name, sha256)| Evidence {
            of: (*name).to_owned(),
            name: None,
            sha256: sha256.clone(),
        });
        let configured =
            self.world.servers.iter().filter_map(|(name, server)| match &server.node {
                Node::Configured { sha256, .. } if server.ours => Some(Evidence {
                    of: "configuration".to_owned(),
                    name: Some(name.clone()),
                    sha256: sha256.clone(),
                }),
                _ => None,
            });
        authorities.chain(configured).collect()
    }

    /// Every check, each a condition of its own.
    pub(crate) fn conditions(&self, cni: Cni) -> Vec<Condition> {
        let check = |about: &str, found: Result<String, String>| match found {
            Ok(message) => Condition::new(about, true, "AsDeclared", message),
            Err(message) => Condition::new(about, false, "NotAsDeclared", message),
        };
        vec![
            check("Machines", self.machines()),
            check("Configured", self.configured()),
            check("Etcd", self.etcd()),
            check("Api", self.kubernetes.ready.clone().map(|()| "it is ready".to_owned())),
            check("Nodes", self.nodes(cni)),
        ]
    }

    /// Why what is no longer declared cannot go yet: something that is declared is not well. That
    /// etcd still counts who goes is not against it.
    pub(crate) fn needs_what_goes(&self, conditions: &[Condition]) -> Option<String> {
        let etcd = self.members().map(|_| ()).err();
        let rest = conditions.iter().filter(|it| it.about != "Etcd").cloned().collect::<Vec<_>>();
        failing_check(&rest).or(etcd)
    }

    fn machines(&self) -> Result<String, String> {
        let off = self.wanted.machines.keys().filter(|name| {
            let server = self.world.servers.get(*name);
            !server.is_some_and(|it| it.ours && it.power == Power::On)
        });
        none_of(off, "not running")?;
        Ok(format!("{} run", self.wanted.machines.len()))
    }

    fn configured(&self) -> Result<String, String> {
        for (name, machine) in &self.wanted.machines {
            let look =
                self.node_states.get(name).ok_or_else(|| format!("{name} has not been asked"))?;
            match &look.node {
                Node::Configured { sha256, .. }
                    if machine.configuration.value() == Some(sha256) => {}
                Node::Configured { .. } => return Err(format!("{name} has another configuration")),
                Node::Maintenance => return Err(format!("{name} waits for its configuration")),
                Node::Unreachable { why } | Node::Foreign { why } => {
                    return Err(format!("{name}: {why}"));
                }
            }
            if let Some(unmet) = &look.unmet {
                return Err(format!("{name} is not ready: {unmet}"));
            }
            if look.stage != Some(Stage::Running) {
                return Err(format!("{name} is not running yet"));
            }
        }
        Ok(format!("{} have their configuration", self.wanted.machines.len()))
    }

    fn etcd(&self) -> Result<String, String> {
        let (members, controls) = self.members()?;
        none_of(members.difference(&controls), "a member, and not a declared control plane")?;
        Ok(format!("{} members, which are the control planes", members.len()))
    }

    /// The members of etcd and the declared control planes, if each of these is one of those.
    fn members(&self) -> Result<(BTreeSet<&str>, BTreeSet<&str>), String> {
        let Etcd::Members(members) = &self.world.etcd else {
            let crash =
                self.node_states.iter().find_map(|(name, look)| Some((name, look.crash.as_ref()?)));
            return Err(crash.map_or_else(
                || "no control plane tells its members".to_owned(),
                |(name, crash)| {
                    format!("etcd on {name} ended {} times: {}", crash.times, crash.event)
                },
            ));
        };
        for (name, look) in &self.node_states {
            if matches!(&look.etcd, Etcd::Members(others) if others != members) {
                return Err(format!("{name} names other members than another control plane"));
            }
        }
        let learners = members.iter().filter(|member| member.learner);
        none_of(learners.map(|member| &member.hostname), "a learner, which has no vote yet")?;
        let members: BTreeSet<_> = members.iter().map(|it| it.hostname.as_str()).collect();
        let controls = self.wanted.machines.iter().filter(|(_, it)| it.role == Role::Controlplane);
        let controls: BTreeSet<_> = controls.map(|(name, _)| name.as_str()).collect();
        none_of(controls.difference(&members), "no member")?;
        Ok((members, controls))
    }

    fn nodes(&self, cni: Cni) -> Result<String, String> {
        self.kubernetes.ready.clone().map_err(|_| "the API does not tell".to_owned())?;
        let nodes = &self.kubernetes.nodes;
        let found = |name: &&String| nodes.iter().find(|it| it.name == **name);
        none_of(self.wanted.machines.keys().filter(|it| found(it).is_none()), "not registered")?;
        if cni == Cni::None {
            return Ok(format!("{} are registered", self.wanted.machines.len()));
        }
        let ready = |name: &&String| found(name).is_some_and(|it| it.ready);
        none_of(self.wanted.machines.keys().filter(|it| !ready(it)), "not Ready")?;
        Ok(format!("{} are Ready", self.wanted.machines.len()))
    }
}

/// An error that names all of `those`, unless there are none.
fn none_of<T: AsRef<str>>(those: impl Iterator<Item = T>, are: &str) -> Result<(), String> {
    let names: Vec<String> = those.map(|it| it.as_ref().to_owned()).collect();
    if names.is_empty() { Ok(()) } else { Err(format!("{}: {are}", names.join(", "))) }
}

/// What is not as it should be, for people.
pub(crate) fn failing_check(conditions: &[Condition]) -> Option<String> {
    let bad = conditions.iter().filter(|it| it.status != "True");
    let bad: Vec<_> = bad.map(|it| format!("{}: {}", it.about, it.message)).collect();
    (!bad.is_empty()).then(|| bad.join("; "))
}
