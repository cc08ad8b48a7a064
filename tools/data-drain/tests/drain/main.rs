//! Whole drains against a stand-in of the cluster and the store: what a failure, a signal or a
//! second run leaves behind. What is read comes from the real reader.

mod cluster;
#[allow(dead_code, unreachable_pub, missing_docs, clippy::pedantic)]
#[path = "../../../../sources/volume-reader/src/lib.rs"]
mod reader;

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use cluster::{Server, World};
use keyring::AgeRecipient;
use serde_json::{Value, json};
use tempfile::TempDir;

type Test<T = ()> = Result<T, Box<dyn Error>>;

const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// For these tests only.
const IDENTITY: &str = "AGE-SECRET-KEY-10E4NQXKZ3UQPPM5UXQNVJMUM9T2GAVNXFGFK3C4KVLEF7XEV70CS83TZ4T";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// A cluster with two nodes and two applications, each with a `hostPath` volume on its own node.
struct Lab {
    folder: TempDir,
    server: Server,
    documents: Vec<Value>,
}

/// What a run has said.
struct Ended {
    status: Option<i32>,
    drain: Value,
    said: String,
}

impl Ended {
    fn reason(&self) -> &str {
        self.drain["status"]["conditions"][0]["reason"].as_str().unwrap_or_default()
    }

    fn message(&self) -> &str {
        self.drain["status"]["conditions"][0]["message"].as_str().unwrap_or_default()
    }
}

impl Lab {
    fn start() -> Test<Self> {
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
    fn drain(&mut self) -> &mut Value {
        &mut self.documents.last_mut().expect("a Drain is last")["spec"]
    }

    fn command(&self, line: &str) -> Command {
        let mut program = Command::new(cargo_bin!("data-drain"));
        program.env_clear().env("ROOT", ROOT).env("SOPS_AGE_KEY", IDENTITY);
        program.env("TMPDIR", self.folder.path()).env("PATH", env!("PATH"));
        program.env("S3", r#"{"accessKeyId": "a", "secretAccessKey": "hunter2"}"#);
        program.args(line.split(' '));
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        program
    }

    fn run(&self, line: &str) -> Test<Ended> {
        self.ended(self.command(line))
    }

    fn ended(&self, mut command: Command) -> Test<Ended> {
        let mut child = command.spawn()?;
        child.stdin.take().ok_or("a pipe")?.write_all(self.input().as_bytes())?;
        let output = child.wait_with_output()?;
        let documents = String::from_utf8(output.stdout)?;
        let drain = documents.lines().last().map(serde_json::from_str).transpose()?;
        Ok(Ended {
            status: output.status.code(),
            drain: drain.unwrap_or_default(),
            said: String::from_utf8(output.stderr)?,
        })
    }

    fn input(&self) -> String {
        self.documents.iter().map(|document| format!("{document}\n")).collect()
    }

    /// Every workload has no replica, and its claims are held.
    fn is_frozen(&self) -> bool {
        let world = self.server.world();
        let replicas = |name: &str| {
            world.objects[&format!("/apis/apps/v1/namespaces/default/deployments/{name}")]["spec"]["replicas"].clone()
        };
        replicas("a") == 0 && replicas("b") == 0 && world.objects.contains_key(POLICY)
    }

    /// Every workload has its replica, and nothing of a drain is left but the copies.
    fn is_as_before(&self) -> bool {
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

    fn restored(&self, claim: &str) -> Test<String> {
        let to = tempfile::tempdir()?;
        let mut line = self.command("restore --to");
        line.arg(to.path());
        let ended = self.ended(line)?;
        assert_eq!(ended.status, Some(0), "{}", ended.said);
        Ok(fs::read_to_string(to.path().join("claim").join(claim).join("file"))?)
    }
}

const POLICY: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/data-drain-prod";
const WORKLOAD_A: &str = "/apis/apps/v1/namespaces/default/deployments/a";
const CLAIM_A: &str = "/api/v1/namespaces/default/persistentvolumeclaims/a";

fn claim(world: &mut World, name: &str, volume: Value) {
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
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "hunter2"}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
    });
    let identity: age::x25519::Identity = IDENTITY.parse()?;
    let recipient = identity.to_public().to_string();
    let age = AgeRecipient::try_from(recipient.clone())?;
    let sealed = keyring::seal_to([&age], kubeconfig.to_string().as_bytes())?;
    let document = |kind: &str, name: &str, spec: Value, status: Value| {
        let mut document = json!({"apiVersion": "holistic/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        if status.is_object() {
            document["status"] = status;
            document["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "reason": "Made", "message": ""}]);
        }
        document
    };
    let store = json!({"s3": {"url": url, "region": "here", "bucket": "drain", "credentials": {"env": "S3"}}});
    let reference = format!("ghcr.io/zabronax/volume-reader@{DIGEST}");
    let source = |name: &str| json!({"claim": format!("default/{name}"), "freeze": {"scaleToZero": format!("deployment/{name}")}});
    Ok(vec![
        document(
            "Project",
            "holistic",
            json!({
                "root": {"env": "ROOT"}, "recipients": [{"name": "founder", "age": recipient}],
                "endpoints": {"store": store},
            }),
            Value::Null,
        ),
        document(
            "Cluster",
            "prod",
            json!({"project": "holistic"}),
            json!({"sealed": {"kubeconfig": sealed}}),
        ),
        document(
            "Artifact",
            "volume-reader",
            json!({"project": "holistic"}),
            json!({"observed": {"reference": reference, "digest": DIGEST}}),
        ),
        document(
            "Drain",
            "prod",
            json!({"cluster": "prod", "recipients": ["founder"], "sources": [source("a"), source("b")], "timeoutSeconds": 2}),
            Value::Null,
        ),
    ])
}

#[test]
fn each_claim_is_read_on_the_node_of_its_own_pod_and_held_until_destroy() -> Test {
    let lab = Lab::start()?;
    let ended = lab.run("apply")?;
    assert_eq!((ended.status, ended.reason()), (Some(0), "Drained"), "{}", ended.said);
    assert!(lab.is_frozen());
    for name in ["a", "b"] {
        assert_eq!(lab.restored(&format!("default/{name}"))?, format!("the data of {name}"));
    }
    let before = lab.server.world().writes.len();
    for verb in ["apply", "plan --check", "verify"] {
        let again = lab.run(verb)?;
        assert_eq!(again.status, Some(0), "{verb}: {}", again.said);
    }
    assert_eq!(lab.server.world().writes.len(), before, "a second run writes nothing");

    // A workload that is started again gets no pod.
    let path = "/apis/apps/v1/namespaces/default/deployments/a";
    let mut started = lab.server.world().objects[path].clone();
    started["spec"]["replicas"] = 1.into();
    lab.server.world().put(path, started);
    let pods =
        |lab: &Lab| lab.server.world().objects.keys().filter(|key| key.contains("/pods/")).count();
    assert_eq!(pods(&lab), 0);
    assert_eq!(lab.run("plan --check")?.status, Some(3));
    assert_eq!(lab.run("verify")?.status, Some(111));

    let ended = lab.run("destroy")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    assert!(lab.is_as_before(), "{:?}", lab.server.world().objects.keys());
    Ok(())
}

#[test]
fn hold_that_was_removed_or_put_back_invalidates_the_receipt() -> Test {
    let lab = Lab::start()?;
    assert_eq!(lab.run("apply")?.status, Some(0));
    let policy = lab.server.world().objects.remove(POLICY).ok_or("a policy")?;
    let verified = lab.run("verify")?;
    assert_eq!((verified.status, verified.reason()), (Some(111), "Unproven"));
    assert!(
        verified.message().contains("the hold on the claims was changed"),
        "{}",
        verified.message()
    );
    lab.server.world().put(POLICY, policy);
    assert_eq!(lab.run("verify")?.reason(), "Unproven", "it has another UID");
    assert_eq!(lab.run("plan --check")?.status, Some(3));
    // The volumes are read again; their packs are there.
    let puts = |lab: &Lab| {
        let world = lab.server.world();
        world.writes.iter().filter(|line| line.starts_with("PUT ") && line.contains(".age")).count()
    };
    let before = puts(&lab);
    let again = lab.run("apply")?;
    assert_eq!(again.status, Some(0), "{}", again.said);
    assert_eq!(puts(&lab), before, "no pack is sent twice");
    Ok(())
}

type Break = fn(&mut Lab);

#[test]
fn what_cannot_be_drained_is_refused_before_anything_stops() -> Test {
    let breaks: [(&str, Break); 9] = [
        ("volumeMode", |lab| edit(lab, CLAIM_A, "spec", "volumeMode", json!("Block"))),
        ("not bound", |lab| edit(lab, CLAIM_A, "status", "phase", json!("Lost"))),
        ("being deleted", |lab| edit(lab, CLAIM_A, "metadata", "deletionTimestamp", json!("now"))),
        ("belongs to Pod/a-0", |lab| {
            let owner = json!([{"kind": "Pod", "name": "a-0"}]);
            edit(lab, CLAIM_A, "metadata", "ownerReferences", owner);
        }),
        ("whenScaled", |lab| {
            let policy = json!({"whenScaled": "Delete"});
            edit(lab, WORKLOAD_A, "spec", "persistentVolumeClaimRetentionPolicy", policy);
        }),
        ("the pod default/debug (no controller) mounts it", |lab| {
            let pod = json!({"spec": {"nodeName": "node-a",
                "volumes": [{"persistentVolumeClaim": {"claimName": "a"}}]}});
            lab.server.world().put("/api/v1/namespaces/default/pods/debug", pod);
        }),
        ("violates PodSecurity", |lab| {
            lab.server.world().faults.pod_security =
                Some("pod violates PodSecurity \"restricted\"".to_owned());
        }),
        ("another file system", |lab| {
            // Every machine has some in /dev.
            let key = ("node-a".to_owned(), "default/a".to_owned());
            lab.server.world().volumes.insert(key, "/dev".into());
        }),
        ("the volume is empty", |lab| {
            lab.server.world().volumes.remove(&("node-b".to_owned(), "default/b".to_owned()));
        }),
    ];
    for (why, wrong) in breaks {
        let mut lab = Lab::start()?;
        wrong(&mut lab);
        let ended = lab.run("apply")?;
        assert_eq!(
            (ended.status, ended.reason()),
            (Some(100), "NotDrainable"),
            "{why}: {}",
            ended.said
        );
        assert!(ended.message().contains(why), "{why}: {}", ended.message());
        assert!(ended.said.contains("nothing was stopped"), "{}", ended.said);
        let world = lab.server.world();
        for path in [WORKLOAD_A, "/apis/apps/v1/namespaces/default/deployments/b"] {
            assert_eq!(world.objects[path]["spec"]["replicas"], 1, "{why}");
        }
        assert!(world.store.is_empty() && !world.objects.contains_key(POLICY), "{why}");
    }
    Ok(())
}

fn edit(lab: &mut Lab, path: &str, part: &str, field: &str, value: Value) {
    lab.server.world().objects.get_mut(path).expect("it is there")[part][field] = value;
}

#[test]
fn empty_volume_is_copied_when_the_document_allows_it() -> Test {
    let mut lab = Lab::start()?;
    lab.server.world().volumes.remove(&("node-b".to_owned(), "default/b".to_owned()));
    lab.drain()["sources"][1]["allowEmpty"] = true.into();
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(())
}

#[test]
fn claim_that_no_pod_mounts_is_drained_where_its_data_is() -> Test {
    // The workload is gone, and so is whatever told of the node.
    let mut lab = Lab::start()?;
    let mut world = lab.server.world();
    world
        .objects
        .retain(|path, _| path != WORKLOAD_A && path != "/api/v1/namespaces/default/pods/a-0");
    drop(world);
    let refused = lab.run("apply")?;
    assert_eq!(refused.reason(), "NotDrainable", "{}", refused.said);
    assert!(refused.message().contains("set `node`"), "{}", refused.message());
    lab.drain()["sources"][0]["node"] = "node-a".into();
    // With and without `freeze`.
    lab.drain()["sources"][0].as_object_mut().ok_or("a source")?.remove("freeze");
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    assert_eq!(lab.restored("default/a")?, "the data of a");
    Ok(())
}

#[test]
fn failure_keeps_everything_stopped_and_the_next_run_sends_only_what_is_missing() -> Test {
    let lab = Lab::start()?;
    // The first claim's pack and manifest arrive.
    lab.server.world().faults.puts = Some(2);
    let failed = lab.run("apply")?;
    assert_eq!((failed.status, failed.reason()), (Some(100), "Forbidden"), "{}", failed.said);
    assert!(lab.is_frozen(), "a failure starts nothing");
    lab.server.world().faults.puts = None;
    lab.server.world().writes.clear();
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    let world = lab.server.world();
    let puts: Vec<_> =
        world.writes.iter().filter(|line| line.starts_with("PUT holistic/")).collect();
    assert_eq!(puts.len(), 3, "the second claim's pack and manifest, and the receipt: {puts:?}");
    Ok(())
}

#[test]
fn output_that_is_cut_short_is_never_an_archive() -> Test {
    let lab = Lab::start()?;
    for left in [0, 3, 600, 1500] {
        lab.server.world().faults.cut_after = Some(left);
        let failed = lab.run("apply")?;
        assert_eq!(
            (failed.status, failed.reason()),
            (Some(111), "ReadFailed"),
            "{left}: {}",
            failed.said
        );
        assert!(lab.is_frozen());
        assert!(!lab.server.world().store.keys().any(|key| key.contains("receipt")));
    }
    lab.server.world().faults.cut_after = None;
    assert_eq!(lab.run("apply")?.status, Some(0));
    Ok(())
}

#[test]
fn limit_of_time_is_for_each_step_and_a_slow_claim_takes_none_of_it() -> Test {
    let mut lab = Lab::start()?;
    lab.drain()["timeoutSeconds"] = 1.into();
    lab.server.world().faults.delay = Duration::from_millis(1500);
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(())
}

#[test]
fn copy_that_is_damaged_later_is_told_and_starts_nothing() -> Test {
    let lab = Lab::start()?;
    assert_eq!(lab.run("apply")?.status, Some(0));
    let damage = |lab: &Lab| {
        let mut world = lab.server.world();
        let pack = world.store.iter_mut().find(|(key, _)| key.contains("/0/00000-"));
        let (bytes, _) = pack.expect("a pack").1;
        bytes[100] ^= 1;
    };
    damage(&lab);
    for verb in ["verify", "apply"] {
        let refused = lab.run(verb)?;
        assert_eq!((refused.status, refused.reason()), (Some(100), "Tampered"), "{verb}");
        assert!(lab.is_frozen(), "{verb}");
    }
    // The receipt is good again when its object is.
    damage(&lab);
    assert_eq!(lab.run("apply")?.status, Some(0));
    // And another copy can be made beside a damaged one.
    damage(&lab);
    assert_eq!(lab.run("destroy")?.status, Some(0));
    assert!(lab.is_as_before());
    let again = lab.run("apply")?;
    assert_eq!(again.status, Some(0), "{}", again.said);
    assert_eq!(lab.run("verify")?.status, Some(0));
    Ok(())
}

#[test]
fn drain_that_is_killed_after_every_step_converges() -> Test {
    let lab = Lab::start()?;
    let mut taken = std::collections::BTreeSet::new();
    for verb in ["apply", "destroy"] {
        loop {
            let mut child = lab.command(&format!("{verb} --log-format json")).spawn()?;
            child.stdin.take().ok_or("a pipe")?.write_all(lab.input().as_bytes())?;
            let mut killed = false;
            for line in BufReader::new(child.stderr.take().ok_or("a pipe")?).lines() {
                let line: Value = serde_json::from_str(&line?)?;
                let step = format!("{verb} {} {}", line["step"], line["detail"]);
                if line["done"] == true && taken.insert(step) {
                    child.kill()?;
                    killed = true;
                    break;
                }
            }
            let status = child.wait()?;
            if verb == "apply" {
                let world = lab.server.world();
                let stopped = world.objects[WORKLOAD_A]["spec"]["replicas"] == 0;
                let pods = world.objects.contains_key("/api/v1/namespaces/default/pods/a-0");
                assert!(stopped != pods, "what is stopped stays so");
            }
            if !killed {
                assert_eq!(status.code(), Some(0));
                break;
            }
            assert!(taken.len() < 60, "{taken:?}");
        }
        if verb == "apply" {
            assert!(lab.is_frozen());
            assert_eq!(lab.restored("default/b")?, "the data of b");
        }
    }
    assert!(taken.len() >= 12, "{taken:?}");
    assert!(lab.is_as_before(), "{:?}", lab.server.world().objects.keys());
    Ok(())
}

#[test]
fn signal_during_an_upload_is_heeded_and_starts_nothing() -> Test {
    let lab = Lab::start()?;
    lab.server.world().faults.put_delay = Duration::from_secs(20);
    let mut child = lab.command("apply").spawn()?;
    child.stdin.take().ok_or("a pipe")?.write_all(lab.input().as_bytes())?;
    let begin = Instant::now();
    // The upload has begun when everything is held and the reader has been asked.
    while !lab.is_frozen() || !reading(&lab) {
        assert!(begin.elapsed() < Duration::from_secs(30), "it gets that far");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_millis(1500));
    let signalled = Instant::now();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    let output = child.wait_with_output()?;
    assert!(signalled.elapsed() < Duration::from_secs(10), "it does not wait for the store");
    assert_eq!(output.status.code(), Some(111), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lab.is_frozen());
    lab.server.world().faults.put_delay = Duration::ZERO;
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(())
}

fn reading(lab: &Lab) -> bool {
    lab.server.world().objects.contains_key("/api/v1/namespaces/default/pods/data-drain-a")
}

#[test]
fn second_run_beside_the_first_is_refused_and_does_no_harm() -> Test {
    let lab = Lab::start()?;
    lab.server.world().faults.delay = Duration::from_secs(8);
    let mut first = lab.command("apply").spawn()?;
    first.stdin.take().ok_or("a pipe")?.write_all(lab.input().as_bytes())?;
    let begin = Instant::now();
    while !lab.is_frozen() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it gets that far");
        std::thread::sleep(Duration::from_millis(50));
    }
    for verb in ["apply", "destroy"] {
        let second = lab.run(verb)?;
        assert_eq!(
            (second.status, second.reason()),
            (Some(111), "Busy"),
            "{verb}: {}",
            second.said
        );
    }
    let output = first.wait_with_output()?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lab.is_frozen());
    Ok(())
}

#[test]
fn claims_that_no_drain_names_are_told() -> Test {
    let lab = Lab::start()?;
    claim(&mut lab.server.world(), "forgotten", json!({"nfs": {}}));
    let planned = lab.run("plan")?;
    assert_eq!(planned.drain["status"]["observed"]["uncovered"], json!(["default/forgotten"]));
    assert!(planned.said.contains("default/forgotten is a bound claim that no Drain names"));
    Ok(())
}

#[test]
fn what_a_copy_does_not_keep_is_in_status_and_receipt() -> Test {
    let lab = Lab::start()?;
    let socket = lab.folder.path().join("a/socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    let ended = lab.run("apply")?;
    drop(listener);
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    let copied = &ended.drain["status"]["observed"]["copied"][0];
    assert_eq!(copied["notKept"], json!(["1 sockets are not copied: ./socket"]), "{copied}");
    assert!(ended.said.contains("sockets are not copied"), "{}", ended.said);
    Ok(())
}
