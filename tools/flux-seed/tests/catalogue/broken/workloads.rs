//! Broken workloads: pods that cannot be created or scheduled, containers that fail, and Jobs.

use serde_json::{Value, json};

use super::{Broken, PRIVATE, REGISTRY, SILENT, expected, file, merge, object};
use crate::lab::parts::SCHEDULER;

/// Returns a Deployment whose only container pauses.
pub(crate) fn deployment(name: &str, more: &Value) -> Value {
    let mut deployment = object(
        "apps/v1",
        "Deployment",
        name,
        &json!({"spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod(&json!({}))},
        }}),
    );
    merge(&mut deployment, more);
    deployment
}

/// Returns the spec of a pod whose only container has these fields.
fn pod(container: &Value) -> Value {
    let mut all = json!({"name": "web", "image": format!("{REGISTRY}/zabronax/actor:1")});
    merge(&mut all, container);
    json!({"schedulerName": SCHEDULER, "terminationGracePeriodSeconds": 0, "containers": [all]})
}

fn running(name: &str, spec: &Value) -> Vec<(String, String)> {
    let template = json!({"spec": {"template": {"spec": spec}}});
    vec![file(name, &deployment(name, &template))]
}

/// Pods that cannot be created or scheduled.
pub(super) fn pods() -> Vec<Broken> {
    let named = |name: &str| format!("Deployment broken/{name}");
    let inside = |name: &str, namespace: &str, spec: &Value| {
        let more =
            json!({"metadata": {"namespace": namespace}, "spec": {"template": {"spec": spec}}});
        vec![file(name, &deployment(name, &more))]
    };
    let claim = |name: &str, class: &Value| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}});
        file(
            &format!("claim-{name}"),
            &object("v1", "PersistentVolumeClaim", name, &json!({"spec": spec})),
        )
    };
    let mut mounting = pod(&json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    mounting["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    let mut with_claim = running("claim-unbound", &mounting);
    with_claim.push(claim("data", &Value::Null));
    let set = object(
        "apps/v1",
        "StatefulSet",
        "set",
        &json!({"metadata": {"namespace": "full"},
        "spec": {"serviceName": "set", "selector": {"matchLabels": {"app": "set"}},
        "template": {"metadata": {"labels": {"app": "set"}}, "spec": pod(&json!({}))}}}),
    );
    vec![
        expected(
            &named("too-large"),
            ("PodUnschedulable", "possible"),
            "Insufficient cpu",
            running("too-large", &pod(&json!({"resources": {"requests": {"cpu": "1000"}}}))),
        ),
        expected(
            &named("selector"),
            ("PodUnschedulable", "possible"),
            "node affinity/selector",
            running("selector", &json!({"nodeSelector": {"disk": "golden"}})),
        ),
        expected(
            &named("taint"),
            ("PodUnschedulable", "possible"),
            "untolerated taint",
            running("taint", &json!({"nodeSelector": {"tainted": "yes"}})),
        ),
        expected(
            &named("claim-unbound"),
            ("ClaimUnbound", "possible"),
            "no storage class is set",
            with_claim,
        ),
        expected(
            "PersistentVolumeClaim broken/classless",
            ("ClaimUnbound", "possible"),
            "\"golden\" not found",
            vec![claim("classless", &json!("golden"))],
        ),
        expected(
            "Deployment full/quota",
            ("QuotaUsedUp", "possible"),
            "exceeded quota: full",
            inside("quota", "full", &json!({})),
        ),
        expected(
            "StatefulSet full/set",
            ("QuotaUsedUp", "possible"),
            "exceeded quota: full",
            vec![file("set", &set)],
        ),
        expected(
            "Deployment baseline/privileged",
            ("PodDenied", "unlikely"),
            "violates PodSecurity",
            inside(
                "privileged",
                "baseline",
                &pod(&json!({"securityContext": {"privileged": true}})),
            ),
        ),
        expected(
            &named("account"),
            ("PodNotCreated", "possible"),
            "serviceaccount \"absent\" not found",
            running("account", &json!({"serviceAccountName": "absent"})),
        ),
    ]
}

/// Containers that cannot start, or that fail.
pub(super) fn containers() -> Vec<Broken> {
    let named = |name: &str| format!("Deployment broken/{name}");
    let image = |image: &str| pod(&json!({"image": image}));
    let ends = json!({"args": ["exit", "3", "the database is away"],
        "terminationMessagePolicy": "FallbackToLogsOnError"});
    let eats = json!({"args": ["eat"], "resources": {"limits": {"memory": "16Mi"}}});
    let probe =
        json!({"exec": {"command": ["/actor", "exit", "1", "not yet"]}, "periodSeconds": 1});
    let mut init = pod(&json!({}));
    init["initContainers"] = json!([{"name": "migrate", "image": format!("{REGISTRY}/zabronax/actor:1"),
        "args": ["exit", "4", "no table"], "terminationMessagePolicy": "FallbackToLogsOnError"}]);
    let environment = json!({"env": [{"name": "A", "valueFrom":
        {"configMapKeyRef": {"name": "absent-map", "key": "a"}}}]});
    let mut mounting = pod(&json!({"volumeMounts": [{"name": "s", "mountPath": "/s"}]}));
    mounting["volumes"] = json!([{"name": "s", "secret": {"secretName": "absent-secret"}}]);
    let slow = pod(&json!({"readinessProbe": probe}));
    let slow = json!({"spec": {"progressDeadlineSeconds": 8, "template": {"spec": slow}}});
    vec![
        expected(
            &named("image-missing"),
            ("ImageNotFound", "unlikely"),
            "not found",
            running("image-missing", &image(&format!("{REGISTRY}/zabronax/nothing:1"))),
        ),
        expected(
            &named("image-denied"),
            ("ImageDenied", "unlikely"),
            "401",
            running("image-denied", &image(&format!("{PRIVATE}/zabronax/greeter:1"))),
        ),
        expected(
            &named("image-silent"),
            ("ImagePullFailed", "possible"),
            "connection refused",
            running("image-silent", &image(&format!("{SILENT}/zabronax/greeter:1"))),
        ),
        expected(
            &named("image-name"),
            ("ImageNameInvalid", "never"),
            "InvalidImageName",
            running("image-name", &image("Not/A:Valid:Name")),
        ),
        expected(
            &named("crash"),
            ("ContainerCrashes", "possible"),
            "the database is away",
            running("crash", &pod(&ends)),
        ),
        expected(
            &named("memory"),
            ("ContainerOutOfMemory", "possible"),
            "OOMKilled",
            running("memory", &pod(&eats)),
        ),
        expected(
            &named("probe"),
            ("ProbeFailed", "possible"),
            "Readiness probe failed",
            running("probe", &pod(&json!({"readinessProbe": probe}))),
        ),
        expected(
            &named("init"),
            ("InitContainerFailed", "possible"),
            "no table",
            running("init", &init),
        ),
        expected(
            &named("map-missing"),
            ("ContainerConfigInvalid", "possible"),
            "absent-map",
            running("map-missing", &pod(&environment)),
        ),
        expected(
            &named("secret-missing"),
            ("VolumeNotMounted", "possible"),
            "absent-secret",
            running("secret-missing", &mounting),
        ),
        expected(
            &named("command"),
            ("ContainerCannotStart", "unlikely"),
            "/absent",
            running("command", &pod(&json!({"command": ["/absent"]}))),
        ),
        expected(
            &named("slow"),
            ("ProbeFailed", "never"),
            "ProgressDeadlineExceeded",
            vec![file("slow", &deployment("slow", &slow))],
        ),
    ]
}

pub(crate) fn job(name: &str, spec: &Value, container: &Value) -> Value {
    let mut template = pod(container);
    template["restartPolicy"] = "Never".into();
    let mut job =
        object("batch/v1", "Job", name, &json!({"spec": {"template": {"spec": template}}}));
    merge(&mut job, &json!({"spec": spec}));
    job
}

pub(super) fn jobs() -> Vec<Broken> {
    let ends = json!({"args": ["exit", "5", "no migration"],
        "terminationMessagePolicy": "FallbackToLogsOnError"});
    vec![
        expected(
            "Job broken/job",
            ("JobAborted", "never"),
            "BackoffLimitExceeded",
            vec![file("job", &job("job", &json!({"backoffLimit": 0}), &ends))],
        ),
        expected(
            "Job broken/deadline",
            ("JobAborted", "never"),
            "DeadlineExceeded",
            vec![file(
                "deadline",
                &job("deadline", &json!({"activeDeadlineSeconds": 2}), &json!({})),
            )],
        ),
    ]
}
