//! Reports about other programs for repositories, each repeated with this one. The page
//! `knowledge/vendors/github.md` lists the reports with their tests. Uses the mock of GitHub.

mod common;
#[path = "common/mock.rs"]
mod mock;

use std::fs;

use common::{Test, ready, status, stderr, steps};
use mock::Setup;
use serde_json::{Value, json};

/// A document that uses every list.
const FULL: &str = "owner: owner, description: ours, homepage: 'https://example.org', \
    topics: {items: [nix]}, history: {push: fastForward, tags: [v*]}, \
    rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}, statusChecks: [test]}}], \
    secrets: {phaseKeys: [artifact-attest]}, variables: {OURS: x}, deployKeys: [flux-seed]";

fn repository(setup: &Setup) -> Test<Value> {
    Ok(setup.state(|state| state.repository.clone()).ok_or("a repository")?)
}

/// Applies, and asserts that nothing is left to do.
fn settle(setup: &Setup) -> Test<Value> {
    let applied = status(&setup.run("apply").success())?;
    assert_eq!(ready(&applied), ("True", "AsDeclared"));
    setup.run("plan --check").success();
    setup.assert_described();
    Ok(applied)
}

// hazard: The account's default branch is `master`, and the pushed branch `main` is not the default.
// class: A default of the account is taken for a fact.
// members: a new repository, an empty one of others, a forge that follows the first push, and one that does not
// now: the declared branch is pushed, and made the default where the forge has not done so
#[test]
fn declared_branch_is_pushed_and_made_the_default_whatever_the_account_prefers() -> Test {
    for follows in [false, true] {
        for exists in [false, true] {
            let setup = Setup::new("owner: owner")?;
            setup.state(|state| {
                (state.default_branch, state.follows_first_push) = ("master", follows);
            });
            if exists {
                settle(&setup)?;
            }
            setup.declare("owner: owner, history: {push: onCreate, branch: main}")?;
            let applied = settle(&setup)?;
            assert_eq!(applied["observed"]["defaultBranch"], "main", "{follows} {exists}");
            assert_eq!(repository(&setup)?["default_branch"], "main");
            let head = setup.sandbox.git(&["rev-parse", "HEAD"])?;
            let bare = setup.bare("greeter").join("refs/heads");
            assert_eq!(fs::read_to_string(bare.join("main"))?.trim(), head);
            assert!(!bare.join("master").exists(), "no other branch is made");
            setup.writes();
            setup.run("apply").success();
            assert_eq!(setup.writes(), [""; 0]);
        }
    }
    Ok(())
}

#[test]
fn default_branch_of_a_repository_without_history_stays_the_accounts() -> Test {
    let setup = Setup::new("owner: owner")?;
    setup.state(|state| state.default_branch = "master");
    assert_eq!(settle(&setup)?["observed"]["defaultBranch"], "master");
    // An empty repository gets its default branch with its first commit, so nothing is changed yet.
    setup.declare("owner: owner, defaultBranch: main")?;
    setup.writes();
    settle(&setup)?;
    assert_eq!(setup.writes(), [""; 0]);
    Ok(())
}

/// Adds an object of others to every list of the repository.
fn add_theirs(setup: &Setup) {
    setup.state(|state| {
        if let Some(repository) = &mut state.repository {
            repository["topics"].as_array_mut().expect("topics").push("theirs".into());
        }
        let mut ruleset = state.rulesets[&40].clone();
        (ruleset["id"], ruleset["name"]) = (json!(99), json!("theirs"));
        state.rulesets.insert(99, ruleset);
        state.secrets.insert("THEIRS".to_owned(), Default::default());
        state.variables.insert("THEIRS".to_owned(), "x".to_owned());
        let key = json!({"id": 99, "key": "ssh-rsa AAAA", "read_only": false, "title": "theirs"});
        state.keys.insert(99, key);
    });
}

/// Names of the objects in each list: topics, rules, secrets, variables and deploy keys. The ownership
/// record is left out.
fn lists(setup: &Setup) -> Test<[Vec<String>; 5]> {
    let topics = repository(setup)?["topics"].clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(setup.state(|state| {
        let variables = state.variables.keys().filter(|name| *name != "HOLISTIC_RECEIPT");
        [
            topics.as_array().into_iter().flatten().map(text).collect(),
            state.rulesets.values().map(|ruleset| text(&ruleset["name"])).collect(),
            state.secrets.keys().cloned().collect(),
            variables.cloned().collect(),
            state.keys.values().map(|key| text(&key["title"])).collect(),
        ]
    }))
}

// hazard: A list that a document declares as empty counts as undeclared, so that its last entries stay for ever.
// class: Empty is taken for absent.
// members: topics, tags, description, homepage; rules, secrets, variables and deploy keys, where both are the same
// now: what an empty list removes, and what an absent one removes, is one table
#[test]
fn empty_list_and_absent_list_remove_exactly_what_the_schema_says() -> Test {
    const EMPTY: &str = "owner: owner, description: '', homepage: '', history: {push: fastForward, tags: []}, \
        rules: [], secrets: {}, variables: {}, deployKeys: []";
    let theirs = || vec!["theirs".to_owned()];
    let both = || vec!["nix".to_owned(), "theirs".to_owned()];
    // Objects of others stay in lists with an owner of each object. Topics have no owner.
    for (spec, topics, text) in [
        (format!("{EMPTY}, topics: {{mode: authoritative, items: []}}"), vec![], json!("")),
        (format!("{EMPTY}, topics: {{mode: additive, items: []}}"), both(), json!("")),
        ("owner: owner, history: {push: fastForward}".to_owned(), both(), json!("ours")),
    ] {
        let setup = Setup::new(FULL)?;
        settle(&setup)?;
        add_theirs(&setup);
        setup.run("plan --check").success();
        setup.declare(&spec)?;
        settle(&setup)?;
        let capitals = vec!["THEIRS".to_owned()];
        let expected = [topics, theirs(), capitals.clone(), capitals, theirs()];
        assert_eq!(lists(&setup)?, expected, "{spec}");
        assert_eq!(repository(&setup)?["description"], text, "{spec}");
        // An empty list of tags selects none, and an absent one all.
        setup.sandbox.git(&["tag", "v1"])?;
        let plan = status(&setup.run("plan").success())?;
        let expected: &[&str] = if text == "" { &[] } else { &["pushTags"] };
        assert_eq!(steps(&plan), expected, "{spec}");
    }
    Ok(())
}

/// Returns a value for every parameter of GitHub's `pull_request` rule, as its description has them. No
/// value is the one that this program writes into a new rule.
fn parameters() -> Test<Value> {
    fn example(schema: &Value) -> Value {
        if let Some(words) = schema["enum"].as_array() {
            return words[0].clone();
        }
        match schema["type"].as_str() {
            Some("string") => json!("*.nix"),
            Some("integer") => json!(1),
            Some("boolean") => json!(true),
            Some("array") => json!([example(&schema["items"])]),
            _ => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                fields.map(|(name, schema)| (name.clone(), example(schema))).collect()
            }
        }
    }
    let all: Value = serde_json::from_str(include_str!("github-openapi.json"))?;
    let rules = &all["operations"]["POST /repos/{owner}/{repo}/rulesets"]["request"]["properties"]
        ["rules"]["items"]["oneOf"];
    let is_ours = |rule: &&Value| rule["properties"]["type"]["enum"][0] == "pull_request";
    let rule = rules.as_array().into_iter().flatten().find(is_ours).ok_or("a rule")?;
    Ok(example(&rule["properties"]["parameters"]))
}

// hazard: Code owners no longer have to review after a change of another setting of the same rule.
// class: A write replaces what the document does not declare.
// members: every parameter of a required pull request that GitHub describes, and one that it does not describe yet
// now: only the declared number of approvals changes
#[test]
fn every_setting_of_a_required_pull_request_survives_a_change_of_its_approvals() -> Test {
    let setup = Setup::new(FULL)?;
    settle(&setup)?;
    let mut all = parameters()?;
    assert_eq!(all["require_code_owner_review"], true);
    assert!(all.as_object().is_some_and(|all| all.len() >= 8), "{all}");
    all["required_approving_review_count"] = json!(1);
    let rule = |setup: &Setup| {
        let rules = setup.state(|state| state.rulesets[&40]["rules"].clone());
        let rules = rules.as_array().cloned().unwrap_or_default();
        rules.into_iter().find(|rule| rule["type"] == "pull_request").unwrap_or_default()
    };
    setup.state(|state| {
        let rules = state.rulesets.get_mut(&40).expect("the rule")["rules"].as_array_mut();
        let rule = rules.expect("rules").iter_mut().find(|rule| rule["type"] == "pull_request");
        rule.expect("a rule")["parameters"] = all.clone();
    });
    // A stricter setting of others is no difference.
    setup.run("plan --check").success();
    setup.declare(&FULL.replace("approvals: 1", "approvals: 2"))?;
    let plan = status(&setup.run("plan").success())?;
    assert_eq!(
        (steps(&plan), &plan["plan"][0]["weakens"]),
        (vec!["putRule".to_owned()], &Value::Null)
    );
    settle(&setup)?;
    all["required_approving_review_count"] = json!(2);
    assert_eq!(rule(&setup)["parameters"], all);
    Ok(())
}

// hazard: A plan is never empty, because the forge fills in defaults and sorts lists in its own way.
// class: Another notation is taken for a difference.
// members: rules, checks, branches, topics; defaults of parameters, rules of other kinds, a bound app
// now: what the document declares is compared, as sets
#[test]
fn other_order_and_defaults_of_the_forge_are_no_difference() -> Test {
    let many = FULL
        .replace("branches: [main]", "branches: [main, next, release/*]")
        .replace("statusChecks: [test]", "statusChecks: [test, lint, build]")
        .replace("items: [nix]", "items: [nix, flux, talos]");
    let setup = Setup::new(&many)?;
    settle(&setup)?;
    setup.state(|state| {
        let reverse = |list: &mut Value| list.as_array_mut().expect("a list").reverse();
        reverse(&mut state.repository.as_mut().expect("a repository")["topics"]);
        let ruleset = state.rulesets.get_mut(&40).expect("the rule");
        ruleset["current_user_can_bypass"] = json!("never");
        reverse(&mut ruleset["conditions"]["ref_name"]["include"]);
        for rule in ruleset["rules"].as_array_mut().expect("rules") {
            if rule["type"] == "pull_request" {
                rule["parameters"]["allowed_merge_methods"] = json!(["merge", "squash", "rebase"]);
                rule["parameters"]["required_reviewers"] = json!([]);
            }
            if rule["type"] == "required_status_checks" {
                rule["parameters"]["do_not_enforce_on_create"] = json!(false);
                reverse(&mut rule["parameters"]["required_status_checks"]);
            }
        }
        let rules = &mut ruleset["rules"];
        rules.as_array_mut().expect("rules").push(json!({"type": "update"}));
        reverse(rules);
    });
    for verb in ["plan --check", "verify"] {
        setup.run(verb).success();
    }
    setup.writes();
    setup.run("apply").success();
    assert_eq!(setup.writes(), [""; 0]);
    Ok(())
}

// hazard: The name of a renamed repository is taken by another one, which the program then changes or deletes.
// class: A name is taken for an identity.
// members: a rename, a transfer, a deletion with a new repository under the name
// now: the record is bound to the forge's number, so the other repository counts as one of others
#[test]
fn another_repository_under_the_same_name_is_neither_archived_nor_deleted() -> Test {
    let spec = "owner: owner, deployKeys: [flux-seed], onDestroy: delete, dataOnDestroy: discard";
    for keeps_record in [false, true] {
        let setup = Setup::new(spec)?;
        settle(&setup)?;
        setup.state(|state| {
            let repository = state.repository.as_mut().expect("a repository");
            repository["id"] = json!(4242);
            repository["description"] = json!("another");
            state.keys.clear();
            if !keeps_record {
                state.variables.clear();
            }
        });
        if keeps_record {
            setup.assert_refused("destroy", "OwnershipDisputed")?;
            setup.assert_refused("apply", "OwnershipDisputed")?;
            continue;
        }
        setup.writes();
        let kept = setup.run("destroy").success();
        assert_eq!(setup.writes(), [""; 0], "{}", stderr(&kept));
        let adopted = settle(&setup)?;
        assert_eq!(adopted["observed"]["made"], false);
        setup.run("destroy").success();
        let left = repository(&setup)?;
        assert_eq!((&left["archived"], &left["description"]), (&json!(false), &json!("another")));
    }
    Ok(())
}
