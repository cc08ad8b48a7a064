//! A real API server with its controllers, a registry, and Flux's own controllers as processes.
//!
//! Only the kubelet is simulated. It reports for every pod that the image of its spec runs. The tests of
//! the whole lifecycle use real nodes.
//!
//! Components come from the folder in `LAB_BIN`, otherwise from `PATH`. These tests fail without them and
//! are never skipped.

pub(crate) mod parts;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use tempfile::TempDir;
pub(crate) use testing::Test;
pub(crate) use testing::documents::ROOT;
use testing::documents::{cluster, document, project, ready, stream};
#[allow(unused_imports, reason = "not every test binary uses both")]
pub(crate) use testing::run::{documents, status};
use testing::run::{feed, program};
use testing::wait::poll;

const ADDRESS: &str = "127.78.0.1";

pub(crate) struct Lab {
    folder: TempDir,
    address: &'static str,
    identity: String,
    recipient: String,
    /// Components in the order in which they started. They are stopped in the reverse order.
    children: Vec<(&'static str, Child)>,
    player: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

/// Returns the path or name of a component.
pub(crate) fn bin(name: &str) -> PathBuf {
    match std::env::var_os("LAB_BIN") {
        Some(folder) if Path::new(&folder).join(name).exists() => PathBuf::from(folder).join(name),
        _ => name.into(),
    }
}

/// Runs a command to its end, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Test<String> {
    let out = command.stdin(Stdio::null()).output();
    let out = out.map_err(|error| format!("{command:?}: {error}"))?;
    if out.status.success() {
        return Ok(String::from_utf8(out.stdout)?);
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)).into())
}

/// Polls until `done` returns true, for at most 60 s.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) -> Test {
    let found = poll(Duration::from_secs(60), || done().then_some(()));
    found.ok_or_else(|| format!("{what}: not within 60 s").into())
}

impl Lab {
    /// Starts a cluster without Flux, and a registry with the images of Flux's controllers.
    pub(crate) fn start() -> Test<Self> {
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("age.key");
        run(Command::new("age-keygen").arg("-o").arg(&key))?;
        let recipient = run(Command::new("age-keygen").arg("-y").arg(&key))?.trim().to_owned();
        let identity = fs::read_to_string(&key)?;
        let identity = identity.lines().last().ok_or("an identity")?.to_owned();
        let (address, children, player) = (ADDRESS, Vec::new(), None);
        let mut lab = Self { folder, address, identity, recipient, children, player };
        lab.certificates()?;
        lab.control_plane()?;
        lab.registry()?;
        for image in ["fluxcd/source-controller:v1.9.5", "fluxcd/kustomize-controller:v1.9.5"] {
            lab.push(image, &[("a-binary", image)])?;
        }
        lab.keys("cosign")?;
        lab.keys("another")?;
        Ok(lab)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a component with its output in `NAME.log`.
    fn child(
        &mut self,
        name: &'static str,
        program: &str,
        with: impl FnOnce(&mut Command),
    ) -> Test {
        let mut command = Command::new(bin(program));
        let log = File::create(self.path(&format!("{name}.log")))?;
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        with(&mut command);
        let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        self.children.push((name, child));
        Ok(())
    }

    pub(crate) fn kubectl(&self, line: &str) -> Test<String> {
        run(&mut self.kubectl_command(line))
    }

    fn kubectl_command(&self, line: &str) -> Command {
        let mut kubectl = Command::new(bin("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.path("person.kubeconfig")).args(line.split(' '));
        kubectl
    }

    /// Returns the output of `kubectl get … -o json`, or null if the object does not exist.
    pub(crate) fn get(&self, line: &str) -> Value {
        let answer = self.kubectl(&format!("get {line} -o json"));
        answer.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Creates an object as a person would.
    pub(crate) fn by_hand(&self, object: &Value) -> Test {
        self.write("create", object)
    }

    /// Replaces an object as a person would.
    #[allow(dead_code, reason = "only one of the test binaries uses this method")]
    pub(crate) fn replace(&self, object: &Value) -> Test {
        self.write("replace", object)
    }

    fn write(&self, verb: &str, object: &Value) -> Test {
        let command = format!("{verb} -f -");
        let output = feed(&mut self.kubectl_command(&command), object.to_string().as_bytes())?;
        let said = || format!("kubectl {verb} {object}: {}", testing::run::stderr(&output));
        if output.status.success() { Ok(()) } else { Err(said().into()) }
    }

    /// Runs the program without the developer's environment variables.
    pub(crate) fn flux_seed(&self, line: &str, input: &[Value]) -> Assert {
        let mut program = program(cargo_bin!("flux-seed"));
        program.env("ROOT", ROOT).env("SOPS_AGE_KEY", &self.identity);
        program.args(line.split(' ')).write_stdin(stream(input)).assert()
    }

    /// Kills the program after some milliseconds, as a power failure would.
    #[allow(dead_code, reason = "the catalogue does not use this method")]
    pub(crate) fn cut_short(&self, verb: &str, input: &[Value], milliseconds: u64) -> Test {
        let mut program = Command::new(cargo_bin!("flux-seed"));
        program
            .env_clear()
            .env("ROOT", ROOT)
            .env("SOPS_AGE_KEY", &self.identity)
            .args([verb, "-q"]);
        fs::write(self.path("input"), stream(input))?;
        program.stdin(File::open(self.path("input"))?).stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = program.spawn()?;
        sleep(Duration::from_millis(milliseconds));
        program.kill()?;
        program.wait()?;
        Ok(())
    }

    /// Returns the documents of a delivery: a Project, a Cluster, two Artifacts and a Delivery.
    pub(crate) fn documents(
        &self,
        deployments: &Published,
        greeter: &Published,
    ) -> Test<Vec<Value>> {
        let registry = format!("http://{}:5000", self.address);
        let endpoints = json!({
            "registry": {"url": format!("{registry}/zabronax")},
            "flux": {"url": format!("{registry}/fluxcd")},
        });
        let kubeconfig =
            serde_json::from_str(&fs::read_to_string(self.path("program.kubeconfig"))?)?;
        let artifact = |name: &str, published: &Published| {
            let observed = json!({
                "reference": published.reference, "digest": published.digest,
                "publicKey": published.public_key,
            });
            let artifact = document("Artifact", name, json!({"project": "holistic"}));
            ready(artifact, json!({"observed": observed}))
        };
        let delivery = json!({
            "cluster": "prod", "artifact": "deployments", "timeoutSeconds": 60,
            "flux": {"version": "2.9.5", "network": "host"},
        });
        Ok(vec![
            project(&self.recipient, endpoints),
            cluster(&self.recipient, &kubeconfig)?,
            artifact("greeter", greeter),
            artifact("deployments", deployments),
            document("Delivery", "prod", delivery),
        ])
    }

    /// Publishes manifests, and signs them with the key called `key`.
    pub(crate) fn publish(&self, manifests: &[(&str, &str)], key: &str) -> Test<Published> {
        let mut published = self.push("zabronax/deployments:1", manifests)?;
        self.sign(&published, key)?;
        published.public_key = fs::read_to_string(self.path("cosign.pub"))?;
        Ok(published)
    }

    /// Pushes an image of one layer that holds `files`.
    pub(crate) fn push(&self, image: &str, files: &[(&str, &str)]) -> Test<Published> {
        let folder = tempfile::tempdir()?;
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().ok_or("a folder")?)?;
            fs::write(path, text)?;
        }
        let tar = self.path("layer.tar");
        run(Command::new("tar").arg("cf").arg(&tar).arg("-C").arg(folder.path()).arg("."))?;
        let image = format!("{}:5000/{image}", self.address);
        let crane =
            |line: &str| run(Command::new(bin("crane")).arg("--insecure").args(line.split(' ')));
        crane(&format!("append --oci-empty-base -f {} -t {image}", tar.display()))?;
        let digest = crane(&format!("digest {image}"))?.trim().to_owned();
        let repository = image.rsplit_once(':').ok_or("a tag")?.0;
        let reference = format!("{repository}@{digest}");
        Ok(Published { reference, digest, public_key: String::new() })
    }

    pub(crate) fn sign(&self, published: &Published, key: &str) -> Test {
        let line = "--allow-http-registry --allow-insecure-registry -y --signing-config";
        let mut cosign = Command::new(bin("cosign"));
        cosign.arg("sign").args(line.split(' ')).arg(self.path("signing.json"));
        cosign.arg("--key").arg(self.path(key).with_extension("key")).arg(&published.reference);
        run(cosign.env("COSIGN_PASSWORD", "")).map(|_| ())
    }

    /// Returns the program's requests in the audit log since the offset `from`, and the new end of the log.
    #[allow(dead_code, reason = "the catalogue does not use this method")]
    pub(crate) fn asked(&self, from: usize) -> Test<(Vec<Value>, usize)> {
        let log = fs::read_to_string(self.path("audit.log"))?;
        let lines = log.get(from..).unwrap_or_default().lines();
        let entries: Result<Vec<Value>, _> = lines.map(serde_json::from_str).collect();
        let mut entries = entries?;
        entries.retain(|entry| entry["user"]["username"] == "program");
        Ok((entries, log.len()))
    }
}

/// An artifact in the registry.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) reference: String,
    pub(crate) digest: String,
    pub(crate) public_key: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some((stop, player)) = self.player.take() {
            stop.store(true, Ordering::Relaxed);
            let _ = player.join();
        }
        // Stop in the reverse order, because an API server that has lost its etcd hangs for a minute.
        while let Some((name, mut child)) = self.children.pop() {
            let _ = child.kill();
            let _ = child.wait();
            #[expect(clippy::print_stderr, reason = "the log of a component explains the failure")]
            if std::thread::panicking() {
                let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<_> = log.lines().rev().take(5).collect();
                eprintln!(
                    "--- {name}:\n{}",
                    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
        }
    }
}
