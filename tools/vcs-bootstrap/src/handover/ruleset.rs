//! Rulesets of GitHub in the terms of the provider.

use opentofu::{Arguments, Resource, Value};
use serde_json::Value as Json;

use super::World;
use crate::clients::github;
use crate::model::Rule;

/// Parameters of a pull request that the provider can express.
const PULL_REQUEST: [&str; 6] = [
    "allowed_merge_methods",
    "dismiss_stale_reviews_on_push",
    "require_code_owner_review",
    "require_last_push_approval",
    "required_approving_review_count",
    "required_review_thread_resolution",
];

/// Parameters of status checks that the provider can express beside the list of checks.
const STATUS_CHECKS: [&str; 2] =
    ["do_not_enforce_on_create", "strict_required_status_checks_policy"];

/// Returns the ruleset `name`. `before` is the ruleset as GitHub describes it, if this program has created
/// it. Everything in `before` that no document can declare is left in place.
pub(super) fn resource(
    world: &World<'_>,
    (name, rule): (&str, &Rule),
    before: Option<&Json>,
) -> Resource {
    let body = github::ruleset(name, rule, before.unwrap_or(&Json::Null));
    let mut arguments: Arguments = vec![
        ("repository", world.name()),
        ("name", name.into()),
        ("target", "branch".into()),
        ("enforcement", "active".into()),
        ("conditions", one(conditions(&body["conditions"]["ref_name"]))),
    ];
    let (rules, is_complete) = rules(&body);
    arguments.push(("rules", one(rules)));
    let mut ignored = Vec::new();
    match body["bypass_actors"].as_array() {
        Some(actors) if !actors.is_empty() => {
            arguments.push(("bypass_actors", actors.iter().map(actor).collect()));
        }
        Some(_) => {}
        // GitHub does not show the list to this token.
        None => ignored.push("bypass_actors"),
    }
    if !is_complete {
        ignored.push("rules");
    }
    let import = before.and_then(|before| before["id"].as_u64());
    let address = world.part_address("github_repository_ruleset", name);
    let resource = Resource::new(address, import.map(|id| world.import(id)), arguments);
    let note = if is_complete {
        String::new()
    } else {
        "The ruleset has rules that this file does not express, so OpenTofu ignores its rules."
            .to_owned()
    };
    Resource { ignored, note, ..resource }
}

/// Returns a list with one nested block.
fn one(block: Arguments) -> Value {
    Value::List(vec![Value::block(block)])
}

fn conditions(ref_name: &Json) -> Arguments {
    let texts = |names: &Json| names.as_array().into_iter().flatten().filter_map(value).collect();
    let names = vec![
        ("include", Value::List(texts(&ref_name["include"]))),
        ("exclude", Value::List(texts(&ref_name["exclude"]))),
    ];
    vec![("ref_name", one(names))]
}

fn actor(actor: &Json) -> Value {
    let fields = ["actor_id", "actor_type", "bypass_mode"].into_iter();
    Value::block(fields.filter_map(|name| Some((name, value(&actor[name])?))).collect())
}

/// Returns the rules of a ruleset, and whether all of them can be expressed.
fn rules(body: &Json) -> (Arguments, bool) {
    let (mut arguments, mut is_complete) = (Arguments::new(), true);
    for rule in body["rules"].as_array().into_iter().flatten() {
        let parameters = &rule["parameters"];
        match rule["type"].as_str().unwrap_or_default() {
            "deletion" => arguments.push(("deletion", true.into())),
            "non_fast_forward" => arguments.push(("non_fast_forward", true.into())),
            "required_linear_history" => arguments.push(("required_linear_history", true.into())),
            "required_signatures" => arguments.push(("required_signatures", true.into())),
            "pull_request" => {
                is_complete &= has_only(parameters, &PULL_REQUEST);
                arguments.push(("pull_request", one(expressed(parameters, &PULL_REQUEST))));
            }
            kind @ "required_status_checks" => {
                let checks = parameters[kind].as_array().into_iter().flatten();
                let check = |check: &Json| {
                    let fields = ["context", "integration_id"].into_iter();
                    let fields = fields.filter_map(|name| Some((name, value(&check[name])?)));
                    Value::block(fields.collect())
                };
                let mut block = vec![("required_check", checks.map(check).collect())];
                block.extend(expressed(parameters, &STATUS_CHECKS));
                let [first, second] = STATUS_CHECKS;
                is_complete &= has_only(parameters, &[first, second, kind]);
                arguments.push(("required_status_checks", one(block)));
            }
            _ => is_complete = false,
        }
    }
    (arguments, is_complete)
}

/// Whether every parameter that is set has one of these names.
fn has_only(parameters: &Json, names: &[&str]) -> bool {
    let is_set = |value: &Json| match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(items) => !items.is_empty(),
        _ => true,
    };
    let parameters = parameters.as_object().into_iter().flatten();
    parameters.filter(|(_, value)| is_set(value)).all(|(name, _)| names.contains(&name.as_str()))
}

fn expressed(parameters: &Json, names: &[&'static str]) -> Arguments {
    names.iter().filter_map(|name| Some((*name, value(&parameters[*name])?))).collect()
}

/// Returns a text, a whole number, a flag, or a list of these.
fn value(json: &Json) -> Option<Value> {
    match json {
        Json::String(text) => Some(text.into()),
        Json::Number(number) => number.as_u64().map(Value::Number),
        Json::Bool(flag) => Some(Value::Flag(*flag)),
        Json::Array(items) => Some(Value::List(items.iter().filter_map(value).collect())),
        Json::Null | Json::Object(_) => None,
    }
}
