//! Requests that return one of our resources to the state in which it was created.
//!
//! Each request is idempotent: an error that says that the state was reached before counts as
//! success. Errors and request fields are those of <https://docs.hetzner.cloud/reference/cloud>
//! (hcloud-go v2.53, `schema/server.go`, `schema/load_balancer.go`, `schema/firewall.go`).

use serde_json::{Value, json};
use ureq::http::Method;

use super::http::CallError;
use super::writer::{Writer, actions, balancer_service, balancer_target, until};
use super::{Reader, family};
use crate::Error;
use crate::labels::Labels;
use crate::plan::{Balancer, Kind, ObservedResource, Part, Power, Server, Target, TargetSelector};
use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

/// Longest time that a server may take to shut down before its power is cut. Talos stops pods for
/// up to 30 s, and its kubelet for as long again.
const SHUTDOWN_MAX: Duration = Duration::from_secs(180);

impl Writer<'_> {
    /// Replaces the labels of a server or of a shared resource.
    pub(crate) fn set_labels(&self, family: &str, id: u64, labels: &Labels) -> Result<(), Error> {
        let body = json!({"labels": labels});
        let changed =
            self.reader().http.change(&Method::PUT, &format!("/{family}/{id}"), Some(&body));
        changed.map(drop).map_err(Into::into)
    }

    /// Attaches a server to a network. `address` is requested if it is given; if it is not free,
    /// the cloud chooses another address.
    pub(crate) fn attach_network(
        &self,
        server: u64,
        network: u64,
        address: Option<&str>,
    ) -> Result<(), Error> {
        let path = format!("/servers/{server}/actions/attach_to_network");
        let Some(address) = address else {
            return self.run_action(&path, &json!({"network": network}));
        };
        match self.run_action(&path, &json!({"network": network, "ip": address})) {
            // The address is taken, or it is outside of the subnets. Any address is better than
            // none.
            Err(Error::Api(_)) => self.run_action(&path, &json!({"network": network})),
            end => end,
        }
    }

    /// Applies a firewall to a server.
    pub(crate) fn attach_firewall(&self, server: u64, firewall: u64) -> Result<(), Error> {
        let to = json!({"apply_to": [{"type": "server", "server": {"id": server}}]});
        self.run_action(&format!("/firewalls/{firewall}/actions/apply_to_resources"), &to)
    }

    /// Powers on a server.
    pub(crate) fn power_on(&self, server: u64) -> Result<(), Error> {
        self.run_action(&format!("/servers/{server}/actions/poweron"), &json!({}))
    }

    /// Moves a server into a placement group. A running server is shut down first. If this is
    /// interrupted, the server stays off, and the next run continues.
    pub(crate) fn join_group(&self, server: &Server, group: u64) -> Result<(), Error> {
        let (server, runs, other) = (server.id, server.power == Power::On, server.group);
        if runs {
            self.shut_down(server)?;
        }
        let act = |command: &str, body: Value| {
            self.run_action(&format!("/servers/{server}/actions/{command}"), &body)
        };
        let left = other.map_or(Ok(()), |_| act("remove_from_placement_group", json!({})));
        let joined =
            left.and_then(|()| act("add_to_placement_group", json!({"placement_group": group})));
        if runs || joined.is_err() {
            self.power_on(server)?;
        }
        joined
    }

    fn shut_down(&self, server: u64) -> Result<(), Error> {
        self.run_action(&format!("/servers/{server}/actions/shutdown"), &json!({}))?;
        // The action ends when the signal was sent, not when the server is off.
        let off = until(SHUTDOWN_MAX, || {
            let answer = self.reader().http.get(&format!("/servers/{server}"), &[])?;
            Ok(match answer["server"]["status"].as_str() {
                Some("off") => Break(()),
                _ => Continue(format!("server {server} is still shutting down")),
            })
        });
        match off {
            Err(Error::TimedOut { .. }) => {
                self.run_action(&format!("/servers/{server}/actions/poweroff"), &json!({}))
            }
            end => end,
        }
    }

    /// Sets whether a Primary IP is deleted with its load balancer.
    pub(crate) fn set_auto_delete(&self, address: u64, auto_delete: bool) -> Result<(), Error> {
        let (path, body) = (format!("/primary_ips/{address}"), json!({"auto_delete": auto_delete}));
        let changed = self.reader().http.change(&Method::PUT, &path, Some(&body));
        changed.map(drop).map_err(Into::into)
    }

    /// Creates the subnet of the machines.
    pub(crate) fn add_subnet(&self, network: u64, range: &str, zone: &str) -> Result<(), Error> {
        let body = json!({"type": "cloud", "ip_range": range, "network_zone": zone});
        self.run_action(&format!("/networks/{network}/actions/add_subnet"), &body)
    }

    /// Changes a load balancer so that its services and targets are the declared ones. Missing
    /// parts are added before undeclared parts are removed, so that the API stays reachable.
    pub(crate) fn set_balancer(
        &self,
        found: &ObservedResource,
        (declared, balancer): (&Balancer, &Balancer),
        network: Option<u64>,
        parts: &[Part],
    ) -> Result<(), Error> {
        let act = |command: &str, body: Value| {
            let family = family(Kind::LoadBalancer);
            self.run_action(&format!("/{family}/{}/actions/{command}", found.id), &body)
        };
        for part in parts {
            match part {
                Part::Network => {
                    for other in &found.networks {
                        act("detach_from_network", json!({"network": other}))?;
                    }
                    act("attach_to_network", json!({"network": network}))?;
                }
                Part::PublicInterface => act("enable_public_interface", json!({}))?,
                Part::Services => {
                    let listens =
                        |port: u16| balancer.services.iter().any(|service| service.listen == port);
                    for service in declared.services.difference(&balancer.services) {
                        let update = listens(service.listen);
                        let command = if update { "update_service" } else { "add_service" };
                        act(command, balancer_service(service))?;
                    }
                    for service in balancer.services.difference(&declared.services) {
                        if declared.services.iter().all(|other| other.listen != service.listen) {
                            act("delete_service", json!({"listen_port": service.listen}))?;
                        }
                    }
                }
                Part::Targets => {
                    let surplus = || balancer.targets.difference(&declared.targets);
                    let (same, others): (Vec<_>, Vec<_>) = surplus().partition(|target| {
                        declared.targets.iter().any(|other| other.servers == target.servers)
                    });
                    // A target cannot be changed. Servers that must be reached at their other
                    // address are removed and added again.
                    for target in same {
                        act("remove_target", removal_target(target))?;
                    }
                    for target in declared.targets.difference(&balancer.targets) {
                        act("add_target", balancer_target(target))?;
                    }
                    for target in others {
                        act("remove_target", removal_target(target))?;
                    }
                }
                Part::Rules | Part::Subnet | Part::AutoDelete | Part::Labels => {}
            }
        }
        Ok(())
    }

    /// Starts an action, and waits for its end.
    fn run_action(&self, path: &str, body: &Value) -> Result<(), Error> {
        match self.reader().http.change(&Method::POST, path, Some(body)) {
            Ok(answer) => self.wait(&actions(&answer)),
            Err(CallError::Api(error)) if was_done_before(&error.code) => Ok(()),
            Err(trouble) => Err(trouble.into()),
        }
    }

    fn reader(&self) -> &Reader {
        self.0
    }
}

/// Returns whether the error code says that the requested state was reached before.
fn was_done_before(code: &str) -> bool {
    matches!(
        code,
        "server_already_attached"
            | "load_balancer_already_attached"
            | "load_balancer_not_attached_to_network"
            | "firewall_already_applied"
            | "already_in_placement_group"
            | "target_already_defined"
            | "source_port_already_used"
    )
}

/// Returns a target in the form that `remove_target` requires.
fn removal_target(target: &Target) -> Value {
    match &target.servers {
        TargetSelector::Labels(labels) => {
            json!({"type": "label_selector", "label_selector": {"selector": labels}})
        }
        TargetSelector::Server(id) => json!({"type": "server", "server": {"id": id}}),
        TargetSelector::Address(address) => json!({"type": "ip", "ip": {"ip": address}}),
    }
}
