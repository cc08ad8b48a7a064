//! The way back: nothing is lost, and nothing is left.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::project::{
    Project, Test, document, documents, forward, kubeconfig, reasons, say, unsealed,
};

/// Everything that is destroyed, in its order.
const BACK: [&str; 4] = ["flux-seed", "talos-provision", "artifact-attest", "vcs-bootstrap"];

pub(crate) fn the_way_back_loses_and_leaves_nothing(project: &Project, input: &str) -> Test {
    let stream = forward(project, "verify", input, 0)?;
    nothing_goes_before_it_is_drained(project, &stream)?;
    let greetings = greeted(project, &stream)?;
    let drained = a_drain_killed_at_every_step_converges(project, &stream)?;
    a_second_drain_writes_nothing_and_says_the_same(project, &stream, &drained)?;
    what_was_copied_comes_back(project, &drained, greetings)?;
    a_damaged_copy_is_refused_and_starts_nothing(project, &drained)?;
    let greetings = what_was_started_again_is_not_destroyed(project, &drained)?;

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
        let gone = line.ends_with("False Destroyed") || line == "Drain prod True Drained";
        assert!(gone, "{line}");
    }
    // What was copied outlives all of it.
    what_was_copied_comes_back(project, &stream, greetings)
}

fn nothing_goes_before_it_is_drained(project: &Project, stream: &str) -> Test {
    let before = project.writes()?;
    for (program, reason) in [("flux-seed", "NotDrained"), ("talos-provision", "StillNeeded")] {
        let (refused, status) = project.pipe(program, "destroy", stream)?;
        assert_eq!(status, 111, "{program}: {:?}", reasons(&refused)?);
        assert!(reasons(&refused)?.iter().any(|it| it.ends_with(reason)), "{program}");
    }
    // Without its Delivery, and without its Drain, the cluster is still not let go.
    let alone = documents(stream)?;
    let alone = alone.iter().filter(|it| it["kind"] != "Delivery" && it["kind"] != "Drain");
    let alone = alone.map(Value::to_string).collect::<Vec<_>>().join("\n");
    let (refused, status) = project.pipe("talos-provision", "destroy", &alone)?;
    assert_eq!(status, 111, "{:?}", reasons(&refused)?);
    let said = reasons(&refused)?;
    assert!(said.contains(&"Cluster prod False NotDrained".to_owned()), "{said:?}");
    assert_eq!(project.writes()?, before, "nothing was touched");
    Ok(())
}

/// How often the greeter has greeted, by its own account.
fn greeted(project: &Project, stream: &str) -> Test<u64> {
    // A pod of a lab that has just come back has a new address before the API server knows it.
    let ask = kubeconfig(project, stream)?
        + "for again in {1..60}; do
             kubectl get --raw /api/v1/namespaces/default/services/greeter:80/proxy/ && exit; sleep 1
           done; exit 1";
    let answer = project.sh(&ask)?;
    let number = answer.split(|it: char| !it.is_ascii_digit()).find_map(|it| it.parse().ok());
    Ok(number.ok_or_else(|| format!("no number in {answer}"))?)
}

fn a_drain_killed_at_every_step_converges(project: &Project, stream: &str) -> Test<String> {
    let (planned, status) = project.pipe("data-drain", "plan", stream)?;
    assert_eq!(status, 0, "{:?}", reasons(&planned)?);
    let plan = document(&planned, "Drain", "prod")?["status"]["plan"].take();
    let steps = plan.as_array().map(Vec::len);
    assert_eq!(steps, Some(7), "record node, stop, hold, copy, copy, sign, record: {plan}");
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
    assert_eq!(pods["items"], serde_json::json!([]), "nothing writes, and our pod is gone");
    Ok(drained)
}

fn a_second_drain_writes_nothing_and_says_the_same(
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
    assert_eq!(project.writes()?, before, "zero writes, to the store as to everything else");
    Ok(())
}

/// Out of documents with a receipt, or without any status at all; and by hand.
fn what_was_copied_comes_back(project: &Project, drained: &str, greetings: u64) -> Test {
    fs::write(project.root().join("drained.json"), drained)?;
    let restored = project.root().join("restored");
    let _ = fs::remove_dir_all(&restored);
    project.sh("data-drain restore --to restored drained.json")?;
    let counter = fs::read_to_string(restored.join("claim/default/greeter-data/counter"))?;
    assert_eq!(counter.trim().parse::<u64>()?, greetings, "the counter as it was");
    let head =
        "rm -rf cloned; git clone --quiet --mirror restored/forge/holistic/repository.bundle cloned
        diff <(git rev-parse refs/heads/main) <(git -C cloned rev-parse refs/heads/main)";
    project.sh(head)?;
    let refused = project.ended("data-drain restore --to restored drained.json")?;
    assert_eq!(refused.status.code(), Some(100), "nothing is written over");

    // With nothing but the identity of the vault and stock tools, as the runbook says.
    let packs = packs(project, drained)?;
    let packs: Vec<_> = packs.iter().map(|it| it.display().to_string()).collect();
    let by_hand = format!(
        "rm -rf by-hand; mkdir by-hand
         for pack in {}; do age --decrypt -i project/test-vault-identity.txt \"$pack\" | zstd -dc; done | tar -C by-hand -xf -
         diff --recursive by-hand restored/claim/default/greeter-data",
        packs.join(" ")
    );
    project.sh(&by_hand)?;
    Ok(())
}

/// Where the packs of the greeter's volume lie in the lab's store, in order.
fn packs(project: &Project, drained: &str) -> Test<Vec<PathBuf>> {
    let evidence = document(drained, "Drain", "prod")?["status"]["evidence"][0].take();
    let payload = evidence["envelope"]["payload"].as_str().ok_or("no receipt")?.to_owned();
    let receipt = project.sh(&format!("printf %s '{payload}' | base64 --decode"))?;
    let receipt: Value = serde_json::from_str(&receipt)?;
    let claims = receipt["sources"].as_array().into_iter().flatten();
    let claim = claims.into_iter().find(|it| it["from"]["claim"].is_object());
    let packs = claim.and_then(|it| it["packs"].as_array()).ok_or("no packs")?;
    let bucket = project.root().join(".lab/store/buckets/holistic-drain");
    let at = |it: &Value| it["object"].as_str().map(|it| bucket.join(it));
    Ok(packs.iter().filter_map(at).collect())
}

/// An object is gone, or one byte of it is another: no verb believes the store, and nothing starts.
fn a_damaged_copy_is_refused_and_starts_nothing(project: &Project, drained: &str) -> Test {
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
    assert_eq!(project.sh(&replicas)?, "0", "a failed verification starts no writer");
    fs::write(&pack, whole)?;
    let (again, status) = project.pipe("data-drain", "verify", drained)?;
    assert_eq!(status, 0, "the receipt is still good: {:?}", reasons(&again)?);
    Ok(())
}

/// What `verb` says of a store that is not what the receipt says.
fn refuses(project: &Project, verb: &str, drained: &str, why: &str) -> Test<String> {
    let (refused, status) = project.pipe("data-drain", verb, drained)?;
    assert_eq!(status, 100, "{verb}: {:?}", reasons(&refused)?);
    let condition = document(&refused, "Drain", "prod")?["status"]["conditions"][0].take();
    assert_eq!(condition["reason"], "Tampered", "{verb}: {condition}");
    let message = condition["message"].as_str().unwrap_or_default();
    assert!(message.contains(why), "{verb}: {message}");
    Ok(refused)
}

/// The receipt is good, and for this cluster and claim; but the workload runs, and writes. How often
/// it has greeted by then.
fn what_was_started_again_is_not_destroyed(project: &Project, drained: &str) -> Test<u64> {
    let (thawed, status) = project.pipe("data-drain", "destroy", drained)?;
    assert_eq!(status, 0, "{:?}", reasons(&thawed)?);
    let greetings = greeted(project, drained)?;
    let (refused, status) = project.pipe("flux-seed", "destroy", drained)?;
    assert_eq!(status, 111, "{:?}", reasons(&refused)?);
    assert!(reasons(&refused)?.contains(&"Delivery prod False NotDrained".to_owned()));
    Ok(greetings)
}
