//! Causes that Flux's own objects report. Pure.
//!
//! A condition of Flux has a code in `reason`. Behind some codes are several causes. The message then has a
//! second code, of the OCI distribution specification or of the API server, at a place that Flux's source
//! fixes. Only where Flux gives no code at all do the fixed words of its source decide.

use serde_json::Value;

use crate::cause::{Cause, Failure, Subject};
use crate::kstatus::{condition, text};
use crate::object::Identity;

/// Codes in an answer of a registry
/// (<https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes>). A registry
/// that does not send a code is reported with its HTTP status
/// (go-containerregistry 0.21, pkg/v1/remote/transport/error.go).
const DENIED: [&str; 4] = ["UNAUTHORIZED", "DENIED", "status code 401", "status code 403"];
const UNKNOWN: [&str; 4] = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "status code 404"];

/// Returns the cause that a source reports; `None` while it is at work or ready.
pub(crate) fn source(id: &Identity, object: &Value) -> Option<Cause> {
    if let Some(stalled) = stalled(id, object) {
        return Some(stalled);
    }
    let ready = failed(object)?;
    let (reason, message) = (text(ready, "reason"), text(ready, "message"));
    let has = |codes: &[&str]| codes.iter().any(|code| message.contains(code));
    // Reasons of api/v1/condition_types.go and ocirepository_types.go in source-controller v1.9.6.
    let failure = match reason {
        "AuthenticationFailed" => Failure::SourceDenied,
        "OCIArtifactPullFailed" | "OCIArtifactLayerOperationFailed" | "VerificationError"
            if has(&DENIED) =>
        {
            Failure::SourceDenied
        }
        "OCIArtifactPullFailed" | "OCIArtifactLayerOperationFailed" if has(&UNKNOWN) => {
            Failure::SourceNotFound
        }
        "VerificationError" => Failure::SourceUnverified,
        _ => Failure::SourceFailed,
    };
    Some(Cause::new(id, failure, reason, message))
}

/// Returns the cause that a Kustomization reports; `None` while it is at work or ready.
pub(crate) fn kustomization(id: &Identity, object: &Value) -> Option<Cause> {
    if let Some(stalled) = stalled(id, object) {
        return Some(stalled);
    }
    let ready = failed(object)?;
    let (reason, message) = (text(ready, "reason"), text(ready, "message"));
    let of_itself = |failure| Cause::new(id, failure, reason, message);
    // Reasons of apis/meta v1.30.2; messages of internal/controller/kustomization_controller.go in
    // kustomize-controller v1.9.5.
    Some(match reason {
        "BuildFailed" if is_about_decryption(message) => of_itself(Failure::FileNotDecryptable),
        "BuildFailed" => of_itself(Failure::ManifestsInvalid),
        "ArtifactFailed" if message.starts_with("kustomization path not found") => {
            of_itself(Failure::PathNotFound)
        }
        // Its source has no artifact yet, or the artifact cannot be fetched from source-controller.
        "ArtifactFailed" | "DependencyNotReady" => of_itself(Failure::DependencyPending),
        "ReconciliationFailed" => match refused(message) {
            Some(refused) => Cause {
                delivered_by: Some(id.to_string()),
                reported_by: id.into(),
                ..Cause::new(refused.object, refused.failure, refused.code, refused.message)
            },
            None => of_itself(Failure::ApplyFailed),
        },
        "HealthCheckFailed" => of_itself(Failure::ObjectNotReady),
        _ => of_itself(Failure::ApplyFailed),
    })
}

/// Whether kustomize-controller failed to decrypt. It reports `BuildFailed` for this, too.
fn is_about_decryption(message: &str) -> bool {
    ["error decrypting sources", "decryption failed for", "failed to decrypt"]
        .iter()
        .any(|words| message.contains(words))
}

/// Returns the cause of any object whose controller has stopped.
pub(crate) fn stalled(id: &Identity, object: &Value) -> Option<Cause> {
    let stalled = condition(object, "Stalled")?;
    let is_current = stalled["observedGeneration"].is_null()
        || stalled["observedGeneration"] == object["metadata"]["generation"];
    (text(stalled, "status") == "True" && is_current).then(|| {
        Cause::new(id, Failure::ObjectStalled, text(stalled, "reason"), text(stalled, "message"))
    })
}

/// Returns the condition `Ready` if it is `False` for the present generation.
fn failed(object: &Value) -> Option<&Value> {
    let ready = condition(object, "Ready")?;
    let is_current = ready["observedGeneration"].is_null()
        || ready["observedGeneration"] == object["metadata"]["generation"];
    (text(ready, "status") == "False" && is_current).then_some(ready)
}

/// An object that the API server has rejected, as Flux reports it.
struct Refused<'a> {
    object: Subject,
    failure: Failure,
    /// `metav1.StatusReason` of the API server, or the words of Flux where it has none.
    code: &'static str,
    message: &'a str,
}

/// Parses an error of server-side apply. Its forms are fixed in `errors/dryrun.go` and
/// `manager_apply.go` of fluxcd/pkg/ssa v0.76.2:
/// `Kind/namespace/name dry-run failed (StatusReason): message`, without the parentheses if the error is
/// not from the API server; `… not found: message`; `… apply failed: message`.
fn refused(message: &str) -> Option<Refused<'_>> {
    let (name, rest) = message.split_once(' ')?;
    let object = subject(name)?;
    if let Some(message) = rest.strip_prefix("not found: ") {
        return Some(Refused {
            object,
            failure: Failure::NamespaceMissing,
            code: "NotFound",
            message,
        });
    }
    let (code, message) = match rest.strip_prefix("dry-run failed") {
        Some(rest) => match rest.strip_prefix(" (").and_then(|rest| rest.split_once("): ")) {
            Some((code, message)) => (code, message),
            None => ("", rest.strip_prefix(": ")?),
        },
        None => ("", rest.strip_prefix("apply failed: ")?),
    };
    let (failure, code) = by_code(code, message);
    Some(Refused { object, failure, code, message })
}

/// Returns the failure for a code of the API server (`metav1.StatusReason`, apimachinery v0.36.3,
/// pkg/apis/meta/v1/types.go).
fn by_code(code: &str, message: &str) -> (Failure, &'static str) {
    // A webhook chooses its code itself, and a ValidatingAdmissionPolicy has the code of a wrong field.
    // The words around their message are the API server's
    // (pkg/admission/plugin/webhook/errors/statuserror.go, pkg/admission/plugin/policy/validating).
    let is_denied = message.contains("admission webhook") && message.contains("denied the request")
        || message.contains("ValidatingAdmissionPolicy") && message.contains("denied request");
    match code {
        _ if is_denied => (Failure::ObjectDenied, "Denied"),
        // plugin/pkg/admission/resourcequota/controller.go
        "Forbidden" if message.contains("exceeded quota") => (Failure::QuotaUsedUp, "Forbidden"),
        "Forbidden" if message.contains("violates PodSecurity") => {
            (Failure::PodDenied, "Forbidden")
        }
        "Forbidden" => (Failure::ObjectDenied, "Forbidden"),
        // Flux itself recognises the words (errors/immutable.go in fluxcd/pkg/ssa): Kubernetes has no
        // code for them.
        "Invalid" if message.contains("is immutable") || message.contains("immutable field") => {
            (Failure::FieldImmutable, "Invalid")
        }
        "Invalid" => (Failure::FieldRejected, "Invalid"),
        "BadRequest" => (Failure::FieldRejected, "BadRequest"),
        "InternalError" if message.contains("failed calling webhook") => {
            (Failure::WebhookSilent, "InternalError")
        }
        // An error of the client, which has no code: `meta.NoKindMatchError` of apimachinery, or a
        // conversion of the manifest (`fieldValidation`), whose text begins with the name of the schema.
        "" if message.contains("no matches for kind") => (Failure::KindMissing, "NoKindMatch"),
        "" if message.contains("field not declared in schema") => {
            (Failure::FieldRejected, "FieldNotDeclared")
        }
        _ => (Failure::ApplyFailed, "ApplyFailed"),
    }
}

/// Parses `Kind/name` or `Kind/namespace/name` (`utils.FmtObjMetadata` in fluxcd/pkg/ssa).
fn subject(name: &str) -> Option<Subject> {
    let parts: Vec<_> = name.split('/').collect();
    let subject = |namespace: Option<&str>, kind: &str, name: &str| Subject {
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    let is_kind = |kind: &str| kind.starts_with(|letter: char| letter.is_ascii_uppercase());
    match parts.as_slice() {
        [kind, name] if is_kind(kind) => Some(subject(None, kind, name)),
        [kind, namespace, name] if is_kind(kind) => Some(subject(Some(namespace), kind, name)),
        _ => None,
    }
}

/// Returns the kind and API version that the API server does not serve, according to Flux: `no matches for
/// kind "HelmRelease" in version "helm.toolkit.fluxcd.io/v2"`.
pub(crate) fn unserved(message: &str) -> Option<(&str, &str)> {
    let (_, rest) = message.split_once("no matches for kind \"")?;
    let (kind, rest) = rest.split_once("\" in version \"")?;
    Some((kind, rest.split_once('"')?.0))
}

#[cfg(test)]
mod tests;
