//! Changes in the cloud. No other code sends requests that write to the cloud.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, Instant};

use contract::labels::{ETCD, POOL, ROLE};
use documents::WritePermit;
use serde_json::{Value, json};
use ureq::http::Method;

use super::http::CallError;
use super::model::Action;
use super::{Reader, family, parse_items};
use crate::Error;
use crate::labels::Labels;
use crate::plan::{
    BalancerService, History, Kind, Machine, ObservedResource, ResourceSpec, Rule, SharedResource,
    Target, TargetSelector,
};

/// Longest time that actions may run.
const ACTIONS_MAX: Duration = Duration::from_secs(600);
/// Longest time for which a resource may stay in use after its servers are gone.
const IN_USE_MAX: Duration = Duration::from_secs(60);
/// Most attempts of a create request whose result is unknown and that left no resource.
const TRIES_MAX: usize = 4;
/// Time between two lines about an unfinished wait. An action of the cloud takes seconds.
const TOLD_EVERY: Duration = Duration::from_secs(15);
/// Most ids in one request for the state of actions.
const IDS_MAX: usize = 25;

/// Writes to the cloud that a [`Reader`] observes.
#[derive(Debug)]
pub(crate) struct Writer<'a>(pub(super) &'a Reader);

/// Resources to which a new server is attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement<'a> {
    pub(crate) image: u64,
    pub(crate) network: u64,
    pub(crate) firewall: u64,
    pub(crate) group: u64,
    pub(crate) machine: &'a Machine,
}

/// Location and attachments of a new shared resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedPlacement<'a> {
    /// Network zone of the network.
    pub(crate) zone: &'a str,
    /// Location of a Primary IP or of a load balancer.
    pub(crate) location: &'a str,
    /// Type of a load balancer, for example `lb11`.
    pub(crate) balancer_type: &'a str,
    /// Id of the network to which a load balancer is attached.
    pub(crate) network: Option<u64>,
    /// Id of the Primary IP of a load balancer.
    pub(crate) address: Option<u64>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(reader: &'a Reader, _permit: &WritePermit) -> Self {
        Self(reader)
    }

    /// Creates a shared resource. The network of a cluster that never started carries the label
    /// `never`. A network that is created again under existing servers carries no such label,
    /// because its record is lost.
    pub(crate) fn create(
        &self,
        (resource, spec): (&SharedResource, &ResourceSpec),
        history: History,
        placement: &SharedPlacement<'_>,
    ) -> Result<u64, Error> {
        let scope = &self.0.scope;
        let mut labels = scope.labels();
        if resource.kind == Kind::Network && history == History::Never {
            labels.insert(ETCD.to_owned(), history.to_string());
        }
        let mut body = json!({"name": resource.name, "labels": labels});
        let rest = match spec {
            ResourceSpec::PlacementGroup => json!({"type": "spread"}),
            ResourceSpec::Network { range, nodes } => json!({
                "ip_range": range,
                "subnets": nodes.iter().map(|range| {
                    json!({"type": "cloud", "ip_range": range, "network_zone": placement.zone})
                }).collect::<Vec<_>>(),
            }),
            ResourceSpec::Firewall(rules) => json!({"rules": inbound(rules)}),
            // Without an assignee type, because a Primary IP of a load balancer has none of its own:
            // https://docs.hetzner.cloud/changelog#2026-04-27-primary-ips-make-assignee_type-optional
            ResourceSpec::PrimaryIp { auto_delete } => json!({
                "type": "ipv4",
                "location": placement.location,
                "auto_delete": auto_delete,
            }),
            ResourceSpec::LoadBalancer(balancer) => json!({
                "load_balancer_type": placement.balancer_type,
                "location": placement.location,
                "algorithm": {"type": "round_robin"},
                "network": placement.network,
                "public_interface": balancer.public,
                "public_net": {"ipv4": placement.address},
                "services": balancer.services.iter().map(balancer_service).collect::<Vec<_>>(),
                "targets": balancer.targets.iter().map(balancer_target).collect::<Vec<_>>(),
            }),
        };
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
            body.extend(rest);
        }
        let (id, actions) = self.create_once(family(resource.kind), &resource.name, &body)?;
        self.wait(&actions)?;
        Ok(id)
    }

    /// Records `history` on the cluster's network, and keeps its other labels.
    ///
    /// The API replaces all labels at once:
    /// <https://docs.hetzner.cloud/reference/cloud#networks-update-a-network>.
    pub(crate) fn record(&self, network: &ObservedResource, history: History) -> Result<(), Error> {
        let mut labels = network.labels.clone();
        labels.insert(ETCD.to_owned(), history.to_string());
        let path = format!("/networks/{}", network.id);
        self.0.http.change(&Method::PUT, &path, Some(&json!({"labels": labels})))?;
        Ok(())
    }

    /// Replaces the inbound rules of a firewall with `rules`.
    pub(crate) fn set_rules(&self, firewall: u64, rules: &[Rule]) -> Result<(), Error> {
        let path = format!("/firewalls/{firewall}/actions/set_rules");
        let body = json!({"rules": inbound(rules)});
        let answer = self.0.http.change(&Method::POST, &path, Some(&body))?;
        self.wait(&actions(&answer))
    }

    /// Creates a server in the first of its locations that has capacity. Returns the actions; the
    /// server exists once they have ended.
    pub(crate) fn create_server(
        &self,
        name: &str,
        placement: &Placement<'_>,
    ) -> Result<Vec<u64>, Error> {
        let mut refused = None;
        for location in &placement.machine.locations {
            match self.create_server_in(name, placement, location) {
                Err(Error::Api(why)) if why.is_of_location() => {
                    documents::note(
                        name,
                        format_args!("server type unavailable in {location}: {}", why.message),
                    );
                    refused = Some(why);
                }
                end => return end,
            }
        }
        Err(Error::Unavailable {
            name: name.to_owned(),
            r#type: placement.machine.r#type.clone(),
            locations: placement.machine.locations.join(", "),
            why: refused.map_or_else(String::new, |error| error.message),
        })
    }

    fn create_server_in(
        &self,
        name: &str,
        placement: &Placement<'_>,
        location: &str,
    ) -> Result<Vec<u64>, Error> {
        let mut labels: Labels = self.0.scope.labels();
        labels.insert(ROLE.to_owned(), placement.machine.role.as_str().to_owned());
        labels.insert(POOL.to_owned(), placement.machine.pool.clone());
        let body = json!({
            "name": name,
            "labels": labels,
            "server_type": placement.machine.r#type,
            "image": placement.image,
            "location": location,
            "networks": [placement.network],
            "firewalls": [{"firewall": placement.firewall}],
            "placement_group": placement.group,
            "public_net": {"enable_ipv4": true, "enable_ipv6": true},
            "start_after_create": true,
        });
        self.create_once("servers", name, &body).map(|(_, actions)| actions)
    }

    /// Creates a resource called `name` exactly once. If the response was lost, or another run
    /// created the resource meanwhile, the resource is looked up before the request is repeated.
    /// Returns the id, and the actions that are still running.
    pub(super) fn create_once(
        &self,
        family: &str,
        name: &str,
        body: &Value,
    ) -> Result<(u64, Vec<u64>), Error> {
        let singular = family.trim_end_matches('s');
        let id = |resource: &Value| {
            resource["id"]
                .as_u64()
                .ok_or_else(|| Error::Unexpected { what: format!("no {singular}") })
        };
        let mut pause = Duration::from_millis(500);
        for attempt in 1.. {
            let why = match self.0.http.post(&format!("/{family}"), body) {
                Ok(answer) => return Ok((id(&answer[singular])?, actions(&answer))),
                Err(CallError::Api(error)) if error.code == "uniqueness_error" => error.message,
                Err(CallError::Ambiguous(why)) => why,
                Err(trouble) => return Err(trouble.into()),
            };
            let there = self.0.list(family, Some(("name", name)))?;
            if let Some(there) = there.first() {
                let labels = serde_json::from_value(there["labels"].clone()).unwrap_or_default();
                if self.0.scope.owns(&labels) {
                    let id = id(there)?;
                    let actions =
                        if family == "servers" { self.running_actions(id)? } else { Vec::new() };
                    return Ok((id, actions));
                }
                return Err(Error::Taken { what: format!("{name} in {family}") });
            }
            if attempt == TRIES_MAX {
                return Err(Error::Unreachable { what: "the cloud".to_owned(), why });
            }
            documents::pause(pause)?;
            pause *= 2;
        }
        unreachable!("the loop has a limit")
    }

    /// Returns the ids of a server's running actions.
    fn running_actions(&self, server: u64) -> Result<Vec<u64>, Error> {
        let path = format!("/servers/{server}/actions");
        let answer = self.0.http.get(&path, &[("status", "running")])?;
        Ok(actions(&json!({"next_actions": answer["actions"]})))
    }

    /// Deletes a shared resource.
    pub(crate) fn remove(&self, kind: Kind, id: u64) -> Result<(), Error> {
        let actions =
            until(IN_USE_MAX, || match self.delete(&format!("/{}/{id}", family(kind))) {
                // Measured by others: a firewall or a network is in use for a moment after its
                // servers.
                Err(Error::Api(error)) if error.code == "resource_in_use" => {
                    Ok(Continue(error.message))
                }
                end => end.map(Break),
            })?;
        self.wait(&actions)
    }

    /// Deletes a server. The server is gone once the returned actions have ended.
    pub(crate) fn remove_server(&self, id: u64) -> Result<Vec<u64>, Error> {
        self.delete(&format!("/servers/{id}"))
    }

    fn delete(&self, path: &str) -> Result<Vec<u64>, Error> {
        match self.0.http.change(&Method::DELETE, path, None) {
            Ok(answer) => Ok(actions(&answer)),
            Err(CallError::Api(error)) if error.code == "not_found" => Ok(Vec::new()),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// Waits until all actions in `ids` have ended, with one request for many ids.
    pub(crate) fn wait(&self, ids: &[u64]) -> Result<(), Error> {
        let mut open: Vec<u64> = ids.to_vec();
        until(ACTIONS_MAX, || {
            if open.is_empty() {
                return Ok(Break(()));
            }
            let asked: Vec<u64> = open.iter().copied().take(IDS_MAX).collect();
            let text: Vec<String> = asked.iter().map(ToString::to_string).collect();
            let query: Vec<_> = text.iter().map(|id| ("id", id.as_str())).collect();
            let query = [query.as_slice(), &[("per_page", "50")]].concat();
            let mut answer = self.0.http.get("/actions", &query)?;
            let Value::Array(items) =
                answer.get_mut("actions").map(Value::take).unwrap_or_default()
            else {
                return Err(Error::Unexpected { what: "no list of actions".to_owned() });
            };
            let actions: Vec<Action> = parse_items(items)?;
            for id in asked {
                let action = actions.iter().find(|action| action.id == id);
                let action = action.ok_or_else(|| Error::Unexpected {
                    what: format!("action {id} is not in the list"),
                })?;
                match action.status.as_str() {
                    "running" => {}
                    "success" => open.retain(|other| *other != id),
                    _ => return Err(failed(action)),
                }
            }
            Ok(match open.len() {
                0 => Break(()),
                left => Continue(format!("{left} actions of the cloud are still running")),
            })
        })
    }
}

/// Returns a service of a load balancer in the form of a request.
pub(super) fn balancer_service(service: &BalancerService) -> Value {
    let (protocol, port) = &service.check;
    json!({
        "protocol": service.protocol,
        "listen_port": service.listen,
        "destination_port": service.to,
        "proxyprotocol": service.proxy,
        "health_check":
            {"protocol": protocol, "port": port, "interval": 5, "timeout": 3, "retries": 3},
    })
}

/// Returns a target of a load balancer in the form of a request.
pub(super) fn balancer_target(target: &Target) -> Value {
    let private = target.private;
    match &target.servers {
        TargetSelector::Labels(labels) => json!({
            "type": "label_selector",
            "label_selector": {"selector": labels},
            "use_private_ip": private,
        }),
        TargetSelector::Server(id) => {
            json!({"type": "server", "server": {"id": id}, "use_private_ip": private})
        }
        TargetSelector::Address(address) => json!({"type": "ip", "ip": {"ip": address}}),
    }
}

/// Repeats `ask` until it breaks. After `limit`, fails with the last description of the unfinished
/// work. A long wait says what it waits for.
pub(super) fn until<T>(
    limit: Duration,
    mut ask: impl FnMut() -> Result<ControlFlow<T, String>, Error>,
) -> Result<T, Error> {
    let (began, mut told) = (Instant::now(), Duration::ZERO);
    let mut pause = Duration::from_millis(100);
    loop {
        match ask()? {
            Break(end) => return Ok(end),
            Continue(what) if began.elapsed() > limit => return Err(Error::TimedOut { what }),
            Continue(what) => {
                let waited = began.elapsed();
                if waited.saturating_sub(told) >= TOLD_EVERY {
                    let seconds = waited.as_secs();
                    documents::note("-", format_args!("waiting, {seconds} s so far: {what}"));
                    told = waited;
                }
                documents::pause(pause)?;
            }
        }
        pause = (pause * 3 / 2).min(Duration::from_secs(3));
    }
}

fn failed(action: &Action) -> Error {
    let error = action.error.as_ref();
    Error::ActionFailed {
        command: action.command.clone(),
        code: error.map_or_else(String::new, |error| error.code.clone()),
        message: error.map_or_else(String::new, |error| error.message.clone()),
    }
}

/// Returns the ids of all actions in an answer, including those that follow.
pub(super) fn actions(answer: &Value) -> Vec<u64> {
    let next = answer["next_actions"].as_array().into_iter().flatten();
    let more = answer["actions"].as_array().into_iter().flatten();
    let all = std::iter::once(&answer["action"]).chain(next).chain(more);
    all.filter_map(|action| action["id"].as_u64()).collect()
}

fn inbound(rules: &[Rule]) -> Value {
    let rule = |rule: &Rule| {
        let mut body = json!({
            "direction": "in",
            "protocol": rule.protocol,
            "source_ips": rule.sources,
            "destination_ips": [],
        });
        if let Some(port) = &rule.port {
            body["port"] = json!(port);
        }
        body
    };
    rules.iter().map(rule).collect()
}
