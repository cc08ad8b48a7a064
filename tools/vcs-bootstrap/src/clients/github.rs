//! Rules and secrets in the form of GitHub.

use documents::Reason;
use std::collections::{BTreeMap, BTreeSet};

use crypto_box::PublicKey;
use crypto_box::aead::OsRng;
use data_encoding::BASE64;
use http::Method;
use serde_json::{Value, json};

use crate::Error;
use crate::clients::answer::Answer;
use crate::clients::connection::Remote;
use crate::model::{Readable, Refusal, Rule};
use crate::spec::{Line, PullRequest, Require};

/// Path of the repository's own rulesets, without those of its organisation.
const RULESETS: &str = "/rulesets?includes_parents=false";

/// Number of rulesets of one repository that are read at the same time.
const RULESETS_AT_ONCE_MAX: usize = 4;

const HEADS: &str = "refs/heads/";

/// GitHub's number of the administrators' role.
const ADMINISTRATORS: u64 = 5;

/// Kinds of rule that a document can declare. Rules of other kinds are left in place.
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
) -> Result<Readable<BTreeMap<String, Rule>>, Error> {
    let answers = match rulesets(remote, names)? {
        Readable::Value(answers) => answers,
        Readable::Denied(refusal) => return Ok(Readable::Denied(refusal)),
    };
    let read = |(name, answer): (String, Answer)| {
        let rule = rule(&answer.body);
        Ok::<_, Error>((name, rule.ok_or_else(|| answer.lacks("a list of rules or branches"))?))
    };
    answers.into_iter().map(read).collect::<Result<_, Error>>().map(Readable::Value)
}

/// Returns the rulesets among `names` as GitHub describes them.
pub(crate) fn rulesets(
    remote: &Remote,
    names: &BTreeSet<String>,
) -> Result<Readable<BTreeMap<String, Answer>>, Error> {
    let rulesets = match remote.list(RULESETS, Value::as_array)? {
        Ok(rulesets) => rulesets,
        Err(refusal) => return Ok(Readable::Denied(refusal)),
    };
    let declared = rulesets.iter().filter_map(branch_ruleset);
    let declared: Vec<_> = declared.filter(|(name, _)| names.contains(*name)).collect();
    // A list has no rules, so each ruleset is one more request. They do not depend on each other.
    let read = documents::parallel_map_limited(RULESETS_AT_ONCE_MAX, declared, |(name, id)| {
        let path = remote.path(&format!("/rulesets/{id}"));
        Ok::<_, Error>((name.to_owned(), remote.client.get(&path)?.expect(&[200])?))
    });
    let mut answers = BTreeMap::new();
    for read in read {
        let (name, answer) = read?;
        if answers.insert(name.clone(), answer).is_some() {
            return Ok(Readable::Denied(Refusal {
                reason: Reason::NotUnique,
                what: format!("two rulesets are called {name}"),
                help: "rename or remove one of them".to_owned(),
            }));
        }
    }
    Ok(Readable::Value(answers))
}

/// Returns the name and number of a ruleset that belongs to the repository itself and covers
/// branches.
fn branch_ruleset(ruleset: &Value) -> Option<(&str, u64)> {
    let of_repository = ruleset["source_type"] == "Repository";
    let of_branches = ruleset["target"].as_str().is_none_or(|target| target == "branch");
    let found = (ruleset["name"].as_str()?, ruleset["id"].as_u64()?);
    (of_repository && of_branches).then_some(found)
}

fn rule(ruleset: &Value) -> Option<Rule> {
    let rules = ruleset["rules"].as_array()?;
    let find = |kind: &str| rules.iter().find(|rule| rule["type"] == kind);
    let has = |kind: &str| find(kind).is_some();
    let names = &ruleset["conditions"]["ref_name"];
    let text = |name: &Value| name.as_str().map(|name| name.trim_start_matches(HEADS).to_owned());
    let checks =
        find("required_status_checks").map(|rule| &rule["parameters"]["required_status_checks"]);
    let checks = checks.and_then(Value::as_array).into_iter().flatten();
    let check = |check: &Value| Line::try_from(check["context"].as_str()?.to_owned()).ok();
    let approvals = |rule: &Value| {
        let count = rule["parameters"]["required_approving_review_count"].as_u64()?;
        Some(PullRequest { approvals: count.try_into().ok()? })
    };
    // GitHub returns the list only to callers with write access to the ruleset:
    // https://docs.github.com/en/rest/repos/rules#get-a-repository-ruleset
    let actors = ruleset["bypass_actors"].as_array();
    let others = actors.into_iter().flatten().filter(|actor| !is_administrators(actor));
    let excluded = names["exclude"].as_array().into_iter().flatten();
    Some(Rule {
        branches: names["include"].as_array()?.iter().filter_map(text).collect(),
        require: Require {
            pull_request: find("pull_request").and_then(approvals),
            signed_commits: has("required_signatures"),
            linear_history: has("required_linear_history"),
            status_checks: checks.filter_map(check).collect(),
        },
        administrators_too: actors.map(|all| !all.iter().any(is_administrators)),
        also_exempt: others.map(actor_name).collect(),
        except: excluded.filter_map(text).collect(),
        enforced: ruleset["enforcement"] == "active",
        forbids_deletion: has("deletion"),
        forbids_force_push: has("non_fast_forward"),
    })
}

fn is_administrators(actor: &Value) -> bool {
    let role = actor["actor_type"] == "RepositoryRole" && actor["actor_id"] == ADMINISTRATORS;
    role && actor["bypass_mode"] == "always"
}

/// Returns a name such as `Team 9 (always)`.
fn actor_name(actor: &Value) -> String {
    let kind = actor["actor_type"].as_str().unwrap_or("actor");
    let id = actor["actor_id"].as_u64().map_or(String::new(), |id| format!(" {id}"));
    format!("{kind}{id} ({})", actor["bypass_mode"].as_str().unwrap_or("always"))
}

/// Returns the ruleset that expresses `rule`. Everything in `before` that no document can declare
/// is left in place: other parameters, other kinds of rule, and the app of a status check.
pub(crate) fn ruleset(name: &str, rule: &Rule, before: &Value) -> Value {
    let Require { pull_request, signed_commits, linear_history, status_checks } = &rule.require;
    let old = before["rules"].as_array().map_or(&[][..], Vec::as_slice);
    let find = |kind: &str| old.iter().find(|old| old["type"] == kind);
    // Existing rules get `ours` in their parameters; new rules also get the `defaults`.
    let with = |kind: &str, ours: Value, defaults: Value| {
        let mut rule = find(kind).cloned().unwrap_or_else(|| json!({ "type": kind }));
        if rule["parameters"].is_null() {
            rule["parameters"] = defaults;
        }
        if let (Some(all), Value::Object(ours)) = (rule["parameters"].as_object_mut(), ours) {
            all.extend(ours);
        }
        rule
    };
    let plain = |kind: &str| find(kind).cloned().unwrap_or_else(|| json!({ "type": kind }));
    let mut rules = vec![plain("deletion"), plain("non_fast_forward")];
    if let Some(PullRequest { approvals }) = pull_request {
        let defaults = json!({
            "dismiss_stale_reviews_on_push": false,
            "require_code_owner_review": false,
            "require_last_push_approval": false,
            "required_review_thread_resolution": false,
        });
        let ours = json!({ "required_approving_review_count": approvals });
        rules.push(with("pull_request", ours, defaults));
    }
    rules.extend(signed_commits.then(|| plain("required_signatures")));
    rules.extend(linear_history.then(|| plain("required_linear_history")));
    if !status_checks.is_empty() {
        let kind = "required_status_checks";
        let there = find(kind).map(|rule| &rule["parameters"][kind]);
        let there = there.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let context = |check: &Value| check["context"].as_str().unwrap_or_default().to_owned();
        let declared = |check: &&Value| {
            status_checks.iter().any(|check_name| check_name.as_str() == context(check))
        };
        let kept = there.iter().filter(declared).cloned();
        let missing = status_checks
            .iter()
            .filter(|declared| !there.iter().any(|check| context(check) == declared.as_str()));
        let new = missing.map(|context| json!({ "context": context }));
        let ours = json!({ kind: kept.chain(new).collect::<Vec<_>>() });
        rules.push(with(kind, ours, json!({ "strict_required_status_checks_policy": false })));
    }
    let foreign = old.iter().filter(|old| !OURS.iter().any(|ours| old["type"] == *ours)).cloned();
    let heads = rule.branches.iter().map(|branch| match branch.strip_prefix('~') {
        Some(_) => branch.clone(), // ~ALL and ~DEFAULT_BRANCH are not references
        None => format!("{HEADS}{branch}"),
    });
    let mut body = json!({
        "name": name,
        "target": "branch",
        "enforcement": "active",
        "conditions": { "ref_name": { "include": heads.collect::<Vec<_>>(), "exclude": [] } },
        "rules": rules.into_iter().chain(foreign).collect::<Vec<_>>(),
    });
    // Without the list in the response, a write would silently remove its actors.
    if before.is_null() || before["bypass_actors"].is_array() {
        let administrators = json!({ "actor_id": ADMINISTRATORS, "actor_type": "RepositoryRole", "bypass_mode": "always" });
        let exempt = rule.administrators_too == Some(false);
        body["bypass_actors"] = exempt.then_some(administrators).into_iter().collect();
    }
    body
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
    Ok(rulesets
        .iter()
        .filter_map(branch_ruleset)
        .find(|(known, _)| *known == name)
        .map(|(_, id)| id))
}

/// Encrypts `value` to the repository's key. The ciphertext differs each time, so it is never
/// compared.
pub(crate) fn write_secret(remote: &Remote, name: &str, value: &str) -> Result<(), Error> {
    let mut rotated = false;
    loop {
        let answer =
            remote.client.get(&remote.path("/actions/secrets/public-key"))?.expect(&[200])?;
        let key = answer.body["key"].as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok());
        let key: [u8; 32] =
            key.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| Error::NotAPublicKey)?;
        let sealed = PublicKey::from(key).seal(&mut OsRng, value.as_bytes());
        let sealed = BASE64.encode(&sealed.map_err(|_| Error::NotAPublicKey)?);
        let body = json!({ "encrypted_value": sealed, "key_id": answer.body["key_id"] });
        let below = format!("/actions/secrets/{name}");
        match remote.write(&Method::PUT, &below, Some(&body), &[201, 204]) {
            // The forge has replaced its key since it was read.
            Err(Error::Refused { status: 422, .. }) if !rotated => rotated = true,
            written => return written.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_sealed_by_libsodium_is_opened_by_our_library() {
        // Sealed by PyNaCl 1.6.2 (libsodium) to the key with the bytes 0 to 31.
        let sealed =
            "bvY9k1u1nIDQWOQnK1PUJRaRB7HINcZyKyypfpxUOhrITqX+Llzr3i5nIYzSfJ7voGt++87vkwZLP9iTdw==";
        let sealed = BASE64.decode(sealed.as_bytes()).expect("base64");
        let key: [u8; 32] = std::array::from_fn(|index| u8::try_from(index).unwrap_or_default());
        let key = crypto_box::SecretKey::from(key);
        assert_eq!(key.unseal(&sealed).expect("the box opens"), b"a phase's key");
        let ours = key.public_key().seal(&mut OsRng, b"a phase's key").expect("the box seals");
        assert_eq!(ours.len(), sealed.len(), "the same shape: a key, a tag, the value");
    }

    /// Returns the kinds of rule in GitHub's `OpenAPI` description: the schemas of `rules`.
    fn kinds() -> Vec<Value> {
        let all = include_str!("../../tests/github-openapi.json");
        let mut all: Value = serde_json::from_str(all).expect("JSON");
        let rules =
            all["operations"]["POST /repos/{owner}/{repo}/rulesets"]["request"]["properties"]
                ["rules"]["items"]["oneOf"]
                .take();
        rules.as_array().expect("kinds").clone()
    }

    /// Returns a value that fits `schema` and differs from our own: every flag set, every number 3,
    /// every list with one item.
    fn example(schema: &Value) -> Value {
        if let Some(word) = schema["enum"].get(0) {
            return word.clone();
        }
        match schema["type"].as_str() {
            Some("string") => json!("theirs"),
            Some("integer") => json!(3),
            Some("boolean") => json!(true),
            Some("array") => json!([example(&schema["items"])]),
            _ => {
                let properties = schema["properties"].as_object();
                let each = properties.into_iter().flatten();
                Value::Object(each.map(|(name, schema)| (name.clone(), example(schema))).collect())
            }
        }
    }

    fn declared(approvals: u8, checks: &[&str]) -> Rule {
        let checks = checks.iter().map(|&check| Line::try_from(check.to_owned()).expect("a line"));
        Rule {
            branches: BTreeSet::from(["main".to_owned()]),
            require: Require {
                pull_request: Some(PullRequest { approvals }),
                signed_commits: true,
                linear_history: true,
                status_checks: checks.collect(),
            },
            administrators_too: Some(true),
            also_exempt: BTreeSet::new(),
            except: BTreeSet::new(),
            enforced: true,
            forbids_deletion: true,
            forbids_force_push: true,
        }
    }

    #[test]
    fn a_put_keeps_everything_that_a_document_cannot_declare() {
        let kinds = kinds();
        assert_eq!(kinds.len(), 23, "a new kind of rule: does this still hold?");
        let mut rules: Vec<_> = kinds.iter().map(example).collect();
        for rule in &mut rules {
            if rule["type"] == "required_status_checks" {
                rule["parameters"]["required_status_checks"] = json!([
                    {"context": "test", "integration_id": 15368},
                    {"context": "test", "integration_id": 57789},
                    {"context": "lint"},
                ]);
            }
        }
        let before = json!({"name": "main", "bypass_actors": [], "rules": rules});
        let after = ruleset("main", &declared(2, &["lint", "new", "test"]), &before);
        for old in &rules {
            let kind = &old["type"];
            let new =
                after["rules"].as_array().expect("rules").iter().find(|rule| rule["type"] == *kind);
            let mut expected = old.clone();
            if kind == "pull_request" {
                expected["parameters"]["required_approving_review_count"] = json!(2);
            }
            if kind == "required_status_checks" {
                let checks = &mut expected["parameters"]["required_status_checks"];
                checks.as_array_mut().expect("checks").push(json!({"context": "new"}));
            }
            assert_eq!(new.map(Value::to_string), Some(expected.to_string()), "{kind}");
        }
        assert_eq!(after["rules"].as_array().map(Vec::len), Some(23), "and nothing is added");
    }

    /// Returns every kind of value that fits `schema`.
    fn values(schema: &Value) -> Vec<Value> {
        if let Some(words) = schema["enum"].as_array() {
            return words.clone();
        }
        match schema["type"].as_str() {
            Some("string") => vec![json!("theirs"), json!("")],
            Some("integer") => vec![json!(0), json!(3)],
            Some("boolean") => vec![json!(false), json!(true)],
            Some("array") => {
                let items = values(&schema["items"]);
                let single = items.iter().map(|item| json!([item]));
                single.chain([json!([]), json!(items)]).collect()
            }
            _ => vec![example(schema), json!({})],
        }
    }

    // A document declares one parameter of this rule. Each of the others has every value alone, beside all
    // others, and beside none.
    #[test]
    fn a_put_keeps_every_value_of_every_undeclared_parameter_of_a_pull_request() {
        const DECLARED: &str = "required_approving_review_count";
        let kind = kinds()
            .into_iter()
            .find(|kind| kind["properties"]["type"]["enum"][0] == "pull_request");
        let described = kind.expect("a pull request")["properties"]["parameters"].clone();
        let all = example(&described);
        let parameters = described["properties"].as_object().expect("parameters");
        assert!(parameters.contains_key(DECLARED) && parameters.len() >= 8);
        // A parameter that GitHub adds later is none of the described ones.
        let later = ("later".to_owned(), json!({"type": "boolean"}));
        let undeclared = parameters.iter().filter(|(name, _)| *name != DECLARED);
        let undeclared = undeclared.map(|(name, schema)| (name.clone(), schema.clone()));
        let mut worlds = 0;
        for (name, schema) in undeclared.chain([later]) {
            for value in values(&schema).into_iter().chain([Value::Null]) {
                let mut among = all.clone();
                among[&name] = value.clone();
                for before in [among, json!({ name.as_str(): value, DECLARED: 1 })] {
                    let old = json!({"rules": [{"type": "pull_request", "parameters": before}]});
                    let after = ruleset("main", &declared(2, &[]), &old);
                    let rules = after["rules"].as_array().expect("rules");
                    let new = rules.iter().find(|rule| rule["type"] == "pull_request");
                    let mut expected = before;
                    expected[DECLARED] = json!(2);
                    assert_eq!(new.expect("the rule")["parameters"], expected, "{name}");
                    worlds += 1;
                }
            }
        }
        assert!(worlds >= 40, "{worlds}");
    }

    #[test]
    fn a_put_leaves_hidden_exempt_actors_in_place() {
        let hidden = json!({"name": "main", "rules": []});
        assert!(ruleset("main", &declared(1, &[]), &hidden).get("bypass_actors").is_none());
        let told = json!({"name": "main", "rules": [], "bypass_actors": []});
        assert_eq!(ruleset("main", &declared(1, &[]), &told)["bypass_actors"], json!([]));
    }
}
