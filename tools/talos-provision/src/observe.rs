//! One observation of the cloud, of the machines and of Kubernetes, and the checks on it.

use std::collections::{BTreeMap, BTreeSet};

use documents::{Condition, Deferred, Intent, Reason};

use crate::clients::hetzner::{Catalog, CloudState};
use crate::clients::kubernetes::RegisteredNode;
use crate::clients::talos::{self, NodeState};
use crate::money::Money;
use crate::plan::{self, ActualState, DesiredState, Etcd, Kind, Node, Power, Step};
use crate::session::{Credentials, Session};
use crate::spec::{Cni, Role};
use crate::{Error, desired};

/// One observation of the cloud, of the machines and of Kubernetes.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) cloud: CloudState,
    pub(crate) endpoint: Deferred<String>,
    pub(crate) desired: DesiredState,
    pub(crate) actual: ActualState,
    /// Reports of the machines, by name. Empty when the machines were not asked.
    pub(crate) node_states: BTreeMap<String, NodeState>,
    pub(crate) kubernetes: Kubernetes,
    /// Images and prices of what the plan creates.
    pub(crate) catalog: Catalog,
}

/// Answer of the Kubernetes API.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    pub(crate) ready: Result<(), String>,
    pub(crate) nodes: Vec<RegisteredNode>,
}

/// Observes the cloud; and machines and Kubernetes, unless the caller has no keys or the cluster is to
/// be destroyed.
pub(crate) fn observe(session: &Session<'_>) -> Result<Observation, Error> {
    let cloud = session.cloud_state()?;
    let endpoint = desired::endpoint(session.spec(), &cloud);
    let asked = session.credentials().filter(|_| !session.intent.is_removal());
    let desired = match asked {
        Some(_) => session.desired(&endpoint)?,
        None => desired::desired(session.document),
    };
    let (node_states, kubernetes) = if let Some(keys) = asked {
        ask(session, keys, &cloud, &endpoint, &desired)?
    } else {
        let kubernetes = Kubernetes { ready: Err("not asked".to_owned()), nodes: Vec::new() };
        (BTreeMap::new(), kubernetes)
    };
    let servers = with_nodes(&cloud, &node_states);
    let etcd = match asked {
        Some(_) => merged(&servers, &node_states),
        None => Etcd::Unknown,
    };
    let nodes = kubernetes.nodes.iter().map(|node| node.name.clone()).collect();
    let cordoned = kubernetes.nodes.iter().filter(|node| node.cordoned_by_us);
    let cordoned = cordoned.map(|node| node.name.clone()).collect();
    let (resources, images) = (cloud.resources.clone(), cloud.images.clone());
    let actual = ActualState { resources, servers, etcd, nodes, cordoned, images };
    let catalog = Catalog::default();
    let mut observation =
        Observation { cloud, endpoint, desired, actual, node_states, kubernetes, catalog };
    if session.intent.is_removal() {
        session.leftovers(&observation.cloud)?;
    } else if session.intent != Intent::Verify {
        observation.look_up_prices(session)?;
    }
    observation.look_up_users_of_images(session)?;
    Ok(observation)
}

/// Returns the servers with the states that the machines report.
fn with_nodes(
    cloud: &CloudState,
    node_states: &BTreeMap<String, NodeState>,
) -> BTreeMap<String, plan::Server> {
    let mut servers = cloud.servers.clone();
    for (name, state) in node_states {
        if let Some(server) = servers.get_mut(name) {
            server.node = state.node.clone();
        }
    }
    servers
}

fn merged(
    servers: &BTreeMap<String, plan::Server>,
    node_states: &BTreeMap<String, NodeState>,
) -> Etcd {
    Etcd::merge(servers, |name| node_states.get(name).map(|state| &state.etcd))
}

/// Asks the machines, and Kubernetes once etcd has members.
fn ask(
    session: &Session<'_>,
    keys: &Credentials<'_>,
    cloud: &CloudState,
    endpoint: &Deferred<String>,
    desired: &DesiredState,
) -> Result<(BTreeMap<String, NodeState>, Kubernetes), Error> {
    let ours = cloud.servers.iter().filter(|(_, server)| server.ours);
    let targets: Vec<_> = ours.filter_map(|(name, server)| target(desired, name, server)).collect();
    let node_states = keys.talos.observe(&targets)?;
    let servers = with_nodes(cloud, &node_states);
    let kubernetes = match (endpoint, merged(&servers, &node_states)) {
        (Deferred::Value(endpoint), Etcd::Members(_)) => {
            let reader = session.kubernetes(endpoint)?;
            match reader.readyz().and_then(|()| reader.nodes()) {
                Ok(nodes) => Kubernetes { ready: Ok(()), nodes },
                Err(error) => Kubernetes { ready: Err(error.to_string()), nodes: Vec::new() },
            }
        }
        _ => Kubernetes { ready: Err("etcd has no members yet".to_owned()), nodes: Vec::new() },
    };
    Ok((node_states, kubernetes))
}

/// Returns where the Talos API of a server answers. The declared role counts before the label, which
/// may be lost.
fn target(desired: &DesiredState, name: &str, server: &plan::Server) -> Option<talos::Target> {
    let declared = desired.machines.get(name);
    let role = declared.map(|machine| machine.role).or(server.role);
    Some(talos::Target {
        name: name.to_owned(),
        role: role.unwrap_or(Role::Worker),
        address: server.address.clone()?,
        declared: declared.and_then(|machine| machine.configuration.value().cloned()),
    })
}

impl Observation {
    /// Returns the steps that the session's verb shows or executes.
    pub(crate) fn steps(&self, session: &Session<'_>) -> Vec<Step> {
        if session.intent.is_removal() {
            plan::plan_destroy(&self.actual)
        } else if session.credentials().is_some() {
            plan::plan(&self.desired, &self.actual)
        } else {
            plan::plan_cloud(&self.desired, &self.actual)
        }
    }

    /// Returns what keeps every step from being executed. Nothing keeps a removal.
    pub(crate) fn conflicts(&self, session: &Session<'_>) -> Vec<plan::Conflict> {
        if session.intent.is_removal() {
            return Vec::new();
        }
        plan::conflicts(&self.desired, &self.actual)
    }

    /// Looks up images and prices, if the plan creates something.
    fn look_up_prices(&mut self, session: &Session<'_>) -> Result<(), Error> {
        if !self.conflicts(session).is_empty() {
            return Ok(());
        }
        let steps = self.steps(session);
        let name = |step: &Step| match step {
            Step::CreateServer { name, .. } => Some(name.clone()),
            _ => None,
        };
        let servers: BTreeSet<_> = steps.iter().filter_map(name).collect();
        let creates_shared = steps.iter().any(|step| matches!(step, Step::Create { .. }));
        let is_balancer =
            |step: &Step| matches!(step, Step::Create { kind: Kind::LoadBalancer, .. });
        let has_balancer = steps.iter().any(is_balancer);
        if !servers.is_empty() || creates_shared {
            self.catalog = session.catalog(&self.desired, &servers, has_balancer)?;
            self.catalog.add_prices(&mut self.desired);
        }
        Ok(())
    }

    /// Looks up the servers of others that were created from an image that the plan removes.
    fn look_up_users_of_images(&mut self, session: &Session<'_>) -> Result<(), Error> {
        let removes = |step: &Step| matches!(step, Step::RemoveImage { .. });
        if !self.cloud.has_all_servers && self.steps(session).iter().any(removes) {
            self.actual.images.used_by_others = session.cloud.images_in_use()?;
        }
        Ok(())
    }

    /// Returns where the Talos API of the machine `name` answers.
    pub(crate) fn target(&self, name: &str) -> Result<talos::Target, Error> {
        let server = self.actual.servers.get(name);
        let target = server.and_then(|server| target(&self.desired, name, server));
        target.ok_or_else(|| Error::Unexpected {
            what: format!("{name} has no public address, where port {} would be", talos_api::PORT),
        })
    }

    /// Returns the servers that are being deleted, for people.
    pub(crate) fn leaving(&self) -> Option<String> {
        let ids: Vec<_> = self.cloud.leaving.iter().map(ToString::to_string).collect();
        (!ids.is_empty()).then(|| format!("the cloud is still deleting: server {}", ids.join(", ")))
    }

    /// Returns the checks that fail, for people.
    pub(crate) fn failing_check(&self, cni: Cni) -> Option<String> {
        failing_check(&self.conditions(cni))
    }
    /// Returns the monthly cost of everything that carries our labels, net.
    pub(crate) fn monthly_cost(&self) -> Money {
        let servers = self.actual.servers.values().filter(|server| server.ours);
        let resources = self.actual.resources.values().filter(|resource| resource.ours);
        let resources = resources.map(|resource| resource.monthly);
        servers.map(|server| server.monthly).chain(resources).sum()
    }

    /// Returns the addresses of the control planes, at which Talos's API answers for all machines.
    pub(crate) fn control_planes(&self) -> Vec<String> {
        let controls = self.actual.servers.values().filter(|server| server.ours);
        let controls = controls.filter(|server| server.role == Some(Role::Controlplane));
        controls.filter_map(|server| server.address.clone()).collect()
    }

    /// Returns every check as a condition.
    pub(crate) fn conditions(&self, cni: Cni) -> Vec<Condition> {
        let check = |about: &str, found: Result<String, String>| match found {
            Ok(message) => Condition::new(about, true, Reason::AsDeclared, message),
            Err(message) => Condition::new(about, false, Reason::NotAsDeclared, message),
        };
        vec![
            check("Machines", self.machines()),
            check("Configured", self.configured(cni)),
            check("Etcd", self.etcd()),
            check("Api", self.kubernetes.ready.clone().map(|()| "it is ready".to_owned())),
            check("Nodes", self.nodes(cni)),
        ]
    }

    /// Returns the failing check that keeps surplus machines. Members of etcd that are no longer
    /// declared do not count as a failure, because the removal takes them out of etcd.
    pub(crate) fn keeps_surplus(&self, cni: Cni) -> Option<String> {
        let (etcd, conditions) = (self.members().map(|_| ()).err(), self.conditions(cni));
        let rest =
            conditions.iter().filter(|check| check.about != "Etcd").cloned().collect::<Vec<_>>();
        failing_check(&rest).or(etcd)
    }

    fn machines(&self) -> Result<String, String> {
        let off = self.desired.machines.keys().filter(|name| {
            let server = self.actual.servers.get(*name);
            !server.is_some_and(|server| server.ours && server.power == Power::On)
        });
        none_of(off, "not running")?;
        Ok(format!("{} run", self.desired.machines.len()))
    }

    fn configured(&self, cni: Cni) -> Result<String, String> {
        for (name, machine) in &self.desired.machines {
            let state =
                self.node_states.get(name).ok_or_else(|| format!("{name} has not been asked"))?;
            match &state.node {
                Node::Configured { sha256, .. }
                    if machine.configuration.value() == Some(sha256) => {}
                Node::Configured { .. } => return Err(format!("{name} has another configuration")),
                Node::Maintenance => return Err(format!("{name} waits for its configuration")),
                Node::Unreachable { why } | Node::Foreign { why } => {
                    return Err(format!("{name}: {why}"));
                }
            }
            if let Some(reason) = state.not_ready_reason(cni) {
                return Err(format!("{name} is not ready: {reason}"));
            }
        }
        Ok(format!("{} have their configuration", self.desired.machines.len()))
    }

    fn etcd(&self) -> Result<String, String> {
        let (members, controls) = self.members()?;
        none_of(members.difference(&controls), "a member, and not a declared control plane")?;
        Ok(format!("{} members, which are the control planes", members.len()))
    }

    /// Returns the members of etcd and the declared control planes. Fails unless every declared
    /// control plane is a member.
    fn members(&self) -> Result<(BTreeSet<&str>, BTreeSet<&str>), String> {
        let Etcd::Members(members) = &self.actual.etcd else {
            return Err(self.no_members_reason());
        };
        for (name, state) in &self.node_states {
            if matches!(&state.etcd, Etcd::Members(others) if others != members) {
                return Err(format!("{name} names other members than another control plane"));
            }
        }
        let learners = members.iter().filter(|member| member.learner);
        none_of(learners.map(|member| &member.hostname), "a learner, which has no vote yet")?;
        let members: BTreeSet<_> = members.iter().map(|member| member.hostname.as_str()).collect();
        let controls =
            self.desired.machines.iter().filter(|(_, machine)| machine.role == Role::Controlplane);
        let controls: BTreeSet<_> = controls.map(|(name, _)| name.as_str()).collect();
        none_of(controls.difference(&members), "no member")?;
        Ok((members, controls))
    }

    /// Returns the reason for which the members of etcd are unknown.
    fn no_members_reason(&self) -> String {
        let states = &self.node_states;
        let crashed = states.iter().find_map(|(name, state)| Some((name, state.crash.as_ref()?)));
        if let Some((name, crash)) = crashed {
            return format!("etcd on {name} ended {} times: {}", crash.times, crash.event);
        }
        let leaderless = states.iter();
        let leaderless =
            leaderless.filter(|(_, state)| matches!(state.etcd, Etcd::Leaderless { .. }));
        let names: Vec<_> = leaderless.map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            "no control plane tells its members".to_owned()
        } else {
            format!("etcd has no leader, so its quorum is lost: {} asked", names.join(", "))
        }
    }

    /// Returns the control plane on which etcd crashes again and again, if a control plane does not report
    /// members of etcd.
    pub(crate) fn etcd_crash(&self) -> Option<Error> {
        let states = self.node_states.iter();
        let (name, crash) = states
            .filter(|(name, _)| self.desired.machines.contains_key(*name))
            .find_map(|(name, state)| Some((name, state.crash_loop()?)))?;
        Some(Error::EtcdCrashes { name: name.clone(), event: crash.event.clone() })
    }

    fn nodes(&self, cni: Cni) -> Result<String, String> {
        self.kubernetes.ready.clone().map_err(|_| "the API does not tell".to_owned())?;
        let nodes = &self.kubernetes.nodes;
        let found = |name: &&String| nodes.iter().find(|node| node.name == **name);
        none_of(
            self.desired.machines.keys().filter(|name| found(name).is_none()),
            "not registered",
        )?;
        if cni == Cni::None {
            return Ok(format!("{} are registered", self.desired.machines.len()));
        }
        let ready = |name: &&String| found(name).is_some_and(|node| node.ready);
        none_of(self.desired.machines.keys().filter(|name| !ready(name)), "not Ready")?;
        Ok(format!("{} are Ready", self.desired.machines.len()))
    }
}

/// Fails with the names in `those`, unless there are none.
fn none_of<T: AsRef<str>>(those: impl Iterator<Item = T>, are: &str) -> Result<(), String> {
    let names: Vec<String> = those.map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { Ok(()) } else { Err(format!("{}: {are}", names.join(", "))) }
}

/// Returns the checks that fail, for people.
pub(crate) fn failing_check(conditions: &[Condition]) -> Option<String> {
    let bad = conditions.iter().filter(|check| check.status != "True");
    let bad: Vec<_> = bad.map(|check| format!("{}: {}", check.about, check.message)).collect();
    (!bad.is_empty()).then(|| bad.join("; "))
}
