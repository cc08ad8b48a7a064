//! Whole drains with a simulated cluster and store: the state after a failure, a signal or a second run. The
//! reader is the real one.

mod cluster;
mod copies;
mod forge;
mod keys;
mod lab;
mod page;
#[allow(dead_code, unreachable_pub, missing_docs, clippy::pedantic)]
#[path = "../../../../sources/volume-reader/src/lib.rs"]
mod reader;
mod store;
mod waits;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{CLAIM_A, Lab, POLICY, WORKLOAD_A, claim};
use serde_json::{Value, json};
use testing::Test;

// hazard: The second claim is read on the first one's node: an empty folder gets a receipt.
// class: The wrong bytes are copied.
// members: replicas of a set, workloads without a pod, pending pods, nodes that are gone
// now: the right node, or an error that asks for `node`
#[test]
fn each_claim_is_read_on_the_node_of_its_pod_and_held_until_destroy() -> Test {
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

    // The hold denies pods of a workload that is started again.
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

// hazard: A volume changes after its receipt, through any pod but the named workload.
// class: Evidence is believed after the facts have moved on.
// members: CronJobs, debug pods, a second workload, a removed hold
// now: `verify` 111, `plan --check` 3, every gate closed
#[test]
fn a_receipt_is_invalid_after_its_hold_is_removed_or_recreated() -> Test {
    let lab = Lab::start()?;
    assert_eq!(lab.run("apply")?.status, Some(0));
    let policy = lab.server.world().objects.remove(POLICY).ok_or("a policy")?;
    let verified = lab.run("verify")?;
    assert_eq!((verified.status, verified.reason()), (Some(111), "VerificationFailed"));
    assert!(
        verified.message().contains("the hold on the claims was changed"),
        "{}",
        verified.message()
    );
    lab.server.world().put(POLICY, policy);
    assert_eq!(lab.run("verify")?.reason(), "VerificationFailed", "it has another UID");
    assert_eq!(lab.run("plan --check")?.status, Some(3));
    // The volumes are read again, and their packs exist already.
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

// hazard: Pod Security refuses the reader after the application was stopped.
// class: What cannot be drained is found out too late.
// members: quota, admission, empty and nested volumes
// now: `NotDrainable`, exit 100, before anything is stopped
#[test]
fn apply_refuses_an_undrainable_claim_before_any_workload_stops() -> Test {
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
fn an_empty_volume_is_copied_when_the_document_allows_it() -> Test {
    let mut lab = Lab::start()?;
    lab.server.world().volumes.remove(&("node-b".to_owned(), "default/b".to_owned()));
    lab.drain()["sources"][1]["allowEmpty"] = true.into();
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(())
}

// hazard: A claim that nothing mounts can neither be drained nor destroyed.
// class: A case without a way out.
// members: a workload that is gone
// now: it is drained
#[test]
fn a_claim_without_a_pod_is_drained_on_the_node_that_has_its_data() -> Test {
    // Without the workload, no object shows the node.
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

// hazard: A failed drain starts the writers, and the next run sends everything again.
// class: A failure makes things worse.
// members: dropped connections, failed verification
// now: it stays stopped and held; the next run sends what is missing
#[test]
fn a_failure_keeps_workloads_stopped_and_the_next_run_sends_only_missing_packs() -> Test {
    let lab = Lab::start()?;
    // The first claim's pack and manifest arrive.
    lab.server.world().faults.store.puts = Some(2);
    let failed = lab.run("apply")?;
    assert_eq!((failed.status, failed.reason()), (Some(100), "Forbidden"), "{}", failed.said);
    assert!(lab.is_frozen(), "a failure starts nothing");
    lab.server.world().faults.store.puts = None;
    lab.server.world().writes.clear();
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    let world = lab.server.world();
    let puts: Vec<_> =
        world.writes.iter().filter(|line| line.starts_with("PUT holistic/")).collect();
    assert_eq!(puts.len(), 3, "the second claim's pack and manifest, and the receipt: {puts:?}");
    Ok(())
}

// hazard: The API server loses the tail of an exec, and the copy misses it or never ends.
// class: A truncated stream is taken for whole.
// members: cut connections, early end of the reader
// now: `ReadFailed`, 111; the next run goes on
#[test]
fn a_truncated_output_of_the_reader_is_never_an_archive() -> Test {
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

// hazard: A first claim that takes longer than the limit fails every drain of two claims.
// class: One limit for all steps.
// members: retries that make no progress
// now: it ends
#[test]
fn the_time_limit_applies_to_each_step_and_not_to_a_slow_copy() -> Test {
    let mut lab = Lab::start()?;
    lab.drain()["timeoutSeconds"] = 1.into();
    lab.server.world().faults.delay = Duration::from_millis(1500);
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(())
}

// hazard: A damaged copy makes `apply` start the writers and invalidate a good receipt.
// class: A failure makes things worse.
// members: tampered and missing objects
// now: `Corrupt`; nothing is started
#[test]
fn verify_reports_a_damaged_copy_and_starts_no_workload() -> Test {
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
        assert_eq!((refused.status, refused.reason()), (Some(100), "Corrupt"), "{verb}");
        assert!(lab.is_frozen(), "{verb}");
    }
    // The receipt is valid again after its object is repaired.
    damage(&lab);
    assert_eq!(lab.run("apply")?.status, Some(0));
    // Another copy can be written beside a damaged one.
    damage(&lab);
    assert_eq!(lab.run("destroy")?.status, Some(0));
    assert!(lab.is_as_before());
    let again = lab.run("apply")?;
    assert_eq!(again.status, Some(0), "{}", again.said);
    assert_eq!(lab.run("verify")?.status, Some(0));
    Ok(())
}

#[test]
fn a_drain_converges_when_it_is_killed_after_every_step() -> Test {
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

// hazard: A signal during an upload is ignored for minutes, then starts the writers.
// class: A failure makes things worse.
// members: signals between steps
// now: exit 111 at once; it stays stopped
#[test]
fn a_signal_ends_an_upload_and_starts_no_workload() -> Test {
    let lab = Lab::start()?;
    lab.server.world().faults.store.put_delay = Duration::from_secs(20);
    let mut child = lab.command("apply").spawn()?;
    child.stdin.take().ok_or("a pipe")?.write_all(lab.input().as_bytes())?;
    let begin = Instant::now();
    // The upload has begun when every claim is held and the reader runs.
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
    lab.server.world().faults.store.put_delay = Duration::ZERO;
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(())
}

fn reading(lab: &Lab) -> bool {
    lab.server.world().objects.contains_key("/api/v1/namespaces/default/pods/data-drain-a")
}

// hazard: Two drains at once delete each other's reader and start the workload under the copy.
// class: Two writers at once.
// members: a run that was killed and left its lease
// now: `Busy`, 111
#[test]
fn a_second_run_is_refused_while_the_first_one_is_in_progress() -> Test {
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
fn the_status_lists_claims_that_no_drain_names() -> Test {
    let lab = Lab::start()?;
    claim(&mut lab.server.world(), "forgotten", json!({"nfs": {}}));
    let planned = lab.run("plan")?;
    assert_eq!(planned.drain["status"]["observed"]["uncovered"], json!(["default/forgotten"]));
    assert!(planned.said.contains("default/forgotten is a bound claim that no Drain names"));
    Ok(())
}

// hazard: Sockets and other data that an archive cannot keep vanish without a word.
// class: Silent loss in a copy.
// members: nested file systems, holes, attributes, deep paths
// now: refusal, or `notKept` in status and receipt
#[test]
fn status_and_receipt_list_what_a_copy_does_not_preserve() -> Test {
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
