//! Every kind of caller: tokens of people, tokens of installations, keys of Apps, and jobs of CI. Uses
//! the mock of GitHub.

mod common;
#[path = "common/mock.rs"]
mod mock;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{ROOT, Test, ready, status, stderr, steps};
use mock::apps::{CLIENT_ID, KEY};
use mock::github::GitHub;
use mock::http::TOKEN;
use mock::{Setup, with_app};

const FULL: &str = "owner: owner, description: ours, history: {push: fastForward}, \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

// hazard: The token of an installation cannot run the program, so CI needs a person's token.
// class: A caller is taken for a person.
// members: `GET /user` is forbidden, `permissions` are false whatever the installation may do
// now: the type of the owner decides where a repository is created, and false is unknown
#[test]
fn token_of_an_installation_creates_configures_and_destroys_a_repository() -> Test {
    let setup = Setup::of_organisation(FULL, GitHub::endpoint)?;
    let first = setup.run("apply").success();
    assert_eq!(setup.writes()[0], "POST /orgs/owner/repos");
    let again = setup.run("apply").success();
    assert_eq!(setup.writes(), [""; 0]);
    assert_eq!(again.get_output().stdout, first.get_output().stdout);
    for verb in ["plan --check", "verify", "destroy"] {
        setup.run(verb).success();
    }
    setup.assert_described();
    Ok(())
}

#[test]
fn only_an_installation_for_all_repositories_proves_absence() -> Test {
    for (selection, proven) in [("all", true), ("selected", false)] {
        let setup = Setup::of_organisation(FULL, GitHub::endpoint)?;
        setup.state(|state| state.apps.selection = selection);
        let run = setup.run("plan");
        if proven {
            assert_eq!(steps(&status(&run.success())?)[0], "create");
        } else {
            assert_eq!(ready(&status(&run.code(100))?), ("Unknown", "AbsenceUnproven"));
        }
        setup.assert_described();
    }
    Ok(())
}

#[test]
fn key_of_an_app_is_exchanged_once_and_renewed_when_its_token_ends() -> Test {
    let setup = Setup::of_organisation(FULL, with_app)?;
    setup.run_as_app("apply").success();
    assert_eq!(setup.state(|state| state.apps.issued), 1, "one exchange in one run");
    setup.run_as_app("plan --check").success();
    assert_eq!(setup.state(|state| state.apps.issued), 2);
    // The token ends in the middle of a run, at any request.
    for requests in 0..6 {
        setup.state(|state| state.apps.ends_after = Some(requests));
        setup.declare(&FULL.replace("ours", &format!("ours {requests}")))?;
        setup.run_as_app("apply").success();
        setup.state(|state| state.apps.ends_after = None);
    }
    setup.run_as_app("destroy").success();
    setup.assert_described();
    Ok(())
}

#[test]
fn unusable_app_is_named_with_the_correction() -> Test {
    let setup = Setup::of_organisation(FULL, with_app)?;
    let other = KEY.replacen('M', "N", 1);
    let half = KEY.split("-----END").next().unwrap_or_default().to_owned();
    for (key, reason) in [
        ("hunter2", "SecretUnavailable"),
        (&half, "SecretUnavailable"),
        (&other, "SecretUnavailable"),
    ] {
        let failed = setup.sandbox.run_with("plan", &[("ROOT", ROOT), ("APP_KEY", key)]).code(100);
        assert_eq!(ready(&status(&failed)?), ("False", reason));
        assert!(!stderr(&failed).contains("hunter2"));
    }
    setup.state(|state| state.apps.installed = false);
    let failed = setup.run_as_app("plan").code(100);
    assert_eq!(ready(&status(&failed)?), ("False", "Forbidden"));
    assert!(stderr(&failed).contains("is not installed at owner"));
    setup.state(|state| state.apps.installed = true);
    let project = fs::read_to_string(setup.sandbox.path().join("project.yaml"))?;
    let project = project.replace(CLIENT_ID, "Iv23liAnother");
    fs::write(setup.sandbox.path().join("project.yaml"), project)?;
    let failed = setup.run_as_app("plan").code(100);
    assert_eq!(ready(&status(&failed)?), ("False", "Unauthorized"));
    assert_eq!(setup.writes(), [""; 0]);
    Ok(())
}

#[test]
fn repository_of_a_user_is_created_with_a_token_of_that_user_alone() -> Test {
    // An App cannot create a repository of a user.
    let setup = Setup::of_organisation(FULL, with_app)?;
    setup.state(|state| state.apps.organisation = false);
    let failed = setup.run_as_app("apply").code(100);
    assert_eq!(ready(&status(&failed)?), ("False", "Forbidden"), "{}", stderr(&failed));
    assert!(stderr(&failed).contains("an App can create repositories of organisations only"));
    let writes = setup.writes();
    assert!(writes.iter().all(|write| write.starts_with("POST /app/")), "{writes:?}");
    // A missing account is named before anything is created.
    let setup = Setup::new("owner: missing-account")?;
    setup.run("apply").code(100);
    assert_eq!(setup.writes(), [""; 0]);
    Ok(())
}

// hazard: A job of CI cannot plan, because its checkout has no history or belongs to another user.
// class: A local fact is demanded that nothing needs.
// members: depth 1, a detached HEAD, no checkout, a foreign owner
// now: the local history is an error only when a push needs it
#[test]
fn checkout_of_another_user_is_an_error_only_when_a_push_needs_it() -> Test {
    let setup = Setup::new(&FULL.replace("fastForward", "onCreate"))?;
    setup.run("apply").success();
    // A `git` that believes every repository to be another user's (t/lib-httpd of Git 2.35).
    let folder = setup.sandbox.path().join("bin");
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
    setup.writes();
    for verb in ["plan --check", "apply", "verify"] {
        setup.sandbox.run_with(verb, &environment).success();
    }
    assert_eq!(setup.writes(), [""; 0]);
    setup.declare(FULL)?;
    let failed = setup.sandbox.run_with("plan", &environment).code(100);
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
    let setup = Setup::new(FULL)?;
    let log = setup.sandbox.path().join("log");
    let command = |name: &str, value: &str| {
        format!("{{command: [sh, -c, \"echo {name} >>{}; echo {value}\"]}}", log.display())
    };
    let project = fs::read_to_string(setup.sandbox.path().join("project.yaml"))?
        .replace("{env: ROOT}", &command("root", ROOT))
        .replace("{env: FORGE_TOKEN}", &command("token", TOKEN));
    fs::write(setup.sandbox.path().join("project.yaml"), project)?;
    let documents = (0..12).map(|number| {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Repository\nmetadata: {{name: r{number}}}\n\
             spec: {{project: lab, owner: owner, deployKeys: [flux-seed, data-drain], \
             secrets: {{phaseKeys: [artifact-attest, talos-provision]}}}}\n"
        )
    });
    fs::write(setup.sandbox.path().join("repository.yaml"), documents.collect::<String>())?;
    let planned = setup.run("plan").success();
    let lines = String::from_utf8(planned.get_output().stdout.clone())?;
    assert_eq!(lines.matches("\"action\":\"create\"").count(), 12);
    let mut asked: Vec<_> = fs::read_to_string(&log)?.lines().map(str::to_owned).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["root", "token"]);
    let order: Vec<_> = lines.lines().skip(1).collect();
    assert!((0..12).all(|number| order[number].contains(&format!("\"name\":\"r{number}\""))));
    setup.assert_described();
    Ok(())
}

#[test]
fn retries_are_reported_with_the_document_and_the_cause() -> Test {
    let setup = Setup::new("owner: owner")?;
    setup.state(|state| state.fails = 2);
    let said = stderr(&setup.run("plan").success());
    assert_eq!(said.matches("status 502: trying again in").count(), 2, "{said}");
    assert!(said.contains("greeter"), "{said}");
    Ok(())
}
