//! The way back: drain, restore and destroy. No data is lost and no resource remains.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::project::{
    Project, Test, document, documents, forward, kubeconfig, reasons, say, unsealed,
};

/// Programs that destroy, in their order.
const BACK: [&str; 4] = ["flux-seed", "talos-provision", "artifact-attest", "vcs-bootstrap"];

pub(crate) fn the_way_back_loses_no_data_and_leaves_no_resource(
    project: &Project,
    input: &str,
) -> Test {
    let stream = forward(project, "verify", input, 0)?;
    destroy_is_refused_before_the_drain(project, &stream)?;
    let greetings = greeted(project, &stream)?;
    let drained = a_drain_killed_at_every_step_converges(project, &stream)?;
    a_second_drain_writes_nothing_and_prints_the_same_documents(project, &stream, &drained)?;
    a_copy_is_restored_with_and_without_data_drain(project, &drained, greetings)?;
    a_damaged_copy_is_reported_and_starts_no_workload(project, &drained)?;
    let greetings = a_workload_that_was_started_again_is_not_destroyed(project, &drained)?;

    let mut stream = stream;
    let (drained, status) = project.pipe("data-drain", "apply", &stream)?;
    assert_eq!(status, 0, "{:?}", reasons(&drained)?);
    stream.clone_from(&drained);
    for program in BACK {
        let (output, status, killed) =
            project.pipe_killed_at_every_step(program, "destroy", &stream)?;
        say(&format!("{program} destroy: killed {killed} times, then {status}"));
        assert_eq!(status, 0, "{program}: {:?}", reasons(&output)?);
        stream = output;
    }
    for line in reasons(&stream)? {
        let is_expected = line.ends_with("False Destroyed") || line == "Drain prod True Drained";
        assert!(is_expected, "{line}");
    }
    // The copy outlives every other resource.
    a_copy_is_restored_with_and_without_data_drain(project, &stream, greetings)
}

fn destroy_is_refused_before_the_drain(project: &Project, stream: &str) -> Test {
    let before = project.writes()?;
    for (program, reason) in [("flux-seed", "NotDrained"), ("talos-provision", "StillNeeded")] {
        let (refused, status) = project.pipe(program, "destroy", stream)?;
        assert_eq!(status, 111, "{program}: {:?}", reasons(&refused)?);
        assert!(reasons(&refused)?.iter().any(|line| line.ends_with(reason)), "{program}");
    }
    // The cluster is kept even if the input lacks its Delivery and its Drain.
    let alone = documents(stream)?;
    let alone = alone
        .iter()
        .filter(|document| document["kind"] != "Delivery" && document["kind"] != "Drain");
    let alone = alone.map(Value::to_string).collect::<Vec<_>>().join("\n");
    let (refused, status) = project.pipe("talos-provision", "destroy", &alone)?;
    assert_eq!(status, 111, "{:?}", reasons(&refused)?);
    let said = reasons(&refused)?;
    assert!(said.contains(&"Cluster prod False NotDrained".to_owned()), "{said:?}");
    assert_eq!(project.writes()?, before, "a refused destroy writes nothing");
    Ok(())
}

/// Returns the greeter's own count of greetings.
fn greeted(project: &Project, stream: &str) -> Test<u64> {
    // After a restart of the lab a pod has a new address before the API server knows that address.
    let ask = kubeconfig(project, stream)?
        + "for again in {1..60}; do
             kubectl get --raw /api/v1/namespaces/default/services/greeter:80/proxy/ && exit; sleep 1
           done; exit 1";
    let answer = project.sh(&ask)?;
    let mut parts = answer.split(|letter: char| !letter.is_ascii_digit());
    let number = parts.find_map(|digits| digits.parse().ok());
    Ok(number.ok_or_else(|| format!("no number in {answer}"))?)
}

fn a_drain_killed_at_every_step_converges(project: &Project, stream: &str) -> Test<String> {
    let (planned, status) = project.pipe("data-drain", "plan", stream)?;
    assert_eq!(status, 0, "{:?}", reasons(&planned)?);
    let plan = document(&planned, "Drain", "prod")?["status"]["plan"].take();
    let steps = plan.as_array().map(Vec::len);
    // The first drain recorded the node of the claim, and the record stays.
    assert_eq!(steps, Some(6), "stop, hold, copy, copy, sign, record: {plan}");
    let (drained, status, killed) =
        project.pipe_killed_at_every_step("data-drain", "apply", stream)?;
    say(&format!("data-drain: killed {killed} times, then {status}"));
    assert!(
        killed >= 9,
        "survey, stop, hold, mount, copy, look again, read back, sign, record: {killed}"
    );
    assert_eq!(status, 0, "{:?}", reasons(&drained)?);
    let pods = kubeconfig(project, &drained)? + "kubectl get pods --namespace default -o json";
    let pods: Value = serde_json::from_str(&project.sh(&pods)?)?;
    assert_eq!(
        pods["items"],
        serde_json::json!([]),
        "no pod writes, and the reader's pod is removed"
    );
    Ok(drained)
}

fn a_second_drain_writes_nothing_and_prints_the_same_documents(
    project: &Project,
    stream: &str,
    drained: &str,
) -> Test {
    let before = project.writes()?;
    for start in [stream, drained] {
        let (again, status) = project.pipe("data-drain", "apply", start)?;
        assert_eq!(status, 0, "{:?}", reasons(&again)?);
        assert_eq!(unsealed(&again)?, unsealed(drained)?, "the same receipt");
        for verb in ["plan --check", "verify"] {
            let (output, status) = project.pipe("data-drain", verb, start)?;
            assert_eq!(status, 0, "{verb}: {:?}", reasons(&output)?);
        }
    }
    assert_eq!(project.writes()?, before, "zero writes, also to the store");
    Ok(())
}

/// Restores the copy with `data-drain restore`, and by hand with stock tools.
fn a_copy_is_restored_with_and_without_data_drain(
    project: &Project,
    drained: &str,
    greetings: u64,
) -> Test {
    fs::write(project.root().join("drained.json"), drained)?;
    let restored = project.root().join("restored");
    let _ = fs::remove_dir_all(&restored);
    project.sh("data-drain restore --to restored drained.json")?;
    let counter = fs::read_to_string(restored.join("claim/default/greeter-data/counter"))?;
    assert_eq!(counter.trim().parse::<u64>()?, greetings, "the restored counter");
    let head =
        "rm -rf cloned; git clone --quiet --mirror restored/forge/holistic/repository.bundle cloned
        diff <(git rev-parse refs/heads/main) <(git -C cloned rev-parse refs/heads/main)";
    project.sh(head)?;
    let refused = project.ended("data-drain restore --to restored drained.json")?;
    assert_eq!(refused.status.code(), Some(100), "restore does not overwrite files");

    // With the vault's identity and stock tools alone, as in knowledge/runbooks/disaster.md.
    let packs = packs(project, drained)?;
    let packs: Vec<_> = packs.iter().map(|pack| pack.display().to_string()).collect();
    let by_hand = format!(
        "rm -rf by-hand; mkdir by-hand
         for pack in {}; do age --decrypt -i project/test-vault-identity.txt \"$pack\" | zstd -dc; done | tar -C by-hand -xf -
         diff --recursive by-hand restored/claim/default/greeter-data",
        packs.join(" ")
    );
    project.sh(&by_hand)?;
    Ok(())
}

/// Returns the files of the greeter's volume in the lab's store, in their order.
fn packs(project: &Project, drained: &str) -> Test<Vec<PathBuf>> {
    let evidence = document(drained, "Drain", "prod")?["status"]["evidence"][0].take();
    let payload = evidence["envelope"]["payload"].as_str().ok_or("no receipt")?.to_owned();
    let receipt = project.sh(&format!("printf %s '{payload}' | base64 --decode"))?;
    let receipt: Value = serde_json::from_str(&receipt)?;
    let claims = receipt["sources"].as_array().into_iter().flatten();
    let claim = claims.into_iter().find(|source| source["from"]["claim"].is_object());
    let packs = claim.and_then(|claim| claim["packs"].as_array()).ok_or("no packs")?;
    let bucket = project.root().join(".lab/store/buckets/holistic-drain");
    let path = |pack: &Value| pack["object"].as_str().map(|object| bucket.join(object));
    Ok(packs.iter().filter_map(path).collect())
}

/// Removes an object and then changes one byte of it: every verb reports the damage, and no workload
/// is started.
fn a_damaged_copy_is_reported_and_starts_no_workload(project: &Project, drained: &str) -> Test {
    let pack = packs(project, drained)?.remove(0);
    let whole = fs::read(&pack)?;
    fs::remove_file(&pack)?;
    refuses(project, "verify", drained, "it is not there")?;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&pack, flipped)?;
    refuses(project, "verify", drained, "its SHA-256 differs")?;
    let refused = refuses(project, "apply", drained, "its SHA-256 differs")?;
    let (kept, status) = project.pipe("flux-seed", "destroy", &refused)?;
    assert_eq!(status, 111, "{:?}", reasons(&kept)?);
    let replicas = kubeconfig(project, drained)?
        + "kubectl get deployment greeter -o jsonpath='{.spec.replicas}'";
    assert_eq!(project.sh(&replicas)?, "0", "a failed verification starts no workload");
    fs::write(&pack, whole)?;
    let (again, status) = project.pipe("data-drain", "verify", drained)?;
    assert_eq!(status, 0, "the receipt is valid again: {:?}", reasons(&again)?);
    Ok(())
}

/// Runs `verb` on a store that differs from the receipt, and returns the documents with the error.
fn refuses(project: &Project, verb: &str, drained: &str, why: &str) -> Test<String> {
    let (refused, status) = project.pipe("data-drain", verb, drained)?;
    assert_eq!(status, 100, "{verb}: {:?}", reasons(&refused)?);
    let condition = document(&refused, "Drain", "prod")?["status"]["conditions"][0].take();
    assert_eq!(condition["reason"], "Corrupt", "{verb}: {condition}");
    let message = condition["message"].as_str().unwrap_or_default();
    assert!(message.contains(why), "{verb}: {message}");
    Ok(refused)
}

/// Starts the drained workload again: `destroy` then refuses, because the workload writes after the
/// receipt. Returns the number of greetings.
fn a_workload_that_was_started_again_is_not_destroyed(
    project: &Project,
    drained: &str,
) -> Test<u64> {
    let (thawed, status) = project.pipe("data-drain", "destroy", drained)?;
    assert_eq!(status, 0, "{:?}", reasons(&thawed)?);
    let greetings = greeted(project, drained)?;
    let (refused, status) = project.pipe("flux-seed", "destroy", drained)?;
    assert_eq!(status, 111, "{:?}", reasons(&refused)?);
    assert!(reasons(&refused)?.contains(&"Delivery prod False NotDrained".to_owned()));
    Ok(greetings)
}
