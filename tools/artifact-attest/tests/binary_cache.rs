//! Build results in a binary cache, with real Nix. The cache is a folder, because Debian's Nix has no S3;
//! `knowledge/vendors/nix.md` has the result of a run with a bucket.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Result, Sandbox, Server, Test, ready, text, tool};
use tempfile::TempDir;

/// A clone with a registry, and a cache in its home folder.
struct World {
    sandbox: Sandbox,
    _server: Server,
    _folder: TempDir,
}

impl World {
    fn new(address: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = Server::docker(address, folder.path(), true)?;
        let sandbox = Sandbox::new(&server.1)?;
        Ok(Self { sandbox, _server: server, _folder: folder })
    }

    /// Returns the documents, with a result that needs another store path.
    fn documents(&self) -> Result<String> {
        self.build("echo ${pkgs.runCommand \"needed\" { } \"echo needed >$out\"} >$out/needed")?;
        Ok(self.with_cache(&self.sandbox.documents("tiny")))
    }

    /// Adds a command to the build of the image.
    fn build(&self, command: &str) -> Test {
        let flake = fs::read_to_string(self.sandbox.inside("sources/tiny/flake.nix"))?;
        let flake =
            flake.replacen("mkdir -p $out/bin;", &format!("mkdir -p $out/bin; {command};"), 1);
        self.sandbox.write("sources/tiny/flake.nix", &flake)?;
        self.sandbox.commit("another build")
    }

    fn with_cache(&self, documents: &str) -> String {
        let url = self.url();
        documents
            .replace("    nix: {inputs", &format!("    nix: {{cache: {{url: '{url}'}}, inputs"))
            .replace("./sources/tiny}", "./sources/tiny, cache: true}")
    }

    fn url(&self) -> String {
        format!("file://{}", self.sandbox.outside("cache").display())
    }

    /// Returns the descriptions of the store paths in the cache (`*.narinfo`), sorted.
    fn infos(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut infos = Vec::new();
        for entry in fs::read_dir(self.sandbox.outside("cache"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "narinfo") {
                infos.push((path.clone(), fs::read_to_string(path)?));
            }
        }
        infos.sort();
        Ok(infos)
    }

    /// Runs Nix as a machine that trusts `key`, and copies `path` from the cache into a store of its own.
    fn substitute(&self, key: &str, path: &str, store: &Path) -> Result<bool> {
        let store = store.display().to_string();
        let mut nix = Command::new("nix");
        nix.args(["copy", "--from", &self.url(), "--to", &store, path])
            .args(["--option", "trusted-public-keys", key])
            .env("NIX_CONF_DIR", self.sandbox.outside("nix"))
            .env("HOME", self.sandbox.outside(""));
        Ok(nix.output()?.status.success())
    }

    /// Returns the public key that `derive` writes.
    fn public_key(&self, documents: &str) -> Result<String> {
        let to = self.sandbox.outside("derived");
        let derived = self.sandbox.run(&format!("derive --to {}", to.display()), documents)?;
        assert!(derived.status.success(), "{}", String::from_utf8_lossy(&derived.stderr));
        let found = tool("find", &[".", "-name", "cache.pub"], &to)?;
        Ok(fs::read_to_string(to.join(found.trim()))?)
    }
}

/// Returns the actions of the steps in the plan of `document`.
fn actions(document: &Value) -> Vec<&str> {
    let steps = document["status"]["plan"].as_array().into_iter().flatten();
    steps.filter_map(|step| step["action"].as_str()).collect()
}

#[test]
fn a_machine_that_trusts_the_key_takes_a_result_and_all_that_it_needs_from_the_cache() -> Test {
    let world = World::new("127.75.0.130:5000")?;
    let documents = world.documents()?;
    let planned = world.sandbox.expect(0, "plan", &documents)?;
    assert_eq!(actions(&planned[1]), ["build", "rebuild", "publish", "attest", "tag", "cache"]);

    let applied = world.sandbox.expect(0, "apply", &documents)?;
    let observed = &applied[1]["status"]["observed"]["binaryCache"];
    let path = observed["path"].as_str().ok_or("no path")?;
    assert_eq!((&observed["url"], &observed["key"]), (&world.url().into(), &"test-1".into()));
    let infos = world.infos()?;
    assert_eq!(infos.len(), 2, "{infos:?}");
    for (_, info) in &infos {
        assert!(info.contains("\nSig: test-1:") && info.contains("\nCompression: zstd"), "{info}");
    }
    world.sandbox.expect(0, "plan --check", &text(&applied))?;
    world.sandbox.expect(0, "verify", &text(&applied))?;

    let (key, other) = (world.public_key(&documents)?, world.sandbox.outside("other"));
    let foreign = "test-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert!(!world.substitute(foreign, path, &other)?, "another key of the same name");
    assert!(!other.join(path.trim_start_matches('/')).exists());
    assert!(world.substitute(&key, path, &other)?, "{key}");
    let copied = other.join(path.trim_start_matches('/'));
    let needed = fs::read_to_string(copied.join("needed"))?;
    assert_eq!(fs::read_to_string(other.join(needed.trim().trim_start_matches('/')))?, "needed\n");
    Ok(())
}

#[test]
fn a_result_that_the_cache_lacks_is_drift_and_the_next_apply_restores_it_alone() -> Test {
    let world = World::new("127.75.0.131:5000")?;
    let documents = world.documents()?;
    let (before, with) = (world.sandbox.documents("tiny"), documents);
    world.sandbox.expect(0, "apply", &before)?;
    let applied = world.sandbox.expect(3, "plan --check", &with)?;
    assert_eq!(actions(&applied[1]), ["cache"], "declared after the image was published");
    let applied = world.sandbox.expect(0, "apply", &with)?;

    for (info, _) in world.infos()? {
        fs::remove_file(info)?;
    }
    assert_eq!(actions(&world.sandbox.expect(3, "plan --check", &text(&applied))?[1]), ["cache"]);
    let verified = world.sandbox.expect(100, "verify", &text(&applied))?;
    assert_eq!(ready(&verified[1]), ["False", "VerificationFailed"]);
    let said = verified[1]["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
    assert!(said.contains("lacks /nix/store/"), "{said}");
    world.sandbox.expect(0, "apply", &text(&applied))?;
    assert_eq!(world.infos()?.len(), 2);

    // A rotated key has another name, and the signatures of the former one stay.
    let rotated =
        with.replace("  endpoints:", "  generations: {artifact-attest/cache: 2}\n  endpoints:");
    assert_eq!(actions(&world.sandbox.expect(3, "plan --check", &rotated)?[1]), ["cache"]);
    world.sandbox.expect(0, "apply", &rotated)?;
    world.sandbox.expect(0, "plan --check", &rotated)?;
    for (_, info) in world.infos()? {
        assert!(info.contains("\nSig: test-1:") && info.contains("\nSig: test-2:"), "{info}");
    }
    Ok(())
}

#[test]
fn another_result_than_the_published_one_is_not_copied() -> Test {
    let world = World::new("127.75.0.132:5000")?;
    world.build("date +%N >$out/now")?;
    let documents = world.sandbox.documents("tiny") + "  rebuild: skip\n";
    let applied = world.sandbox.expect(0, "apply", &documents)?;
    let hash = applied[1]["status"]["observed"]["narHash"].clone();
    let cached = world.with_cache(&documents);
    let planned = world.sandbox.expect(0, "plan", &cached)?;
    let path = planned[1]["status"]["observed"]["binaryCache"]["path"].as_str();
    tool("nix-store", &["--delete", path.ok_or("no path")?], &world.sandbox.inside(""))?;
    let other = world.sandbox.expect(100, "apply", &cached)?;
    assert_eq!(ready(&other[1]), ["False", "Corrupt"]);
    assert!(!world.sandbox.outside("cache").exists() || world.infos()?.is_empty());
    let still = world.sandbox.expect(0, "plan", &documents)?;
    assert_eq!(still[1]["status"]["observed"]["narHash"], hash, "the image stays published");
    Ok(())
}

#[test]
fn an_unusable_cache_is_an_error_after_the_image_is_published() -> Test {
    let world = World::new("127.75.0.133:5000")?;
    let documents = world.sandbox.documents("tiny");
    let undeclared = documents.replace("./sources/tiny}", "./sources/tiny, cache: true}");
    let rejected = world.sandbox.run("plan", &undeclared)?;
    let said = String::from_utf8_lossy(&rejected.stderr).into_owned();
    assert_eq!(rejected.status.code(), Some(2), "{said}");
    assert!(said.contains("that Project has no `endpoints.nix.cache` to copy to"), "{said}");

    fs::write(world.sandbox.outside("cache"), "a file in place of the folder")?;
    let failed = world.sandbox.expect(100, "apply", &world.with_cache(&documents))?;
    assert_eq!(ready(&failed[1]), ["False", "BinaryCacheFailed"]);
    fs::remove_file(world.sandbox.outside("cache"))?;
    let planned = world.sandbox.expect(3, "plan --check", &world.with_cache(&documents))?;
    assert_eq!(actions(&planned[1]).last(), Some(&"cache"));
    Ok(())
}
