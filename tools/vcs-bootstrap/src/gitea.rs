//! How Gitea and Forgejo write rules and secrets.
//!
//! A rule is a branch protection, which is called as the branch it protects. It has no rule against
//! merge commits, and lists people rather than roles: an administrator is the token's own user.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Value, json};

use crate::Error;
use crate::forge::Remote;
use crate::model::{Rule, Section};
use crate::spec::{Line, PullRequest, Require};

const PROTECTIONS: &str = "/branch_protections";

pub(crate) fn rules(
    remote: &Remote,
    names: &BTreeSet<String>,
) -> Result<Section<BTreeMap<String, Rule>>, Error> {
    let protections = match remote.list(PROTECTIONS, Value::as_array)? {
        Ok(protections) => protections,
        Err(refusal) => return Ok(Section::Unknown(refusal)),
    };
    let me = remote.me()?;
    let with_name = |it: &Value| Some((it["rule_name"].as_str()?.to_owned(), rule(it, me)?));
    let rules = protections.iter().filter_map(with_name);
    Ok(Section::Known(rules.filter(|(name, _)| names.contains(name)).collect()))
}

fn rule(protection: &Value, me: &str) -> Option<Rule> {
    let flag = |name: &str| protection[name].as_bool().unwrap_or_default();
    let texts = |name: &str| {
        let texts = protection[name].as_array().into_iter().flatten();
        texts.filter_map(Value::as_str).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let by_pull_request = !flag("enable_push") || flag("enable_push_whitelist");
    let exempt = if by_pull_request && flag("enable_push") {
        texts("push_whitelist_usernames")
    } else {
        BTreeSet::new()
    };
    let we = exempt.iter().any(|it| it.eq_ignore_ascii_case(me));
    let others = exempt.len() > usize::from(we)
        || (flag("enable_push") && flag("push_whitelist_deploy_keys"))
        || (flag("enable_push") && !texts("push_whitelist_teams").is_empty());
    let checks = flag("enable_status_check").then(|| texts("status_check_contexts"));
    let approvals = protection["required_approvals"].as_u64().unwrap_or_default();
    Some(Rule {
        branches: BTreeSet::from([protection["rule_name"].as_str()?.to_owned()]),
        require: Require {
            pull_request: by_pull_request
                .then_some(PullRequest { approvals: approvals.try_into().unwrap_or(u8::MAX) }),
            signed_commits: flag("require_signed_commits"),
            linear_history: false,
            status_checks: checks
                .into_iter()
                .flatten()
                .filter_map(|it| Line::try_from(it).ok())
                .collect(),
        },
        // Where anybody may push, there is nothing to be exempt from but the merge override.
        administrators_too: Some(if by_pull_request {
            !we
        } else {
            flag("block_admin_merge_override")
        }),
        in_force: !flag("enable_force_push")
            && !others
            && (!by_pull_request || flag("block_admin_merge_override") != we),
    })
}

pub(crate) fn put_rule(remote: &Remote, name: &str, rule: &Rule) -> Result<(), Error> {
    let Require { pull_request, signed_commits, linear_history: _, status_checks } = &rule.require;
    let exempt = rule.administrators_too == Some(false);
    let mut body = json!({
        "enable_force_push": false,
        "required_approvals": pull_request.as_ref().map_or(0, |it| it.approvals),
        "require_signed_commits": signed_commits,
        "enable_status_check": !status_checks.is_empty(),
        "status_check_contexts": status_checks,
        "block_admin_merge_override": !exempt,
        "enable_push": pull_request.is_none() || exempt,
        "enable_push_whitelist": pull_request.is_some() && exempt,
        "push_whitelist_usernames": [],
        "push_whitelist_teams": [],
        "push_whitelist_deploy_keys": false,
    });
    if pull_request.is_some() && exempt {
        body["push_whitelist_usernames"] = json!([remote.me()?]);
    }
    let there = remote.list(PROTECTIONS, Value::as_array)?;
    let there = there.map_err(|refusal| Error::Blocked(vec![refusal]))?;
    if there.iter().any(|it| it["rule_name"] == name) {
        return remote.write(&Method::PATCH, &below(name), Some(&body), &[200]).map(drop);
    }
    body["rule_name"] = name.into();
    remote.write(&Method::POST, PROTECTIONS, Some(&body), &[201]).map(drop)
}

pub(crate) fn remove_rule(remote: &Remote, name: &str) -> Result<(), Error> {
    remote.write(&Method::DELETE, &below(name), None, &[204, 404]).map(drop)
}

/// The path of a protection: what a branch may hold and a path may not is escaped.
fn below(name: &str) -> String {
    let escape = |it: u8| match it {
        b'-' | b'.' | b'_' | b'~' | b'/' | b'*' => char::from(it).to_string(),
        it if it.is_ascii_alphanumeric() => char::from(it).to_string(),
        it => format!("%{it:02X}"),
    };
    let name: String = name.bytes().map(escape).collect();
    format!("{PROTECTIONS}/{name}")
}

/// Gitea takes the value as it is; plain HTTP is allowed on this machine alone (`keyring::Url`).
pub(crate) fn write_secret(remote: &Remote, name: &str, value: &str) -> Result<(), Error> {
    let below = format!("/actions/secrets/{name}");
    remote.write(&Method::PUT, &below, Some(&json!({ "data": value })), &[201, 204]).map(drop)
}
