//! Oracles that others wrote. `continuous-integration/apart` lets them install their packages.

#![expect(clippy::print_stdout, reason = "the comparison is for people")]

mod common;
#[path = "common/emulate.rs"]
mod emulate;
#[path = "common/fleet.rs"]
mod fleet;
#[path = "common/mock.rs"]
mod mock;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use common::{ROOT, Sandbox, Test, ready, status, stderr, steps};
use emulate::{APP, Emulator, MISSING, cache};
use fleet::Fleet;
use mock::apps::KEY;
use mock::http::TOKEN;
use serde_json::{Value, json};
use testing::http::Request;

const FULL: &str = "description: One of ours, homepage: 'https://example.org', visibility: private, \
    topics: {mode: authoritative, items: [nix, gitops]}, features: {wiki: false, projects: false}, \
    history: {push: fastForward}, variables: {REGISTRY: ghcr.io/crew}, \
    rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}}, bypass: administrators}], \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

/// Returns a folder whose project has the emulator as its forge, with a token or with the App.
fn sandbox(emulator: &Emulator, is_app: bool) -> Test<Sandbox> {
    let address = emulator.address;
    let app = format!("token: {{env: UNUSED}}, app: {{clientId: '{APP}', key: {{env: APP_KEY}}}}");
    let credential = if is_app { &app } else { "token: {env: FORGE_TOKEN}" };
    let forge = format!("{{github: {{url: \"http://{address}\", {credential}}}}}");
    Sandbox::new(&forge, TOKEN)
}

// hazard: The program fits the double that its own authors wrote, and no other GitHub.
// class: A test repeats the assumptions of the code.
// members: a person's token, an installation of an App; create, configure, push, change, rename, archive, delete
// now: an emulator that others wrote passes through a whole life
#[test]
fn repository_at_an_emulator_of_others_lives_from_creation_to_deletion() -> Test {
    for (owner, is_app) in [("owner", false), ("crew", false), ("crew", true)] {
        let emulator = Emulator::start()?;
        let sandbox = sandbox(&emulator, is_app)?;
        let run = |verb: &str| sandbox.run_with(verb, &[("ROOT", ROOT), ("APP_KEY", KEY)]);
        let spec = |more: &str| format!("owner: {owner}, {FULL}{more}");
        sandbox.declare("greeter", &spec(""))?;
        assert_eq!(steps(&status(&run("plan").success())?)[0], "create", "{owner} {is_app}");
        let is_write = |write: &String| !write.starts_with("POST /app/");
        let writes = || emulator.writes().into_iter().filter(is_write).collect::<Vec<_>>();
        assert_eq!(writes(), [""; 0], "a plan writes nothing");

        let first = run("apply").success();
        let applied = status(&first)?;
        assert_eq!(ready(&applied), ("True", "AsDeclared"), "{}", stderr(&first));
        assert_eq!(applied["observed"]["made"], true);
        let found = emulator.repository().ok_or("a repository")?;
        assert_eq!(found["description"], "One of ours");
        assert_eq!((&found["has_wiki"], &found["private"]), (&json!(false), &json!(true)));
        assert_eq!(found["topics"], json!(["gitops", "nix"]));
        assert_eq!(emulator.secrets(&format!("{owner}/greeter"))?, ["ARTIFACT_ATTEST_KEY"]);
        writes();
        let second = run("apply").success();
        assert_eq!(second.get_output().stdout, first.get_output().stdout);
        for verb in ["plan --check", "verify"] {
            run(verb).success();
        }
        assert_eq!(writes(), [""; 0], "a second run writes nothing");

        sandbox.commit("second")?;
        let changed = spec("").replace("One of ours", "Another").replace("[nix, gitops]", "[]");
        sandbox.declare("salute", &format!("{changed}, previously: [greeter]"))?;
        let plan = status(&run("plan").success())?;
        assert_eq!(steps(&plan), ["rename", "changeSettings", "push", "setTopics"]);
        run("apply").success();
        let found = emulator.repository().ok_or("a repository")?;
        assert_eq!((&found["name"], &found["topics"]), (&json!("salute"), &json!([])));

        run("destroy").success();
        assert_eq!(emulator.repository().ok_or("a repository")?["archived"], true);
        assert_eq!(emulator.secrets(&format!("{owner}/salute"))?, [""; 0]);
        run("apply").success();
        let delete =
            format!("{changed}, previously: [greeter], onDestroy: delete, dataOnDestroy: discard");
        sandbox.declare("salute", &delete)?;
        let gone = status(&run("destroy").success())?;
        assert_eq!(ready(&gone), ("False", "Destroyed"));
        assert_eq!(emulator.repository(), None);
        run("destroy").success(); // which proves its absence
        assert_eq!(emulator.differences(), [""; 0], "{owner} {is_app}");
    }
    Ok(())
}

#[test]
fn front_of_the_emulator_answers_only_what_the_emulator_lacks() -> Test {
    let emulator = Emulator::start()?;
    let sandbox = sandbox(&emulator, false)?;
    sandbox.declare("greeter", "owner: owner")?;
    sandbox.run("apply").success();
    assert_eq!(emulator.status_of("/repos/owner/greeter")?, 200);
    for end in MISSING {
        assert_eq!(emulator.status_of(&format!("/repos/owner/greeter{end}"))?, 404, "{end}");
    }
    for path in ["/users/crew", "/user/memberships/orgs/crew", "/installation/repositories"] {
        assert_eq!(emulator.status_of(path)?, 404, "{path}");
    }
    assert_eq!(emulator.status_of("/owner/greeter.git/info/refs?service=git-upload-pack")?, 404);
    Ok(())
}

/// Number of repositories in the comparison with otterdog.
const REPOSITORIES: usize = 60;

/// Answers for otterdog, as GitHub's REST API describes them, to requests that vcs-bootstrap never sends.
fn beyond(request: &Request, repositories: &[Value]) -> Option<(u16, Value)> {
    let workflow =
        json!({"default_workflow_permissions": "read", "can_approve_pull_request_reviews": false});
    let permissions =
        json!({"enabled": true, "enabled_repositories": "all", "allowed_actions": "all"});
    let body = match request.path.as_str() {
        "/orgs/owner" => {
            json!({"login": "owner", "id": 1, "description": null, "plan": {"name": "free"}})
        }
        "/orgs/owner/installations" => json!({"total_count": 0, "installations": []}),
        "/orgs/owner/repos" => json!(repositories),
        "/orgs/owner/teams" => json!([]),
        path => {
            match path.split_once("/owner/")?.1.split_once('/').map_or(path, |(_, below)| below) {
                below if below.ends_with("permissions") => permissions,
                below if below.ends_with("permissions/workflow") => workflow,
                below if below.ends_with("fork-pr-contributor-approval") => {
                    json!({"approval_policy": "first_time_contributors"})
                }
                "vulnerability-alerts" | "pages" => {
                    return Some((404, json!({"message": "Not Found"})));
                }
                "immutable-releases" => json!({"enabled": false}),
                "topics" if request.method == "GET" => json!({"names": ["nix"]}),
                "code-scanning/default-setup" => json!({"state": "not-configured"}),
                "properties/values" => json!([]),
                _ => return None,
            }
        }
    };
    Some((200, body))
}

/// Returns a Python that has otterdog, and installs it if necessary.
fn python() -> Test<PathBuf> {
    let wanted = include_str!("otterdog/requirements.txt");
    let folder = cache().join("otterdog-of-tests");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?; // until the end of this function
    let (complete, python) = (folder.join("installed.txt"), folder.join("venv/bin/python"));
    if fs::read_to_string(&complete).ok().as_deref() != Some(wanted) {
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/otterdog/requirements.txt");
        let venv = folder.join("venv").display().to_string();
        output(Command::new("python3").args(["-m", "venv", "--clear", &venv]))?;
        let quiet =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"];
        output(Command::new(&python).args(quiet).arg(requirements))?;
        fs::write(&complete, wanted)?;
    }
    Ok(python)
}

/// Runs a command, checks its exit status, and returns its output.
fn output(command: &mut Command) -> Test<String> {
    let output = command.output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{command:?}: {text}").into()) }
}

// Both programs manage the same objects: settings, topics, a ruleset, a secret and variables. vcs-bootstrap also
// reads the deploy keys, which otterdog does not know.
#[test]
fn sixty_repositories_without_changes_need_at_most_half_of_the_requests_of_otterdog() -> Test {
    let fleet = Fleet::start_with(beyond)?;
    let sandbox = Sandbox::new(&fleet.endpoint(), TOKEN)?;
    let document = |number| {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Repository\nmetadata: {{name: r{number}}}\n\
             spec: {{project: lab, owner: owner, description: ours, topics: {{items: [nix]}}, \
             rules: [{{name: main, branches: [main], require: {{pullRequest: {{approvals: 1}}}}}}], \
             variables: {{REGISTRY: ghcr.io/owner}}, secrets: {{phaseKeys: [artifact-attest]}}, \
             deployKeys: [flux-seed]}}\n"
        )
    };
    let documents: String = (0..REPOSITORIES).map(document).collect();
    fs::write(sandbox.path().join("repository.yaml"), documents)?;
    sandbox.run("apply").success();
    fleet.take_asked();
    sandbox.run("plan --check").success();
    let ours = fleet.take_asked().len();

    let folder = tempfile::tempdir()?;
    let (organisation, template) = ("orgs/owner", "orgs/owner/vendor/template");
    fs::create_dir_all(folder.path().join(template))?;
    let template = folder.path().join(template).join("defaults.libsonnet");
    fs::write(template, include_str!("otterdog/defaults.libsonnet"))?;
    let repositories = fleet.variables().into_iter().map(|(name, variables)| {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| format!("d.newRepoVariable({}) {{value: {}}}", json!(name), json!(value)))
            .collect();
        format!(
            "d.newRepo('{name}') {{description: 'ours', topics: ['nix'], rulesets: [d.newRepoRuleset('main') \
             {{include_refs: ['refs/heads/main'], required_pull_request: d.newPullRequest()}}], \
             secrets: [d.newRepoSecret('ARTIFACT_ATTEST_KEY') {{value: 'pass:x'}}], variables: [{}]}}",
            variables.join(", ")
        )
    });
    let repositories = repositories.collect::<Vec<_>>().join(",\n");
    let declared = format!(
        "local d = import 'vendor/template/defaults.libsonnet';\n\
         d.newOrg('p', 'owner') {{_repositories:: [{repositories}]}}\n"
    );
    fs::write(folder.path().join(organisation).join("owner.jsonnet"), declared)?;
    // The addresses of the template and of its repository are not requested in its local mode.
    let config = json!({
        "defaults": {
            "jsonnet": {"base_template": "https://github.com/x/template#defaults.libsonnet@main", "config_dir": "orgs"},
            "github": {"config_repo": ".config"},
        },
        "organizations": [{"name": "p", "github_id": "owner", "credentials": {
            "provider": "plain", "api_token": TOKEN, "username": "x", "password": "x", "twofa_seed": "JBSWY3DPEHPK3PXP",
        }}],
    });
    fs::write(folder.path().join("otterdog.json"), config.to_string())?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/otterdog/otterdog_at.py");
    let said = output(
        Command::new(python()?)
            .arg(script)
            .arg(format!("http://{}", fleet.address))
            .args(["plan", "--config", "otterdog.json", "--local", "--no-web-ui", "owner"])
            .current_dir(folder.path())
            .env_clear()
            .env("HOME", folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default()),
    )?;
    assert!(said.contains("0 to add, 0 to change, 0 to delete"), "{said}");
    let theirs = fleet.take_asked().len();
    println!(
        "| requests for {REPOSITORIES} repositories | vcs-bootstrap {ours} | otterdog {theirs} |"
    );
    assert_eq!(ours, REPOSITORIES * 6);
    assert!(theirs >= REPOSITORIES * 10, "otterdog has read everything: {theirs}");
    assert!(ours * 2 <= theirs, "{ours} of {theirs}");
    Ok(())
}
