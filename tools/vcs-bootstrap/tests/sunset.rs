//! Conditions under which `destroy` deletes a repository: a receipt covers its contents, or the
//! document discards them.

mod common;
#[path = "common/drain.rs"]
mod drain;
#[path = "common/mock.rs"]
mod mock;

use std::fs;
use std::process::Command;

use common::{Test, ready, status, stderr};
use mock::Setup;
use mock::http::TOKEN;
use serde_json::{Value, json};

const DELETE: &str = "owner: owner, history: {push: fastForward}, onDestroy: delete";

/// An applied repository, with a key that signs drain receipts.
struct World(Setup);

impl World {
    fn new() -> Test<Self> {
        let setup = Setup::new(DELETE)?;
        setup.run("apply").success();
        Ok(Self(setup))
    }

    /// Writes a Drain with a receipt for the present history in front of the Repository.
    fn drain(&self) -> Test {
        let url = format!("http://{}/owner/greeter.git", self.0.address);
        self.0.declare(DELETE)?;
        drain::write(&self.0.sandbox, "greeter", url, TOKEN)
    }

    /// Asserts that `destroy` fails with `reason`, names `what`, and deletes nothing.
    fn assert_kept(&self, reason: &str, what: &str) -> Test {
        self.0.writes();
        let run = self.0.run("destroy").code(100);
        assert_eq!(ready(&status(&run)?), ("False", reason), "{what}");
        let said = stderr(&run);
        assert!(said.contains(what), "{said}");
        assert_eq!(self.0.writes(), [""; 0]);
        let planned = status(&self.0.run("plan --destroy").success())?;
        assert_eq!(planned["conditions"][1]["reason"], reason, "the plan reports it, too");
        Ok(())
    }

    fn bare(&self, arguments: &[&str]) -> Test {
        testing::git::git(&self.0.bare("greeter"), arguments).map(drop)
    }
}

#[test]
fn a_receipt_for_the_history_permits_deleting_a_repository_without_other_contents() -> Test {
    let world = World::new()?;
    world.assert_kept("NotDrained", "no receipt proves")?;
    world.drain()?;
    let gone = status(&world.0.run("destroy").success())?;
    assert_eq!(ready(&gone), ("False", "Destroyed"));
    assert!(world.0.state(|state| state.repository.is_none()));
    // A second run proves the absence.
    world.0.run("destroy").success();
    assert_eq!(world.0.state(|state| state.wrong.clone()), [""; 0]);
    Ok(())
}

// hazard: `destroy` deletes a repository with a receipt that covers its Git history alone.
// class: A proof is taken for more than it proves.
// members: issues, pull requests, releases, the wiki, discussions, files in Git LFS
// now: `NotCovered`, exit 100, one refusal for each kind; only `dataOnDestroy: discard` deletes it
#[test]
fn a_repository_with_contents_beyond_its_history_is_not_deleted() -> Test {
    for (list, what) in [("issues", "issues"), ("pulls", "pull requests"), ("releases", "releases")]
    {
        let world = World::new()?;
        world.drain()?;
        world.0.state(|state| state.lists.insert(list, vec![json!({"id": 1})]));
        world.assert_kept("NotCovered", what)?;
    }

    let world = World::new()?;
    world.drain()?;
    let set = |name: &str, value: bool| {
        world.0.state(|state| {
            if let Some(repository) = &mut state.repository {
                repository[name] = value.into();
            }
        });
    };
    set("has_discussions", true);
    world.assert_kept("NotCovered", "discussions")?;
    set("has_discussions", false);

    let copied = Command::new("cp")
        .arg("-r")
        .args([world.0.bare("greeter"), world.0.bare("greeter.wiki")])
        .status()?;
    assert!(copied.success());
    world.assert_kept("NotCovered", "a wiki")?;
    fs::remove_dir_all(world.0.bare("greeter.wiki"))?;

    // A pointer in a commit that only the forge has, and that its branch no longer contains.
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    let file = world.0.sandbox.path().join("pointer");
    fs::write(&file, pointer)?;
    let bare = world.0.bare("greeter");
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

    world.0.state(|state| state.lists.insert("issues", vec![json!({"id": 1})]));
    world.assert_kept("NotCovered", "issues")?;
    world.0.declare(&format!("{DELETE}, dataOnDestroy: discard"))?;
    world.0.run("destroy").success();
    assert!(world.0.state(|state| state.repository.is_none()));
    Ok(())
}

// hazard: A user pushes between the check of the receipt and the deletion, and the commit is lost.
// class: Evidence is believed after the facts have moved on.
// members: a branch or tag that is new, moved or gone
// now: `NotDrained`, exit 100; the references are compared again right before the deletion
#[test]
fn a_push_during_destroy_keeps_the_repository() -> Test {
    let world = World::new()?;
    world.drain()?;
    world.0.state(|state| state.races = true);
    let kept = status(&world.0.run("destroy").code(100))?;
    assert_eq!(ready(&kept), ("False", "NotDrained"));
    assert!(world.0.state(|state| state.repository.is_some()));
    assert_eq!(kept["refusals"][0]["reason"], Value::from("NotDrained"));
    Ok(())
}
