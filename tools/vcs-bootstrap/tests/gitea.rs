//! Tests against a real Gitea. They need `gitea` (in `LAB_BIN` or `PATH`, with its folder `static`
//! beside it), `git` and `curl`; as root, also a user called `git`.

mod common;
#[path = "common/drain.rs"]
mod drain;
#[path = "common/gitea.rs"]
mod gitea;

use std::error::Error;

use common::{ROOT, Sandbox, Test, ready, status, stderr, steps};
use gitea::Gitea;
use serde_json::{Value, json};
use testing::proxy::Fault;

const FULL: &str = "owner: owner, description: One of ours, homepage: 'https://example.org', \
    visibility: private, topics: {mode: authoritative, items: [nix, gitops]}, \
    features: {wiki: false, projects: false}, \
    history: {push: fastForward, branch: main}, \
    rules: [{name: main, branches: [main, release/*], require: {pullRequest: {approvals: 1}}, \
    bypass: administrators}], secrets: {phaseKeys: [artifact-attest, flux-seed]}, \
    deployKeys: [flux-seed]";

fn forge() -> Test<(Gitea, Sandbox)> {
    let gitea = Gitea::start()?;
    let sandbox = Sandbox::new(&gitea.endpoint(), &gitea.token)?;
    sandbox.declare("greeter", FULL)?;
    Ok((gitea, sandbox))
}

/// Returns the commit of `main` at Gitea. For some moments after the first push, Gitea believes the
/// repository to be empty and panics at this request, so retry.
fn main_of(gitea: &Gitea, name: &str) -> Test<Value> {
    let mut answer = gitea.api("GET", &format!("/repos/owner/{name}/branches/main"), None);
    for _ in 0..50 {
        if answer.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        answer = gitea.api("GET", &format!("/repos/owner/{name}/branches/main"), None);
    }
    Ok(answer?["commit"]["id"].clone())
}

#[test]
fn a_repository_is_created_rests_follows_a_push_and_is_deleted() -> Test {
    let (gitea, sandbox) = forge()?;
    let plan = status(&sandbox.run("plan --check").code(3))?;
    assert_eq!(steps(&plan)[..2], ["create", "record"]);
    assert_eq!(gitea.proxy.take_writes(), [""; 0], "a plan writes nothing");

    let first = sandbox.run("apply").success();
    let applied = status(&first)?;
    assert_eq!(ready(&applied), ("True", "AsDeclared"));
    assert_eq!(applied["plan"], json!([]));
    assert_eq!(applied["observed"]["made"], true);
    assert!(!gitea.proxy.take_writes().is_empty());

    let repository = gitea.api("GET", "/repos/owner/greeter", None)?;
    assert_eq!(repository["description"], "One of ours");
    assert_eq!(repository["website"], "https://example.org");
    assert_eq!(repository["private"], true);
    assert_eq!(repository["has_wiki"], false);
    assert_eq!(repository["topics"], json!(["gitops", "nix"]));
    assert_eq!(main_of(&gitea, "greeter")?, sandbox.git(&["rev-parse", "HEAD"])?);
    let keys = gitea.api("GET", "/repos/owner/greeter/keys", None)?;
    assert_eq!(
        (keys[0]["read_only"].as_bool(), keys.as_array().map(Vec::len)),
        (Some(true), Some(1))
    );
    assert_eq!(
        applied["observed"]["deployKeys"][keys[0]["fingerprint"].as_str().unwrap_or("")]["key"],
        keys[0]["key"]
    );

    let second = sandbox.run("apply").success();
    assert_eq!(gitea.proxy.take_writes(), [""; 0], "a second run writes nothing");
    assert_eq!(
        second.get_output().stdout,
        first.get_output().stdout,
        "and writes the same documents"
    );
    sandbox.run("plan --check").success();

    let proven = status(&sandbox.run("verify").success())?;
    assert_eq!(proven["conditions"][1]["type"], "SecretsProven");
    assert_eq!(proven["conditions"][1]["reason"], "NotTold");

    // A new commit makes one step, because the rule lets administrators push.
    let commit = sandbox.commit("second")?;
    sandbox.run("verify").code(100);
    let plan = status(&sandbox.run("plan").success())?;
    assert_eq!(steps(&plan), ["push"]);
    sandbox.run("apply").success();
    assert_eq!(main_of(&gitea, "greeter")?, commit);
    assert_eq!(gitea.proxy.take_writes(), ["POST /owner/greeter.git/git-receive-pack"]);

    let gone = status(&sandbox.run("destroy").success())?;
    assert_eq!(ready(&gone), ("False", "Destroyed"));
    assert_eq!(gitea.api("GET", "/repos/owner/greeter", None)?["archived"], true);
    assert_eq!(gitea.api("GET", "/repos/owner/greeter/actions/secrets", None)?, json!([]));
    assert_eq!(gitea.api("GET", "/repos/owner/greeter/keys", None)?, json!([]));
    gitea.proxy.take_writes();
    sandbox.run("destroy").success();
    assert_eq!(gitea.proxy.take_writes(), [""; 0], "nothing is left to destroy");

    sandbox.run("apply").success();
    assert_eq!(gitea.api("GET", "/repos/owner/greeter", None)?["archived"], false);
    gitea.proxy.take_writes();
    sandbox.declare("greeter", &format!("{FULL}, onDestroy: delete"))?;
    let kept = status(&sandbox.run("destroy").code(100))?;
    assert_eq!(ready(&kept), ("False", "NotDrained"), "the history has no copy");
    assert_eq!(gitea.proxy.take_writes(), [""; 0]);
    sandbox.declare("greeter", &format!("{FULL}, onDestroy: delete, dataOnDestroy: discard"))?;
    sandbox.run("destroy").success();
    assert!(gitea.api("GET", "/repos/owner/greeter", None).is_err(), "it is deleted");
    Ok(())
}

#[test]
fn apply_converges_after_an_interruption_at_any_write() -> Test {
    let (gitea, sandbox) = forge()?;
    sandbox.run("apply").success();
    let whole = gitea.proxy.take_writes().len();
    for writes in 0..whole {
        for loses_answer in [false, true] {
            let name = format!("cut-{writes}-{loses_answer}");
            sandbox.declare(&name, FULL)?;
            if loses_answer {
                gitea.proxy.set_fault(Some(Fault::LostOnce(writes)));
            } else {
                gitea.proxy.set_fault(Some(Fault::Dead(writes)));
                let failed = status(&sandbox.run("apply").code(111))?;
                assert_eq!(ready(&failed).0, "False");
                gitea.proxy.set_fault(None);
            }
            let applied = status(&sandbox.run("apply").success())?;
            assert_eq!(
                applied["observed"]["made"], true,
                "the repository is still recognised as ours: {name}"
            );
            gitea.proxy.take_writes();
            sandbox.run("apply").success();
            assert_eq!(gitea.proxy.take_writes(), [""; 0], "{name} rests");
            let keys = gitea.api("GET", &format!("/repos/owner/{name}/keys"), None)?;
            assert_eq!(keys.as_array().map(Vec::len), Some(1), "nothing is made twice");
        }
    }
    Ok(())
}

#[test]
fn apply_repairs_drift_and_leaves_foreign_objects_in_place() -> Test {
    let (gitea, sandbox) = forge()?;
    sandbox.run("apply").success();
    let at = "/repos/owner/greeter";
    let theirs = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII6IUqST+ANliC35BtkqlSANmQ0LRbALyhW7I3EIg1gX";
    let api = |method: &str, below: &str, body: &Value| {
        gitea.api(method, &format!("{at}{below}"), Some(&body.to_string()))
    };
    api("POST", "/keys", &json!({"title": "theirs", "key": theirs, "read_only": false}))?;
    api("PUT", "/actions/secrets/THEIRS", &json!({"data": "x"}))?;
    api("POST", "/actions/variables/THEIRS", &json!({"value": "x"}))?;
    api("POST", "/branch_protections", &json!({"rule_name": "theirs", "enable_push": false}))?;

    api("PATCH", "", &json!({"description": "drifted", "has_wiki": true}))?;
    api("PUT", "/topics", &json!({"topics": ["drifted"]}))?;
    api(
        "PATCH",
        "/branch_protections/main",
        &json!({"required_approvals": 0, "enable_force_push": true}),
    )?;
    api("DELETE", "/actions/secrets/FLUX_SEED_KEY", &json!({}))?;
    let ours = gitea.api("GET", &format!("{at}/keys"), None)?;
    let ours =
        ours.as_array().and_then(|keys| keys.iter().find(|key| key["title"] != "theirs")).cloned();
    api("DELETE", &format!("/keys/{}", ours.ok_or("our key")?["id"]), &json!({}))?;

    gitea.proxy.take_writes();
    let plan = status(&sandbox.run("plan --check").code(3))?;
    let drift = ["changeSettings", "writeSecret", "setTopics", "addDeployKey", "putRule"];
    assert_eq!(steps(&plan)[..5], drift);
    sandbox.run("verify").code(100);
    sandbox.run("apply").success();
    sandbox.run("verify").success();
    let rule = gitea.api("GET", &format!("{at}/branch_protections/main"), None)?;
    assert_eq!(
        (rule["required_approvals"].as_u64(), rule["enable_force_push"].as_bool()),
        (Some(1), Some(false))
    );

    // Objects that are no longer declared are removed if this program made them, and left in place
    // otherwise.
    let less = FULL.replace(", release/*", "").replace(", flux-seed]}", "]}");
    sandbox.declare("greeter", &less.replace("deployKeys: [flux-seed]", "deployKeys: []"))?;
    let plan = status(&sandbox.run("plan").success())?;
    assert_eq!(steps(&plan), ["removeSecret", "removeDeployKey", "removeRule", "record"]);
    sandbox.run("apply").success();
    let names = |below: &str, name: &str| -> Result<Vec<Value>, Box<dyn Error>> {
        let list = gitea.api("GET", &format!("{at}{below}"), None)?;
        Ok(list.as_array().into_iter().flatten().map(|object| object[name].clone()).collect())
    };
    assert_eq!(names("/keys", "title")?, ["theirs"]);
    assert_eq!(names("/branch_protections", "rule_name")?, ["main", "theirs"]);
    assert_eq!(names("/actions/secrets", "name")?, ["ARTIFACT_ATTEST_KEY", "THEIRS"]);

    // A new generation of a phase's key changes the secret, which the recorded hash shows.
    let project = std::fs::read_to_string(sandbox.path().join("project.yaml"))?;
    std::fs::write(
        sandbox.path().join("project.yaml"),
        project.replace("  endpoints", "  generations: {artifact-attest: 2}\n  endpoints"),
    )?;
    let plan = status(&sandbox.run("plan").success())?;
    assert_eq!(plan["plan"][0]["because"], "changed");
    sandbox.run("apply").success();
    sandbox.run("plan --check").success();
    Ok(())
}

#[test]
fn an_adopted_repository_is_never_archived_or_deleted() -> Test {
    let (gitea, sandbox) = forge()?;
    let body = json!({"name": "greeter", "private": true, "description": "theirs"}).to_string();
    gitea.api("POST", "/user/repos", Some(&body))?;
    sandbox.declare("greeter", &format!("{FULL}, onDestroy: delete, dataOnDestroy: discard"))?;
    let applied = status(&sandbox.run("apply").success())?;
    assert_eq!(applied["observed"]["made"], false);

    sandbox.run("destroy").success();
    let left = gitea.api("GET", "/repos/owner/greeter", None)?;
    assert_eq!(
        (left["archived"].as_bool(), left["topics"].as_array().map(Vec::len)),
        (Some(false), Some(2))
    );
    for below in ["actions/secrets", "actions/variables", "keys", "branch_protections"] {
        assert_eq!(
            gitea.api("GET", &format!("/repos/owner/greeter/{below}"), None)?,
            json!([]),
            "{below}"
        );
    }
    gitea.proxy.take_writes();
    sandbox.run("destroy").success();
    assert_eq!(gitea.proxy.take_writes(), [""; 0]);
    Ok(())
}

#[test]
fn a_copied_or_forged_ownership_record_proves_nothing() -> Test {
    let (gitea, sandbox) = forge()?;
    sandbox.run("apply").success();
    let variable = "actions/variables/HOLISTIC_RECEIPT";
    let receipt = gitea.api("GET", &format!("/repos/owner/greeter/{variable}"), None)?;

    gitea.api("POST", "/user/repos", Some(&json!({"name": "victim"}).to_string()))?;
    let copy = json!({"value": receipt["data"]}).to_string();
    gitea.api("POST", &format!("/repos/owner/victim/{variable}"), Some(&copy))?;
    sandbox.declare("victim", &format!("{FULL}, onDestroy: delete, dataOnDestroy: discard"))?;
    gitea.proxy.take_writes();
    for verb in ["plan", "apply", "destroy", "plan --destroy"] {
        let refused = status(&sandbox.run(verb).code(100))?;
        assert_eq!(ready(&refused), ("False", "OwnershipDisputed"), "{verb}");
    }
    assert_eq!(gitea.proxy.take_writes(), [""; 0]);
    Ok(())
}

#[test]
fn a_push_is_never_forced() -> Test {
    let (gitea, sandbox) = forge()?;
    sandbox.run("apply").success();
    sandbox.git(&["commit", "--quiet", "--amend", "--allow-empty", "-m", "rewritten"])?;
    let before = main_of(&gitea, "greeter")?;
    let refused = sandbox.run("apply").code(100);
    assert_eq!(ready(&status(&refused)?), ("False", "HistoryDiverged"));
    assert_eq!(main_of(&gitea, "greeter")?, before);

    // With `onCreate`, the branch changes by pull requests after its creation.
    sandbox.declare("greeter", &FULL.replace("fastForward", "onCreate"))?;
    sandbox.run("apply").success();
    assert_eq!(main_of(&gitea, "greeter")?, before);
    Ok(())
}

#[test]
fn an_unsupported_rule_is_reported_and_a_missing_permission_is_named() -> Test {
    let (gitea, sandbox) = forge()?;
    let linear = FULL.replace("{approvals: 1}", "{approvals: 1}, linearHistory: true");
    sandbox.declare("greeter", &linear)?;
    let applied = status(&sandbox.run("apply").success())?;
    assert_eq!(ready(&applied), ("True", "AsDeclared"));
    assert_eq!(applied["conditions"][1]["reason"], "UnsupportedByForge");
    sandbox.run("plan --check").success();

    gitea.api("PATCH", "/repos/owner/greeter", Some(&json!({"private": false}).to_string()))?;
    let guest = Sandbox::new(&gitea.endpoint(), &gitea.token_of("guest")?)?;
    guest.declare("greeter", FULL)?;
    let refused = guest.run("apply").code(100);
    assert_eq!(ready(&status(&refused)?), ("False", "Forbidden"));
    let wrong = Sandbox::new(&gitea.endpoint(), "0123456789abcdef0123456789abcdef01234567")?;
    wrong.declare("greeter", FULL)?;
    assert_eq!(ready(&status(&wrong.run("plan").code(100))?), ("False", "Unauthorized"));
    Ok(())
}

#[test]
fn no_secret_is_in_an_argument_an_environment_or_an_output() -> Test {
    let (gitea, sandbox) = forge()?;
    // A `git` that records its arguments and environment, and then runs the real one.
    let spy = sandbox.path().join("spy");
    std::fs::create_dir(&spy)?;
    let git = String::from_utf8(
        std::process::Command::new("sh").args(["-c", "command -v git"]).output()?.stdout,
    )?;
    let log = sandbox.path().join("log");
    let script = format!(
        "#!/bin/sh\n{{ printf '%s\\n' \"$@\"; env; }} >>{}\nexec {} \"$@\"\n",
        log.display(),
        git.trim()
    );
    std::fs::write(spy.join("git"), script)?;
    std::process::Command::new("chmod")
        .args(["+x", "spy/git"])
        .current_dir(sandbox.path())
        .status()?;
    // A hook of the developer's, which would inherit git's file descriptors.
    let hook = sandbox.path().join(".git/hooks/pre-push");
    std::fs::create_dir_all(sandbox.path().join(".git/hooks"))?;
    std::fs::write(&hook, format!("#!/bin/sh\necho a hook ran >>{}\n", log.display()))?;
    std::process::Command::new("chmod").arg("+x").arg(&hook).status()?;
    // A URL rewriting that would send the token elsewhere.
    sandbox.git(&[
        "config",
        "url.http://127.76.0.9:1/.insteadOf",
        &format!("http://{}/", gitea.proxy.address),
    ])?;

    let path = format!("{}:{}", spy.display(), std::env::var("PATH")?);
    let run = sandbox.run_with("apply --verbose", &[("ROOT", ROOT), ("PATH", &path)]).success();
    let said = std::fs::read_to_string(&log)?;
    assert!(said.contains("push\n") && said.contains("GIT_TERMINAL_PROMPT=0"), "{said}");
    assert!(!said.contains("a hook ran"));
    let output = run.get_output();
    let all = [said.as_bytes(), &output.stdout, &output.stderr].concat();
    let all = String::from_utf8_lossy(&all);
    for secret in [&gitea.token, ROOT] {
        assert!(!all.contains(secret), "{all}");
    }
    let key = gitea.api("GET", "/repos/owner/greeter/actions/variables/HOLISTIC_RECEIPT", None)?;
    assert!(key["data"].as_str().is_some_and(|text| text.starts_with("v1 ")));
    Ok(())
}

// hazard: A guest's token makes `destroy` report a private repository as destroyed.
// class: Silence is taken for absence.
// members: plan, apply, verify, destroy
// now: `AbsenceUnproven`, exit 100
#[test]
fn a_guest_neither_creates_nor_destroys_a_private_repository() -> Test {
    let (gitea, sandbox) = forge()?;
    sandbox.run("apply").success();
    let guest = Sandbox::new(&gitea.endpoint(), &gitea.token_of("guest")?)?;
    for spec in [FULL, "owner: owner", "owner: owner, onDestroy: delete, dataOnDestroy: discard"] {
        guest.declare("greeter", spec)?;
        gitea.proxy.take_writes();
        for verb in ["plan", "plan --check", "apply", "verify", "destroy", "plan --destroy"] {
            let refused = status(&guest.run(verb).code(100))?;
            assert_eq!(ready(&refused), ("Unknown", "AbsenceUnproven"), "{verb}");
        }
        assert_eq!(gitea.proxy.take_writes(), [""; 0]);
    }
    // The owner's token proves the absence of another repository.
    sandbox.declare("nothing", "owner: owner")?;
    assert_eq!(ready(&status(&sandbox.run("destroy").success())?), ("False", "Destroyed"));
    Ok(())
}

// hazard: Two administrators with the same document undo each other's rules.
// class: A declaration depends on who runs the program.
// members: people, teams and deploy keys in the lists of an adopted protection
// now: the owner, or the team `Owners`, may push; whom a step removes is named in the plan
#[test]
fn administrators_do_not_depend_on_the_tokens_user_and_exempt_people_are_named() -> Test {
    let gitea = Gitea::start()?;
    gitea.api("POST", "/orgs", Some(&json!({"username": "crew"}).to_string()))?;
    let teams = gitea.api("GET", "/orgs/crew/teams", None)?;
    let owners = format!("/teams/{}/members/guest", teams[0]["id"]);
    gitea.api("PUT", &owners, None)?;
    let rules = "rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}, \
        statusChecks: [test]}, bypass: administrators}]";
    let first = Sandbox::new(&gitea.endpoint(), &gitea.token)?;
    let second = Sandbox::new(&gitea.endpoint(), &gitea.token_of("guest")?)?;
    for sandbox in [&first, &second] {
        sandbox.declare("greeter", &format!("owner: crew, {rules}"))?;
    }
    first.run("apply").success();
    gitea.proxy.take_writes();
    for sandbox in [&second, &first] {
        sandbox.run("plan --check").success();
        sandbox.run("apply").success();
        sandbox.run("verify").success();
    }
    assert_eq!(gitea.proxy.take_writes(), [""; 0], "two administrators, one document, one plan");
    let at = "/repos/crew/greeter/branch_protections/main";
    let protection = gitea.api("GET", at, None)?;
    assert_eq!(protection["push_whitelist_teams"], json!(["Owners"]));
    assert_eq!(protection["push_whitelist_usernames"], json!([]));

    // Stricter settings of others are left in place. A plan names exempt people before a rule
    // changes.
    let theirs = json!({
        "push_whitelist_usernames": ["guest"], "enable_merge_whitelist": true,
        "merge_whitelist_usernames": ["guest"], "block_on_rejected_reviews": true,
        "dismiss_stale_approvals": true, "protected_file_patterns": "*.nix",
    });
    gitea.api("PATCH", at, Some(&theirs.to_string()))?;
    let plan = status(&second.run("plan --check").code(3))?;
    assert_eq!(plan["plan"][0]["from"]["alsoExempt"], json!(["user guest"]));
    second.run("apply").success();
    let after = gitea.api("GET", at, None)?;
    for name in [
        "enable_merge_whitelist",
        "merge_whitelist_usernames",
        "block_on_rejected_reviews",
        "dismiss_stale_approvals",
        "protected_file_patterns",
    ] {
        assert_eq!(after[name], theirs[name], "{name}");
    }
    assert_eq!(after["push_whitelist_usernames"], json!([]));
    first.run("plan --check").success();
    Ok(())
}

#[test]
fn a_repository_with_contents_beyond_its_history_is_not_deleted_at_gitea() -> Test {
    const DELETE: &str = "owner: owner, history: {push: fastForward}, onDestroy: delete";
    let (gitea, sandbox) = forge()?;
    let drain = || -> Test {
        sandbox.declare("greeter", DELETE)?;
        let url = format!("http://{}/owner/greeter.git", gitea.proxy.address);
        drain::write(&sandbox, "greeter", url, &gitea.token)
    };
    sandbox.declare("greeter", DELETE)?;
    sandbox.run("apply").success();
    drain()?;
    let at = "/repos/owner/greeter";
    for (make, body, what, remove) in [
        ("/issues", json!({"title": "x"}), "issues", "/issues/1"),
        (
            "/wiki/new",
            json!({"title": "Home", "content_base64": "eA=="}),
            "a wiki",
            "/wiki/page/Home",
        ),
    ] {
        gitea.api("POST", &format!("{at}{make}"), Some(&body.to_string()))?;
        gitea.proxy.take_writes();
        let run = sandbox.run("destroy").code(100);
        let said = stderr(&run);
        assert_eq!(ready(&status(&run)?), ("False", "NotCovered"), "{what}: {said}");
        assert!(said.contains(what), "{said}");
        assert_eq!(gitea.proxy.take_writes(), [""; 0]);
        gitea.api("DELETE", &format!("{at}{remove}"), None)?;
    }
    sandbox.run("destroy").success();
    assert!(gitea.api("GET", at, None).is_err(), "it had no other contents");
    sandbox.run("destroy").success();
    Ok(())
}
