//! Conclusions from responses, and settings of existing repositories that are left in place. Uses
//! the mock of GitHub, with git's own server behind it.

mod common;
#[path = "common/lfs.rs"]
mod lfs;
#[path = "common/mock.rs"]
mod mock;

use std::fs;

use common::{Test, ready, status, steps};
use mock::Setup;
use serde_json::{Value, json};

const PLAIN: &str =
    "owner: owner, secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

// hazard: A token that may not see the repository makes `destroy` report it as destroyed.
// class: Silence is taken for absence.
// members: fine-grained tokens, classic tokens for public repositories, guests, members of other
// teams, 302 to a page to sign in
// now: `AbsenceUnproven`, exit 100, with what the token lacks; nothing is planned
#[test]
fn a_hidden_repository_is_neither_created_nor_reported_as_destroyed() -> Test {
    let setup = Setup::new(PLAIN)?;
    setup.run("apply").success();
    // A fine-grained token for other repositories, and a classic token for public repositories.
    for scopes in [None, Some("public_repo")] {
        setup.state(|state| (state.scopes, state.hides_repository) = (scopes, true));
        for verb in ["plan", "plan --check", "apply", "verify", "destroy", "plan --destroy"] {
            setup.assert_refused(verb, "AbsenceUnproven")?;
        }
    }
    setup.assert_described();
    Ok(())
}

#[test]
fn a_classic_token_or_the_owners_own_count_proves_absence() -> Test {
    for (scopes, unseen, proven) in [
        (Some("repo"), 3, true),
        (Some("gist, repo , user"), 3, true),
        (Some("repo:status, public_repo"), 3, false),
        (Some(""), 0, true),
        (None, 0, true),
        (None, 1, false),
    ] {
        let setup = Setup::new(PLAIN)?;
        setup.state(|state| (state.scopes, state.unseen) = (scopes, unseen));
        if proven {
            assert_eq!(steps(&status(&setup.run("plan").success())?)[0], "create");
            let gone = status(&setup.run("destroy").success())?;
            assert_eq!(ready(&gone), ("False", "Destroyed"));
        } else {
            setup.assert_refused("plan", "AbsenceUnproven")?;
            setup.assert_refused("destroy", "AbsenceUnproven")?;
        }
        setup.assert_described();
    }
    // The repository of another user, and of an organisation that the token's user does not own.
    let setup = Setup::new(&PLAIN.replace("owner: owner", "owner: another"))?;
    setup.assert_refused("plan", "AbsenceUnproven")?;
    Ok(())
}

// hazard: A renamed repository whose old name no longer redirects is reported as destroyed.
// class: Silence is taken for absence.
// members: renamed, moved to another owner
// now: `Renamed`, exit 100, with its new name
#[test]
fn a_renamed_repository_is_found_by_its_number_and_not_reported_as_destroyed() -> Test {
    let setup = Setup::new(PLAIN)?;
    let applied = setup.run("apply").success();
    // The next run reads the previous output, which contains the repository's number.
    let lines = String::from_utf8(applied.get_output().stdout.clone())?;
    fs::write(
        setup.sandbox.path().join("repository.yaml"),
        lines.lines().last().ok_or("a document")?,
    )?;
    setup.rename("greeter", "salute")?;
    for forgets_the_old_name in [false, true] {
        if forgets_the_old_name {
            setup.state(|state| state.previously.clear());
        }
        for verb in ["plan", "apply", "verify", "destroy"] {
            setup.assert_refused(verb, "Renamed")?;
        }
        let said = setup.run("plan").get_output().stderr.clone();
        assert!(String::from_utf8(said)?.contains("to owner/salute"), "the error has the new name");
    }
    Ok(())
}

// hazard: Following the help after a rename leaves the old deploy key with access, and the
// repository without an owner.
// class: Help causes damage.
// members: `delete the variable`, `change metadata.name`
// now: the new name in the document is enough: the receipt is bound to the forge's number, and
// the key is replaced
#[test]
fn a_renamed_repository_stays_ours_and_its_old_deploy_key_is_removed() -> Test {
    let setup = Setup::new(PLAIN)?;
    setup.run("apply").success();
    let keys = |setup: &Setup| {
        setup.state(|state| {
            state.keys.values().map(|key| key["key"].clone()).collect::<Vec<Value>>()
        })
    };
    let before = keys(&setup);
    setup.rename("greeter", "salute")?;
    setup.sandbox.declare("salute", PLAIN)?; // as the help says
    let applied = status(&setup.run("apply").success())?;
    assert_eq!(applied["observed"]["made"], true, "the repository is still recognised as ours");
    let after = keys(&setup);
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after, "the key of the old name has no access any more");
    setup.run("plan --check").success();
    setup.writes();
    setup.run("apply").success();
    assert_eq!(setup.writes(), [""; 0]);
    setup.run("destroy").success();
    assert_eq!(
        setup.state(|state| state.repository.clone()).ok_or("a repository")?["archived"],
        true
    );
    assert_eq!(keys(&setup).len(), 0);
    Ok(())
}

// hazard: A push that the forge refuses for good is tried three times and reported as temporary.
// class: A permanent error is called temporary.
// members: workflow scope, GH001, GH006, GH007, GH008, GH009, GH013, hooks, protected branches,
// archived, quota, 403, 413, SSO
// now: one attempt, exit 100, a reason and a help of its own for each
#[test]
fn a_rejected_push_is_tried_once_and_its_cause_is_named() -> Test {
    let hooks = [
        ("update", "exit 1", "HookDeclined"),
        ("pre-receive", "echo 'error: GH001: Large files detected.' >&2; exit 1", "FileTooLarge"),
        ("pre-receive", "echo 'error: GH008: unknown Git LFS object' >&2; exit 1", "NotInCommit"),
        (
            "pre-receive",
            "echo 'error: GH013: Repository rule violations found' >&2; exit 1",
            "BranchProtected",
        ),
        // The cause is beyond the part of the message that the error quotes.
        (
            "pre-receive",
            "head -c 3000 /dev/zero | tr '\\0' x >&2; echo >&2; echo 'error: GH006: x' >&2; exit 1",
            "BranchProtected",
        ),
    ];
    for (hook, script, reason) in hooks {
        let setup = Setup::new(PLAIN)?;
        setup.run("apply").success();
        setup.hook("greeter", hook, script)?;
        setup.declare(&format!("{PLAIN}, history: {{push: fastForward}}"))?;
        setup.pushes();
        let refused = status(&setup.run("apply").code(100))?;
        assert_eq!(ready(&refused), ("False", reason));
        assert_eq!(setup.pushes(), 1, "{reason}");
    }
    for (code, text, reason) in [
        (403, "Write access to repository not granted.", "Forbidden"),
        (403, "This repository was archived so it is read-only.", "Archived"),
        (413, "too large", "QuotaExceeded"),
    ] {
        let setup = Setup::new(&format!("{PLAIN}, history: {{push: fastForward}}"))?;
        setup.state(|state| state.git_refuses = Some(("git-receive-pack", code, text.to_owned())));
        setup.pushes();
        let refused = status(&setup.run("apply").code(100))?;
        assert_eq!(ready(&refused), ("False", reason));
        assert_eq!(setup.pushes(), 1, "{reason}");
    }
    Ok(())
}

#[test]
fn an_unreadable_history_does_not_hide_the_rest_of_the_plan() -> Test {
    let setup = Setup::new(&format!("{PLAIN}, history: {{push: fastForward}}"))?;
    setup.run("apply").success();
    let text = "Write access to repository not granted.".to_owned();
    setup.state(|state| state.git_refuses = Some(("git-upload-pack", 403, text)));
    setup.assert_refused("plan", "Forbidden")?;
    setup.declare(&format!("{PLAIN}, history: {{}}, description: new"))?;
    let plan = status(&setup.run("plan --check").code(3))?;
    assert_eq!(steps(&plan), ["changeSettings"]);
    assert_eq!(plan["conditions"][1]["reason"], "Forbidden");
    Ok(())
}

// hazard: The content of files in Git LFS is lost silently: only pointers are pushed.
// class: A part is taken for the whole.
// members: pointers in earlier commits, partial clones whose objects are elsewhere, clones without the objects
// now: git-lfs uploads the objects first; without git-lfs, or without an object, an error names the files before
// anything is made
#[test]
fn a_history_with_lfs_pointers_is_an_error_before_anything_is_created() -> Test {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    for removed_since in [false, true] {
        let mut setup = Setup::new(&format!("{PLAIN}, history: {{}}"))?;
        setup.sandbox.programs = lfs::programs(&setup.sandbox, &["git", "sh"])?.into();
        // A text that mentions pointers is not a pointer.
        fs::write(setup.sandbox.path().join("about.md"), format!("A pointer:\n\n{pointer}"))?;
        setup.sandbox.git(&["add", "about.md"])?;
        setup.sandbox.commit("about")?;
        setup.run("plan").success();
        fs::write(setup.sandbox.path().join("model.bin"), pointer)?;
        setup.sandbox.git(&["add", "model.bin"])?;
        setup.sandbox.commit("pointer")?;
        if removed_since {
            setup.sandbox.git(&["rm", "--quiet", "model.bin"])?;
            setup.sandbox.commit("gone")?;
        }
        for verb in ["plan", "apply"] {
            setup.assert_refused(verb, "NotInCommit")?;
            let said = String::from_utf8(setup.run(verb).get_output().stderr.clone())?;
            assert!(said.contains("model.bin") && !said.contains("about.md"), "{said}");
        }
        // Follow the help: create the repository without the history, and push with git-lfs.
        setup.declare(&format!("{PLAIN}, history: {{push: never}}"))?;
        setup.run("apply").success();
    }
    Ok(())
}

// hazard: One word in a document makes a private repository public.
// class: A write that cannot be taken back looks like any other.
// members: none
// now: `PublishNotAllowed`, exit 100, until the document says `allowPublish: true`; a step of
// its own
#[test]
fn a_private_repository_is_not_published_by_a_document_alone() -> Test {
    let setup = Setup::new(PLAIN)?;
    setup.run("apply").success();
    let public = format!("{PLAIN}, visibility: public");
    setup.declare(&public)?;
    setup.assert_refused("apply", "PublishNotAllowed")?;
    setup.declare(&format!("{public}, allowPublish: true"))?;
    assert_eq!(steps(&status(&setup.run("plan").success())?), ["publish"]);
    setup.run("apply").success();
    assert_eq!(
        setup.state(|state| state.repository.clone()).ok_or("a repository")?["private"],
        false
    );
    setup.run("plan --check").success();
    setup.assert_described();
    Ok(())
}

// hazard: Changing one number of a rule removes the app that a status check is bound to, and the
// strict policy.
// class: A write replaces what the document does not declare.
// members: every parameter and kind of rule that GitHub describes, exempt actors that the token
// may not see, Gitea's merge lists and approvals
// now: only what is declared changes; a step that protects less says so (`weakens`)
#[test]
fn a_changed_rule_keeps_stricter_settings_of_others() -> Test {
    let rule = |approvals: u8| {
        format!(
            "{PLAIN}, rules: [{{name: main, branches: [main], require: {{pullRequest: {{approvals: \
             {approvals}}}, statusChecks: [test]}}}}]"
        )
    };
    let setup = Setup::new(&rule(1))?;
    setup.run("apply").success();
    setup.state(|state| {
        let rules = state.rulesets.get_mut(&40).expect("the rule")["rules"].as_array_mut();
        for rule in rules.expect("rules") {
            if rule["type"] == "required_status_checks" {
                rule["parameters"] = json!({
                    "strict_required_status_checks_policy": true,
                    "do_not_enforce_on_create": true,
                    "required_status_checks": [{"context": "test", "integration_id": 15368}],
                });
            }
        }
    });
    setup.run("plan --check").success();
    let before = setup.state(|state| state.rulesets[&40]["rules"].clone());
    setup.declare(&rule(2))?;
    let plan = status(&setup.run("plan").success())?;
    assert_eq!(plan["plan"][0]["weakens"], Value::Null);
    setup.run("apply").success();
    let after = setup.state(|state| state.rulesets[&40]["rules"].clone());
    let number = "\"required_approving_review_count\":";
    let expected = before.to_string().replace(&format!("{number}1"), &format!("{number}2"));
    assert_eq!(after.to_string(), expected, "only the number of approvals is another");

    // The plan names every protection that the document removes.
    setup.declare(&rule(0).replace("statusChecks: [test]", "statusChecks: [lint]"))?;
    let plan = status(&setup.run("plan").success())?;
    let weakens = ["requires 0 approvals instead of 2", "no longer requires the status check test"];
    assert_eq!(plan["plan"][0]["weakens"], json!(weakens));
    setup.assert_described();
    Ok(())
}

#[test]
fn a_checkout_without_history_suffices_while_no_push_is_needed() -> Test {
    let setup = Setup::new(&format!("{PLAIN}, history: {{}}"))?;
    setup.run("apply").success();
    setup.writes();
    // The state that actions/checkout leaves: a detached commit; then a job without a checkout.
    let head = setup.sandbox.git(&["rev-parse", "HEAD"])?;
    setup.sandbox.git(&["checkout", "--quiet", "--detach"])?;
    setup.sandbox.git(&["branch", "-D", "main"])?;
    fs::write(setup.sandbox.path().join(".git/shallow"), head + "\n")?;
    for checkout in [true, false] {
        if !checkout {
            fs::remove_dir_all(setup.sandbox.path().join(".git"))?;
        }
        for verb in ["plan --check", "apply", "verify"] {
            setup.run(verb).success();
        }
    }
    assert_eq!(setup.writes(), [""; 0]);
    setup.sandbox.declare("another", &format!("{PLAIN}, history: {{}}"))?;
    setup.state(|state| state.repository = None);
    setup.assert_refused("apply", "NoHistory")?;
    Ok(())
}
