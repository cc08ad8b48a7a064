//! The catalogue: one small broken artifact for each cause, and what the status must say about it.

mod workloads;

use serde_json::{Value, json};

pub(crate) use workloads::{deployment, job};

/// Registry with the image of the containers.
pub(crate) const REGISTRY: &str = "127.78.0.1:5000";
/// Registry that answers every request with 401.
pub(crate) const PRIVATE: &str = "127.78.0.1:5001";
/// Address without a listener.
const SILENT: &str = "127.78.0.1:1";

/// A broken artifact.
pub(crate) struct Broken {
    /// Files, each with its path in the artifact.
    pub(crate) files: Vec<(String, String)>,
    /// The object that the status must name, for example `Deployment broken/web`.
    pub(crate) object: String,
    pub(crate) failure: &'static str,
    pub(crate) recovery: &'static str,
    /// Words of the vendor, in the reason, the message or the event.
    pub(crate) words: &'static str,
}

fn expected(
    object: &str,
    (failure, recovery): (&'static str, &'static str),
    words: &'static str,
    files: Vec<(String, String)>,
) -> Broken {
    Broken { files, object: object.to_owned(), failure, recovery, words }
}

/// Returns every broken artifact. Flux cannot decrypt `sealed`.
pub(crate) fn catalogue(sealed: &str) -> Vec<Broken> {
    let mut all = sources();
    let decryption = json!({"provider": "sops", "secretRef": {"name": "prod-sops"}});
    all.push(expected(
        "Kustomization flux-system/sealed",
        ("FileNotDecryptable", "unlikely"),
        "identity did not match any of the recipients",
        vec![
            nested("sealed", &json!({"spec": {"decryption": decryption}})),
            ("sealed/secret.yaml".to_owned(), sealed.to_owned()),
        ],
    ));
    all.extend(rejected());
    all.extend(unbuilt());
    all.extend(workloads::pods());
    all.extend(workloads::containers());
    all.extend(workloads::jobs());
    all
}

pub(crate) fn object(api_version: &str, kind: &str, name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": "broken"}});
    merge(&mut object, more);
    object
}

fn merge(object: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        if value.is_object() && object[key].is_object() {
            merge(&mut object[key], value);
        } else {
            object[key] = value.clone();
        }
    }
}

fn file(name: &str, object: &Value) -> (String, String) {
    (format!("root/{name}.yaml"), object.to_string())
}

fn namespace(name: &str, labels: &Value) -> (String, String) {
    let metadata = json!({"name": name, "labels": labels});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    file(&format!("ns-{name}"), &namespace)
}

/// Files that the whole catalogue needs.
pub(crate) fn common() -> Vec<(String, String)> {
    let quota = |name: &str, hard: &Value| {
        let quota = object(
            "v1",
            "ResourceQuota",
            name,
            &json!({"metadata": {"namespace": name},
            "spec": {"hard": hard}}),
        );
        file(&format!("quota-{name}"), &quota)
    };
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-evil"}, "spec": {"failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "object.metadata.name != 'evil'",
            "message": "a ConfigMap may not be evil"}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "no-evil"},
        "spec": {"policyName": "no-evil", "validationActions": ["Deny"]}});
    let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "silent"},
        "webhooks": [{"name": "silent.example.org", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://{SILENT}/")}, "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 2,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "hooked"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"]}]}]});
    vec![
        namespace("broken", &json!({})),
        namespace("hooked", &json!({})),
        namespace("full", &json!({})),
        namespace("baseline", &json!({"pod-security.kubernetes.io/enforce": "baseline"})),
        quota("full", &json!({"pods": "0", "secrets": "0"})),
        file("policy", &policy),
        file("binding", &binding),
        file("webhook", &webhook),
    ]
}

/// Returns a nested Kustomization of the folder with its name.
fn nested(name: &str, more: &Value) -> (String, String) {
    let mut kustomization = json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
        "metadata": {"name": name, "namespace": "flux-system"},
        "spec": {"interval": "1h", "retryInterval": "15s", "path": format!("./{name}"), "prune": true,
            "sourceRef": {"kind": "OCIRepository", "name": "prod"}},
    });
    merge(&mut kustomization, more);
    file(name, &kustomization)
}

/// Returns the files of a nested Kustomization that applies one object.
fn applying(name: &str, object: &Value) -> Vec<(String, String)> {
    vec![nested(name, &json!({})), (format!("{name}/object.yaml"), object.to_string())]
}

fn map(name: &str, namespace: &str) -> Value {
    object("v1", "ConfigMap", name, &json!({"metadata": {"namespace": namespace}}))
}

fn sources() -> Vec<Broken> {
    let source = |name: &str, spec: &Value| {
        let mut source = json!({"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "OCIRepository",
            "metadata": {"name": name, "namespace": "flux-system"},
            "spec": {"interval": "1h", "timeout": "10s", "insecure": true,
                "url": format!("oci://{REGISTRY}/zabronax/deployments"), "ref": {"tag": "1"}}});
        merge(&mut source, &json!({"spec": spec}));
        vec![file(name, &source)]
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    let at = |host: &str| json!({"url": format!("oci://{host}/zabronax/deployments")});
    let verify = json!({"verify": {"provider": "cosign", "secretRef": {"name": "another-key"}}});
    vec![
        expected(
            "OCIRepository flux-system/digest-unknown",
            ("SourceNotFound", "unlikely"),
            "MANIFEST_UNKNOWN",
            source("digest-unknown", &json!({"ref": {"digest": digest}})),
        ),
        expected(
            "OCIRepository flux-system/pull-denied",
            ("SourceDenied", "unlikely"),
            "UNAUTHORIZED",
            source("pull-denied", &at(PRIVATE)),
        ),
        expected(
            "OCIRepository flux-system/registry-silent",
            ("SourceFailed", "possible"),
            "connection refused",
            source("registry-silent", &at(SILENT)),
        ),
        expected(
            "OCIRepository flux-system/wrong-signature",
            ("SourceUnverified", "unlikely"),
            "failed to verify the signature",
            source("wrong-signature", &verify),
        ),
        expected(
            "OCIRepository flux-system/url-invalid",
            ("ObjectStalled", "never"),
            "URLInvalid",
            source("url-invalid", &json!({"url": "oci://UPPER/case"})),
        ),
    ]
}

/// Objects that the API server rejects.
fn rejected() -> Vec<Broken> {
    let release = object("helm.toolkit.fluxcd.io/v2", "HelmRelease", "chart", &json!({"spec": {}}));
    let replicas = deployment("replicas", &json!({"spec": {"replicas": -1}}));
    let unknown = object("v1", "Service", "unknown", &json!({"spec": {"prots": []}}));
    let immutable = deployment("immutable", &json!({}));
    let secret = object("v1", "Secret", "quota", &json!({"metadata": {"namespace": "full"}}));
    vec![
        expected(
            "HelmRelease broken/chart",
            ("KindMissing", "unlikely"),
            "HelmRelease",
            applying("kind-missing", &release),
        ),
        expected(
            "Deployment broken/replicas",
            ("FieldRejected", "unlikely"),
            "spec.replicas",
            applying("field-refused", &replicas),
        ),
        expected(
            "Service broken/unknown",
            ("FieldRejected", "unlikely"),
            "spec.ports: Required value",
            applying("field-unknown", &unknown),
        ),
        expected(
            "ConfigMap nowhere/lost",
            ("NamespaceMissing", "unlikely"),
            "nowhere",
            applying("namespace-missing", &map("lost", "nowhere")),
        ),
        expected(
            "Deployment broken/immutable",
            ("FieldImmutable", "unlikely"),
            "spec.selector",
            applying("field-immutable", &immutable),
        ),
        expected(
            "ConfigMap broken/evil",
            ("ObjectDenied", "unlikely"),
            "a ConfigMap may not be evil",
            applying("policy-denies", &map("evil", "broken")),
        ),
        expected(
            "ConfigMap hooked/waiting",
            ("WebhookSilent", "possible"),
            "silent.example.org",
            applying("webhook-silent", &map("waiting", "hooked")),
        ),
        expected(
            "Secret full/quota",
            ("QuotaUsedUp", "possible"),
            "exceeded quota: full",
            applying("object-quota", &secret),
        ),
    ]
}

/// Manifests that Flux cannot build, and Kustomizations that wait for others.
fn unbuilt() -> Vec<Broken> {
    let named = |name: &str| format!("Kustomization flux-system/{name}");
    let release = object("helm.toolkit.fluxcd.io/v2", "HelmRelease", "inner", &json!({"spec": {}}));
    let text = |name: &str, files: &[(&str, &str)]| {
        let files = files.iter();
        let files = files.map(|(path, text)| (format!("{name}/{path}"), (*text).to_owned()));
        std::iter::once(nested(name, &json!({}))).chain(files).collect::<Vec<_>>()
    };
    let cel = json!({"spec": {"healthCheckExprs": [
        {"apiVersion": "v1", "kind": "ConfigMap", "current": "status.is(("}]}});
    vec![
        expected(
            &named("yaml-invalid"),
            ("ManifestsInvalid", "unlikely"),
            "object.yaml",
            text("yaml-invalid", &[("object.yaml", "kind: [ConfigMap\n  metadata: {")]),
        ),
        expected(
            &named("file-missing"),
            ("ManifestsInvalid", "unlikely"),
            "absent.yaml",
            text("file-missing", &[("kustomization.yaml", "resources: [absent.yaml]\n")]),
        ),
        expected(
            &named("patch-lost"),
            ("ManifestsInvalid", "unlikely"),
            "absent",
            text(
                "patch-lost",
                &[(
                    "kustomization.yaml",
                    "patches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: absent}}'}]\n",
                )],
            ),
        ),
        expected(
            &named("path-missing"),
            ("PathNotFound", "unlikely"),
            "path not found",
            vec![nested("path-missing", &json!({}))],
        ),
        expected(
            &named("depends"),
            ("DependencyPending", "possible"),
            "yaml-invalid",
            vec![nested(
                "depends",
                &json!({"spec": {"path": "./nested", "dependsOn": [{"name": "yaml-invalid"}]}}),
            )],
        ),
        expected(
            &named("stalled"),
            ("ObjectStalled", "never"),
            "InvalidCELExpression",
            vec![
                nested("stalled", &cel),
                ("stalled/a.yaml".to_owned(), map("a", "broken").to_string()),
            ],
        ),
        expected(
            "HelmRelease broken/inner",
            ("KindMissing", "unlikely"),
            "HelmRelease",
            vec![
                nested("outer", &json!({"spec": {"wait": true, "timeout": "10s"}})),
                ("outer/inner.yaml".to_owned(), nested("inner", &json!({})).1),
                ("inner/chart.yaml".to_owned(), release.to_string()),
            ],
        ),
    ]
}
