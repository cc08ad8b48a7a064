//! Every kind of caller: tokens of people, tokens of installations, keys of Apps, and jobs of CI. Uses
//! the mock of GitHub.

#[path = "common/apps.rs"]
mod apps;
mod common;
#[path = "common/github.rs"]
mod github;
#[path = "common/http.rs"]
mod http;
#[path = "common/openapi.rs"]
mod openapi;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use apps::{CLIENT_ID, KEY};
use common::{ROOT, Sandbox, Test, ready, status, stderr, steps};
use github::GitHub;
use http::TOKEN;

const FULL: &str = "owner: owner, description: ours, history: {push: fastForward}, \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

/// Starts a forge at which `owner` is an organisation, and whose callers are installations of an App.
fn organisation(endpoint: impl Fn(&GitHub) -> String) -> Test<(GitHub, Sandbox)> {
    let github = GitHub::start()?;
    github.state(|state| (state.apps.organisation, state.apps.installation) = (true, true));
    let sandbox = Sandbox::new(&endpoint(&github), TOKEN)?;
    sandbox.declare("greeter", FULL)?;
    Ok((github, sandbox))
}

/// Returns the value of `endpoints.forge` with the key of the App.
fn with_app(github: &GitHub) -> String {
    format!(
        "{{github: {{url: \"http://{}\", token: {{env: UNUSED}}, app: {{clientId: {CLIENT_ID}, \
         key: {{env: APP_KEY}}}}}}}}",
        github.address
    )
}

/// Runs the program with the key of the App and without any token.
fn run(sandbox: &Sandbox, verb: &str) -> assert_cmd::assert::Assert {
    sandbox.run_with(verb, &[("ROOT", ROOT), ("APP_KEY", KEY)])
}

fn assert_described(github: &GitHub) {
    assert_eq!(github.state(|state| state.wrong.clone()), [""; 0]);
}

// hazard: The token of an installation cannot run the program, so CI needs a person's token.
// class: A caller is taken for a person.
// members: `GET /user` is forbidden, `permissions` are false whatever the installation may do
// now: the type of the owner decides where a repository is created, and false is unknown
#[test]
fn token_of_an_installation_creates_configures_and_destroys_a_repository() -> Test {
    let (github, sandbox) = organisation(GitHub::endpoint)?;
    let first = sandbox.run("apply").success();
    assert_eq!(github.writes()[0], "POST /orgs/owner/repos");
    let again = sandbox.run("apply").success();
    assert_eq!(github.writes(), [""; 0]);
    assert_eq!(again.get_output().stdout, first.get_output().stdout);
    for verb in ["plan --check", "verify", "destroy"] {
        sandbox.run(verb).success();
    }
    assert_described(&github);
    Ok(())
}

#[test]
fn only_an_installation_for_all_repositories_proves_absence() -> Test {
    for (selection, proven) in [("all", true), ("selected", false)] {
        let (github, sandbox) = organisation(GitHub::endpoint)?;
        github.state(|state| state.apps.selection = selection);
        let run = sandbox.run("plan");
        if proven {
            assert_eq!(steps(&status(&run.success())?)[0], "create");
        } else {
            assert_eq!(ready(&status(&run.code(100))?), ("Unknown", "AbsenceUnproven"));
        }
        assert_described(&github);
    }
    Ok(())
}

#[test]
fn key_of_an_app_is_exchanged_once_and_renewed_when_its_token_ends() -> Test {
    let (github, sandbox) = organisation(with_app)?;
    run(&sandbox, "apply").success();
    assert_eq!(github.state(|state| state.apps.issued), 1, "one exchange in one run");
    run(&sandbox, "plan --check").success();
    assert_eq!(github.state(|state| state.apps.issued), 2);
    // The token ends in the middle of a run, at any request.
    for requests in 0..6 {
        github.state(|state| state.apps.ends_after = Some(requests));
        sandbox.declare("greeter", &FULL.replace("ours", &format!("ours {requests}")))?;
        run(&sandbox, "apply").success();
        github.state(|state| state.apps.ends_after = None);
    }
    run(&sandbox, "destroy").success();
    assert_described(&github);
    Ok(())
}

#[test]
fn unusable_app_is_named_with_the_correction() -> Test {
    let (github, sandbox) = organisation(with_app)?;
    let other = KEY.replacen('M', "N", 1);
    let half = KEY.split("-----END").next().unwrap_or_default().to_owned();
    for (key, reason) in [
        ("hunter2", "SecretUnavailable"),
        (&half, "SecretUnavailable"),
        (&other, "SecretUnavailable"),
    ] {
        let failed = sandbox.run_with("plan", &[("ROOT", ROOT), ("APP_KEY", key)]).code(100);
        assert_eq!(ready(&status(&failed)?), ("False", reason));
        assert!(!stderr(&failed).contains("hunter2"));
    }
    github.state(|state| state.apps.installed = false);
    let failed = run(&sandbox, "plan").code(100);
    assert_eq!(ready(&status(&failed)?), ("False", "Forbidden"));
    assert!(stderr(&failed).contains("is not installed at owner"));
    github.state(|state| state.apps.installed = true);
    let project = fs::read_to_string(sandbox.path().join("project.yaml"))?;
    let project = project.replace(CLIENT_ID, "Iv23liAnother");
    fs::write(sandbox.path().join("project.yaml"), project)?;
    let failed = run(&sandbox, "plan").code(100);
    assert_eq!(ready(&status(&failed)?), ("False", "Unauthorized"));
    assert_eq!(github.writes(), [""; 0]);
    Ok(())
}

#[test]
fn repository_of_a_user_is_created_with_a_token_of_that_user_alone() -> Test {
    // An App cannot create a repository of a user.
    let (github, sandbox) = organisation(with_app)?;
    github.state(|state| state.apps.organisation = false);
    let failed = run(&sandbox, "apply").code(100);
    assert_eq!(ready(&status(&failed)?), ("False", "Forbidden"), "{}", stderr(&failed));
    assert!(stderr(&failed).contains("an App can create repositories of organisations only"));
    let writes = github.writes();
    assert!(writes.iter().all(|write| write.starts_with("POST /app/")), "{writes:?}");
    // A missing account is named before anything is created.
    let github = GitHub::start()?;
    let sandbox = Sandbox::new(&github.endpoint(), TOKEN)?;
    sandbox.declare("greeter", "owner: missing-account")?;
    sandbox.run("apply").code(100);
    assert_eq!(github.writes(), [""; 0]);
    Ok(())
}

// hazard: A job of CI cannot plan, because its checkout has no history or belongs to another user.
// class: A local fact is demanded that nothing needs.
// members: depth 1, a detached HEAD, no checkout, a foreign owner
// now: the local history is an error only when a push needs it
#[test]
fn checkout_of_another_user_is_an_error_only_when_a_push_needs_it() -> Test {
    let github = GitHub::start()?;
    let sandbox = Sandbox::new(&github.endpoint(), TOKEN)?;
    sandbox.declare("greeter", &FULL.replace("fastForward", "onCreate"))?;
    sandbox.run("apply").success();
    // A `git` that believes every repository to be another user's (t/lib-httpd of Git 2.35).
    let folder = sandbox.path().join("bin");
    fs::create_dir(&folder)?;
    let git = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("git"))
        .find(|file| file.is_file())
        .ok_or("git")?;
    let script =
        format!("#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {} \"$@\"\n", git.display());
    fs::write(folder.join("git"), script)?;
    fs::set_permissions(folder.join("git"), fs::Permissions::from_mode(0o755))?;
    let path = std::env::join_paths([folder, "/usr/bin".into(), "/bin".into()])?;
    let path = path.to_str().ok_or("text")?;
    let environment = [("ROOT", ROOT), ("PATH", path)];
    github.writes();
    for verb in ["plan --check", "apply", "verify"] {
        sandbox.run_with(verb, &environment).success();
    }
    assert_eq!(github.writes(), [""; 0]);
    sandbox.declare("greeter", FULL)?;
    let failed = sandbox.run_with("plan", &environment).code(100);
    assert_eq!(ready(&status(&failed)?), ("False", "NoHistory"));
    assert!(stderr(&failed).contains("safe.directory"), "{}", stderr(&failed));
    Ok(())
}

// hazard: Sixty documents ask a person sixty times for the token, and once for each key for the root.
// class: A secret is resolved where it is used.
// members: the token, the root, the App's key
// now: each is resolved once in a run
#[test]
fn token_and_root_are_resolved_once_for_all_documents_of_a_run() -> Test {
    let github = GitHub::start()?;
    let sandbox = Sandbox::new(&github.endpoint(), TOKEN)?;
    let log = sandbox.path().join("log");
    let command = |name: &str, value: &str| {
        format!("{{command: [sh, -c, \"echo {name} >>{}; echo {value}\"]}}", log.display())
    };
    let project = fs::read_to_string(sandbox.path().join("project.yaml"))?
        .replace("{env: ROOT}", &command("root", ROOT))
        .replace("{env: FORGE_TOKEN}", &command("token", TOKEN));
    fs::write(sandbox.path().join("project.yaml"), project)?;
    let documents = (0..12).map(|number| {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Repository\nmetadata: {{name: r{number}}}\n\
             spec: {{project: lab, owner: owner, deployKeys: [flux-seed, data-drain], \
             secrets: {{phaseKeys: [artifact-attest, talos-provision]}}}}\n"
        )
    });
    fs::write(sandbox.path().join("repository.yaml"), documents.collect::<String>())?;
    let planned = sandbox.run("plan").success();
    let lines = String::from_utf8(planned.get_output().stdout.clone())?;
    assert_eq!(lines.matches("\"action\":\"create\"").count(), 12);
    let mut asked: Vec<_> = fs::read_to_string(&log)?.lines().map(str::to_owned).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["root", "token"]);
    let order: Vec<_> = lines.lines().skip(1).collect();
    assert!((0..12).all(|number| order[number].contains(&format!("\"name\":\"r{number}\""))));
    assert_described(&github);
    Ok(())
}

#[test]
fn retries_are_reported_with_the_document_and_the_cause() -> Test {
    let github = GitHub::start()?;
    let sandbox = Sandbox::new(&github.endpoint(), TOKEN)?;
    sandbox.declare("greeter", "owner: owner")?;
    github.state(|state| state.fails = 2);
    let said = stderr(&sandbox.run("plan").success());
    assert_eq!(said.matches("status 502: trying again in").count(), 2, "{said}");
    assert!(said.contains("greeter"), "{said}");
    Ok(())
}
