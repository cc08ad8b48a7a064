//! Builds with real Nix match their commit, and published images start.

mod support;

use std::fs;

use serde_json::Value;
use support::proxy::request;
use support::{Result, Sandbox, Server, Test, ready, text, tool};

// hazard: A commit changes code outside of the flake's folder, is never published, and stays Ready.
// class: A published artifact does not correspond to its commit.
// members: shared folders, a lock file above the folder, an older commit that does not evaluate
// now: the commit that is checked out is built when it gives another derivation, and a line says so
#[test]
fn a_commit_outside_the_folder_that_changes_the_derivation_is_built() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.16:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    sandbox.write("sources/lib/text.nix", "\"v1\"")?;
    let flake = fs::read_to_string(sandbox.inside("sources/tiny/flake.nix"))?;
    let flake =
        flake.replace("mkdir -p $out/bin;", "mkdir -p $out/bin; echo ${import ../lib/text.nix};");
    sandbox.write("sources/tiny/flake.nix", &flake)?;
    sandbox.commit("uses a file outside of its folder")?;
    let commit = |document: &Value| document["status"]["evidence"][0]["gitCommit"].clone();
    let first = sandbox.expect(0, "apply", &input)?;

    sandbox.write("unrelated", "")?;
    sandbox.commit("leaves the build unchanged")?;
    sandbox.expect(0, "plan --check", &text(&first))?;

    sandbox.write("sources/lib/text.nix", "\"v2\"")?;
    sandbox.commit("changes the build")?;
    sandbox.expect(3, "plan --check", &text(&first))?;
    let second = sandbox.expect(0, "apply", &input)?;
    assert_ne!(commit(&first[1]), commit(&second[1]));
    let head = tool("git", &["rev-parse", "HEAD"], &sandbox.inside(""))?;
    assert_eq!(commit(&second[1]), head.trim());
    sandbox.expect(0, "verify", &text(&second))?;
    Ok(())
}

/// Nix 2.8 unpacks a commit with `git archive`, which converts line ends and applies filters.
#[test]
fn a_clones_git_settings_do_not_change_the_build() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.18:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    sandbox.write("sources/tiny/.gitattributes", "run filter=crypt\n*.lock text\n")?;
    sandbox.commit("attributes")?;
    let applied = sandbox.expect(0, "apply", &sandbox.documents("tiny"))?;
    let home = "[core]\n\tautocrlf = true\n\teol = crlf\n[filter \"crypt\"]\n\tsmudge = sed s/tiny/PLAIN/\n\tclean = sed s/PLAIN/tiny/\n\trequired = true\n[log]\n\tshowSignature = true\n";
    fs::write(sandbox.outside(".gitconfig"), home)?;
    let configured = fs::read_to_string(sandbox.inside(".git/config"))? + home;
    fs::write(sandbox.inside(".git/config"), configured)?;
    fs::remove_dir_all(sandbox.outside(".cache/nix"))?; // Nix caches unpacked commits
    sandbox.expect(0, "plan --check", &text(&applied))?;
    let again = sandbox.expect(0, "apply", &sandbox.documents("again"))?;
    let digest = |document: &Value| document["status"]["observed"]["digest"].clone();
    assert_eq!(digest(&again[1]), digest(&applied[1]));
    Ok(())
}

// hazard: A lock is missing or does not fit: today's Nix resolves the inputs anew, writes and stages
// `flake.lock` in the user's tree, and what no commit pins is published.
// class: A published artifact does not correspond to its commit.
// members: no lock, an input that the lock lacks, an input that an override hides, submodules
// now: `Unlocked` with every Nix, and the user's tree and index stay byte for byte as they were
#[test]
fn a_flake_without_a_matching_lock_is_an_error_and_nothing_is_written() -> Test {
    let sandbox = Sandbox::new("127.75.0.22:5000")?; // no registry is needed
    let input = sandbox.documents("tiny");
    let flake = fs::read_to_string(sandbox.inside("sources/tiny/flake.nix"))?;
    let more = flake.replacen("{\n", "{\n  inputs.more.url = \"path:/nowhere\";\n", 1);
    let more = more.replace("{ self, nixpkgs }", "{ self, nixpkgs, more }");
    let state = || -> Result<String> {
        let listed = tool(
            "find",
            &[".", "-type", "f", "-exec", "sha256sum", "{}", "+"],
            &sandbox.inside(""),
        )?;
        Ok(listed)
    };
    sandbox.write("sources/tiny/flake.nix", &more)?;
    sandbox.commit("an input that the lock lacks")?;
    let before = state()?;
    assert_eq!(ready(&sandbox.expect(100, "plan", &input)?[1]), ["False", "Unlocked"]);
    assert_eq!(state()?, before);

    sandbox.write("sources/tiny/flake.nix", &flake)?;
    fs::remove_file(sandbox.inside("sources/tiny/flake.lock"))?;
    sandbox.commit("no lock")?;
    let before = state()?;
    for verb in ["plan", "apply"] {
        assert_eq!(ready(&sandbox.expect(100, verb, &input)?[1]), ["False", "Unlocked"]);
    }
    assert_eq!(state()?, before);
    Ok(())
}

// hazard: An image is signed that cannot start: its entrypoint is in nothing that was built.
// class: A published artifact does not work as declared.
// members: folders at the top that would hide the store, `/proc`, `/dev` or `/sys`
// now: `CannotStart` with the path, before anything is published
#[test]
fn an_image_that_cannot_start_is_not_published() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.17:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny").replace("[/bin/tiny]", "[/bin/absent]");
    assert_eq!(ready(&sandbox.expect(100, "apply", &input)?[1]), ["False", "CannotStart"]);
    let (status, _) = request(&server.1, "GET /v2/test/tiny/tags/list", "", b"")?;
    assert_eq!(status, 404, "nothing is published");
    Ok(())
}

/// Sixteen packages of three megabytes, and a build result that names them.
const LARGE: &str = r#"{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  outputs = { self, nixpkgs }: let
    pkgs = nixpkgs.legacyPackages.x86_64-linux;
    first = name: if name == "g" then CHANGED else 100000000;
    part = name: pkgs.runCommand "part-${name}-1.0" { } "seq ${toString (first name)} ${toString (first name + 330000)} >$out";
    parts = map part [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" ];
  in {
    packages.x86_64-linux.default = pkgs.runCommand "tiny-1.0" { } "mkdir -p $out/bin; cp ${./run} $out/bin/tiny; chmod +x $out/bin/tiny; echo ${toString parts} >$out/parts";
  };
}
"#;

// hazard: A one-line change of an image sends half a gigabyte again.
// class: Everything is in one layer.
// members: a changed program, a changed dependency, a closure of many small paths
// now: a closure from 32 MiB on has up to 64 layers, and a changed path changes its own layer
#[test]
fn the_second_version_of_a_large_image_sends_at_most_a_tenth_of_it() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.19:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    let mut versions = Vec::new();
    for first in ["200000000", "300000000"] {
        sandbox.write("sources/tiny/flake.nix", &LARGE.replace("CHANGED", first))?;
        sandbox.commit(first)?;
        let run = sandbox.run("apply", &input)?;
        let said = String::from_utf8(run.stderr.clone())?;
        assert!(run.status.success(), "{said}");
        let applied = testing::run::documents(&run)?;
        sandbox.expect(0, "verify", &text(&applied))?;
        sandbox.expect(0, "plan --check", &text(&applied))?;
        sandbox.cosign(&applied[1], &["verify"])?;
        let reference = support::reference(&applied[1])?;
        tool("crane", &["--insecure", "validate", "--remote", reference], folder.path())?;
        let manifest = tool("crane", &["--insecure", "manifest", reference], folder.path())?;
        let manifest: Value = serde_json::from_str(&manifest)?;
        let layers = manifest["layers"].as_array().ok_or("no layers")?.clone();
        assert!((16..=64).contains(&layers.len()), "{} layers", layers.len());
        versions.push((layers, said));
    }
    let (before, after) = (&versions[0].0, &versions[1].0);
    let size =
        |layers: &[&Value]| layers.iter().filter_map(|layer| layer["size"].as_u64()).sum::<u64>();
    let all: Vec<_> = after.iter().collect();
    let changed: Vec<_> = after.iter().filter(|layer| !before.contains(layer)).collect();
    assert_eq!(changed.len(), 2, "the layer of the package, and that of the build result");
    assert!(size(&changed) * 10 <= size(&all), "{} of {}", size(&changed), size(&all));
    // Two layers and the configuration.
    let there = format!("blobs sent: 3, already there: {}", after.len() - 2);
    assert!(versions[1].1.contains(&there), "{}", versions[1].1);
    Ok(())
}
