//! Builds with real Nix match their commit, and published images start.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

/// Fields of the manifests of crates, by name. The package `staged` takes the last two from a folder of archives.
const CRATES: [(&str, &str); 7] = [
    ("valid", "license = \"(MIT OR Apache-2.0) AND Unicode-3.0\""),
    ("slash", "license = \"MIT/Apache-2.0\""),
    ("both", "license = \"Zlib\"\nlicense-file = \"LICENSE\""),
    ("text", "license-file = \"LICENSE\""),
    ("none", "description = \"nothing declared\""),
    ("vendored", "license = \"ISC\""),
    ("unknown", "license = \"Own-1.0\""),
];
/// Number of the crates that have a download of their own.
const SINGLE: usize = 5;

const CRATES_FLAKE: &str = r#"{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  outputs = { self, nixpkgs }: let
    pkgs = nixpkgs.legacyPackages.x86_64-linux;
    package = pname: cargoDeps: pkgs.runCommand "${pname}-1.0.0" { inherit pname cargoDeps; version = "1.0.0"; cargoBuildFlags = "--package ${pname}"; }
      "mkdir -p $out/bin; cp ${./run} $out/bin/tiny; chmod +x $out/bin/tiny";
    # The form of nixpkgs' `fetchCargoVendor`.
    staging = pkgs.runCommand "staged-vendor-staging" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "STAGED"; }
      "cp -r FOLDER/staging $out";
  in {
    packages.x86_64-linux.default = package "tiny" (pkgs.rustPlatform.importCargoLock { lockFile = ./Cargo.lock; });
    packages.x86_64-linux.staged = package "staged" (pkgs.runCommand "staged-vendor" { vendorStaging = staging; } "mkdir $out");
  };
}
"#;

/// Packs a crate as `cargo package` does, and returns the SHA-256 of the archive.
fn pack(folder: &Path, name: &str, fields: &str) -> Result<String> {
    let within = folder.join(format!("vendor/{name}-1.0.0"));
    fs::create_dir_all(within.join("src"))?;
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\n{fields}\n");
    for (path, text) in [("Cargo.toml", manifest.as_str()), ("src/lib.rs", ""), ("LICENSE", "text")]
    {
        fs::write(within.join(path), text)?;
    }
    let (file, packed) = (format!("{name}-1.0.0.crate"), format!("{name}-1.0.0"));
    tool("tar", &["-czf", &file, "-C", "vendor", &packed], folder)?;
    let sha256 = tool("sha256sum", &[&file], folder)?;
    let sha256 = sha256.split(' ').next().unwrap_or_default().to_owned();
    let sums = json!({"files": {}, "package": sha256}).to_string();
    fs::write(within.join(".cargo-checksum.json"), sums)?;
    Ok(sha256)
}

/// Returns the item in a bill that stands for the fields `license` and `license_file` of `cargo metadata`.
fn expected(package: &Value) -> Value {
    let name = |text: &str| json!([{"license": {"name": text, "acknowledgement": "declared"}}]);
    match (package["license"].as_str(), package["license_file"].as_str()) {
        (Some(text @ ("MIT/Apache-2.0" | "Own-1.0")), _) => name(text),
        (Some(text), _) => json!([{"expression": text, "acknowledgement": "declared"}]),
        (None, Some(file)) => name(&format!("see the crate's file {file}")),
        (None, None) => Value::Null,
    }
}

/// Makes the stand-in for nixpkgs take crates from `crates`.
fn use_crates(sandbox: &Sandbox, crates: &Path) -> Test {
    let host = sandbox.outside("standin/host.nix");
    let lines = fs::read_to_string(&host)?;
    let lines = lines.lines().map(|line| {
        let is_crates = line.trim_start().starts_with("crates =");
        if is_crates { format!("crates = \"{}\";", crates.display()) } else { line.to_owned() }
    });
    fs::write(&host, lines.collect::<Vec<_>>().join("\n"))?;
    let conf = sandbox.outside("nix/nix.conf");
    let paths = format!("extra-sandbox-paths = {}\n", crates.display());
    fs::write(&conf, fs::read_to_string(&conf)? + &paths)?;
    Ok(())
}

/// Returns what `cargo metadata` tells of the licences in a bill, by package, with the crates in `crates`.
fn metadata(crates: &Path, source: &Path) -> Result<BTreeMap<String, Value>> {
    let project = crates.join("project");
    tool("cp", &["-r", &source.display().to_string(), &project.display().to_string()], crates)?;
    fs::create_dir(project.join(".cargo"))?;
    let vendor = crates.join("vendor");
    let config = format!(
        "[source.crates-io]\nreplace-with = \"vendored\"\n[source.vendored]\ndirectory = '{}'\n",
        vendor.display()
    );
    fs::write(project.join(".cargo/config.toml"), config)?;
    let line = ["metadata", "--offline", "--format-version", "1"];
    let metadata: Value = serde_json::from_str(&tool("cargo", &line, &project)?)?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?.iter();
    let name = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
    Ok(packages.map(|package| (name(package), expected(package))).collect())
}

/// Returns the archives of crates whose names begin with `prefix` in the store.
fn archives(prefix: &str) -> Result<Vec<PathBuf>> {
    let is_archive = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.contains(&format!("-crate-{prefix}")) && name.ends_with(".tar.gz")
    };
    let entries = fs::read_dir("/nix/store")?.map(|entry| Ok(entry?.path()));
    Ok(entries.collect::<Result<Vec<_>>>()?.into_iter().filter(is_archive).collect())
}

// hazard: The bill names no licence of a crate, or another one on a machine that took the build from a cache.
// class: A signed statement depends on the machine that signs.
// members: one download for each crate, one folder of archives, archives that the store lacks or cannot get
// now: licences come from the archives that the lock fixes; they are fetched where they are missing, or nothing is signed
#[test]
fn crates_have_the_licences_of_cargo_metadata_also_when_the_store_lacks_their_sources() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.25:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    // Nix's sandbox has a `/dev/shm` of its own, where temporary folders may be.
    let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let crates = outside.path().to_owned();
    // Other tests share the store.
    let unique = folder.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let unique: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
    let name = |short: &str| named(&unique, short);
    fs::create_dir_all(crates.join("staging/tarballs"))?;
    let package = |name: &str, more: &str| {
        format!("[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\n{more}\n")
    };
    let needs = |some: &[(&str, &str)]| {
        let names: Vec<_> = some.iter().map(|(short, _)| name(short)).collect();
        format!("dependencies = {}", json!(names))
    };
    let (single, staged) = CRATES.split_at(SINGLE);
    let mut lock = "version = 4\n".to_owned();
    lock += &package("tiny", &needs(single).replace(']', ",\"own\"]"));
    lock += &package("staged", &needs(staged));
    lock += &package("own", "");
    for (short, fields) in CRATES {
        let sha256 = pack(&crates, &name(short), fields)?;
        let index = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        lock += &package(&name(short), &format!("{index}\nchecksum = \"{sha256}\""));
        let file = format!("{}-1.0.0", name(short));
        let staging = crates.join(format!("staging/tarballs/{file}.tar.gz"));
        fs::copy(crates.join(format!("{file}.crate")), staging)?;
    }
    let hash = tool("nix-hash", &["--type", "sha256", "staging"], &crates)?;
    let flake = CRATES_FLAKE.replace("STAGED", hash.trim());
    let flake = flake.replace("FOLDER", &crates.display().to_string());
    sandbox.write("sources/tiny/flake.nix", &flake)?;
    sandbox.write("sources/tiny/Cargo.lock", &lock)?;
    let workspace = "[workspace]\nmembers = [\"own\", \"staged\"]\n[workspace.package]\nlicense = \"EUPL-1.2\"\n";
    let manifest = |title: &str, some: &[(&str, &str)], more: &str| {
        let needed = some.iter().map(|(short, _)| format!("{} = \"1\"\n", name(short)));
        let needed: String = needed.collect();
        format!(
            "[package]\nname = \"{title}\"\nversion = \"1.0.0\"\n{more}\n[lib]\npath = \"lib.rs\"\n[dependencies]\n{needed}"
        )
    };
    let root = manifest("tiny", single, "") + "own = { path = \"own\" }\n" + workspace;
    sandbox.write("sources/tiny/Cargo.toml", &root)?;
    sandbox
        .write("sources/tiny/own/Cargo.toml", &manifest("own", &[], "license.workspace = true"))?;
    sandbox.write("sources/tiny/staged/Cargo.toml", &manifest("staged", staged, ""))?;
    for path in ["lib.rs", "own/lib.rs", "staged/lib.rs"] {
        sandbox.write(&format!("sources/tiny/{path}"), "")?;
    }
    sandbox.commit("packages with crates")?;
    use_crates(&sandbox, &crates)?;
    let of_cargo = metadata(&crates, &sandbox.inside("sources/tiny"))?;

    let staged_input = sandbox
        .documents("staged")
        .replace("./sources/tiny}", "./sources/tiny, attribute: staged}");
    for (input, some) in [(sandbox.documents("tiny"), single), (staged_input.clone(), staged)] {
        let applied = sandbox.expect(0, "apply", &input)?;
        let bill = predicate(&sandbox, &applied[1], "cyclonedx")?;
        let components = bill["components"].as_array().ok_or("no components")?;
        let own = Some("own").filter(|_| some.len() == SINGLE).map(str::to_owned);
        for name in some.iter().map(|(short, _)| name(short)).chain(own) {
            let component = components.iter().find(|component| component["name"] == *name);
            let licenses = &component.ok_or("no component")?["licenses"];
            assert_eq!(Some(licenses), of_cargo.get(&name), "{name}");
        }
        sandbox.expect(0, "verify", &text(&applied))?;
    }

    // A result from a cache comes without its sources.
    let delete = |count: usize| -> Test {
        let paths = archives(&unique)?;
        assert_eq!(paths.len(), count, "{paths:?}");
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        let all: Vec<_> =
            ["--delete"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        tool("nix-store", &all, folder.path()).map(drop)
    };
    let applied = sandbox.expect(0, "plan --check", &sandbox.documents("tiny"))?;
    let bill = predicate(&sandbox, &applied[1], "cyclonedx")?;
    delete(CRATES.len())?;
    sandbox.expect(0, "plan --check", &sandbox.documents("tiny"))?;
    assert!(archives(&unique)?.is_empty(), "a plan fetches nothing");
    let again = sandbox.expect(0, "apply", &sandbox.documents("again"))?;
    assert_eq!(predicate(&sandbox, &again[1], "cyclonedx")?, bill);

    delete(SINGLE)?;
    fs::remove_file(crates.join(format!("{}-1.0.0.crate", name("both"))))?;
    let failed = sandbox.run("apply", &sandbox.documents("third"))?;
    assert!(!failed.status.success(), "a bill without that licence would be another one");
    let (status, _) = request(&server.1, "GET /v2/test/third/tags/list", "", b"")?;
    assert_eq!(status, 404, "nothing is published");
    Ok(())
}

fn named(unique: &str, short: &str) -> String {
    format!("{unique}-{short}")
}
