//! What `destroy` deletes: only what a receipt covers, or what the document discards.

mod common;
#[path = "common/github.rs"]
mod github;
#[path = "common/http.rs"]
mod http;
#[path = "common/openapi.rs"]
mod openapi;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{ROOT, Sandbox, Test, ready, status};
use data_encoding::HEXLOWER;
use github::GitHub;
use http::TOKEN;
use keyring::{Copied, Drained, GitOrigin, Pack, Projects, Receipt, Secret, Source, Url};
use phase::Stream;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const DELETE: &str = "owner: owner, history: {push: fastForward}, onDestroy: delete";

/// A repository that was applied, and a folder with what signs receipts.
struct World {
    github: GitHub,
    sandbox: Sandbox,
}

impl World {
    fn new() -> Result<Self, Box<dyn Error>> {
        let github = GitHub::start()?;
        let sandbox = Sandbox::new(&github.endpoint(), TOKEN)?;
        sandbox.declare("greeter", DELETE)?;
        sandbox.run("apply").success();
        Ok(Self { github, sandbox })
    }

    /// Writes a Drain with a receipt for the history as it is now before the Repository.
    fn drain(&self) -> Test {
        let url = format!("http://{}/owner/greeter.git", self.github.address);
        let (url, token) = (Url::try_from(url)?, Secret::new(TOKEN.into()));
        let origin = GitOrigin { url: &url, token: &token };
        let listed =
            keyring::git(&["ls-remote", "--quiet", url.as_str()], Path::new("/"), Some(&origin))?;
        let pack = || Pack { object: "packs/0".to_owned(), sha256: "00".repeat(32), bytes: 1 };
        let from = Source::Forge {
            repository: "greeter".to_owned(),
            refs: HEXLOWER.encode(&Sha256::digest(&listed.text)),
        };
        let (fingerprint, packs, manifest) = ("22".repeat(32), vec![pack()], pack());
        let receipt = Receipt {
            project: "lab".to_owned(),
            drain: "prod".to_owned(),
            cluster: Drained { name: "prod".to_owned(), uid: "of the cluster".to_owned() },
            run: "11".repeat(32),
            bucket: "drain".to_owned(),
            recipients: Vec::new(),
            sources: vec![Copied { from, fingerprint, bytes: 1, entries: 1, packs, manifest }],
        };
        let root = self.sandbox.path().join("root");
        fs::write(&root, ROOT)?;
        let project = fs::read_to_string(self.sandbox.path().join("project.yaml"))?;
        let file = self.sandbox.path().join("signer.yaml");
        fs::write(&file, project.replace("{env: ROOT}", &format!("{{file: {}}}", root.display())))?;
        let mut stream = Stream::read(&[file]);
        let projects = Projects::read(&mut stream);
        stream.accept()?;
        let key = keyring::phase_key(projects.get("lab")?, "data-drain")?;
        let drain = json!({
            "apiVersion": "holistic/v1alpha1", "kind": "Drain", "metadata": {"name": "prod"},
            "spec": {"cluster": "prod", "sources": [{"forge": "greeter"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "Drained", "message": ""}],
                "evidence": [{"type": "receipt", "envelope": receipt.sign(&key)?}],
            },
        });
        self.sandbox.declare("greeter", DELETE)?;
        let file = self.sandbox.path().join("repository.yaml");
        let repository = fs::read_to_string(&file)?;
        Ok(fs::write(&file, format!("---\n{drain}\n{repository}"))?)
    }

    /// `destroy` stops with `reason`, names `what`, and deletes nothing.
    fn assert_kept(&self, reason: &str, what: &str) -> Test {
        self.github.writes();
        let run = self.sandbox.run("destroy").code(100);
        assert_eq!(ready(&status(&run)?), ("False", reason), "{what}");
        let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(said.contains(what), "{said}");
        assert_eq!(self.github.writes(), [""; 0]);
        let planned = status(&self.sandbox.run("plan --destroy").success())?;
        assert_eq!(planned["conditions"][1]["reason"], reason, "a plan says it beforehand");
        Ok(())
    }

    fn bare(&self, arguments: &[&str]) -> Test {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-C"]);
        git.arg(self.github.bare("greeter")).args(arguments);
        assert!(git.status()?.success());
        Ok(())
    }
}

#[test]
fn a_receipt_for_the_history_deletes_a_repository_that_holds_nothing_else() -> Test {
    let world = World::new()?;
    world.assert_kept("NotDrained", "no receipt proves")?;
    world.drain()?;
    let gone = status(&world.sandbox.run("destroy").success())?;
    assert_eq!(ready(&gone), ("False", "Destroyed"));
    assert!(world.github.state(|it| it.repository.is_none()));
    // Absence is proven when it is asked for again.
    world.sandbox.run("destroy").success();
    assert_eq!(world.github.state(|it| it.wrong.clone()), [""; 0]);
    Ok(())
}

// hazard: `destroy` deletes a repository with a receipt that covers its Git history alone.
// class: A proof is taken for more than it proves.
// members: issues, pull requests, releases, the wiki, discussions, files in Git LFS
// now: `NotCovered`, exit 100, one refusal for each kind; only `dataOnDestroy: discard` deletes it
#[test]
fn a_repository_that_holds_more_than_its_history_is_not_deleted() -> Test {
    for (list, what) in [("issues", "issues"), ("pulls", "pull requests"), ("releases", "releases")]
    {
        let world = World::new()?;
        world.drain()?;
        world.github.state(|it| it.lists.insert(list, vec![json!({"id": 1})]));
        world.assert_kept("NotCovered", what)?;
    }

    let world = World::new()?;
    world.drain()?;
    let set = |name: &str, value: bool| {
        world.github.state(|it| {
            if let Some(repository) = &mut it.repository {
                repository[name] = value.into();
            }
        });
    };
    set("has_discussions", true);
    world.assert_kept("NotCovered", "discussions")?;
    set("has_discussions", false);

    let copied = Command::new("cp")
        .arg("-r")
        .args([world.github.bare("greeter"), world.github.bare("greeter.wiki")])
        .status()?;
    assert!(copied.success());
    world.assert_kept("NotCovered", "a wiki")?;
    fs::remove_dir_all(world.github.bare("greeter.wiki"))?;

    // A pointer that only the forge has, in a commit that its branch no longer shows.
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    let file = world.sandbox.path().join("pointer");
    fs::write(&file, pointer)?;
    let bare = world.github.bare("greeter");
    let script = "blob=$(git hash-object -w \"$0\") && tree=$(printf '100644 blob %s\\tmodel.bin\\n' $blob \
        | git mktree) && commit=$(git commit-tree -m x $tree) && git update-ref refs/tags/v1 $commit";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(&file).current_dir(&bare);
    for who in ["AUTHOR", "COMMITTER"] {
        shell.env(format!("GIT_{who}_NAME"), "t").env(format!("GIT_{who}_EMAIL"), "t@example.org");
    }
    assert!(shell.status()?.success());
    world.assert_kept("NotDrained", "no receipt proves")?;
    world.drain()?;
    world.assert_kept("NotCovered", "model.bin")?;
    world.bare(&["update-ref", "-d", "refs/tags/v1"])?;
    world.drain()?;

    world.github.state(|it| it.lists.insert("issues", vec![json!({"id": 1})]));
    world.assert_kept("NotCovered", "issues")?;
    world.sandbox.declare("greeter", &format!("{DELETE}, dataOnDestroy: discard"))?;
    world.sandbox.run("destroy").success();
    assert!(world.github.state(|it| it.repository.is_none()));
    Ok(())
}

// hazard: Somebody pushes between the check of the receipt and the deletion, and the commit is lost.
// class: Evidence is believed after the facts have moved on.
// members: a branch or tag that is new, moved or gone
// now: `NotDrained`, exit 100; the references are compared again right before the deletion
#[test]
fn a_push_during_destroy_keeps_the_repository() -> Test {
    let world = World::new()?;
    world.drain()?;
    world.github.state(|it| it.races = true);
    let kept = status(&world.sandbox.run("destroy").code(100))?;
    assert_eq!(ready(&kept), ("False", "NotDrained"));
    assert!(world.github.state(|it| it.repository.is_some()));
    assert_eq!(kept["refusals"][0]["reason"], Value::from("NotDrained"));
    Ok(())
}
