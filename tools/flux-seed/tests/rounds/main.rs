//! The rounds of the engine against a simulated API server: `apply` and `destroy` write what `plan` shows.

mod alone;
mod cluster;
mod installation;
mod picture;
mod several;

use std::time::Instant;

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use cluster::{Cluster, Fault, OUTAGE};
use serde_json::{Value, json};
use testing::Test;
use testing::documents::{
    DIGEST, IDENTITY, ROOT, artifact, document, kubeconfig, project, recipient, stream,
};
use testing::run::{program, status, stderr};

/// Runs the program with nothing of the developer's environment.
fn run(line: &str, input: &[Value]) -> Assert {
    let mut program = program(cargo_bin!("flux-seed"));
    program.env("ROOT", ROOT).env("SOPS_AGE_KEY", IDENTITY);
    program.args(line.split(' ')).write_stdin(stream(input)).assert()
}

/// Returns the documents of a delivery to `cluster`.
fn documents(cluster: &Cluster) -> Test<Vec<Value>> {
    let recipient = recipient(IDENTITY)?;
    let server = json!({"server": cluster.address});
    let kubeconfig = kubeconfig(&server, &json!({"token": "a token"}));
    let registry = format!("{}/zabronax", cluster.registry);
    let endpoints = json!({"registry": {"url": format!("http://{registry}")}});
    let digests = json!({"source-controller": DIGEST, "kustomize-controller": DIGEST});
    let delivery = json!({
        "cluster": "prod", "artifact": "deployments", "timeoutSeconds": 5,
        "flux": {"version": "2.9.5", "digests": digests},
    });
    Ok(vec![
        project(&recipient, endpoints),
        testing::documents::cluster(&recipient, &kubeconfig)?,
        artifact("deployments", &format!("{registry}/deployments")),
        document("Delivery", "prod", delivery),
    ])
}

/// Returns the writes that a plan announces.
fn announced(plan: &Value) -> Vec<String> {
    let steps = plan.as_array().into_iter().flatten();
    let write = |step: &Value| {
        let method = match step["action"].as_str() {
            Some("remove" | "removeRecord") => "DELETE",
            _ => "PATCH",
        };
        let text = |field: &str| step[field].as_str().unwrap_or_default().to_owned();
        let namespace = step["namespace"].as_str().map(|namespace| format!("{namespace}/"));
        format!("{method} {} {}{}", text("kind"), namespace.unwrap_or_default(), text("name"))
    };
    steps.map(write).collect()
}

/// The record of a removal, which is written before its first step.
const RECORD: &str = "PATCH ConfigMap kube-system/flux-seed-prod-0";

#[test]
fn apply_writes_the_planned_objects_in_the_planned_order_and_then_nothing() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    let plan = status(&run("plan", &documents).success())?["plan"].take();
    assert_eq!(plan.as_array().map(Vec::len), Some(25));
    assert_eq!(cluster.take_writes(), [""; 0], "a plan writes nothing");
    let applied = run("apply", &documents).success();
    assert_eq!(status(&applied)?["conditions"][0]["reason"], "Delivered");
    assert_eq!(cluster.take_writes(), announced(&plan));
    let shown = stderr(&applied);
    assert!(shown.contains("Delivery/prod: 25 to create"), "{shown}");
    run("apply", &documents).success();
    assert_eq!(cluster.take_writes(), [""; 0]);
    run("plan --check", &documents).success();
    Ok(())
}

#[test]
fn apply_changes_only_what_differs_and_names_its_path() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    run("apply", &documents).success();
    cluster.take_writes();
    cluster.edit("Kustomization flux-system/prod", |live| live["spec"]["path"] = "./other".into());
    let planned = run("plan --check", &documents).code(3);
    let shown = stderr(&planned);
    assert!(shown.contains("~ change Kustomization flux-system/prod: spec.path"), "{shown}");
    run("apply", &documents).success();
    assert_eq!(cluster.take_writes(), ["PATCH Kustomization flux-system/prod"]);
    Ok(())
}

// hazard: `apply` resumes what a person has suspended in an incident, and no output said so before.
// class: A decision of a person is overwritten in silence.
// members: `flux suspend` of the source and of the Kustomization
// now: `plan` names the field, and `plan --check` ends with 3; `destroy` never resumes
#[test]
fn suspension_by_a_person_is_named_before_apply_resumes() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    run("apply", &documents).success();
    for object in ["OCIRepository flux-system/prod", "Kustomization flux-system/prod"] {
        cluster.take_writes();
        cluster.edit(object, |live| live["spec"]["suspend"] = true.into());
        let shown = stderr(&run("plan --check", &documents).code(3));
        assert!(shown.contains(&format!("~ change {object}: spec.suspend")), "{shown}");
        assert_eq!(cluster.take_writes(), [""; 0]);
        run("apply", &documents).success();
        assert_eq!(cluster.take_writes(), [format!("PATCH {object}")]);
    }
    Ok(())
}

#[test]
fn run_without_changes_takes_30_requests_however_many_objects_are_delivered() -> Test {
    let mut counts = Vec::new();
    for path in ["./", "./many"] {
        let cluster = Cluster::start()?;
        let mut documents = documents(&cluster)?;
        documents[3]["spec"]["path"] = path.into();
        let applied = status(&run("apply", &documents).success())?;
        let objects = applied["observed"]["objects"].as_array().map_or(0, Vec::len);
        assert_eq!(objects, if path == "./many" { cluster::MANY + 1 } else { 1 });
        for line in ["apply", "plan --check", "verify"] {
            cluster.take_requests();
            run(line, &documents).success();
            let count = cluster.take_requests();
            assert!((1..=30).contains(&count), "{line} {path}: {count} requests");
            counts.push(count);
        }
    }
    // One list holds the additional objects, and one request finds the URL of their kind.
    assert!((0..3).all(|index| counts[index + 3] == counts[index] + 2), "{counts:?}");
    Ok(())
}

// hazard: `apply` ends with success while the workloads of a nested Kustomization have the images of the
// artifact before.
// class: A report is taken for the state that it is about.
// members: `Ready` of a nested Kustomization that has not seen the artifact, and of one without `wait`
// now: the revision and the objects of every nested Kustomization are read, too
#[test]
fn nested_kustomization_is_awaited_with_its_revision_and_its_workloads() -> Test {
    let cluster = Cluster::start()?;
    let mut documents = documents(&cluster)?;
    documents[3]["spec"]["path"] = "./nested".into();
    run("apply", &documents).success();
    run("plan --check", &documents).success();
    let causes = |planned: &Assert| -> Test<Value> {
        let named = |cause: &Value| {
            let text = |field: &str| cause[field].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("kind"), text("name"), text("deliveredBy"))
        };
        let causes = status(planned)?["observed"]["causes"].take();
        Ok(causes.as_array().into_iter().flatten().map(named).collect())
    };
    let not_ready = |live: &mut Value| live["status"]["availableReplicas"] = 0.into();
    cluster.edit("Deployment default/apps", not_ready);
    let planned = run("plan --check", &documents).code(3);
    assert_eq!(causes(&planned)?, json!(["Deployment apps Kustomization flux-system/apps"]));
    // A simulated Flux delivers again whenever it is asked, and also the nested Kustomization.
    cluster.take_writes();
    run("apply", &documents).success();
    assert_eq!(cluster.take_writes(), ["PATCH Kustomization flux-system/prod"]);
    run("plan --check", &documents).success();

    let before = |live: &mut Value| live["status"]["lastAppliedRevision"] = "sha256:00".into();
    cluster.edit("Kustomization flux-system/apps", before);
    let planned = run("plan --check", &documents).code(3);
    assert_eq!(causes(&planned)?, json!(["Kustomization apps Kustomization flux-system/prod"]));
    cluster.edit("Kustomization flux-system/apps", |live| live["spec"]["suspend"] = true.into());
    run("plan --check", &documents).success();
    Ok(())
}

#[test]
fn failed_verify_names_the_causes_that_apply_names() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    run("apply", &documents).success();
    cluster.edit("Kustomization flux-system/prod", |live| live["spec"]["path"] = "./other".into());
    cluster.edit("Deployment default/greeter", |live| {
        live["status"]["availableReplicas"] = 0.into();
    });
    let failed = status(&run("verify", &documents).code(100))?;
    assert_eq!(failed["conditions"][0]["reason"], "VerificationFailed");
    let cause = &failed["observed"]["causes"][0];
    assert_eq!((&cause["kind"], &cause["name"]), (&json!("Deployment"), &json!("greeter")));
    assert_eq!(cause["deliveredBy"], "Kustomization flux-system/prod");
    Ok(())
}

#[test]
fn object_of_another_owner_is_a_conflict_that_plan_shows_and_apply_refuses() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flux-system"}});
    cluster.create(namespace);
    let planned = run("plan", &documents).success();
    assert_eq!(status(&planned)?["refusals"][0]["object"], "Namespace flux-system");
    let shown = stderr(&planned);
    assert!(shown.contains("! Namespace flux-system, made by kubectl, is in the way"), "{shown}");
    let refused = run("apply", &documents).code(100);
    assert_eq!(status(&refused)?["conditions"][0]["reason"], "Conflict");
    assert_eq!(cluster.take_writes(), [""; 0]);
    Ok(())
}

#[test]
fn destroy_writes_the_planned_removals_in_the_planned_order_and_leaves_other_objects() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    run("apply", &documents).success();
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "theirs", "namespace": "default"}});
    cluster.create(theirs);
    cluster.take_writes();
    let planned = run("plan --destroy", &documents).success();
    let plan = status(&planned)?["plan"].take();
    let shown = stderr(&planned);
    assert!(shown.contains("~ suspend Kustomization flux-system/prod: false → true"), "{shown}");
    let with = "- remove Deployment default/greeter, with ReplicaSet default/greeter-1";
    assert!(shown.contains(with), "{shown}");
    let destroyed = run("destroy", &documents).success();
    let message = &status(&destroyed)?["conditions"][0]["message"];
    assert_eq!(*message, "nothing is left of it");
    let mut writes = cluster.take_writes();
    assert_eq!(writes.remove(0), RECORD);
    assert_eq!(writes, announced(&plan));
    assert_eq!(cluster.objects(), ["ConfigMap default/theirs", "Namespace kube-system"]);
    run("destroy", &documents).success();
    assert_eq!(cluster.take_writes(), [""; 0]);
    Ok(())
}

#[test]
fn destroy_names_the_finalizer_that_holds_an_object_until_it_is_removed() -> Test {
    let cluster = Cluster::start()?;
    let mut documents = documents(&cluster)?;
    run("apply", &documents).success();
    documents[3]["spec"]["timeoutSeconds"] = 1.into();
    let held = |live: &mut Value| live["metadata"]["finalizers"] = json!(["example.org/held"]);
    cluster.edit("Deployment default/greeter", held);
    for _ in 0..2 {
        let run = run("destroy", &documents).code(111);
        let condition = status(&run)?["conditions"][0].take();
        assert_eq!(condition["reason"], "NotConverged");
        let message = condition["message"].as_str().unwrap_or_default();
        let expected =
            "Deployment default/greeter is still there, held by its finalizers example.org/held";
        assert!(message.contains(expected), "{message}");
        assert!(cluster.objects().contains(&"Kustomization flux-system/prod".to_owned()));
    }
    cluster.edit("Deployment default/greeter", |live| {
        live["metadata"]["finalizers"].take();
    });
    run("destroy", &documents).success();
    assert_eq!(cluster.objects(), ["Namespace kube-system"]);
    Ok(())
}

#[test]
fn interrupted_run_is_completed_by_the_next_one_whatever_it_has_written() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    // Some numbers end a run within a stage or a batch, and some between two of them.
    for count in (0..28).step_by(3) {
        for verb in ["apply", "destroy"] {
            cluster.set_fault(Some(Fault::DeniedAfter(count)));
            let end = run(verb, &documents);
            let is_complete = cluster.take_writes().len() < count;
            assert_eq!(end.get_output().status.success(), is_complete, "{verb} {count}");
            cluster.set_fault(None);
            run(verb, &documents).success();
        }
        assert_eq!(cluster.objects(), ["Namespace kube-system"], "{count}");
    }
    Ok(())
}

#[test]
fn write_whose_response_is_lost_is_observed_and_does_not_end_the_run() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    for number in (1..28).step_by(3) {
        cluster.set_fault(Some(Fault::LostAt(number)));
        run("apply", &documents).success();
        cluster.set_fault(Some(Fault::LostAt(number)));
        // The record is written before the first step, so that its response must arrive.
        let destroyed = run("destroy", &documents);
        assert_eq!(destroyed.get_output().status.success(), number > 1, "{number}");
        cluster.set_fault(None);
        run("destroy", &documents).success();
        assert_eq!(cluster.objects(), ["Namespace kube-system"], "{number}");
    }
    Ok(())
}

#[test]
fn outage_of_three_seconds_between_two_writes_does_not_end_a_run() -> Test {
    for number in [1, 13, 25] {
        let cluster = Cluster::start()?;
        let documents = documents(&cluster)?;
        cluster.set_fault(Some(Fault::OutAfter(number)));
        let began = Instant::now();
        let applied = run("apply", &documents).success();
        assert_eq!(status(&applied)?["conditions"][0]["reason"], "Delivered", "{number}");
        assert!(began.elapsed() >= OUTAGE, "{number}");
        let mut writes = cluster.take_writes();
        writes.sort();
        writes.dedup();
        assert_eq!(writes.len(), 25, "{number}: every object is written");
    }
    Ok(())
}

// hazard: A mutating webhook rewrites an object, so that every `apply` writes and `plan --check` never ends
// with 0.
// class: The declaration is compared with what another program made of it.
// members: labels and images that admission rewrites; defaults
// now: a field that differs is compared with a dry run of the declaration
#[test]
fn field_that_admission_rewrites_is_no_drift_and_a_change_beside_it_is() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    // Flux's Deployments declare this label.
    cluster.set_admission("app.kubernetes.io/part-of", "rewritten");
    run("apply", &documents).success();
    cluster.take_writes();
    run("plan --check", &documents).success();
    run("apply", &documents).success();
    assert_eq!(cluster.take_writes(), [""; 0], "a dry run is no write");
    cluster.edit("Deployment flux-system/source-controller", |live| {
        live["spec"]["replicas"] = 3.into();
    });
    let planned = run("plan --check", &documents).code(3);
    let shown = stderr(&planned);
    let change = "~ change Deployment flux-system/source-controller: spec.replicas\n";
    assert!(shown.contains(change), "{shown}");
    Ok(())
}

#[test]
fn outage_of_three_seconds_between_two_reads_ends_no_verb_and_is_named() -> Test {
    let cluster = Cluster::start()?;
    let documents = documents(&cluster)?;
    run("apply", &documents).success();
    for verb in ["plan --check", "apply", "verify", "plan --destroy", "destroy"] {
        for number in [1, 8] {
            cluster.set_fault(Some(Fault::OutAfterRead(number)));
            let began = Instant::now();
            let shown = stderr(&run(verb, &documents).success());
            assert!(began.elapsed() >= OUTAGE, "{verb} {number}");
            let named = shown.contains("the API server does not answer: ");
            assert!(named && shown.contains("repeating"), "{verb} {number}: {shown}");
            if verb == "destroy" {
                cluster.set_fault(None);
                run("apply", &documents).success();
            }
        }
    }
    Ok(())
}
