//! Tests against a mock of GitHub, which cannot run here. `common/github.rs` states the limits of
//! the mock. `gitea.rs` tests the shared behaviour against a real Gitea.

mod common;
#[path = "common/mock.rs"]
mod mock;

use common::{Test, ready, status, steps};
use mock::Setup;
use mock::github::State;
use serde_json::json;

const FULL: &str = "owner: owner, description: One of ours, visibility: private, \
    topics: {items: [nix, gitops]}, features: {wiki: false}, history: {push: fastForward}, \
    rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}, \
    signedCommits: true, linearHistory: true, statusChecks: [test]}, bypass: administrators}], \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

/// Size of a phase's key, in bytes.
const ATTEST_KEY_BYTES: usize = 32;

#[test]
fn a_repository_is_created_rests_and_is_archived() -> Test {
    let setup = Setup::new(FULL)?;
    let applied = setup.run("apply").success();
    assert_eq!(ready(&status(&applied)?), ("True", "AsDeclared"));
    assert_eq!(
        setup.writes(),
        [
            "POST /user/repos",
            "POST /repos/owner/greeter/actions/variables",
            "PATCH /repos/owner/greeter",
            "PUT /repos/owner/greeter/actions/secrets/ARTIFACT_ATTEST_KEY",
            "PUT /repos/owner/greeter/topics",
            "POST /repos/owner/greeter/keys",
            "POST /repos/owner/greeter/rulesets",
            "PATCH /repos/owner/greeter/actions/variables/HOLISTIC_RECEIPT",
        ]
    );
    let secret = setup.state(|state| state.secret("ARTIFACT_ATTEST_KEY")).ok_or("a secret")?;
    let bytes = data_encoding::BASE64.decode(secret.as_bytes())?;
    assert_eq!(bytes.len(), ATTEST_KEY_BYTES, "the sealed secret opens");
    let rules = setup.state(|state| state.rulesets[&40]["rules"].clone());
    let kinds: Vec<_> = rules.as_array().into_iter().flatten().map(|rule| &rule["type"]).collect();
    let all = [
        "deletion",
        "non_fast_forward",
        "pull_request",
        "required_signatures",
        "required_linear_history",
        "required_status_checks",
    ];
    assert_eq!(kinds, all);

    let again = setup.run("apply").success();
    assert_eq!(setup.writes(), [""; 0]);
    assert_eq!(again.get_output().stdout, applied.get_output().stdout);
    setup.run("plan --check").success();
    let proven = status(&setup.run("verify").success())?;
    assert_eq!(proven["conditions"].as_array().map(Vec::len), Some(1), "GitHub tells the times");

    setup.run("destroy").success();
    assert_eq!(
        setup.state(|state| state.repository.clone()).ok_or("a repository")?["archived"],
        true
    );
    assert_eq!(setup.state(|state| (state.secrets.len(), state.keys.len())), (0, 0));
    setup.assert_described();
    Ok(())
}

#[test]
fn a_foreign_write_to_a_secret_is_detected_by_its_time() -> Test {
    let setup = Setup::new(FULL)?;
    setup.run("apply").success();
    setup.state(|state| {
        let secret = state.secrets.get_mut("ARTIFACT_ATTEST_KEY").expect("the secret");
        secret.1 = "2026-02-01T00:00:00Z".to_owned();
    });
    setup.run("verify").code(100);
    let plan = status(&setup.run("plan").success())?;
    assert_eq!(steps(&plan), ["writeSecret", "record"]);
    assert_eq!(plan["plan"][0]["because"], "writtenByOthers");
    setup.run("apply").success();
    setup.run("plan --check").success();
    Ok(())
}

#[test]
fn apply_keeps_stricter_settings_of_a_rule_and_removes_looser_ones() -> Test {
    let setup = Setup::new(FULL)?;
    setup.run("apply").success();
    let stranger = json!({"actor_id": 9, "actor_type": "Team", "bypass_mode": "always"});
    setup.state(|state| {
        let ruleset = state.rulesets.get_mut(&40).expect("the rule");
        ruleset["rules"].as_array_mut().expect("rules").push(json!({"type": "creation"}));
        ruleset["rules"][2]["parameters"]["require_code_owner_review"] = true.into();
    });
    setup.run("plan --check").success();
    setup.state(|state| {
        let ruleset = state.rulesets.get_mut(&40).expect("the rule");
        ruleset["bypass_actors"].as_array_mut().expect("actors").push(stranger);
    });
    setup.run("apply").success();
    let ruleset = setup.state(|state| state.rulesets[&40].clone());
    assert_eq!(ruleset["bypass_actors"].as_array().map(Vec::len), Some(1));
    let rules = ruleset["rules"].to_string();
    assert!(rules.contains("creation") && rules.contains(r#""require_code_owner_review":true"#));

    // GitHub shows exempt actors only to some tokens. Hidden actors are not compared.
    setup.state(|state| state.hides_actors = true);
    setup.run("plan --check").success();
    setup.assert_described();
    Ok(())
}

#[test]
fn a_write_with_a_lost_response_is_observed_and_never_repeated() -> Test {
    for write in 1..=8 {
        let setup = Setup::new(FULL)?;
        setup.state(|state| state.loses = Some(write));
        let applied = status(&setup.run("apply").success())?;
        assert_eq!(applied["observed"]["made"], true);
        assert_eq!(setup.state(|state| (state.rulesets.len(), state.keys.len())), (1, 1));
        let posts: Vec<_> = setup.writes();
        let creations = posts.iter().filter(|request| request.starts_with("POST"));
        assert_eq!(creations.count(), 4, "{posts:?}");
        setup.assert_described();
    }
    Ok(())
}

#[test]
fn apply_waits_until_a_new_repository_is_visible() -> Test {
    let setup = Setup::new(FULL)?;
    setup.state(|state| state.hides = 2);
    setup.run("apply").success();
    Ok(())
}

#[test]
fn apply_waits_out_a_rate_limit() -> Test {
    let setup = Setup::new(FULL)?;
    setup.state(|state| state.limits = 2);
    setup.run("apply").success();
    Ok(())
}

#[test]
fn a_replaced_public_key_for_secrets_is_read_again() -> Test {
    let setup = Setup::new(FULL)?;
    setup.state(|state| state.rotates = true);
    setup.run("apply").success();
    assert!(setup.state(|state| state.secret("ARTIFACT_ATTEST_KEY")).is_some());
    Ok(())
}

#[test]
fn a_feature_outside_the_owners_billing_plan_is_named_and_the_rest_is_planned() -> Test {
    let setup = Setup::new(FULL)?;
    setup.state(|state| state.gates_rules = true);
    let failed = status(&setup.run("apply").code(100))?;
    assert_eq!(ready(&failed), ("False", "PlanGate"));
    setup.declare(&FULL.replace("One of ours", "Another"))?;
    setup.writes();
    let plan = status(&setup.run("plan").success())?;
    assert_eq!(plan["conditions"][1]["reason"], "PlanGate");
    assert!(!steps(&plan).contains(&"putRule".to_owned()), "unknown is not compared");
    assert_eq!(setup.writes(), [""; 0]);
    Ok(())
}

#[test]
fn lists_are_read_to_their_last_page() -> Test {
    let setup = Setup::new(FULL)?;
    setup.run("apply").success();
    let alphabet = |state: &mut State| {
        state.variables.extend((0..70).map(|n| (format!("A{n}"), "x".to_owned())));
        state.secrets.extend((0..130).map(|n| (format!("A{n}"), Default::default())));
        state.keys.extend((100..230).map(|n| {
            (n, json!({"id": n, "key": format!("ssh-rsa AAA{n}"), "read_only": true, "title": "x"}))
        }));
    };
    setup.state(alphabet);
    setup.run("plan --check").success();
    setup.state(|state| state.variables.remove("HOLISTIC_RECEIPT"));
    let plan = status(&setup.run("plan").success())?;
    assert_eq!(steps(&plan)[0], "record");
    setup.assert_described();
    Ok(())
}

#[test]
fn the_order_of_a_documents_fields_does_not_matter() -> Test {
    let setup = Setup::new(FULL)?;
    let plan = setup.run("plan").success().get_output().stdout.clone();
    let plan = String::from_utf8(plan)?.split("\"status\"").last().map(str::to_owned);
    let other = "deployKeys: [flux-seed], secrets: {phaseKeys: [artifact-attest]}, \
        rules: [{bypass: administrators, require: {statusChecks: [test], linearHistory: true, \
        signedCommits: true, pullRequest: {approvals: 1}}, branches: [main], name: main}], \
        history: {push: fastForward}, features: {wiki: false}, topics: {items: [gitops, nix]}, \
        visibility: private, description: One of ours, owner: owner";
    setup.declare(other)?;
    let again = setup.run("plan").success().get_output().stdout.clone();
    let again = String::from_utf8(again)?.split("\"status\"").last().map(str::to_owned);
    assert_eq!(plan, again);
    assert_eq!(setup.writes(), [""; 0]);
    Ok(())
}

#[test]
fn rename_and_transfer_are_steps() -> Test {
    let setup = Setup::new(FULL)?;
    setup.run("apply").success();
    let key = setup.state(|state| json!(state.keys));
    setup.writes();
    setup.sandbox.declare("salute", &format!("{FULL}, previously: [greeter]"))?;
    assert_eq!(steps(&status(&setup.run("plan").success())?), ["rename"]);
    setup.run("apply").success();
    assert_eq!(setup.writes(), ["PATCH /repos/owner/greeter"]);
    // A push after a transfer goes to the new address.
    setup.sandbox.commit("second")?;
    let spec = format!("{FULL}, previously: [owner/greeter, owner/salute]");
    setup.sandbox.declare("salute", &spec.replace("owner: owner", "owner: crew"))?;
    assert_eq!(steps(&status(&setup.run("plan").success())?), ["transfer", "push"]);
    let applied = status(&setup.run("apply").success())?;
    assert_eq!(setup.writes(), ["POST /repos/owner/salute/transfer"]);
    assert_eq!(
        (&applied["observed"]["owner"], &applied["observed"]["made"]),
        (&json!("crew"), &json!(true))
    );
    setup.run("plan --check").success();
    assert_eq!(setup.state(|state| json!(state.keys)), key, "the derived key stays");
    setup.assert_described();
    Ok(())
}

#[test]
fn values_are_written_before_the_push_and_a_changed_one_alone_again() -> Test {
    let setup = Setup::new(FULL)?;
    let spec = "owner: owner, history: {push: fastForward}, secrets: {HCLOUD_TOKEN: {env: CLOUD}, B: {env: B}}, \
        variables: {REGISTRY: ghcr.io/owner}";
    setup.declare(spec)?;
    let run = |verb: &str, value: &str| {
        setup.sandbox.run_with(verb, &[("ROOT", common::ROOT), ("CLOUD", value), ("B", "constant")])
    };
    setup.state(|state| state.seen.clear());
    run("apply", "first").success();
    let order =
        setup.state(|state| state.seen.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>());
    let last =
        |text: &str| order.iter().rposition(|line| line.contains(text)).ok_or(text.to_owned());
    let push =
        order.iter().position(|line| line.starts_with("POST /owner/greeter.git/git-receive-pack"));
    assert!(last("PUT /repos/owner/greeter/actions/secrets")? < push.ok_or("a push")?);
    assert_eq!(setup.state(|state| state.secret("HCLOUD_TOKEN")).as_deref(), Some("first"));
    assert_eq!(setup.state(|state| state.variables["REGISTRY"].clone()), "ghcr.io/owner");
    setup.writes();
    run("apply", "second").success();
    assert_eq!(
        setup.writes(),
        [
            "PUT /repos/owner/greeter/actions/secrets/HCLOUD_TOKEN",
            "PATCH /repos/owner/greeter/actions/variables/HOLISTIC_RECEIPT"
        ]
    );
    assert_eq!(setup.state(|state| state.secret("HCLOUD_TOKEN")).as_deref(), Some("second"));
    setup.declare(&spec.replace("ghcr.io/owner", "quay.io"))?;
    run("apply", "second").success();
    assert_eq!(setup.writes(), ["PATCH /repos/owner/greeter/actions/variables/REGISTRY"]);
    setup.assert_described();
    Ok(())
}
