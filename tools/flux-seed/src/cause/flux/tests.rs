//! Tables of conditions, as Flux's controllers write them, and the causes that follow from them.

use serde_json::{Value, json};

use super::*;
use crate::cause::Recovery;

fn object(kind: &str, conditions: &Value) -> (Identity, Value) {
    let object = json!({"apiVersion": "x/v1", "kind": kind,
        "metadata": {"name": "prod", "namespace": "flux-system", "generation": 2},
        "status": {"observedGeneration": -1, "conditions": conditions}});
    (Identity::of(&object), object)
}

/// Returns the conditions of a failed attempt: Flux says beside `Ready` that it will try again.
fn conditions(reason: &str, message: &str) -> Value {
    json!([
        {"type": "Reconciling", "status": "True", "reason": "ProgressingWithRetry",
            "message": "Detecting drift for revision sha256:1 with a timeout of 30s"},
        {"type": "Ready", "status": "False", "reason": reason, "message": message, "observedGeneration": 2},
    ])
}

fn of_kustomization(reason: &str, message: &str) -> Cause {
    let (id, object) = object("Kustomization", &conditions(reason, message));
    kustomization(&id, &object).expect("a cause")
}

/// Messages of kustomize-controller v1.9.5 about an object that the API server rejects, recorded on an
/// API server v1.36.3.
#[test]
fn rejected_object_is_named_with_the_code_of_the_api_server() {
    let rows = [
        (
            "HelmRelease/default/x dry-run failed: no matches for kind \"HelmRelease\" in version \
             \"helm.toolkit.fluxcd.io/v2\"",
            ("HelmRelease default/x", Failure::KindMissing, "NoKindMatch"),
        ),
        (
            "ConfigMap/nowhere/lost not found: namespaces \"nowhere\" not found",
            ("ConfigMap nowhere/lost", Failure::NamespaceMissing, "NotFound"),
        ),
        (
            "Deployment/default/x dry-run failed (Invalid): Deployment.apps \"x\" is invalid: \
             spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ("Deployment default/x", Failure::FieldRejected, "Invalid"),
        ),
        (
            "Deployment/default/x dry-run failed (Invalid): Deployment.apps \"x\" is invalid: \
             spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable",
            ("Deployment default/x", Failure::FieldImmutable, "Invalid"),
        ),
        (
            "ConfigMap/default/evil dry-run failed (Invalid): configmaps \"evil\" is forbidden: \
             ValidatingAdmissionPolicy 'no-evil' with binding 'no-evil' denied request: not evil",
            ("ConfigMap default/evil", Failure::ObjectDenied, "Denied"),
        ),
        (
            "ConfigMap/default/x dry-run failed (Forbidden): admission webhook \"x.example.org\" denied the \
             request: no",
            ("ConfigMap default/x", Failure::ObjectDenied, "Denied"),
        ),
        (
            "ConfigMap/default/x dry-run failed (InternalError): Internal error occurred: failed calling \
             webhook \"x.example.org\": failed to call webhook: Post \"https://127.0.0.1:1/\": dial tcp \
             127.0.0.1:1: connect: connection refused",
            ("ConfigMap default/x", Failure::WebhookSilent, "InternalError"),
        ),
        (
            "Secret/full/x dry-run failed (Forbidden): secrets \"x\" is forbidden: exceeded quota: full, \
             requested: secrets=1, used: secrets=0, limited: secrets=0",
            ("Secret full/x", Failure::QuotaUsedUp, "Forbidden"),
        ),
        (
            "ClusterRole/a:b apply failed: the server is currently unable to handle the request",
            ("ClusterRole a:b", Failure::ApplyFailed, "ApplyFailed"),
        ),
    ];
    for (message, (object, failure, code)) in rows {
        let cause = of_kustomization("ReconciliationFailed", message);
        let found = (cause.object.to_string(), cause.failure, cause.reason.as_str());
        assert_eq!(found, (object.to_owned(), failure, code), "{message}");
        assert_eq!(cause.delivered_by.as_deref(), Some("Kustomization flux-system/prod"));
        assert_eq!(cause.reported_by.name, "prod", "the Kustomization makes the next attempt");
    }
    let version = unserved(rows[0].0);
    assert_eq!(version, Some(("HelmRelease", "helm.toolkit.fluxcd.io/v2")));
}

#[test]
fn failed_build_is_told_from_a_failed_decryption_and_from_a_missing_folder() {
    for (reason, message, failure) in [
        (
            "BuildFailed",
            "failed to decode Kubernetes YAML from /tmp/a.yaml",
            Failure::ManifestsInvalid,
        ),
        (
            "BuildFailed",
            "error decrypting sources: failed to decrypt file: cannot get sops data key",
            Failure::FileNotDecryptable,
        ),
        (
            "BuildFailed",
            "decryption failed for '/v1, Kind=Secret/x': no key",
            Failure::FileNotDecryptable,
        ),
        (
            "ArtifactFailed",
            "kustomization path not found: stat /tmp/x: no such file",
            Failure::PathNotFound,
        ),
        ("ArtifactFailed", "Source artifact not found, retrying in 5s", Failure::DependencyPending),
        (
            "DependencyNotReady",
            "dependency 'flux-system/a' is not ready",
            Failure::DependencyPending,
        ),
        ("HealthCheckFailed", "timeout waiting for: [Job/default/x]", Failure::ObjectNotReady),
        ("PruneFailed", "delete failed", Failure::ApplyFailed),
        ("ReconciliationFailed", "no such host", Failure::ApplyFailed),
    ] {
        let cause = of_kustomization(reason, message);
        assert_eq!((cause.failure, cause.reason.as_str()), (failure, reason), "{message}");
        assert_eq!(cause.message, message, "Ready says why, and Reconciling does not");
    }
}

/// Messages of source-controller v1.9.6, recorded on docker-registry 2.8.2 and on a registry that
/// answers 401.
#[test]
fn failed_pull_is_told_by_the_code_of_the_registry() {
    for (reason, message, failure) in [
        (
            "OCIArtifactPullFailed",
            "failed to determine artifact digest: GET http://r/v2/x/manifests/sha256:0: \
             MANIFEST_UNKNOWN: manifest unknown",
            Failure::SourceNotFound,
        ),
        (
            "OCIArtifactPullFailed",
            "failed to determine artifact digest: GET http://r/v2/: UNAUTHORIZED: authentication required",
            Failure::SourceDenied,
        ),
        (
            "OCIArtifactPullFailed",
            "failed to determine artifact digest: GET https://r/token: DENIED: denied",
            Failure::SourceDenied,
        ),
        (
            "OCIArtifactPullFailed",
            "Get \"http://r/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
            Failure::SourceFailed,
        ),
        ("AuthenticationFailed", "failed to get secret", Failure::SourceDenied),
        ("VerificationError", "no matching signatures were found", Failure::SourceUnverified),
        ("StorageOperationFailed", "disk full", Failure::SourceFailed),
    ] {
        let (id, object) = object("OCIRepository", &conditions(reason, message));
        let cause = source(&id, &object).expect("a cause");
        assert_eq!((cause.failure, cause.reason.as_str()), (failure, reason), "{message}");
    }
}

#[test]
fn condition_of_an_earlier_generation_and_an_attempt_in_progress_are_no_causes() {
    let (id, mut live) = object("Kustomization", &conditions("BuildFailed", "wrong"));
    live["metadata"]["generation"] = 3.into();
    assert_eq!(kustomization(&id, &live), None);
    let attempt = json!([
        {"type": "Reconciling", "status": "True", "reason": "Progressing"},
        {"type": "Ready", "status": "Unknown", "reason": "Progressing", "observedGeneration": 2},
    ]);
    let (id, live) = object("Kustomization", &attempt);
    assert_eq!((kustomization(&id, &live), source(&id, &live)), (None, None));
}

#[test]
fn stalled_object_cannot_recover() {
    let given = json!([
        {"type": "Ready", "status": "False", "reason": "InvalidCELExpression", "message": "no"},
        {"type": "Stalled", "status": "True", "reason": "InvalidCELExpression", "message": "syntax error"},
    ]);
    let (id, live) = object("Kustomization", &given);
    let cause = kustomization(&id, &live).expect("a cause");
    assert_eq!((cause.failure, cause.recovery), (Failure::ObjectStalled, Recovery::Never));
    assert_eq!(
        cause.to_string(),
        "Kustomization flux-system/prod: InvalidCELExpression: syntax error"
    );
}
