//! How GitHub writes rules and secrets.

use std::collections::{BTreeMap, BTreeSet};

use crypto_box::PublicKey;
use crypto_box::aead::OsRng;
use data_encoding::BASE64;
use http::Method;
use serde_json::{Value, json};

use crate::Error;
use crate::forge::Remote;
use crate::model::{Refusal, Rule, Section};
use crate::spec::{Line, PullRequest, Require};

/// Whether they are a branch's own: no organisation's, no tag's.
const RULESETS: &str = "/rulesets?includes_parents=false";

const HEADS: &str = "refs/heads/";

/// GitHub's number for the role of administrators.
const ADMINISTRATORS: u64 = 5;

/// The kinds of rule that a document can speak of. Others are stricter still, and stay.
const OURS: [&str; 6] = [
    "deletion",
    "non_fast_forward",
    "pull_request",
    "required_signatures",
    "required_linear_history",
    "required_status_checks",
];

pub(crate) fn rules(
    remote: &Remote,
    names: &BTreeSet<String>,
) -> Result<Section<BTreeMap<String, Rule>>, Error> {
    let rulesets = match remote.list(RULESETS, Value::as_array)? {
        Ok(rulesets) => rulesets,
        Err(refusal) => return Ok(Section::Unknown(refusal)),
    };
    let mut rules = BTreeMap::new();
    for (name, id) in rulesets.iter().filter_map(own) {
        if !names.contains(name) {
            continue;
        }
        let ruleset =
            remote.client.get(&remote.path(&format!("/rulesets/{id}")))?.expect(&[200])?;
        let rule = rule(&ruleset.body).ok_or_else(|| ruleset.lacks("what a ruleset has"))?;
        if rules.insert(name.to_owned(), rule).is_some() {
            return Ok(Section::Unknown(Refusal {
                reason: "RuleAmbiguous",
                what: format!("two rulesets are called {name}"),
                help: "rename or remove one of them".to_owned(),
            }));
        }
    }
    Ok(Section::Known(rules))
}

/// The name and number of a ruleset of the repository itself, for branches.
fn own(ruleset: &Value) -> Option<(&str, u64)> {
    let of_repository = ruleset["source_type"] == "Repository";
    let of_branches = ruleset["target"].as_str().is_none_or(|it| it == "branch");
    let own = (ruleset["name"].as_str()?, ruleset["id"].as_u64()?);
    (of_repository && of_branches).then_some(own)
}

fn rule(ruleset: &Value) -> Option<Rule> {
    let rules = ruleset["rules"].as_array()?;
    let find = |kind: &str| rules.iter().find(|it| it["type"] == kind);
    let has = |kind: &str| find(kind).is_some();
    let names = &ruleset["conditions"]["ref_name"];
    let text = |it: &Value| it.as_str().map(|it| it.trim_start_matches(HEADS).to_owned());
    let checks =
        find("required_status_checks").map(|it| &it["parameters"]["required_status_checks"]);
    let checks = checks.and_then(Value::as_array).into_iter().flatten();
    let check = |it: &Value| Line::try_from(it["context"].as_str()?.to_owned()).ok();
    let approvals = |it: &Value| {
        let count = it["parameters"]["required_approving_review_count"].as_u64()?;
        Some(PullRequest { approvals: count.try_into().ok()? })
    };
    // Left out of the answer for those who may not see it.
    let actors = ruleset["bypass_actors"].as_array();
    let others = actors.is_some_and(|all| all.iter().any(|it| !is_administrators(it)));
    Some(Rule {
        branches: names["include"].as_array()?.iter().filter_map(text).collect(),
        require: Require {
            pull_request: find("pull_request").and_then(approvals),
            signed_commits: has("required_signatures"),
            linear_history: has("required_linear_history"),
            status_checks: checks.filter_map(check).collect(),
        },
        administrators_too: actors.map(|all| !all.iter().any(is_administrators)),
        in_force: ruleset["enforcement"] == "active"
            && names["exclude"].as_array().is_none_or(Vec::is_empty)
            && has("deletion")
            && has("non_fast_forward")
            && !others,
    })
}

fn is_administrators(actor: &Value) -> bool {
    let role = actor["actor_type"] == "RepositoryRole" && actor["actor_id"] == ADMINISTRATORS;
    role && actor["bypass_mode"] == "always"
}

/// The ruleset that says `rule`, and whatever stricter rules `before` has.
fn ruleset(name: &str, rule: &Rule, before: &Value) -> Value {
    let Require { pull_request, signed_commits, linear_history, status_checks } = &rule.require;
    let before = before["rules"].as_array().map_or(&[][..], Vec::as_slice);
    let with = |kind: &str, ours: Value| {
        let theirs = before.iter().find(|it| it["type"] == kind);
        let mut all =
            theirs.and_then(|it| it["parameters"].as_object()).cloned().unwrap_or_default();
        all.extend(ours.as_object().cloned().unwrap_or_default());
        (kind.to_owned(), Some(Value::Object(all)))
    };
    let plain = |kind: &str| (kind.to_owned(), None);
    let mut rules = vec![plain("deletion"), plain("non_fast_forward")];
    if let Some(PullRequest { approvals }) = pull_request {
        let mut all = json!({
            "dismiss_stale_reviews_on_push": false,
            "require_code_owner_review": false,
            "require_last_push_approval": false,
            "required_review_thread_resolution": false,
        });
        let (kind, parameters) =
            with("pull_request", json!({ "required_approving_review_count": approvals }));
        if let (Some(all), Some(Value::Object(parameters))) = (all.as_object_mut(), parameters) {
            all.extend(parameters);
        }
        rules.push((kind, Some(all)));
    }
    rules.extend(signed_commits.then(|| plain("required_signatures")));
    rules.extend(linear_history.then(|| plain("required_linear_history")));
    if !status_checks.is_empty() {
        let checks: Vec<_> = status_checks.iter().map(|it| json!({ "context": it })).collect();
        rules.push(with(
            "required_status_checks",
            json!({ "required_status_checks": checks, "strict_required_status_checks_policy": false }),
        ));
    }
    let rules = rules.into_iter().map(|(kind, parameters)| match parameters {
        Some(parameters) => json!({ "type": kind, "parameters": parameters }),
        None => json!({ "type": kind }),
    });
    let stricter = before.iter().filter(|it| !OURS.iter().any(|ours| it["type"] == *ours)).cloned();
    let administrators = json!({ "actor_id": ADMINISTRATORS, "actor_type": "RepositoryRole", "bypass_mode": "always" });
    let exempt = rule.administrators_too == Some(false);
    let heads = rule.branches.iter().map(|it| format!("{HEADS}{it}"));
    json!({
        "name": name,
        "target": "branch",
        "enforcement": "active",
        "bypass_actors": exempt.then_some(administrators).into_iter().collect::<Vec<_>>(),
        "conditions": { "ref_name": { "include": heads.collect::<Vec<_>>(), "exclude": [] } },
        "rules": rules.chain(stricter).collect::<Vec<_>>(),
    })
}

pub(crate) fn put_rule(remote: &Remote, name: &str, rule: &Rule) -> Result<(), Error> {
    let Some(id) = id(remote, name)? else {
        let body = ruleset(name, rule, &Value::Null);
        return remote.write(&Method::POST, "/rulesets", Some(&body), &[201]).map(drop);
    };
    let below = format!("/rulesets/{id}");
    let before = remote.client.get(&remote.path(&below))?.expect(&[200])?;
    let body = ruleset(name, rule, &before.body);
    remote.write(&Method::PUT, &below, Some(&body), &[200]).map(drop)
}

pub(crate) fn remove_rule(remote: &Remote, name: &str) -> Result<(), Error> {
    let Some(id) = id(remote, name)? else { return Ok(()) };
    remote.write(&Method::DELETE, &format!("/rulesets/{id}"), None, &[204, 404]).map(drop)
}

fn id(remote: &Remote, name: &str) -> Result<Option<u64>, Error> {
    let rulesets = remote.list(RULESETS, Value::as_array)?;
    let rulesets = rulesets.map_err(|refusal| Error::Blocked(vec![refusal]))?;
    Ok(rulesets.iter().filter_map(own).find(|it| it.0 == name).map(|it| it.1))
}

/// Seals `value` to the repository's key. The ciphertext differs each time, so it is never compared.
pub(crate) fn write_secret(remote: &Remote, name: &str, value: &str) -> Result<(), Error> {
    let mut rotated = false;
    loop {
        let answer =
            remote.client.get(&remote.path("/actions/secrets/public-key"))?.expect(&[200])?;
        let key = answer.body["key"].as_str().and_then(|it| BASE64.decode(it.as_bytes()).ok());
        let key: [u8; 32] =
            key.and_then(|it| it.try_into().ok()).ok_or_else(|| Error::NotAPublicKey)?;
        let sealed = PublicKey::from(key).seal(&mut OsRng, value.as_bytes());
        let sealed = BASE64.encode(&sealed.map_err(|_| Error::NotAPublicKey)?);
        let body = json!({ "encrypted_value": sealed, "key_id": answer.body["key_id"] });
        let below = format!("/actions/secrets/{name}");
        match remote.write(&Method::PUT, &below, Some(&body), &[201, 204]) {
            // The key was replaced since we read it.
            Err(Error::Refused { status: 422, .. }) if !rotated => rotated = true,
            written => return written.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libsodium_seals_opens_with_the_box_that_we_seal_with() {
        // Sealed by PyNaCl 1.6.2 (libsodium) to the key of the bytes 0 to 31.
        let sealed =
            "bvY9k1u1nIDQWOQnK1PUJRaRB7HINcZyKyypfpxUOhrITqX+Llzr3i5nIYzSfJ7voGt++87vkwZLP9iTdw==";
        let sealed = BASE64.decode(sealed.as_bytes()).expect("base64");
        let key: [u8; 32] = std::array::from_fn(|it| u8::try_from(it).unwrap_or_default());
        let key = crypto_box::SecretKey::from(key);
        assert_eq!(key.unseal(&sealed).expect("sealed to it"), b"a phase's key");
        let ours = key.public_key().seal(&mut OsRng, b"a phase's key").expect("it seals");
        assert_eq!(ours.len(), sealed.len(), "the same shape: a key, a tag, the value");
    }
}
