//! The lifecycle of this repository, from its own production documents, on real components.
//!
//! All parts share one lab, because starting it takes most of the time. Each part continues where the
//! part before it ended. Components come from `LAB_BIN`, the programs from cargo's target folder: run
//! `tasks/test`, or `cargo build --workspace --bins` first.

mod back;
#[path = "../project/mod.rs"]
#[expect(dead_code, reason = "no test program uses every function of this module")]
mod project;

use std::collections::BTreeSet;
use std::fs;

use documents::Stream;
use project::{
    DOCUMENTS, PROGRAMS, Project, Test, document, documents, forward, kubeconfig, reasons, say,
    unsealed,
};
use serde_json::{Map, Value};

#[test]
fn a_repository_becomes_a_running_workload() -> Test {
    let project = Project::of_a_newcomer("127.99.0.0/16")?;
    let input = project.up()?;
    only_endpoints_and_declared_overrides_differ(&project, &input)?;
    plan_covers_an_empty_world_and_writes_nothing(&project, &input)?;
    let output = programs_killed_at_every_step_converge(&project, &input)?;
    a_workload_without_visitors_is_drained_restored_and_started_again(&project, &output)?;
    the_workload_runs_and_answers(&project, &output)?;
    foreign_tools_verify_the_published_artifacts(&project, &output)?;
    a_second_run_writes_nothing_and_prints_the_same_documents(&project, &input, &output)?;
    every_plan_check_and_every_verify_succeeds(&project, &input, &output)?;
    reconstruct_derives_every_value_from_a_clone_and_the_root(&project, &output)?;
    a_commit_becomes_a_new_digest_that_runs(&project, &input, &output)?;
    an_artifact_signed_with_another_key_is_not_delivered(&project, &input)?;
    a_lab_that_ended_starts_again_with_its_state(&project, &input)?;
    back::the_way_back_loses_no_data_and_leaves_no_resource(&project, &input)?;
    project.another_validator_accepts_every_document()
}

/// Compares the lab's documents with those of production: only endpoints, among
/// them the URL of the Image Factory, and the fields in `lab/` differ.
fn only_endpoints_and_declared_overrides_differ(project: &Project, input: &str) -> Test {
    let folders = DOCUMENTS.split(' ').map(|folder| project.root().join(folder));
    let stream = Stream::read(&folders.collect::<Vec<_>>());
    let (mut plain, mut lab) = (stream.documents(), documents(input)?.into_iter());
    let mut changed = BTreeSet::new();
    loop {
        let (plain, lab) = match (plain.next(), lab.next()) {
            (Some(plain), Some(lab)) => (plain, lab),
            (None, None) => break,
            other => return Err(format!("not the same documents: {other:?}").into()),
        };
        let kind = plain["kind"].as_str().unwrap_or_default();
        differences(plain, &lab, kind, &mut changed);
    }
    let expected = [
        "Cluster.spec.externalCloudProvider",
        "Cluster.spec.image.factory",
        "Delivery.spec.path",
        "Delivery.spec.secrets",
        "Project.spec.endpoints",
    ];
    assert_eq!(changed, expected.map(str::to_owned).into());
    let endpoints = document(input, "Project", "holistic")?["spec"]["endpoints"].take().to_string();
    assert!(endpoints.contains("127.99.0.1"), "{endpoints}");
    assert!(!endpoints.contains("api.hetzner.cloud"), "{endpoints}");
    Ok(())
}

/// Adds the path of every field that differs to `changed`. Endpoints count as one field.
fn differences(plain: &Value, lab: &Value, path: &str, changed: &mut BTreeSet<String>) {
    match (plain.as_object(), lab.as_object()) {
        (Some(plain), Some(lab)) if !path.ends_with(".endpoints") => {
            for key in plain.keys().chain(lab.keys()).collect::<BTreeSet<_>>() {
                let value =
                    |fields: &Map<String, Value>| fields.get(key).cloned().unwrap_or_default();
                differences(&value(plain), &value(lab), &format!("{path}.{key}"), changed);
            }
        }
        _ if plain != lab => drop(changed.insert(path.to_owned())),
        _ => {}
    }
}

fn plan_covers_an_empty_world_and_writes_nothing(project: &Project, input: &str) -> Test {
    let before = project.writes()?;
    let mut stream = input.to_owned();
    for program in PROGRAMS {
        let status;
        (stream, status) = project.pipe(program, "plan", &stream)?;
        assert_eq!(status, 0, "{program}: {stream}");
    }
    for kind in ["Repository", "Artifact", "Cluster", "Delivery"] {
        let planned = documents(&stream)?.into_iter().filter(|document| document["kind"] == kind);
        for document in planned {
            let steps = document["status"]["plan"].as_array().map_or(0, Vec::len);
            assert!(steps > 0, "{kind} has a plan: {document}");
        }
    }
    assert!(stream.contains("known after apply"), "unknown values are marked");
    assert_eq!(project.writes()?, before, "a plan writes nothing");
    Ok(())
}

fn programs_killed_at_every_step_converge(project: &Project, input: &str) -> Test<String> {
    let mut stream = input.to_owned();
    for program in PROGRAMS {
        let (output, status, killed) =
            project.pipe_killed_at_every_step(program, "apply", &stream)?;
        say(&format!("{program}: killed {killed} times, then {status}"));
        assert!(killed > 0, "{program} took no step");
        assert_eq!(status, 0, "{program}: {:?}", reasons(&output)?);
        stream = output;
    }
    for line in reasons(&stream)? {
        assert!(line.contains(" True "), "{line}");
    }
    Ok(stream)
}

fn the_workload_runs_and_answers(project: &Project, output: &str) -> Test {
    let kubeconfig = kubeconfig(project, output)?;
    let pods = project.sh(&(kubeconfig.clone() + "kubectl get pods --all-namespaces -o json"))?;
    let pods: Value = serde_json::from_str(&pods)?;
    let phases: Vec<_> = pods["items"].as_array().into_iter().flatten().collect();
    assert!(phases.len() >= 2, "greeter, and Flux in one pod: {pods}");
    assert!(phases.iter().all(|pod| pod["status"]["phase"] == "Running"), "{pods}");
    let answer =
        kubeconfig + "kubectl get --raw /api/v1/namespaces/default/services/greeter:80/proxy/";
    let (first, second) = (project.sh(&answer)?, project.sh(&answer)?);
    assert_ne!(first, second, "the second answer has another number");
    Ok(())
}

/// Drains and restores right after the lifecycle, as in the README, when the workload has no visitors.
fn a_workload_without_visitors_is_drained_restored_and_started_again(
    project: &Project,
    output: &str,
) -> Test {
    let (drained, status) = project.pipe("data-drain", "apply", output)?;
    assert_eq!(status, 0, "{:?}", reasons(&drained)?);
    fs::write(project.root().join("first.json"), &drained)?;
    project.sh("data-drain restore --to first first.json")?;
    let (thawed, status) = project.pipe("data-drain", "destroy", &drained)?;
    assert_eq!(status, 0, "{:?}", reasons(&thawed)?);
    let wait = "kubectl wait --for=condition=Available deployment/greeter --timeout=60s";
    project.sh(&(kubeconfig(project, output)? + wait))?;
    Ok(())
}

fn foreign_tools_verify_the_published_artifacts(project: &Project, output: &str) -> Test {
    for name in ["greeter", "volume-reader", "deployments"] {
        let artifact = document(output, "Artifact", name)?;
        let observed = &artifact["status"]["observed"];
        let (reference, key) = (&observed["reference"], &observed["publicKey"]);
        let reference = reference.as_str().ok_or("no reference")?;
        fs::write(project.root().join("cosign.pub"), key.as_str().ok_or("no key")?)?;
        let flags = "--key cosign.pub --insecure-ignore-tlog --allow-http-registry --allow-insecure-registry";
        project.sh(&format!("cosign verify {flags} {reference}"))?;
        let provenance = "--type slsaprovenance1";
        project.sh(&format!("cosign verify-attestation {provenance} {flags} {reference}"))?;
        project.sh(&format!("crane --insecure validate --remote {reference}"))?;
    }
    Ok(())
}

fn a_second_run_writes_nothing_and_prints_the_same_documents(
    project: &Project,
    input: &str,
    output: &str,
) -> Test {
    let before = project.writes()?;
    let again = forward(project, "apply", input, 0)?;
    assert_eq!(project.writes()?, before, "zero writes to forge, registry, cloud and cluster");
    assert_eq!(unsealed(&again)?, unsealed(output)?, "the same documents except status.sealed");
    Ok(())
}

fn every_plan_check_and_every_verify_succeeds(
    project: &Project,
    input: &str,
    output: &str,
) -> Test {
    let before = project.writes()?;
    // From documents without a status, and from documents with a status.
    for start in [input, output] {
        let mut stream = start.to_owned();
        for program in PROGRAMS {
            let (_, check) = project.pipe(program, "plan --check", &stream)?;
            let (verified, proof) = project.pipe(program, "verify", &stream)?;
            assert_eq!((check, proof), (0, 0), "{program}: {:?}", reasons(&verified)?);
            stream = verified;
        }
    }
    assert_eq!(project.writes()?, before);
    Ok(())
}

/// Reconstructs every derived value byte for byte, and detects values that another root would give.
fn reconstruct_derives_every_value_from_a_clone_and_the_root(
    project: &Project,
    output: &str,
) -> Test {
    fs::write(project.root().join(".lab/documents.json"), output)?;
    let (before, task) = (project.writes()?, project.task("reconstruct"));
    let ended = project.ended(&task)?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.ends_with("compared: 16, different: 0\n") && ended.status.success(), "{said}");
    let another = "export ARTIFACT_ATTEST_KEY=$(head -c 32 /dev/zero | base64)\n".to_owned();
    let ended = project.ended(&(another + &task))?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    // The public keys of three artifacts and the value that the forge holds differ. Published artifacts verify
    // with the public key in the Project, so they do not depend on the caller's root.
    assert!(said.ends_with("compared: 16, different: 4\n"), "{said}");
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(project.writes()?, before, "reconstruct writes only to its own folder");
    Ok(())
}

fn a_commit_becomes_a_new_digest_that_runs(project: &Project, input: &str, output: &str) -> Test {
    let main = project.root().join("sources/greeter/src/main.rs");
    let source = fs::read_to_string(&main)?;
    fs::write(&main, source + "\n// A change that makes another binary or another commit.\n")?;
    project.sh("git commit --quiet --all -m 'Greet as before'")?;
    let again = forward(project, "apply", input, 0)?;
    let digest = |text: &str| -> Test<Value> {
        Ok(document(text, "Artifact", "greeter")?["status"]["observed"]["digest"].clone())
    };
    let (old, new) = (digest(output)?, digest(&again)?);
    assert_ne!(old, new, "another commit gives another image");
    let images = kubeconfig(project, &again)?
        + "kubectl get pods -l app.kubernetes.io/name=greeter -o jsonpath='{.items[*].status.containerStatuses[*].imageID}'";
    let images = project.sh(&images)?;
    assert!(images.contains(new.as_str().ok_or("no digest")?), "{images}");
    Ok(())
}

fn an_artifact_signed_with_another_key_is_not_delivered(project: &Project, input: &str) -> Test {
    // An attacker publishes every artifact with a key that is not the project's.
    let stranger = "ARTIFACT_ATTEST_KEY=$(head -c 32 /dev/zero | base64)";
    let honest = forward(project, "apply", input, 0)?;
    let manifests = project.root().join("deployments/manifests/lab/kustomization.yaml");
    let text = fs::read_to_string(&manifests)?;
    fs::write(&manifests, text + "# changed by a stranger\n")?;
    project.sh("git commit --quiet --all -m 'A change by a stranger'")?;
    // The attacker skips the check of the source and the second build, and ignores the Project's keys.
    fs::write(project.root().join("input.json"), input)?;
    let careless = r#"jq -c 'del(.spec.verificationKeys) | if .kind == "Artifact" then .spec.sourceCheck = "skip" else . end
        | if .spec.rebuild then .spec.rebuild = "skip" else . end' <input.json"#;
    let foreign = project.sh(&format!("{careless} | {stranger} artifact-attest apply"))?;
    let digest = |text: &str| -> Test<String> {
        let artifact = document(text, "Artifact", "deployments")?;
        let digest = artifact["status"]["observed"]["digest"].as_str();
        Ok(digest.ok_or("no digest")?.to_owned())
    };
    // The forged stream: the attacker's digest together with the project's public key.
    let forged = honest.replace(&digest(&honest)?, &digest(&foreign)?);
    let (refused, status) = project.pipe("flux-seed", "apply", &forged)?;
    assert_eq!(status, 100, "{:?}", reasons(&refused)?);
    let (refused, status) = project.pipe("flux-seed", "verify", &forged)?;
    assert_eq!(status, 100, "{:?}", reasons(&refused)?);
    assert!(
        reasons(&refused)?.contains(&"Delivery prod False SignatureInvalid".to_owned()),
        "{:?}",
        reasons(&refused)?
    );
    project.sh("git revert --no-edit HEAD")?;
    forward(project, "apply", input, 0)?;
    Ok(())
}

fn a_lab_that_ended_starts_again_with_its_state(project: &Project, input: &str) -> Test {
    let stream = forward(project, "apply", input, 0)?;
    let identities = kubeconfig(project, &stream)?
        + "kubectl get namespaces,deployments,pods --all-namespaces -o jsonpath='{.items[*].metadata.uid}'";
    let before = project.sh(&identities)?;
    project.sh("lab down")?;
    let again = project.up()?;
    assert_eq!(again, input, "the same endpoints");
    let (planned, status) = project.pipe("data-drain", "plan", &stream)?;
    assert_eq!(status, 0, "the clusters answer: {:?}", reasons(&planned)?);
    forward(project, "apply", &again, 0)?;
    assert_eq!(project.sh(&identities)?, before, "the same cluster with the same pods");
    Ok(())
}
