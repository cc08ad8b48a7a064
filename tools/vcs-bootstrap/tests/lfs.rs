//! Histories with files in Git LFS, on a machine without git-lfs. Only the pointers are in the history, and git-lfs
//! uploads their content, so this program pushes no pointer then. Uses the mock of GitHub.

mod common;
#[path = "common/lfs.rs"]
mod lfs;
#[path = "common/mock.rs"]
mod mock;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{Test, status, steps};
use mock::Setup;
use mock::github::GitHub;
use testing::git::git;

const SPEC: &str = "owner: owner, history: {push: fastForward}";

const VERSION: &str = "version https://git-lfs.github.com/spec/v1";
const DIGEST: &str = "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
const OID: &str = "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

/// Starts a forge for a machine without git-lfs.
fn without_lfs() -> Test<Setup> {
    let mut setup = Setup::new(SPEC)?;
    setup.sandbox.programs = lfs::programs(&setup.sandbox, &["git", "sh"])?.into();
    Ok(setup)
}

fn pointer() -> String {
    format!("{VERSION}\n{OID}\nsize 12345\n")
}

/// Commits `text` as `file`, and returns the commit.
fn commit(setup: &Setup, file: &str, text: &str) -> Test<String> {
    fs::write(setup.sandbox.path().join(file), text)?;
    setup.sandbox.git(&["add", "--force", "--", file])?;
    setup.sandbox.commit(file)?;
    setup.sandbox.git(&["rev-parse", "HEAD"])
}

/// Returns the references of the forge.
fn references(github: &GitHub) -> Test<Vec<String>> {
    let listed = git(&github.bare("greeter"), &["for-each-ref", "--format=%(refname)"])?;
    Ok(listed.lines().map(str::to_owned).collect())
}

#[test]
fn pointers_on_branches_and_tags_that_are_not_pushed_are_no_obstacle() -> Test {
    let setup = without_lfs()?;
    let git = |arguments: &[&str]| setup.sandbox.git(arguments);
    git(&["checkout", "--quiet", "-b", "models"])?;
    commit(&setup, "model.bin", &pointer())?;
    git(&["tag", "models-1"])?;
    let blob = git(&["rev-parse", "HEAD:model.bin"])?;
    // A tag of a file is in no history.
    git(&["tag", "pointer", &blob])?;
    git(&["checkout", "--quiet", "main"])?;
    git(&["tag", "v1"])?;
    setup.run("apply").success();
    assert_eq!(references(&setup)?, ["refs/heads/main", "refs/tags/v1"]);
    let here = git(&["rev-parse", "models"])?;
    let there = ["cat-file", "-e", &here];
    assert!(testing::git::git(&setup.bare("greeter"), &there).is_err(), "no object is pushed");
    setup.run("plan --check").success();
    Ok(())
}

#[test]
fn pointer_that_only_a_tag_of_the_pushed_history_still_shows_is_an_error() -> Test {
    for tag in [&["tag", "v1"][..], &["tag", "--annotate", "--message=first", "v1"]] {
        let setup = without_lfs()?;
        commit(&setup, "model.bin", &pointer())?;
        setup.sandbox.git(tag)?;
        setup.sandbox.git(&["rm", "--quiet", "model.bin"])?;
        setup.sandbox.commit("without the model")?;
        for verb in ["plan", "apply"] {
            let said = setup.assert_refused(verb, "NotInCommit")?;
            assert!(said.contains("model.bin"), "{said}");
        }
    }
    Ok(())
}

// hazard: A project that has ever used Git LFS can no longer be pushed, because git-lfs is not installed.
// class: A tool is demanded that nothing needs.
// members: attributes without pointers, filters that are required and missing, a hook that calls git-lfs
// now: only a pointer in the pushed history is an obstacle
#[test]
fn attributes_filters_and_hooks_of_lfs_without_pointers_are_no_obstacle() -> Test {
    let setup = without_lfs()?;
    let text = "content that is in the history\n";
    commit(&setup, "model.bin", text)?;
    commit(&setup, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")?;
    let missing = "/nowhere/git-lfs";
    for (name, value) in [
        ("filter.lfs.process", "filter-process"),
        ("filter.lfs.clean", "clean -- %f"),
        ("filter.lfs.smudge", "smudge -- %f"),
    ] {
        setup.sandbox.git(&["config", name, &format!("{missing} {value}")])?;
    }
    setup.sandbox.git(&["config", "filter.lfs.required", "true"])?;
    let hook = setup.sandbox.path().join(".git/hooks/pre-push");
    fs::create_dir_all(setup.sandbox.path().join(".git/hooks"))?;
    fs::write(&hook, format!("#!/bin/sh\nexec {missing} pre-push \"$@\"\n"))?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    setup.run("apply").success();
    assert_eq!(git(&setup.bare("greeter"), &["show", "main:model.bin"])?, text.trim());
    for verb in ["plan --check", "verify"] {
        setup.run(verb).success();
    }
    Ok(())
}

#[test]
fn every_form_of_a_pointer_is_found_and_nothing_else() -> Test {
    let extension = format!("{VERSION}\next-0-case {DIGEST}\n{OID}\nsize 1\n");
    let older = format!("version https://hawser.github.com/spec/v1\n{OID}\nsize 1\n");
    let largest = format!("{VERSION}\next-0-{} {DIGEST}\n{OID}\nsize 1\n", "x".repeat(800));
    assert!(largest.len() < 1024);
    let larger = format!("{VERSION}\n{}\n", "x".repeat(1024));
    let carriage = pointer().replace('\n', "\r\n");
    for (file, text, is_pointer) in [
        ("model.bin", pointer(), true),
        ("a file with spaces", pointer(), true),
        ("größe \"x\"", pointer(), true),
        ("extension", extension, true),
        ("older", older, true),
        ("largest", largest, true),
        ("carriage", carriage, true),
        ("larger", larger, false),
        ("quoted.md", format!("A pointer:\n{}", pointer()), false),
        ("indented", format!(" {}", pointer()), true),
        ("alpha", format!("version http://git-media.io/v/2\n{OID}\nsize 1\n"), true),
        ("without a size", format!("{VERSION}\n{OID}\n"), false),
        ("later", format!("version https://git-lfs.github.com/spec/v9\n{OID}\nsize 1\n"), false),
        ("about", "version 2\n".to_owned(), false),
        ("empty", String::new(), false),
    ] {
        let setup = without_lfs()?;
        commit(&setup, file, &text)?;
        if is_pointer {
            let said = setup.assert_refused("plan", "NotInCommit")?;
            assert!(said.contains("Git LFS keeps the content of"), "{file}: {said}");
            assert!(said.contains("install git-lfs"), "{file}: {said}");
        } else {
            setup.run("plan").success();
        }
    }
    Ok(())
}

// hazard: A history that was pushed with git-lfs, as the help says, can never be managed afterwards.
// class: Help leads into a dead end.
// members: the same commit, a new tag, a new commit with and without a new pointer
// now: what the forge has already is not examined again; a new pointer is an error
#[test]
fn history_that_the_forge_has_already_is_followed_until_a_new_pointer_comes() -> Test {
    let setup = without_lfs()?;
    commit(&setup, "model.bin", &pointer())?;
    setup.assert_refused("apply", "NotInCommit")?;
    setup.declare("owner: owner, history: {push: never}")?;
    setup.run("apply").success();
    let bare = setup.bare("greeter").display().to_string();
    setup.sandbox.git(&["push", "--quiet", &bare, "main"])?; // as git-lfs does after its upload

    setup.declare(SPEC)?;
    setup.run("plan --check").success();
    setup.sandbox.git(&["tag", "v1"])?;
    assert_eq!(steps(&status(&setup.run("plan").success())?), ["pushTags"]);
    commit(&setup, "about.md", "more\n")?;
    setup.run("apply").success();
    assert_eq!(references(&setup)?, ["refs/heads/main", "refs/tags/v1"]);
    let before = git(&setup.bare("greeter"), &["rev-parse", "main"])?;
    commit(&setup, "another.bin", &pointer().replace("12345", "1"))?;
    let said = setup.assert_refused("apply", "NotInCommit")?;
    assert!(said.contains("another.bin") && !said.contains("model.bin"), "{said}");
    assert_eq!(git(&setup.bare("greeter"), &["rev-parse", "main"])?, before);
    setup.assert_described();
    Ok(())
}
