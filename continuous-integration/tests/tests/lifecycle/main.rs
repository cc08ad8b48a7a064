//! The whole life of this repository, on real components, out of its own production documents.
//!
//! One lab serves the whole story, since it takes most of the time: each part goes on where the
//! one before it has ended. Binaries of the components come from `LAB_BIN`, the programs from
//! where cargo puts them: run `tasks/test`, or `cargo build --workspace --bins` first.

mod back;
#[path = "../project/mod.rs"]
mod project;

use std::fs;

use project::{
    DOCUMENTS, PROGRAMS, Project, Test, document, documents, forward, kubeconfig, reasons, say,
    unsealed,
};
use serde_json::Value;

#[test]
fn a_repository_becomes_a_running_workload() -> Test {
    let project = Project::of_a_newcomer("127.99.0.0/16")?;
    let input = project.up()?;
    only_endpoints_are_replaced(&project, &input)?;
    an_empty_world_is_planned_whole_and_not_touched(&project, &input)?;
    let output = programs_killed_at_every_step_converge(&project, &input)?;
    a_workload_without_visitors_is_drained_restored_and_started_again(&project, &output)?;
    the_workload_runs_and_answers(&project, &output)?;
    foreign_tools_accept_what_was_published(&project, &output)?;
    a_second_run_writes_nothing_and_says_the_same(&project, &input, &output)?;
    every_check_is_clean_and_every_proof_holds(&project, &input, &output)?;
    a_clone_and_the_root_make_all_of_it_again(&project, &input, &output)?;
    a_commit_becomes_a_new_digest_that_runs(&project, &input, &output)?;
    what_another_key_has_signed_is_refused(&project, &input)?;
    a_lost_lab_comes_back_with_its_state(&project, &input)?;
    back::the_way_back_loses_and_leaves_nothing(&project, &input)
}

fn only_endpoints_are_replaced(project: &Project, input: &str) -> Test {
    let plain = format!("cat $(git ls-files {DOCUMENTS} | grep yaml$ | xargs grep -l holistic/)");
    let plain = project.sh(&plain)?;
    assert!(plain.contains("api.hetzner.cloud"), "the documents are the production ones");
    let mut project_document = document(input, "Project", "holistic")?;
    let endpoints = project_document["spec"]["endpoints"].take().to_string();
    assert!(endpoints.contains("127.99.0.1"), "{endpoints}");
    assert!(!endpoints.contains("api.hetzner.cloud"), "{endpoints}");
    for other in documents(input)?.iter().filter(|it| it["kind"] != "Project") {
        assert!(!other.to_string().contains("127."), "the lab changes endpoints only: {other}");
    }
    Ok(())
}

fn an_empty_world_is_planned_whole_and_not_touched(project: &Project, input: &str) -> Test {
    let before = project.writes()?;
    let mut stream = input.to_owned();
    for program in PROGRAMS {
        let status;
        (stream, status) = project.pipe(program, "plan", &stream)?;
        assert_eq!(status, 0, "{program}: {stream}");
    }
    for kind in ["Repository", "Artifact", "Cluster", "Delivery"] {
        let planned = documents(&stream)?.into_iter().filter(|it| it["kind"] == kind);
        for document in planned {
            let steps = document["status"]["plan"].as_array().map_or(0, Vec::len);
            assert!(steps > 0, "{kind} has a plan: {document}");
        }
    }
    assert!(stream.contains("known after apply"), "what cannot be known is marked");
    assert_eq!(project.writes()?, before, "a plan writes nothing, anywhere");
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
    assert!(phases.len() >= 3, "greeter and both controllers: {pods}");
    assert!(phases.iter().all(|it| it["status"]["phase"] == "Running"), "{pods}");
    let answer =
        kubeconfig + "kubectl get --raw /api/v1/namespaces/default/services/greeter:80/proxy/";
    let (first, second) = (project.sh(&answer)?, project.sh(&answer)?);
    assert_ne!(first, second, "it counts");
    Ok(())
}

/// As the README shows it, right after the lifecycle: nobody has used the workload yet.
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

fn foreign_tools_accept_what_was_published(project: &Project, output: &str) -> Test {
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

fn a_second_run_writes_nothing_and_says_the_same(
    project: &Project,
    input: &str,
    output: &str,
) -> Test {
    let before = project.writes()?;
    let again = forward(project, "apply", input, 0)?;
    assert_eq!(project.writes()?, before, "zero writes to forge, registry, cloud and cluster");
    assert_eq!(unsealed(&again)?, unsealed(output)?, "the same documents but for what is sealed");
    Ok(())
}

fn every_check_is_clean_and_every_proof_holds(
    project: &Project,
    input: &str,
    output: &str,
) -> Test {
    let before = project.writes()?;
    // From files without any status, and from documents with one.
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

/// Byte for byte; and what another root would make is told from it.
fn a_clone_and_the_root_make_all_of_it_again(project: &Project, input: &str, output: &str) -> Test {
    fs::write(project.root().join(".lab/lab.json"), input)?;
    fs::write(project.root().join(".lab/documents.json"), output)?;
    let (before, task) = (project.writes()?, project.task("reconstruct"));
    let ended = project.ended(&task)?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.ends_with("compared: 16, different: 0\n") && ended.status.success(), "{said}");
    let another = "export ARTIFACT_ATTEST_KEY=$(head -c 32 /dev/zero | base64)\n".to_owned();
    let ended = project.ended(&(another + &task))?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    // The public key of three artifacts, and what the forge was given. What is published is proven
    // with the public key that the Project names, whoever asks.
    assert!(said.ends_with("compared: 16, different: 4\n"), "{said}");
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(project.writes()?, before, "nothing is written but to a folder of its own");
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
    assert_ne!(old, new, "another commit is another image");
    let images = kubeconfig(project, &again)?
        + "kubectl get pods -l app.kubernetes.io/name=greeter -o jsonpath='{.items[*].status.containerStatuses[*].imageID}'";
    let images = project.sh(&images)?;
    assert!(images.contains(new.as_str().ok_or("no digest")?), "{images}");
    Ok(())
}

fn what_another_key_has_signed_is_refused(project: &Project, input: &str) -> Test {
    // Everything is published by somebody whose key this project does not have.
    let stranger = "ARTIFACT_ATTEST_KEY=$(head -c 32 /dev/zero | base64)";
    let honest = forward(project, "apply", input, 0)?;
    let manifests = project.root().join("deployments/prod/kustomization.yaml");
    let text = fs::read_to_string(&manifests)?;
    fs::write(&manifests, text + "# changed by a stranger\n")?;
    project.sh("git commit --quiet --all -m 'A change by a stranger'")?;
    // The stranger does not care whether it comes out the same again, nor whether anybody else has
    // the commit, nor which keys the Project names.
    fs::write(project.root().join("input.json"), input)?;
    let careless = r#"jq -c 'del(.spec.verificationKeys) | if .kind == "Artifact" then .spec.sourceCheck = "skip" else . end
        | if .spec.rebuild then .spec.rebuild = "skip" else . end' <input.json"#;
    let foreign = project.sh(&format!("{careless} | {stranger} artifact-attest apply"))?;
    let digest = |text: &str| -> Test<String> {
        let artifact = document(text, "Artifact", "deployments")?;
        let digest = artifact["status"]["observed"]["digest"].as_str();
        Ok(digest.ok_or("no digest")?.to_owned())
    };
    // The stream as an attacker would have it: the foreign digest under the honest key.
    let forged = honest.replace(&digest(&honest)?, &digest(&foreign)?);
    let (refused, status) = project.pipe("flux-seed", "apply", &forged)?;
    assert_eq!(status, 100, "{:?}", reasons(&refused)?);
    let (refused, status) = project.pipe("flux-seed", "verify", &forged)?;
    assert_eq!(status, 100, "{:?}", reasons(&refused)?);
    assert!(
        reasons(&refused)?.contains(&"Delivery prod False SignatureRefused".to_owned()),
        "{:?}",
        reasons(&refused)?
    );
    project.sh("git revert --no-edit HEAD")?;
    forward(project, "apply", input, 0)?;
    Ok(())
}

fn a_lost_lab_comes_back_with_its_state(project: &Project, input: &str) -> Test {
    let stream = forward(project, "apply", input, 0)?;
    let identities = kubeconfig(project, &stream)?
        + "kubectl get namespaces,deployments,pods --all-namespaces -o jsonpath='{.items[*].metadata.uid}'";
    let before = project.sh(&identities)?;
    project.sh("lab down")?;
    let again = project.up()?;
    assert_eq!(again, input, "the same endpoints");
    let (planned, status) = project.pipe("data-drain", "plan", &stream)?;
    assert_eq!(status, 0, "its clusters answer by then: {:?}", reasons(&planned)?);
    forward(project, "apply", &again, 0)?;
    assert_eq!(project.sh(&identities)?, before, "the same cluster, and the same pods in it");
    Ok(())
}
