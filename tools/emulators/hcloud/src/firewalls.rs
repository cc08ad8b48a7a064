//! Firewalls: kept and shown, and never asked, as nothing passes through them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::Effect;
use crate::call::{Answer, Call};
use crate::cidr;
use crate::error::Refusal;
use crate::labels::Labels;
use crate::list as lists;
use crate::routes::nowhere;
use crate::selector::Selector;
use crate::servers::Server;
use crate::store::{Head, Resource, State, resource, shown};

/// The most rules of one firewall, and the most ranges of one rule.
const RULES: usize = 50;
const RANGES: usize = 100;
/// The most firewalls on one server.
const ON_SERVER: usize = 5;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Firewall {
    head: Head,
    rules: Vec<Rule>,
    applied_to: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rule {
    description: Option<String>,
    direction: String,
    protocol: String,
    port: Option<String>,
    #[serde(default)]
    source_ips: Vec<String>,
    #[serde(default)]
    destination_ips: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    Server(u64),
    Selector(String),
}

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

impl TryFrom<&TargetInput> for Target {
    type Error = Refusal;

    fn try_from(input: &TargetInput) -> Result<Self, Refusal> {
        match (input.sort.as_str(), &input.server, &input.label_selector) {
            ("server", Some(server), _) => Ok(Self::Server(server.id)),
            ("label_selector", _, Some(it)) => {
                Selector::parse(&it.selector).map(|_| Self::Selector(it.selector.clone()))
            }
            _ => Err(Refusal::invalid(&[(
                "type",
                "must be server or label_selector, with the field of that name",
            )])),
        }
    }
}

resource!(Firewall, "firewall");

impl Rule {
    fn check(&self) -> Result<(), Refusal> {
        let ports = matches!(self.protocol.as_str(), "tcp" | "udp");
        let known = ports || matches!(self.protocol.as_str(), "icmp" | "esp" | "gre");
        let (needed, other) = match self.direction.as_str() {
            "in" => (&self.source_ips, &self.destination_ips),
            "out" => (&self.destination_ips, &self.source_ips),
            _ => return Err(Refusal::invalid(&[("rules.direction", "must be in or out")])),
        };
        let mut wrong = Vec::new();
        if !known {
            wrong.push(("rules.protocol", "must be tcp, udp, icmp, esp or gre"));
        }
        if ports != self.port.as_deref().is_some_and(is_port) || (!ports && self.port.is_some()) {
            wrong.push(("rules.port", "must be a port or range, for tcp and udp only"));
        }
        if needed.is_empty() || needed.len() > RANGES || !other.is_empty() {
            wrong.push((
                "rules.source_ips",
                "a rule `in` has 1 to 100 source_ips, a rule `out` as many destination_ips",
            ));
        }
        if needed.iter().any(|it| !cidr::is_range(it)) {
            wrong.push(("rules.source_ips", "must be ranges in CIDR notation, without host bits"));
        }
        if self.description.as_ref().is_some_and(|it| it.len() > 255) {
            wrong.push(("rules.description", "is too long"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Refusal::invalid(&wrong)) }
    }
}

/// `80`, `80-85`, or `any`.
fn is_port(text: &str) -> bool {
    let one = |it: &str| it.parse::<u16>().ok().filter(|it| *it > 0);
    match text.split_once('-') {
        None => text == "any" || one(text).is_some(),
        Some((low, high)) => one(low).zip(one(high)).is_some_and(|(low, high)| low <= high),
    }
}

fn checked(rules: Vec<Rule>) -> Result<Vec<Rule>, Refusal> {
    if rules.len() > RULES {
        return Err(Refusal::invalid(&[("rules", "a firewall has at most 50 rules")]));
    }
    rules.iter().try_for_each(Rule::check)?;
    Ok(rules)
}

impl Target {
    fn covers(&self, server: &Server) -> bool {
        match self {
            Self::Server(id) => *id == server.head.id,
            Self::Selector(text) => {
                Selector::parse(text).is_ok_and(|it| it.matches(&server.head.labels))
            }
        }
    }

    fn shown(&self, state: &State) -> Value {
        match self {
            Self::Server(id) => json!({"type": "server", "server": {"id": id}}),
            Self::Selector(text) => {
                let covered = state.servers.iter().filter(|it| self.covers(it));
                let resources: Vec<_> = covered
                    .map(|it| json!({"type": "server", "server": {"id": it.head.id}}))
                    .collect();
                json!({"type": "label_selector", "label_selector": {"selector": text}, "applied_to_resources": resources})
            }
        }
    }
}

impl Firewall {
    pub(crate) fn shown(&self, state: &State) -> Value {
        let applied_to: Vec<_> = self.applied_to.iter().map(|it| it.shown(state)).collect();
        shown(&self.head, json!({"rules": self.rules, "applied_to": applied_to}))
    }

    pub(crate) fn forget(&mut self, server: u64) {
        self.applied_to.retain(|it| *it != Target::Server(server));
    }
}

/// What a server says of its firewalls.
pub(crate) fn on(state: &State, server: &Server) -> Vec<Value> {
    let over = state
        .firewalls
        .iter()
        .filter(|it| it.applied_to.iter().any(|target| target.covers(server)));
    over.map(|it| json!({"id": it.head.id, "status": "applied"})).collect()
}

/// For a server that is made with firewalls.
pub(crate) fn put_on(state: &mut State, firewall: u64, server: u64) -> Result<(), Refusal> {
    apply(state, firewall, &Target::Server(server))
}

fn apply(state: &mut State, id: u64, target: &Target) -> Result<(), Refusal> {
    if let Target::Server(server) = target {
        let server = state.servers.seen(*server).ok_or_else(|| {
            Refusal::because("firewall_resource_not_found", "the resource was not found")
        })?;
        if on(state, server).len() >= ON_SERVER {
            return Err(Refusal::new(
                403,
                "resource_limit_exceeded",
                "a server takes at most 5 firewalls",
            ));
        }
        let public = state.primary_ips.iter().any(|it| it.assignee == Some(server.head.id));
        if !public {
            return Err(Refusal::because(
                "private_net_only_server",
                "the server has no public interface",
            ));
        }
    }
    let firewall = state.firewalls.get_mut(id)?;
    if firewall.applied_to.contains(target) {
        return Err(Refusal::because(
            "firewall_already_applied",
            "firewall is already applied to resource",
        ));
    }
    firewall.applied_to.push(target.clone());
    Ok(())
}

fn unapply(state: &mut State, id: u64, target: &Target) -> Result<(), Refusal> {
    let firewall = state.firewalls.get(id)?;
    if !firewall.applied_to.contains(target) {
        let server =
            if let Target::Server(server) = target { state.servers.seen(*server) } else { None };
        let selected =
            server.is_some_and(|it| firewall.applied_to.iter().any(|target| target.covers(it)));
        return Err(if selected {
            Refusal::because(
                "firewall_managed_by_label_selector",
                "firewall is applied via a label selector",
            )
        } else {
            Refusal::because("firewall_resource_not_found", "the resource was not found")
        });
    }
    state.firewalls.get_mut(id)?.applied_to.retain(|it| it != target);
    Ok(())
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        labels: Option<Labels>,
        rules: Option<Vec<Rule>>,
        apply_to: Option<Vec<TargetInput>>,
    }
    let input: Input = call.input()?;
    state.firewalls.unique(&input.name, 0)?;
    let rules = checked(input.rules.unwrap_or_default())?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    state.firewalls.insert(Firewall { head, rules, applied_to: Vec::new() });
    let mut actions =
        vec![state.begin("set_firewall_rules", &[(Firewall::KIND, id)], Effect::Nothing)];
    for target in input.apply_to.iter().flatten() {
        let target = Target::try_from(target)?;
        apply(state, id, &target)?;
        actions.push(begin(state, "apply_firewall", id, &target));
    }
    Ok(Answer::made(json!({"firewall": state.firewalls.get(id)?.shown(state), "actions": actions})))
}

fn begin(state: &mut State, command: &str, id: u64, target: &Target) -> Value {
    match target {
        Target::Server(server) => {
            state.begin(command, &[(Firewall::KIND, id), ("server", *server)], Effect::Nothing)
        }
        Target::Selector(_) => state.begin(command, &[(Firewall::KIND, id)], Effect::Nothing),
    }
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.firewalls.iter().map(|it| it.shown(state)).collect();
    lists::page(call, "firewalls", items, &["name"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    state.firewalls.get(id)?;
    state.unlocked(Firewall::KIND, id)?;
    state.firewalls.update(id, call)?;
    Ok(Answer::ok(json!({"firewall": state.firewalls.get(id)?.shown(state)})))
}

/// A selector is a use, whether or not it selects anything.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    let firewall = state.firewalls.get(id)?;
    if !firewall.applied_to.is_empty() {
        return Err(Refusal::in_use(Firewall::KIND, id));
    }
    state.unlocked(Firewall::KIND, id)?;
    state.firewalls.remove(id);
    Ok(Answer::gone())
}

pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        rules: Option<Vec<Rule>>,
        apply_to: Option<Vec<TargetInput>>,
        remove_from: Option<Vec<TargetInput>>,
    }
    state.unlocked(Firewall::KIND, id)?;
    let input: Input = call.input()?;
    let missing = |field: &str| Refusal::invalid(&[(field, "is required")]);
    let mut actions = Vec::new();
    match command {
        "set_rules" => {
            state.firewalls.get_mut(id)?.rules =
                checked(input.rules.ok_or_else(|| missing("rules"))?)?;
            actions.push(state.begin(
                "set_firewall_rules",
                &[(Firewall::KIND, id)],
                Effect::Nothing,
            ));
        }
        "apply_to_resources" => {
            for target in &input.apply_to.ok_or_else(|| missing("apply_to"))? {
                let target = Target::try_from(target)?;
                apply(state, id, &target)?;
                actions.push(begin(state, "apply_firewall", id, &target));
            }
        }
        "remove_from_resources" => {
            for target in &input.remove_from.ok_or_else(|| missing("remove_from"))? {
                let target = Target::try_from(target)?;
                unapply(state, id, &target)?;
                actions.push(begin(state, "remove_firewall", id, &target));
            }
        }
        _ => return Err(nowhere(&["firewalls", "actions", command])),
    }
    Ok(Answer::made(json!({"actions": actions})))
}
