//! Builds with real Nix match their commit, and published images start.

mod support;

use std::collections::BTreeSet;
use std::fs;

use data_encoding::BASE64;
use serde_json::{Value, json};
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

// hazard: A package with several outputs of which a binary cache gave one is never published: exit 111 for ever.
// class: A second build needs more than the first one left behind.
// members: an output that was deleted, an output that was never fetched
// now: the missing outputs are built before the second build, and the image needs its own output alone
#[test]
fn a_package_with_an_output_that_the_store_lacks_is_built_twice() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.19:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    // The time makes this run's store paths its own, because they are deleted below.
    let stamp = std::time::UNIX_EPOCH.elapsed()?.as_nanos();
    let flake = fs::read_to_string(sandbox.inside("sources/tiny/flake.nix"))?.replace(
        "runCommand \"tiny-1.0\" { } \"",
        &format!(
            "runCommand \"tiny-1.0\" {{ outputs = [ \"out\" \"dev\" ]; }} \"echo {stamp} >$dev; "
        ),
    );
    sandbox.write("sources/tiny/flake.nix", &flake)?;
    sandbox.commit("two outputs")?;
    let input = sandbox.documents("tiny");
    let planned = sandbox.expect(3, "plan --check", &input)?;
    let derivation = planned[1]["status"]["plan"][0]["derivation"].as_str().ok_or("no build")?;
    let settings = format!("NIX_CONF_DIR={}", sandbox.outside("nix").display());
    let store = |arguments: &[&str]| {
        tool("env", &[&[settings.as_str(), "nix-store"], arguments].concat(), folder.path())
    };
    let outputs = store(&["--query", "--outputs", derivation])?;
    let dev = outputs.lines().find(|path| path.ends_with("-dev")).ok_or("no output")?;
    store(&["--realise", derivation])?;
    store(&["--delete", dev])?;
    let applied = sandbox.expect(0, "apply", &input)?;
    assert_eq!(applied[1]["status"]["observed"]["reproducible"], true);
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

/// Returns the predicate of the statement of this kind that cosign has verified.
fn predicate(sandbox: &Sandbox, document: &Value, kind: &str) -> Result<Value> {
    let said = sandbox.cosign(document, &["verify-attestation", "--type", kind])?;
    let envelope: Value = serde_json::from_str(said.lines().next().ok_or("no statement")?)?;
    let payload = envelope["payload"].as_str().ok_or("no payload")?;
    let statement: Value = serde_json::from_slice(&BASE64.decode(payload.as_bytes())?)?;
    Ok(statement["predicate"].clone())
}

// hazard: The bill of a package lists the crates of the whole workspace: nixpkgs writes the platform into its name.
// class: A statement says what no fact proves.
// members: a lock above the flake, other members of a workspace, crates from Git, names for other platforms
// now: names, versions and the built package come from the derivation; what is not known is left out
#[test]
fn statements_hold_the_facts_of_the_derivation() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.24:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let package = |name: &str, more: &str| {
        format!("[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\n{more}\n")
    };
    let index = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let lock = [
        package("tiny", "dependencies = [\"reached\"]"),
        package("other", "dependencies = [\"unreached\"]"),
        package("reached", index),
        package("unreached", index),
    ];
    fs::remove_file(sandbox.inside("sources/tiny/Cargo.lock"))?;
    sandbox.write("Cargo.lock", &format!("version = 4\n{}", lock.concat()))?;
    let flake = fs::read_to_string(sandbox.inside("sources/tiny/flake.nix"))?;
    let flake = flake.replace(
        r#"runCommand "tiny-1.0" { } "mkdir -p $out/bin;"#,
        r#"runCommand "tiny-static-x86_64-unknown-linux-musl-1.0.0" {
      pname = "tiny"; version = "1.0.0"; cargoDeps = "vendored";
      meta.license = { spdxId = "MIT"; fullName = "MIT License"; };
    } "mkdir -p $out/bin; ln -s ${pkgs.runCommand "data-2.0" { } "mkdir $out"} $out/data;"#,
    );
    sandbox.write("sources/tiny/flake.nix", &flake)?;
    sandbox.commit("a static package of a workspace")?;
    let applied = sandbox.expect(0, "apply", &sandbox.documents("tiny"))?;

    let bill = predicate(&sandbox, &applied[1], "cyclonedx")?;
    let components = bill["components"].as_array().ok_or("no components")?;
    let of = |name: &str| components.iter().find(|component| component["name"] == name);
    let names: BTreeSet<_> =
        components.iter().filter_map(|component| component["name"].as_str()).collect();
    assert_eq!(names, ["data", "reached", "tiny"].into(), "{bill}");
    let tiny = of("tiny").ok_or("no package")?;
    assert_eq!(tiny["purl"], "pkg:nix/tiny@1.0.0");
    assert_eq!(tiny["licenses"][0]["expression"], "MIT");
    let needs = bill["dependencies"].as_array().into_iter().flatten();
    let needs = needs.filter(|dependency| dependency["ref"] == tiny["bom-ref"]);
    let needs: Vec<_> = needs.map(|dependency| &dependency["dependsOn"]).collect();
    let references = ["data", "reached"].map(|name| of(name).map(|found| &found["bom-ref"]));
    assert_eq!(json!(needs), json!([references]));
    let time =
        tool("git", &["log", "-1", "--date=format:%Y", "--format=%cd"], &sandbox.inside(""))?;
    let timestamp = bill["metadata"]["timestamp"].as_str().ok_or("no time")?;
    assert!(timestamp.starts_with(time.trim()) && timestamp.ends_with('Z'), "{timestamp}");

    let provenance = predicate(&sandbox, &applied[1], "slsaprovenance1")?;
    assert_eq!(provenance["buildDefinition"]["internalParameters"]["sandbox"], true);
    let version = tool("nix", &["--version"], &sandbox.inside(""))?;
    let known =
        provenance["runDetails"]["builder"]["version"]["nix"].as_str().ok_or("no version")?;
    assert!(version.trim().ends_with(known.split(' ').next().unwrap_or_default()), "{known}");
    sandbox.expect(0, "plan --check", &text(&applied))?;
    sandbox.expect(0, "verify", &text(&applied))?;
    Ok(())
}
