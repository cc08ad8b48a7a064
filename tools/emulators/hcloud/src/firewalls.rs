//! Firewalls: stored and shown. They filter nothing, because no packet passes through the emulator.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::command::Command;
use crate::error::ApiError;
use crate::labels::Labels;
use crate::list as lists;
use crate::model::{Effect, Firewall, FirewallTarget, Rule, Server};
use crate::resource::Resource;
use crate::selector::Selector;
use crate::state::State;

/// The most rules of one firewall: "limited to 50 entries per Firewall" (`set_rules` in the API description).
const RULES: usize = 50;
/// The most firewalls on one server (<https://docs.hetzner.com/cloud/firewalls/faq>).
const ON_SERVER: usize = 5;

#[derive(Deserialize)]
struct TargetInput {
    #[serde(rename = "type")]
    sort: String,
    server: Option<ServerInput>,
    label_selector: Option<SelectorInput>,
}

#[derive(Deserialize)]
struct ServerInput {
    id: u64,
}

#[derive(Deserialize)]
struct SelectorInput {
    selector: String,
}

impl TargetInput {
    fn target(&self) -> Result<FirewallTarget, ApiError> {
        match (self.sort.as_str(), &self.server, &self.label_selector) {
            ("server", Some(server), _) => Ok(FirewallTarget::Server(server.id)),
            ("label_selector", _, Some(input)) => {
                Selector::parse(&input.selector)?;
                Ok(FirewallTarget::Selector(input.selector.clone()))
            }
            _ => Err(ApiError::invalid_fields(&[(
                "type",
                "must be server or label_selector, with the field of that name",
            )])),
        }
    }
}

impl FirewallTarget {
    fn to_json(&self, state: &State) -> Value {
        match self {
            Self::Server(id) => json!({"type": "server", "server": {"id": id}}),
            Self::Selector(text) => {
                let covered = state.servers.iter().filter(|server| self.covers(server));
                let resources: Vec<_> = covered
                    .map(|server| json!({"type": "server", "server": {"id": server.head.id}}))
                    .collect();
                json!({"type": "label_selector", "label_selector": {"selector": text}, "applied_to_resources": resources})
            }
        }
    }
}

impl Firewall {
    pub(crate) fn to_json(&self, state: &State) -> Value {
        let applied_to: Vec<_> =
            self.applied_to.iter().map(|target| target.to_json(state)).collect();
        self.head.to_json_with(json!({"rules": self.rules, "applied_to": applied_to}))
    }
}

fn check_rules(rules: Vec<Rule>) -> Result<Vec<Rule>, ApiError> {
    if rules.len() > RULES {
        return Err(ApiError::invalid_fields(&[("rules", "a firewall has at most 50 rules")]));
    }
    rules.iter().try_for_each(Rule::check)?;
    Ok(rules)
}

/// Returns the firewalls on a server, as the server's JSON shows them.
pub(crate) fn on(state: &State, server: &Server) -> Vec<Value> {
    let firewalls = state.firewalls.iter().filter(|firewall| firewall.covers(server));
    firewalls.map(|firewall| json!({"id": firewall.head.id, "status": "applied"})).collect()
}

/// Applies a firewall to a server that is being created.
pub(crate) fn apply_to_server(
    state: &mut State,
    firewall: u64,
    server: u64,
) -> Result<(), ApiError> {
    apply(state, firewall, &FirewallTarget::Server(server))
}

fn apply(state: &mut State, id: u64, target: &FirewallTarget) -> Result<(), ApiError> {
    if let FirewallTarget::Server(server) = target {
        let server = state.servers.find(*server).ok_or_else(resource_not_found)?;
        if on(state, server).len() >= ON_SERVER {
            return Err(ApiError::limit_exceeded("a server takes at most 5 firewalls"));
        }
        let is_public = state.primary_ips.iter().any(|ip| ip.assignee == Some(server.head.id));
        if !is_public {
            return Err(ApiError::unprocessable(
                "private_net_only_server",
                "the server has no public interface",
            ));
        }
    }
    let firewall = state.firewalls.get_mut(id)?;
    if firewall.applied_to.contains(target) {
        return Err(ApiError::unprocessable(
            "firewall_already_applied",
            "firewall is already applied to resource",
        ));
    }
    firewall.applied_to.push(target.clone());
    Ok(())
}

fn unapply(state: &mut State, id: u64, target: &FirewallTarget) -> Result<(), ApiError> {
    let firewall = state.firewalls.get(id)?;
    if !firewall.applied_to.contains(target) {
        let server = match target {
            FirewallTarget::Server(id) => state.servers.find(*id),
            FirewallTarget::Selector(_) => None,
        };
        return Err(if server.is_some_and(|server| firewall.covers(server)) {
            ApiError::unprocessable(
                "firewall_managed_by_label_selector",
                "firewall is applied via a label selector",
            )
        } else {
            resource_not_found()
        });
    }
    state.firewalls.get_mut(id)?.applied_to.retain(|other| other != target);
    Ok(())
}

fn resource_not_found() -> ApiError {
    ApiError::unprocessable("firewall_resource_not_found", "the resource was not found")
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        labels: Option<Labels>,
        rules: Option<Vec<Rule>>,
        apply_to: Option<Vec<TargetInput>>,
    }
    let input: Input = call.input()?;
    state.firewalls.require_free_name(&input.name, None)?;
    let rules = check_rules(input.rules.unwrap_or_default())?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    state.firewalls.insert(Firewall { head, rules, applied_to: Vec::new() });
    let mut actions = vec![begin(state, "set_firewall_rules", id, None)];
    for target in input.apply_to.iter().flatten() {
        let target = target.target()?;
        apply(state, id, &target)?;
        actions.push(begin(state, "apply_firewall", id, Some(&target)));
    }
    Ok(Answer::created(
        json!({"firewall": state.firewalls.get(id)?.to_json(state), "actions": actions}),
    ))
}

/// Begins an action on a firewall, and on the server if the target is one server.
fn begin(state: &mut State, action: &str, id: u64, target: Option<&FirewallTarget>) -> Value {
    let mut resources = vec![(Firewall::KIND, id)];
    if let Some(FirewallTarget::Server(server)) = target {
        resources.push((Server::KIND, *server));
    }
    state.begin(action, &resources, Effect::Nothing).to_json()
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.firewalls.iter().map(|firewall| firewall.to_json(state)).collect();
    lists::page(call, "firewalls", items, &["name"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    state.firewalls.get(id)?;
    state.require_unlocked(Firewall::KIND, id)?;
    state.firewalls.update(id, call)?;
    Ok(Answer::ok(json!({"firewall": state.firewalls.get(id)?.to_json(state)})))
}

/// Answers `DELETE /firewalls/{id}`. A firewall with a label selector is in use, even if the selector
/// matches no server.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    let firewall = state.firewalls.get(id)?;
    if !firewall.applied_to.is_empty() {
        return Err(ApiError::in_use(Firewall::KIND, id));
    }
    state.require_unlocked(Firewall::KIND, id)?;
    state.firewalls.remove(id);
    Ok(Answer::no_content())
}

pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        rules: Option<Vec<Rule>>,
        apply_to: Option<Vec<TargetInput>>,
        remove_from: Option<Vec<TargetInput>>,
    }
    command.require_unlocked(state)?;
    let id = command.id;
    let input: Input = command.input()?;
    let mut actions = Vec::new();
    match command.name {
        "set_rules" => {
            let rules = input.rules.ok_or_else(|| ApiError::required("rules"))?;
            state.firewalls.get_mut(id)?.rules = check_rules(rules)?;
            actions.push(begin(state, "set_firewall_rules", id, None));
        }
        "apply_to_resources" => {
            for target in &input.apply_to.ok_or_else(|| ApiError::required("apply_to"))? {
                let target = target.target()?;
                apply(state, id, &target)?;
                actions.push(begin(state, "apply_firewall", id, Some(&target)));
            }
        }
        "remove_from_resources" => {
            for target in &input.remove_from.ok_or_else(|| ApiError::required("remove_from"))? {
                let target = target.target()?;
                unapply(state, id, &target)?;
                actions.push(begin(state, "remove_firewall", id, Some(&target)));
            }
        }
        _ => return Err(command.unknown()),
    }
    Ok(Answer::created(json!({"actions": actions})))
}
