//! A simulated cluster to drain, and runs of the program.

use std::fs;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::documents::{
    IDENTITY, ROOT, artifact, cluster, document, kubeconfig, project, recipient, stream,
};
use testing::run::{feed, reason};

use crate::Test;
use crate::cluster::{Server, World};

/// A cluster with two nodes and two applications, each with a `hostPath` volume on its own node.
pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) server: Server,
    pub(crate) documents: Vec<Value>,
}

/// Result of one run.
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) drain: Value,
    pub(crate) said: String,
}

impl Ended {
    pub(crate) fn reason(&self) -> &str {
        reason(&self.drain["status"])
    }

    pub(crate) fn message(&self) -> &str {
        self.drain["status"]["conditions"][0]["message"].as_str().unwrap_or_default()
    }
}

impl Lab {
    pub(crate) fn start() -> Test<Self> {
        let folder = tempfile::tempdir()?;
        let empty = folder.path().join("empty");
        fs::create_dir(&empty)?;
        let server = Server::start(empty)?;
        let documents = documents(&server.url)?;
        let lab = Self { folder, server, documents };
        let mut world = lab.server.world();
        world.put("/api/v1/namespaces/kube-system", json!({}));
        for (name, node) in [("a", "node-a"), ("b", "node-b")] {
            world.put(&format!("/api/v1/nodes/{node}"), json!({}));
            let path = lab.folder.path().join(name);
            fs::create_dir(&path)?;
            fs::write(path.join("file"), format!("the data of {name}"))?;
            world.volumes.insert((node.to_owned(), format!("default/{name}")), path);
            claim(&mut world, name, json!({"hostPath": {"path": format!("/var/mnt/{name}")}}));
            let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
            let spec = json!({
                "replicas": 1, "selector": {"matchLabels": {"app": name}},
                "at": [{"claim": name, "node": node}],
            });
            world.put(&path, json!({"spec": spec}));
        }
        drop(world);
        Ok(lab)
    }

    /// Changes the Drain's spec.
    pub(crate) fn drain(&mut self) -> &mut Value {
        &mut self.documents.last_mut().expect("a Drain is last")["spec"]
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut program = Command::new(cargo_bin!("data-drain"));
        program.env_clear().env("ROOT", ROOT).env("SOPS_AGE_KEY", IDENTITY);
        program.env("TMPDIR", self.folder.path()).env("PATH", env!("PATH"));
        program.env("S3", r#"{"accessKeyId": "a", "secretAccessKey": "hunter2"}"#);
        program.env("FORGE", "hunter2");
        program.args(line.split(' '));
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        program
    }

    pub(crate) fn run(&self, line: &str) -> Test<Ended> {
        self.ended(self.command(line))
    }

    pub(crate) fn ended(&self, mut command: Command) -> Test<Ended> {
        let output = feed(&mut command, self.input().as_bytes())?;
        Ok(Ended {
            status: output.status.code(),
            drain: testing::run::documents(&output)?.pop().unwrap_or_default(),
            said: String::from_utf8(output.stderr)?,
        })
    }

    pub(crate) fn input(&self) -> String {
        stream(&self.documents)
    }

    /// Asserts that every workload has no replica and that its claims are held.
    pub(crate) fn is_frozen(&self) -> bool {
        let world = self.server.world();
        let replicas = |name: &str| {
            world.objects[&format!("/apis/apps/v1/namespaces/default/deployments/{name}")]["spec"]["replicas"].clone()
        };
        replicas("a") == 0 && replicas("b") == 0 && world.objects.contains_key(POLICY)
    }

    /// Asserts that every workload has its replica and that only the copies of the drain are left.
    pub(crate) fn is_as_before(&self) -> bool {
        let world = self.server.world();
        let ours = |(path, object): (&String, &Value)| {
            // One of a run that was killed at its last step stays; the next one takes it over.
            if path.contains("/leases/") {
                return false;
            }
            !path.contains("/namespaces/default/pods/")
                && object["metadata"]["labels"]["holistic/drain"].is_string()
                || path.contains("/pods/data-drain")
        };
        let pods = world.objects.keys().filter(|key| key.contains("/pods/")).count();
        pods == 2 && !world.objects.iter().any(ours)
    }

    pub(crate) fn restored(&self, claim: &str) -> Test<String> {
        let to = tempfile::tempdir()?;
        let mut line = self.command("restore --to");
        line.arg(to.path());
        let ended = self.ended(line)?;
        assert_eq!(ended.status, Some(0), "{}", ended.said);
        Ok(fs::read_to_string(to.path().join("claim").join(claim).join("file"))?)
    }
}

pub(crate) const POLICY: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/data-drain-prod";
pub(crate) const WORKLOAD_A: &str = "/apis/apps/v1/namespaces/default/deployments/a";
pub(crate) const CLAIM_A: &str = "/api/v1/namespaces/default/persistentvolumeclaims/a";

pub(crate) fn claim(world: &mut World, name: &str, volume: Value) {
    let path = format!("/api/v1/namespaces/default/persistentvolumeclaims/{name}");
    world.put(
        &path,
        json!({"spec": {"volumeName": name, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound"}}),
    );
    let mut spec = volume;
    spec["claimRef"] = json!({"uid": world.objects[&path]["metadata"]["uid"]});
    world.put(&format!("/api/v1/persistentvolumes/{name}"), json!({"spec": spec}));
}

fn documents(url: &str) -> Test<Vec<Value>> {
    let kubeconfig = kubeconfig(&json!({"server": url}), &json!({"token": "hunter2"}));
    let recipient = recipient(IDENTITY)?;
    let store = json!({"s3": {"url": url, "region": "here", "bucket": "drain", "credentials": {"env": "S3"}}});
    let source = |name: &str| json!({"claim": format!("default/{name}"), "freeze": {"scaleToZero": format!("deployment/{name}")}});
    let drain = json!({
        "cluster": "prod", "recipients": ["founder"], "sources": [source("a"), source("b")],
        "timeoutSeconds": 2,
    });
    Ok(vec![
        project(&recipient, json!({"store": store})),
        cluster(&recipient, &kubeconfig)?,
        artifact("volume-reader", "ghcr.io/zabronax/volume-reader"),
        document("Drain", "prod", drain),
    ])
}
