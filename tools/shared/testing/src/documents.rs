//! Documents that tests pipe through a program.

use age::x25519::Identity;
use secrets::AgeRecipient;
use serde_json::{Value, json};

use crate::Test;

/// Root of the tests' projects: the bytes 0 to 31 in base64.
pub const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Age identity for tests only.
pub const IDENTITY: &str =
    "AGE-SECRET-KEY-10E4NQXKZ3UQPPM5UXQNVJMUM9T2GAVNXFGFK3C4KVLEF7XEV70CS83TZ4T";

/// Age recipient whose identity the tests do not need.
pub const STRANGER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// Digest of artifacts that are not in any registry.
pub const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// Returns a document without a status.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "callers pass a literal")]
pub fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "holistic/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Returns `document` as another program writes it: with this `status`, and Ready.
#[must_use]
pub fn ready(mut document: Value, status: Value) -> Value {
    document["status"] = status;
    document["status"]["conditions"] =
        json!([{"type": "Ready", "status": "True", "reason": "Made", "message": ""}]);
    document
}

/// Returns the Project `holistic`, whose root is in the environment variable `ROOT`.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "callers pass a literal")]
pub fn project(recipient: &str, endpoints: Value) -> Value {
    let recipients = json!([{"name": "founder", "age": recipient}]);
    let spec = json!({"root": {"env": "ROOT"}, "recipients": recipients, "endpoints": endpoints});
    document("Project", "holistic", spec)
}

/// Returns the Ready Cluster `prod`, whose kubeconfig only `recipient` can open.
pub fn cluster(recipient: &str, kubeconfig: &Value) -> Test<Value> {
    let age = AgeRecipient::try_from(recipient.to_owned())?;
    let sealed = secrets::seal_to([&age], kubeconfig.to_string().as_bytes())?;
    let cluster = document("Cluster", "prod", json!({"project": "holistic"}));
    Ok(ready(cluster, json!({"sealed": {"kubeconfig": sealed}})))
}

/// Returns a Ready Artifact that was published to `repository` with [`DIGEST`].
#[must_use]
pub fn artifact(name: &str, repository: &str) -> Value {
    let reference = format!("{repository}@{DIGEST}");
    let observed = json!({"reference": reference, "digest": DIGEST, "publicKey": "a key"});
    ready(document("Artifact", name, json!({"project": "holistic"})), json!({"observed": observed}))
}

/// Returns a kubeconfig for one `server` and one `user`, each with the fields of kubectl's file.
#[must_use]
pub fn kubeconfig(server: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": server}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
    })
}

/// Returns the recipient of an age identity.
pub fn recipient(identity: &str) -> Test<String> {
    let identity: Identity = identity.parse()?;
    Ok(identity.to_public().to_string())
}

/// Returns a stream of documents, one per line.
#[must_use]
pub fn stream(documents: &[Value]) -> String {
    documents.iter().flat_map(|document| [document.to_string(), "\n".to_owned()]).collect()
}
