//! Rules and secrets in the form of Gitea and Forgejo.
//!
//! A rule is a branch protection, named after its branch. Protections cannot forbid merge commits,
//! and list people and teams instead of roles.

use std::collections::{BTreeMap, BTreeSet};

use ::remote::percent_encode_except;
use http::Method;
use serde_json::{Value, json};

use crate::Error;
use crate::clients::connection::Remote;
use crate::clients::dialect::Dialect;
use crate::model::{Readable, Refusal, Rule};
use crate::spec::{Line, PullRequest, Require};

const PROTECTIONS: &str = "/branch_protections";

/// Team that exists in every organisation and administers all of its repositories.
const OWNERS: &str = "Owners";

/// Administrators of a repository in a protection's lists of people and teams.
struct Administrators<'a> {
    user: Option<&'a str>,
    team: Option<&'static str>,
}

/// Returns the owner, or the organisation's team of owners. The result does not depend on the
/// token's user, so that two administrators with the same document get the same plan.
fn administrators(remote: &Remote) -> Result<Administrators<'_>, Error> {
    Ok(if remote.is_of_organisation()? {
        Administrators { user: None, team: Some(OWNERS) }
    } else {
        Administrators { user: Some(&remote.place.owner), team: None }
    })
}

pub(crate) fn rules(
    remote: &Remote,
    names: &BTreeSet<String>,
) -> Result<Readable<BTreeMap<String, Rule>>, Error> {
    let protections = match remote.list(PROTECTIONS, Value::as_array)? {
        Ok(protections) => protections,
        Err(refusal) => return Ok(Readable::Denied(refusal)),
    };
    let (administrators, dialect) = (administrators(remote)?, remote.dialect()?);
    let with_name = |protection: &Value| {
        let rule = rule(protection, &administrators, dialect)?;
        Some((protection["rule_name"].as_str()?.to_owned(), rule))
    };
    let rules = protections.iter().filter_map(with_name);
    Ok(Readable::Value(rules.filter(|(name, _)| names.contains(name)).collect()))
}

/// Returns the refusal for a token that administers the repository and whose user does not own it. Members of
/// a team with administrator access count as owners (`models/perm/access/repo_permission.go` of v1.26).
pub(crate) fn needs_owner(remote: &Remote, refusal: &Refusal) -> Refusal {
    let owner = &remote.place.owner;
    Refusal {
        what: format!(
            "{}; the token's user administers {} and does not own it, so the ownership record, which \
             is an Actions variable, is unknown",
            refusal.what,
            remote.present()
        ),
        help: format!(
            "use a token of {owner} (if {owner} is an organisation: of a member of a team with \
             administrator access), or of an administrator of the instance; with this token, nothing \
             is changed: settings, rules and deploy keys can be changed at the forge, commits can be \
             pushed, and `data-drain` can copy the history"
        ),
        reason: refusal.reason,
    }
}

/// Returns the field that forbids administrators to merge against a rule, where the forge has one.
fn merge_field(dialect: Dialect) -> Option<&'static str> {
    match dialect {
        Dialect::Gitea => Some("block_admin_merge_override"),
        Dialect::OldGitea => None,
        Dialect::Forgejo => Some("apply_to_admins"),
    }
}

/// Whether changes need a pull request because direct pushes are restricted.
fn is_by_pull_request(protection: &Value) -> bool {
    protection["enable_push"] != true || protection["enable_push_whitelist"] == true
}

fn rule(protection: &Value, administrators: &Administrators<'_>, dialect: Dialect) -> Option<Rule> {
    let flag = |name: &str| protection[name].as_bool().unwrap_or_default();
    let texts = |name: &str| {
        let texts = protection[name].as_array().into_iter().flatten();
        texts.filter_map(Value::as_str).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let by_pull_request = is_by_pull_request(protection);
    let (mut may_push, mut also_exempt) = (false, BTreeSet::new());
    if by_pull_request && flag("enable_push") {
        for (list, kind, ours) in [
            ("push_whitelist_usernames", "user", administrators.user),
            ("push_whitelist_teams", "team", administrators.team),
        ] {
            for name in texts(list) {
                if ours.is_some_and(|ours| ours.eq_ignore_ascii_case(&name)) {
                    may_push = true;
                } else {
                    also_exempt.insert(format!("{kind} {name}"));
                }
            }
        }
        also_exempt.extend(flag("push_whitelist_deploy_keys").then(|| "deploy keys".to_owned()));
    }
    // Administrators may always merge where no field forbids it.
    let may_merge = !merge_field(dialect).is_some_and(flag);
    // Without a restriction on pushes, an exemption concerns only the checks of a merge.
    let exempt = if by_pull_request { may_push && may_merge } else { may_merge };
    // An old Gitea always lets administrators merge, which the status reports once for the rule.
    let is_old = dialect == Dialect::OldGitea;
    if by_pull_request && may_push != may_merge && !is_old {
        let half = if may_push { "push" } else { "merge" };
        also_exempt.insert(format!("administrators when they {half}"));
    }
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
                .filter_map(|context| Line::try_from(context).ok())
                .collect(),
        },
        administrators_too: match (is_old, by_pull_request && may_push) {
            (false, _) => Some(!exempt),
            (true, may_push) => may_push.then_some(false),
        },
        also_exempt,
        except: BTreeSet::new(),
        enforced: true,
        forbids_deletion: true,
        // Forgejo has no such field, and never permits force pushes to a protected branch.
        forbids_force_push: !flag("enable_force_push"),
    })
}

/// Returns the fields that express `rule`. Undeclared fields are left out, so that Gitea keeps
/// them: who may merge, whose approval counts, which files are protected, and so on.
fn protection(
    rule: &Rule,
    before: &Value,
    administrators: &Administrators<'_>,
    dialect: Dialect,
) -> Value {
    let Require { pull_request, signed_commits, linear_history: _, status_checks } = &rule.require;
    let exempt = rule.administrators_too == Some(false);
    let mut body = json!({ "require_signed_commits": signed_commits });
    if let Some(field) = merge_field(dialect) {
        body[field] = json!(!exempt);
    }
    if dialect != Dialect::Forgejo {
        body["enable_force_push"] = json!(false);
    }
    if let Some(PullRequest { approvals }) = pull_request {
        body["required_approvals"] = json!(approvals);
        body["enable_push"] = json!(exempt);
        if exempt {
            body["enable_push_whitelist"] = json!(true);
            body["push_whitelist_usernames"] = administrators.user.into_iter().collect();
            body["push_whitelist_teams"] = administrators.team.into_iter().collect();
            body["push_whitelist_deploy_keys"] = json!(false);
        }
    } else {
        if before.is_object() && is_by_pull_request(before) {
            body["required_approvals"] = json!(0); // the plan announces: no longer requires a pull request
        }
        body["enable_push"] = json!(true);
        body["enable_push_whitelist"] = json!(false);
    }
    // A protection that requires status checks without naming contexts is stricter: every status
    // must succeed. It is left in place.
    let contexts = before["status_check_contexts"].as_array();
    let had = before["enable_status_check"] == true && contexts.is_some_and(|all| !all.is_empty());
    if !status_checks.is_empty() || had {
        body["enable_status_check"] = json!(!status_checks.is_empty());
        body["status_check_contexts"] = json!(status_checks);
    }
    body
}

pub(crate) fn put_rule(remote: &Remote, name: &str, rule: &Rule) -> Result<(), Error> {
    let there = remote.list(PROTECTIONS, Value::as_array)?;
    let there = there.map_err(|refusal| Error::Blocked(vec![refusal]))?;
    let before = there.iter().find(|protection| protection["rule_name"] == name);
    let nothing = Value::Null;
    let (administrators, dialect) = (administrators(remote)?, remote.dialect()?);
    let mut body = protection(rule, before.unwrap_or(&nothing), &administrators, dialect);
    if before.is_some() {
        return remote.write(&Method::PATCH, &below(name), Some(&body), &[200]).map(drop);
    }
    body["rule_name"] = name.into();
    remote.write(&Method::POST, PROTECTIONS, Some(&body), &[201]).map(drop)
}

pub(crate) fn remove_rule(remote: &Remote, name: &str) -> Result<(), Error> {
    remote.write(&Method::DELETE, &below(name), None, &[204, 404]).map(drop)
}

/// Returns the path of a protection, with percent-encoding for characters of a branch name that a
/// path cannot contain.
fn below(name: &str) -> String {
    let name = percent_encode_except(name, "/*");
    format!("{PROTECTIONS}/{name}")
}

/// Sends the secret's value unencrypted, as Gitea requires. `::git::Url` allows plain HTTP for
/// this machine only.
pub(crate) fn write_secret(remote: &Remote, name: &str, value: &str) -> Result<(), Error> {
    let below = format!("/actions/secrets/{name}");
    remote.write(&Method::PUT, &below, Some(&json!({ "data": value })), &[201, 204]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(pull_request: Option<u8>, checks: &[&str], exempt: bool) -> Rule {
        let checks = checks.iter().map(|&check| Line::try_from(check.to_owned()).expect("a line"));
        Rule {
            branches: BTreeSet::from(["main".to_owned()]),
            require: Require {
                pull_request: pull_request.map(|approvals| PullRequest { approvals }),
                status_checks: checks.collect(),
                ..Require::default()
            },
            administrators_too: Some(!exempt),
            also_exempt: BTreeSet::new(),
            except: BTreeSet::new(),
            enforced: true,
            forbids_deletion: true,
            forbids_force_push: true,
        }
    }

    /// Returns the protection after a PATCH, which keeps fields that are left out.
    fn patched(before: &Value, body: &Value) -> Value {
        let mut after = before.as_object().cloned().unwrap_or_default();
        after.extend(body.as_object().cloned().unwrap_or_default());
        Value::Object(after)
    }

    #[test]
    fn a_patch_reaches_the_rule_and_keeps_every_other_field() {
        let all = [
            Administrators { user: Some("owner"), team: None },
            Administrators { user: None, team: Some(OWNERS) },
        ];
        let theirs = json!({
            "rule_name": "main", "enable_push": true, "enable_push_whitelist": true,
            "push_whitelist_usernames": ["alice"], "push_whitelist_teams": ["crew"],
            "push_whitelist_deploy_keys": true, "enable_force_push": true,
            "enable_merge_whitelist": true, "merge_whitelist_usernames": ["alice"],
            "enable_approvals_whitelist": true, "approvals_whitelist_username": ["bob"],
            "block_on_rejected_reviews": true, "block_on_outdated_branch": true,
            "dismiss_stale_approvals": true, "protected_file_patterns": "*.nix",
            "enable_status_check": true, "status_check_contexts": [], "required_approvals": 3,
        });
        let kept = [
            "enable_merge_whitelist",
            "merge_whitelist_usernames",
            "approvals_whitelist_username",
            "enable_approvals_whitelist",
            "block_on_rejected_reviews",
            "block_on_outdated_branch",
            "dismiss_stale_approvals",
            "protected_file_patterns",
        ];
        let dialects = [Dialect::Gitea, Dialect::OldGitea, Dialect::Forgejo];
        for (administrators, dialect) in
            all.iter().flat_map(|all| dialects.map(|dialect| (all, dialect)))
        {
            for before in [
                theirs.clone(),
                json!({"rule_name": "main", "enable_push": true, "required_approvals": 2}),
                json!({"rule_name": "main"}),
            ] {
                for pull_request in [None, Some(0), Some(2)] {
                    for checks in [&[][..], &["test"]] {
                        for exempt in [false, true] {
                            let mut desired = declared(pull_request, checks, exempt);
                            if dialect == Dialect::OldGitea && !exempt {
                                desired.administrators_too = None; // as desired.rs declares it
                            }
                            // Forgejo's response has no other fields than its description.
                            let mut before = before.clone();
                            if let (Dialect::Forgejo, Some(fields)) =
                                (dialect, before.as_object_mut())
                            {
                                fields.remove("enable_force_push");
                            }
                            let body = protection(&desired, &before, administrators, dialect);
                            let after = patched(&before, &body);
                            let seen = rule(&after, administrators, dialect).expect("a rule");
                            assert!(desired.is_met_by(&seen), "{desired:?} {after}");
                            assert!(kept.iter().all(|name| before[*name] == after[*name]));
                            if checks.is_empty() {
                                let name = "enable_status_check";
                                assert_eq!(before[name], after[name], "no context is declared");
                            }
                            if pull_request.is_none() && !is_by_pull_request(&before) {
                                let name = "required_approvals";
                                assert_eq!(before[name], after[name], "approvals are not declared");
                            }
                        }
                    }
                }
            }
        }
        let seen = rule(&theirs, &all[0], Dialect::Gitea).expect("a rule");
        let named: Vec<_> = seen.also_exempt.iter().map(String::as_str).collect();
        assert_eq!(
            named,
            ["administrators when they merge", "deploy keys", "team crew", "user alice"]
        );
    }
}
