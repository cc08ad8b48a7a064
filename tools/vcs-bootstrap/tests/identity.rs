//! Names, owners, values, tags and the default branch, at a real Gitea. Prerequisites: see `gitea.rs`.

mod common;
#[path = "common/gitea.rs"]
mod gitea;

use std::fs;

use common::{ROOT, Sandbox, Test, ready, status, stderr, steps};
use gitea::Gitea;
use serde_json::{Value, json};

const PLAIN: &str = "project: lab, owner: owner, history: {push: fastForward}, \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

/// Starts a forge, and declares the repository of `document` with more fields.
fn forge() -> Test<(Gitea, Sandbox)> {
    let gitea = Gitea::start()?;
    let sandbox = Sandbox::new(&gitea.endpoint(), &gitea.token)?;
    Ok((gitea, sandbox))
}

fn declare(sandbox: &Sandbox, document: &str, more: &str) -> Test {
    let plain = PLAIN.strip_prefix("project: lab, ").unwrap_or(PLAIN);
    sandbox.declare(document, &format!("{plain}, {more}"))
}

fn keys(gitea: &Gitea, repository: &str) -> Test<Vec<Value>> {
    let keys = gitea.api("GET", &format!("/repos/{repository}/keys"), None)?;
    Ok(keys.as_array().into_iter().flatten().map(|key| key["key"].clone()).collect())
}

// hazard: A repository is created a second time, or lost, when its document gets another name or owner.
// class: A name is taken for an identity.
// members: a renamed document, `spec.name`, another owner, a rename at the forge, back to the first name
// now: `previously` makes renames and transfers steps; record, key and secrets stay
#[test]
fn rename_and_transfer_are_steps_that_keep_the_record_and_the_derived_key() -> Test {
    let (gitea, sandbox) = forge()?;
    gitea.api("POST", "/orgs", Some(&json!({"username": "crew"}).to_string()))?;
    declare(&sandbox, "greeter", "visibility: private")?;
    sandbox.run("apply").success();
    let (id, key) = (
        gitea.api("GET", "/repos/owner/greeter", None)?["id"].clone(),
        keys(&gitea, "owner/greeter")?,
    );
    assert_eq!(key.len(), 1);
    for (document, more, place, expected) in [
        ("salute", "previously: [greeter]", "owner/salute", &["rename"][..]),
        (
            "salute",
            "previously: [greeter, salute], name: Hello.World_1",
            "owner/Hello.World_1",
            &["rename"],
        ),
        (
            "salute",
            "previously: [owner/greeter, owner/Hello.World_1], owner: crew",
            "crew/salute",
            &["rename", "transfer"],
        ),
    ] {
        let spec = if more.contains("owner: crew") {
            sandbox.declare(
                document,
                &format!("{}, {}", PLAIN.replace("project: lab, owner: owner, ", ""), more),
            )
        } else {
            declare(&sandbox, document, more)
        };
        spec?;
        let plan = status(&sandbox.run("plan").success())?;
        let first = steps(&plan);
        assert_eq!(
            first.get(..expected.len()),
            Some(expected.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>().as_slice()),
            "{first:?}"
        );
        let run = sandbox.run("apply").success();
        let applied = status(&run)?;
        assert_eq!(applied["observed"]["made"], true, "{place}");
        let now = gitea.api("GET", &format!("/repos/{place}"), None)?;
        assert_eq!((&now["id"], &now["full_name"]), (&id, &json!(place)));
        assert_eq!(keys(&gitea, place)?.len(), 1, "no old deploy key is left");
        gitea.proxy.take_writes();
        sandbox.run("plan --check").success();
        sandbox.run("apply").success();
        assert_eq!(gitea.proxy.take_writes(), [""; 0], "{place} rests");
    }
    // The derived key is the one of the first name.
    assert_eq!(keys(&gitea, "crew/salute")?, key);
    sandbox.run("destroy").success();
    assert_eq!(gitea.api("GET", "/repos/crew/salute", None)?["archived"], true);
    Ok(())
}

#[test]
fn repository_of_others_under_a_former_name_is_not_renamed() -> Test {
    let (gitea, sandbox) = forge()?;
    gitea.api("POST", "/user/repos", Some(&json!({"name": "greeter"}).to_string()))?;
    declare(&sandbox, "salute", "previously: [greeter]")?;
    gitea.proxy.take_writes();
    for verb in ["plan", "apply"] {
        let run = sandbox.run(verb).code(100);
        assert_eq!(ready(&status(&run)?), ("False", "Conflict"));
    }
    assert_eq!(gitea.proxy.take_writes(), [""; 0]);
    // Without the former name, the repository is another one.
    declare(&sandbox, "salute", "visibility: private")?;
    sandbox.run("apply").success();
    assert_eq!(gitea.api("GET", "/repos/owner/greeter", None)?["name"], "greeter");
    Ok(())
}

#[test]
fn names_that_a_forge_permits_can_be_declared() -> Test {
    let (gitea, sandbox) = forge()?;
    for name in [".github", "mdBook", "rustc_codegen_gcc", "owner.github.io"] {
        declare(&sandbox, "site", &format!("name: {name}"))?;
        let applied = status(&sandbox.run("apply").success())?;
        assert_eq!(applied["observed"]["name"], name);
        assert_eq!(gitea.api("GET", &format!("/repos/owner/{name}"), None)?["name"], name);
        sandbox.run("plan --check").success();
    }
    for name in ["..", "a.git", "a.wiki", "a b", "a/b", "\"\""] {
        declare(&sandbox, "site", &format!("name: {name}"))?;
        let said = stderr(&sandbox.run("plan").code(2));
        assert!(said.contains("spec.name: not a repository's name"), "{said}");
    }
    Ok(())
}

// hazard: The first run of CI has no secrets, because they are written after the push that starts it.
// class: A consumer starts before its inputs exist.
// members: secrets of phases, referenced secrets, variables
// now: every value is written before the first push
#[test]
fn referenced_values_exist_before_the_first_push_and_are_written_only_when_they_change() -> Test {
    let (gitea, sandbox) = forge()?;
    let values = "secrets: {phaseKeys: [artifact-attest], HCLOUD_TOKEN: {env: CLOUD}, FROM_FILE: {file: value}}, \
        variables: {REGISTRY: ghcr.io/owner, MODE: fast}";
    let spec = |spec: &str| format!("owner: owner, history: {{push: fastForward}}, {spec}");
    let run = |verb: &str, value: &str| sandbox.run_with(verb, &[("ROOT", ROOT), ("CLOUD", value)]);
    fs::write(sandbox.path().join("value"), "from a file\n")?;
    sandbox.declare("greeter", &spec(values))?;
    let plan = status(&run("plan", "hunter2").success())?;
    let all = steps(&plan);
    let at = |name: &str| all.iter().position(|step| step == name).unwrap_or(usize::MAX);
    let last = |name: &str| all.iter().rposition(|step| step == name).unwrap_or(usize::MAX);
    assert!(last("writeSecret") < at("push") && last("writeVariable") < at("push"), "{all:?}");
    let applied = run("apply", "hunter2").success();
    let output = applied.get_output();
    for text in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(text).contains("hunter2"), "no output has the value");
    }
    let names = |kind: &str| -> Test<Vec<Value>> {
        let items = gitea.api("GET", &format!("/repos/owner/greeter/actions/{kind}"), None)?;
        Ok(items.as_array().into_iter().flatten().map(|item| item["name"].clone()).collect())
    };
    assert_eq!(names("secrets")?, ["ARTIFACT_ATTEST_KEY", "FROM_FILE", "HCLOUD_TOKEN"]);
    assert_eq!(names("variables")?, ["HOLISTIC_RECEIPT", "MODE", "REGISTRY"]);
    gitea.proxy.take_writes();
    run("apply", "hunter2").success();
    run("plan --check", "hunter2").success();
    assert_eq!(gitea.proxy.take_writes(), [""; 0], "an unchanged secret is not written");

    let plan = status(&run("plan", "hunter3").success())?;
    assert_eq!(
        (&plan["plan"][0]["name"], &plan["plan"][0]["because"]),
        (&json!("HCLOUD_TOKEN"), &json!("changed"))
    );
    run("apply", "hunter3").success();
    assert_eq!(gitea.proxy.take_writes().len(), 2, "the secret and the record");
    // A secret that cannot be resolved is an error, and nothing is written in its place.
    sandbox.run("apply").code(100);
    assert_eq!(gitea.proxy.take_writes(), [""; 0]);

    // A variable of others is changed, and not removed with the declaration.
    gitea.api(
        "POST",
        "/repos/owner/greeter/actions/variables/THEIRS",
        Some(&json!({"value": "x"}).to_string()),
    )?;
    sandbox.declare("greeter", &spec("variables: {THEIRS: ours}"))?;
    assert_eq!(
        steps(&status(&sandbox.run("plan").success())?),
        [
            "writeVariable",
            "removeVariable",
            "removeVariable",
            "removeSecret",
            "removeSecret",
            "removeSecret",
            "record"
        ]
    );
    sandbox.run("apply").success();
    sandbox.declare("greeter", &spec("visibility: private"))?;
    sandbox.run("apply").success();
    assert_eq!(names("variables")?, ["HOLISTIC_RECEIPT", "THEIRS"]);
    assert_eq!(names("secrets")?, [""; 0]);
    Ok(())
}

#[test]
fn tags_are_pushed_with_the_history_and_never_replaced() -> Test {
    let (gitea, sandbox) = forge()?;
    sandbox.git(&["tag", "v1.0.0"])?;
    sandbox.git(&["tag", "--annotate", "-m", "release", "v1.1.0"])?;
    sandbox.git(&["checkout", "--quiet", "-b", "side"])?;
    sandbox.commit("side")?;
    sandbox.git(&["tag", "v9-of-another-branch"])?;
    sandbox.git(&["checkout", "--quiet", "main"])?;
    declare(&sandbox, "greeter", "visibility: private")?;
    sandbox.run("apply").success();
    let tags = || -> Test<Vec<Value>> {
        let tags = gitea.api("GET", "/repos/owner/greeter/tags", None)?;
        let mut names: Vec<_> =
            tags.as_array().into_iter().flatten().map(|tag| tag["name"].clone()).collect();
        names.sort_by_key(ToString::to_string);
        Ok(names)
    };
    assert_eq!(tags()?, ["v1.0.0", "v1.1.0"]);
    sandbox.run("plan --check").success();
    // A later tag is a step, and a tag that moved here stays at the forge.
    sandbox.git(&["tag", "v1.2.0"])?;
    sandbox.commit("second")?;
    sandbox.git(&["tag", "--force", "v1.0.0"])?;
    sandbox.git(&["tag", "other"])?;
    let branch = "history: {push: fastForward, tags: [v*]}";
    sandbox.declare("greeter", &format!("owner: owner, {branch}"))?;
    let plan = status(&sandbox.run("plan").success())?;
    let push = plan["plan"].as_array().into_iter().flatten().find(|step| step["action"] == "push");
    let names: Vec<_> = push.ok_or("a push")?["tags"].as_object().ok_or("tags")?.keys().collect();
    assert_eq!(names, ["v1.2.0"]);
    sandbox.run("apply").success();
    assert_eq!(tags()?, ["v1.0.0", "v1.1.0", "v1.2.0"]);
    sandbox.git(&["tag", "v1.3.0"])?;
    assert_eq!(steps(&status(&sandbox.run("plan --check").code(3))?), ["pushTags"]);
    sandbox.run("apply").success();
    sandbox.run("verify").success();
    Ok(())
}

#[test]
fn default_branch_is_declared_without_a_push() -> Test {
    let (gitea, sandbox) = forge()?;
    declare(&sandbox, "greeter", "visibility: private")?;
    sandbox.run("apply").success();
    let body = json!({"new_branch_name": "trunk", "old_branch_name": "main"}).to_string();
    // For some moments after the first push, Gitea believes the repository to be empty.
    let created = testing::wait::poll(std::time::Duration::from_secs(10), || {
        gitea.api("POST", "/repos/owner/greeter/branches", Some(&body)).ok()
    });
    created.ok_or("a branch")?;
    sandbox.declare("greeter", "owner: owner, defaultBranch: trunk")?;
    assert!(
        steps(&status(&sandbox.run("plan").success())?).contains(&"changeDefaultBranch".to_owned())
    );
    sandbox.run("apply").success();
    assert_eq!(gitea.api("GET", "/repos/owner/greeter", None)?["default_branch"], "trunk");
    sandbox.run("plan --check").success();
    sandbox.declare("greeter", "owner: owner, defaultBranch: nowhere")?;
    let run = sandbox.run("apply").code(100);
    assert_eq!(ready(&status(&run)?), ("False", "NoHistory"));
    assert!(stderr(&run).contains("the forge has no branch nowhere"));
    Ok(())
}

// hazard: An administrator who is not the owner gets a message about a path, and does not know what to ask for.
// class: A missing permission is named by its request and not by its holder.
// members: a collaborator of a user and of an organisation; every verb
// now: `Forbidden`, exit 100, names the owner, and what the token may do without this program
#[test]
fn administrator_who_does_not_own_the_repository_is_told_whose_token_is_needed() -> Test {
    let (gitea, sandbox) = forge()?;
    let token = gitea.token_of("guest")?;
    let guest = Sandbox::new(&gitea.endpoint(), &token)?;
    gitea.api("POST", "/orgs", Some(&json!({"username": "crew"}).to_string()))?;
    for owner in ["owner", "crew"] {
        let spec = format!(
            "owner: {owner}, visibility: private, history: {{push: fastForward}}, \
            onDestroy: delete, dataOnDestroy: discard"
        );
        sandbox.declare("greeter", &spec)?;
        guest.declare("greeter", &spec)?;
        sandbox.run("apply").success();
        let administers = json!({"permission": "admin"}).to_string();
        let path = format!("/repos/{owner}/greeter/collaborators/guest");
        gitea.api("PUT", &path, Some(&administers))?;
        gitea.proxy.take_writes();
        for verb in ["plan", "plan --check", "apply", "verify", "destroy", "plan --destroy"] {
            let run = guest.run(verb).code(100);
            let said = stderr(&run);
            assert_eq!(ready(&status(&run)?), ("False", "Forbidden"), "{verb}: {said}");
            for part in [
                format!("the token's user administers {owner}/greeter and does not own it"),
                format!("use a token of {owner}"),
                "`data-drain` can copy the history".to_owned(),
            ] {
                assert!(said.contains(&part), "{verb}: {said}");
            }
        }
        assert_eq!(gitea.proxy.take_writes(), [""; 0]);
        // As the help says, the token may read the history, and change the settings.
        let url = format!("http://{}/{owner}/greeter.git", gitea.proxy.address);
        let url = ::git::Url::try_from(url)?;
        let token = secrets::Secret::new(token.clone().into());
        let origin = ::git::Origin { url: &url, token: &token };
        let list = ["ls-remote", "--quiet", url.as_str(), "refs/heads/main"];
        let listed = ::git::run(&list, std::path::Path::new("/"), Some(&origin))?;
        assert!(listed.success && listed.text.contains("refs/heads/main"), "{}", listed.message());
    }
    // Gitea takes a member of a team with administrator access for an owner.
    let team = json!({
        "name": "admins", "permission": "admin", "includes_all_repositories": true,
        "units": ["repo.code"],
    });
    let team = gitea.api("POST", "/orgs/crew/teams", Some(&team.to_string()))?["id"].clone();
    gitea.api("PUT", &format!("/teams/{team}/members/guest"), None)?;
    guest.run("plan --check").success();
    guest.run("destroy").success();
    Ok(())
}
