//! Sandbox with a project, real registries, and a proxy that can cut connections.
//!
//! Runs real programs from `LAB_BIN` or `PATH`: git, nix, docker-registry, ggcr-registry, cosign,
//! crane. A missing program fails the test.

#![allow(dead_code, unused_imports, reason = "each test uses a part of this module")]

pub(crate) mod proxy;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;
pub(crate) use testing::Test;
pub(crate) use testing::Test as Result;
use testing::documents::STRANGER;
pub(crate) use testing::documents::{ROOT as OURS, stream as text};
use testing::git::Repository;
use testing::run::expect;
pub(crate) use testing::run::path;
use testing::wait::poll;

/// Root key in base64 whose signatures the tests do not trust. They trust those of `OURS`.
pub(crate) const THEIRS: &str = "HxAdHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// Runs a program of the lab, checks its exit status, and returns its standard output.
pub(crate) fn tool(program: &str, arguments: &[&str], folder: &Path) -> Result<String> {
    let output = Command::new("env")
        .arg(program)
        .args(arguments)
        .current_dir(folder)
        .env("PATH", path())
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {} {said}", arguments.join(" "), output.status).into())
}

/// A server process with its address. Dropping it kills the process.
pub(crate) struct Server(Child, pub(crate) String);

impl Server {
    /// Starts Debian's docker-registry on `address`. It has no referrers API. `deletes` enables
    /// deletions.
    pub(crate) fn docker(address: &str, folder: &Path, deletes: bool) -> Result<Self> {
        Self::docker_with(address, folder, deletes, "")
    }

    fn docker_with(address: &str, folder: &Path, deletes: bool, more: &str) -> Result<Self> {
        let root = folder.join("registry");
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: {deletes}}}\nhttp: {{addr: '{address}'}}\n{more}",
            root.display()
        );
        fs::write(&config, text)?;
        let config = config.display().to_string();
        Self::start("docker-registry", &["serve", &config], address)
    }

    /// Starts docker-registry with the user `holistic` and the password `sesame`.
    pub(crate) fn docker_with_password(address: &str, folder: &Path) -> Result<Self> {
        let users = folder.join("users");
        let hash = "$2b$05$abcdefghijklmnopqrstuuKcS.CYWVYVaLiiCKrrc0A5s3mGesJ9O";
        fs::write(&users, format!("holistic:{hash}\n"))?;
        let more = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
        Self::docker_with(address, folder, true, &more)
    }

    /// Starts go-containerregistry's registry on `address`, with the referrers API.
    pub(crate) fn ggcr(address: &str) -> Result<Self> {
        Self::start("ggcr-registry", &[address], address)
    }

    /// Starts go-containerregistry's registry on `address`, without the referrers API.
    pub(crate) fn crane(address: &str) -> Result<Self> {
        Self::start("crane", &["registry", "serve", "--address", address], address)
    }

    /// Starts the registry of ociregistry on `address`, which is strict and has the referrers API.
    pub(crate) fn strict(address: &str) -> Result<Self> {
        Self::start("strict-registry", &[address], address)
    }

    fn start(program: &str, arguments: &[&str], address: &str) -> Result<Self> {
        if TcpStream::connect(address).is_ok() {
            return Err(format!("something listens on {address} already").into());
        }
        let child = Command::new("env")
            .arg(program)
            .args(arguments)
            .env("PATH", path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut server = Self(child, address.to_owned());
        let listens = poll(Duration::from_secs(10), || match server.0.try_wait() {
            Ok(None) => TcpStream::connect(address).is_ok().then_some(Ok(())),
            ended => Some(Err(format!("{program} ended: {ended:?}"))),
        });
        listens.ok_or_else(|| format!("{program} does not listen on {address}"))??;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails if the process has already ended
        let _ = self.0.wait();
    }
}

/// A clone of a project's repository, with a home folder beside it.
pub(crate) struct Sandbox {
    folder: TempDir,
    clone: Repository,
    registry: String,
}

const FLAKE: &str = r#"{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  outputs = { self, nixpkgs }: let pkgs = nixpkgs.legacyPackages.x86_64-linux; in {
    packages.x86_64-linux.default = pkgs.runCommand "tiny-1.0" { } "mkdir -p $out/bin; cp ${./run} $out/bin/tiny; chmod +x $out/bin/tiny";
    packages.x86_64-linux.flaky = pkgs.runCommand "flaky" { } "mkdir $out; date +%N > $out/now";
    packages.x86_64-linux.endless = pkgs.runCommand "endless" { } "sleep 300";
    packages.x86_64-linux.broken = pkgs.runCommand "broken" { } "echo broken on purpose >&2; exit 7";
  };
}
"#;

const DEPLOYMENT: &str = "---
apiVersion: apps/v1
kind: Deployment
metadata: {name: tiny}
spec:
  template:
    spec:
      containers: [{name: tiny, image: tiny}] # pinned by apply
";

const LOCK: &str = include_str!("../../../../sources/greeter/flake.lock");

impl Sandbox {
    /// Creates a clone that publishes to the registry at the address `registry`. Every clone has
    /// the same commits.
    pub(crate) fn new(registry: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let clone = Repository::init(folder.path().join("clone"))?;
        let sandbox = Self { folder, clone, registry: registry.to_owned() };
        sandbox.write_nix()?;
        sandbox.write("sources/tiny/flake.nix", FLAKE)?;
        sandbox.write("sources/tiny/flake.lock", LOCK)?;
        sandbox.write("sources/tiny/run", "#!/bin/sh\necho tiny\n")?;
        sandbox.write("sources/tiny/Cargo.lock", "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"00\"\n")?;
        sandbox.write("manifests/tiny.yaml", DEPLOYMENT)?;
        sandbox.commit("everything")?;
        Ok(sandbox)
    }

    fn write_nix(&self) -> Test {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let from = here.join("../../continuous-integration/nix/standin");
        let to = self.outside("standin");
        tool("cp", &["-r", &from.display().to_string(), &to.display().to_string()], here)?;
        fs::write(to.join("host.nix"), tool("sh", &["host.sh"], &to)?)?;
        fs::create_dir_all(self.outside("nix"))?;
        let registry = self.outside("nix/registry.json");
        fs::write(&registry, r#"{"version":2,"flakes":[]}"#)?;
        let conf = format!(
            "experimental-features = nix-command flakes\nbuild-users-group =\nsubstituters =\ndownload-attempts = 1\nconnect-timeout = 1\nflake-registry = {}\nsandbox = true\nsandbox-fallback = false\nsandbox-paths = /bin /lib /lib64 /usr /etc/alternatives\n",
            registry.display()
        );
        fs::write(self.outside("nix/nix.conf"), conf)?;
        Ok(())
    }

    /// Returns a path inside the clone.
    pub(crate) fn inside(&self, name: &str) -> PathBuf {
        self.clone.path().join(name)
    }

    /// Returns a path in the home folder.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Test {
        self.clone.write(name, text)
    }

    /// Commits all changes with a fixed author and time, so that every clone has the same commit.
    pub(crate) fn commit(&self, message: &str) -> Test {
        self.clone.commit_all(message).map(drop)
    }

    /// Returns the Project and the image, published to `repository`.
    pub(crate) fn documents(&self, repository: &str) -> String {
        let (registry, standin) = (&self.registry, self.outside("standin"));
        let standin = standin.display();
        format!(
            "---
apiVersion: holistic/v1alpha1
kind: Project
metadata: {{name: test}}
spec:
  root: {{env: NEVER_ASKED}}
  recipients: [{{name: a, age: {STRANGER}}}]
  endpoints:
    registry: {{url: 'http://{registry}/test'}}
    nix: {{inputs: {{nixpkgs: 'path:{standin}'}}}}
---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: {{name: tiny}}
spec:
  project: test
  source: https://example.org/test/test
  sourceCheck: skip
  build: {{flake: ./sources/tiny}}
  image: {{repository: {repository}, entrypoint: [/bin/tiny], ports: [8080]}}
"
        )
    }

    pub(crate) fn with_manifests(&self, repository: &str) -> String {
        self.documents(repository)
            + "---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: {name: manifests}
spec:
  project: test
  source: https://example.org/test/test
  sourceCheck: skip
  manifests: {path: ./manifests, repository: manifests, images: [tiny]}
"
    }

    /// Runs `artifact-attest` on `input` in the clone, without the developer's environment.
    pub(crate) fn run(&self, line: &str, input: &str) -> Result<Output> {
        self.run_as(OURS, line, input)
    }

    pub(crate) fn run_as(&self, key: &str, line: &str, input: &str) -> Result<Output> {
        Ok(self.command(key, line, input)?.output()?)
    }

    /// Returns the command of [`Self::run_as`].
    pub(crate) fn command(&self, key: &str, line: &str, input: &str) -> Result<Command> {
        let file = self.outside("input");
        fs::write(&file, input)?;
        let mut command = Command::new(cargo_bin!("artifact-attest"));
        command
            .args(line.split(' '))
            .arg(file)
            .current_dir(self.inside(""))
            .env_clear()
            .env("PATH", path())
            .env("TMPDIR", std::env::temp_dir())
            .env("HOME", self.folder.path())
            .env("NIX_CONF_DIR", self.outside("nix"))
            .env("ARTIFACT_ATTEST_KEY", key)
            .env("PASSWORD", "sesame")
            .env("WRONG", "mellon");
        Ok(command)
    }

    /// Runs `artifact-attest`, checks the exit status, and returns the written documents.
    pub(crate) fn expect(&self, code: i32, line: &str, input: &str) -> Result<Vec<Value>> {
        expect(&self.run(line, input)?, code, line)
    }

    pub(crate) fn expect_as(
        &self,
        key: &str,
        code: i32,
        line: &str,
        input: &str,
    ) -> Result<Vec<Value>> {
        expect(&self.run_as(key, line, input)?, code, line)
    }

    /// Runs the real cosign with `verb` on the artifact of `document`.
    pub(crate) fn cosign(&self, document: &Value, verb: &[&str]) -> Result<String> {
        let observed = &document["status"]["observed"];
        let key = self.outside("cosign.pub");
        fs::write(&key, observed["publicKey"].as_str().ok_or("no key")?)?;
        let key = key.display().to_string();
        let more = [
            "--key",
            &key,
            "--insecure-ignore-tlog",
            "--allow-http-registry",
            "--allow-insecure-registry",
        ];
        let reference = observed["reference"].as_str().ok_or("no reference")?;
        tool("cosign", &[verb, &more, &[reference]].concat(), self.folder.path())
    }
}

pub(crate) fn ready(document: &Value) -> [&str; 2] {
    let condition = &document["status"]["conditions"][0];
    [&condition["status"], &condition["reason"]].map(|field| field.as_str().unwrap_or_default())
}

pub(crate) fn reference(document: &Value) -> Result<&str> {
    document["status"]["observed"]["reference"].as_str().ok_or("no reference".into())
}

pub(crate) fn digest(document: &Value) -> Result<&str> {
    document["status"]["observed"]["digest"].as_str().ok_or("no digest".into())
}

/// Makes `path` writable, because a registry writes its files read-only.
pub(crate) fn writable(path: &Path) -> Test {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    Ok(())
}
