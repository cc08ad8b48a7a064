//! The hold: from freeze until thaw, the API server itself keeps every pod but a reader off the
//! drained claims, and keeps the claims, their volumes and namespaces from being deleted without
//! the receipt.
//!
//! It is a `ValidatingAdmissionPolicy` (Kubernetes 1.30), so nothing of ours has to run. Its
//! parameter is a `ConfigMap` that holds the digest of the receipt; an object may be deleted when
//! its annotation [`RECEIPT`] is that digest, or its namespace's is.
//!
//! Policies do not apply to policies: an administrator can delete the hold. So receipts name its
//! UID and generation, and a hold that is gone, edited or put back invalidates them.

use keyring::gate::{HoldObject, RECEIPT_ANNOTATION as RECEIPT};
use serde_json::{Value, json};

use crate::cluster::{Reader, Writer};
use crate::observe::LABEL;
use crate::{Error, Limit};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
/// The namespace of the parameter. It outlives every namespace that is drained.
const NAMESPACE: &str = "kube-system";
/// Number of refusals in a row that prove that the policy is active. The API server loads policies
/// once a second (`policy/generic/policy_source.go`), and each server of a control plane for itself.
const PROOFS: u32 = 4;

/// What is held: each list in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) drain: String,
    /// `namespace/name`.
    pub(crate) claims: Vec<String>,
    /// Names of `PersistentVolume`s.
    pub(crate) volumes: Vec<String>,
    /// Folders of nodes that are such volumes.
    pub(crate) folders: Vec<String>,
}

/// The hold as the cluster has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// UID and generation of policy and binding, if both are what they should be.
    pub(crate) active: Option<keyring::Hold>,
    /// Whether any object of the hold is there.
    pub(crate) any: bool,
    /// The digest in the parameter.
    pub(crate) receipt: Option<String>,
}

impl Held {
    pub(crate) fn name(drain: &str) -> String {
        format!("data-drain-{drain}")
    }

    fn policy(&self) -> Value {
        let name = Self::name(&self.drain);
        let namespaces = self.namespaces();
        let rule = |operations: &[&str], resources: &[&str]| {
            json!({
                "apiGroups": [""], "apiVersions": ["v1"], "operations": operations,
                "resources": resources,
            })
        };
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name, "labels": {LABEL: self.drain}},
            "spec": {
                "failurePolicy": "Fail",
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConstraints": {
                    // A parameter that is gone denies every request that matches: keep them few.
                    // Objects without a namespace match whatever the selector says.
                    "namespaceSelector": {"matchExpressions": [{
                        "key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces,
                    }]},
                    "resourceRules": [
                        // Volumes of a pod never change, so an update cannot add one.
                        rule(&["CREATE"], &["pods"]),
                        rule(&["UPDATE", "DELETE"], &["persistentvolumeclaims", "persistentvolumes"]),
                        rule(&["DELETE"], &["namespaces"]),
                    ],
                },
                "matchConditions": [{"name": "concerns-what-is-held", "expression": self.concerns()}],
                "variables": [
                    {"name": "receipt", "expression": "has(params.data) && 'receipt' in params.data ? params.data['receipt'] : ''"},
                    {"name": "covered", "expression": covered()},
                ],
                "validations": [
                    {
                        "expression": self.reader(),
                        "message": format!("the volume is held by the Drain {}: no pod may mount it until `data-drain destroy`", self.drain),
                        "reason": "Forbidden",
                    },
                    {
                        "expression": "request.operation != 'DELETE' || variables.covered",
                        "message": format!("the data is held by the Drain {}: deleting it takes the annotation {RECEIPT} with the digest of its receipt", self.drain),
                        "reason": "Forbidden",
                    },
                    {
                        "expression": "request.operation != 'UPDATE' || object.spec == oldObject.spec || variables.covered",
                        "message": format!("the volume is held by the Drain {}: its spec cannot change until `data-drain destroy`", self.drain),
                        "reason": "Forbidden",
                    },
                ],
            },
        })
    }

    fn binding(&self) -> Value {
        let name = Self::name(&self.drain);
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name, "labels": {LABEL: self.drain}},
            "spec": {
                "policyName": name,
                "paramRef": {"name": name, "namespace": NAMESPACE, "parameterNotFoundAction": "Deny"},
                "validationActions": ["Deny"],
            },
        })
    }

    fn parameter(&self, receipt: Option<&str>) -> Value {
        let data = receipt.map_or(json!({}), |digest| json!({"receipt": digest}));
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": Self::name(&self.drain), "namespace": NAMESPACE, "labels": {LABEL: self.drain},
            },
            "data": data,
        })
    }

    fn namespaces(&self) -> Vec<&str> {
        let mut names: Vec<_> =
            self.claims.iter().filter_map(|name| name.split('/').next()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether a volume of a pod, `v`, is one that is held.
    fn mounts(&self) -> String {
        format!(
            "(has(v.persistentVolumeClaim) && (request.namespace + '/' + v.persistentVolumeClaim.claimName) in {claims}) \
             || (has(v.hostPath) && {folders}.exists(f, v.hostPath.path == f || v.hostPath.path.startsWith(f + '/')))",
            claims = list(&self.claims),
            folders = list(&self.folders),
        )
    }

    /// Whether a request is about something that is held. `request.name` is empty when a collection
    /// is deleted, as the namespace controller does, so the object itself tells its name.
    fn concerns(&self) -> String {
        let namespaces: Vec<_> = self.namespaces().into_iter().map(str::to_owned).collect();
        format!(
            "(request.resource.resource == 'pods' && has(object.spec.volumes) && object.spec.volumes.exists(v, {mounts})) \
             || (request.resource.resource == 'persistentvolumeclaims' && (request.namespace + '/' + oldObject.metadata.name) in {claims}) \
             || (request.resource.resource == 'persistentvolumes' && oldObject.metadata.name in {volumes}) \
             || (request.resource.resource == 'namespaces' && oldObject.metadata.name in {namespaces})",
            mounts = self.mounts(),
            claims = list(&self.claims),
            volumes = list(&self.volumes),
            namespaces = list(&namespaces),
        )
    }

    /// Whether a pod is a reader: it cannot write, whoever has made it.
    fn reader(&self) -> String {
        format!(
            "request.resource.resource != 'pods' || (has(object.metadata.labels) \
             && '{LABEL}' in object.metadata.labels && object.metadata.labels['{LABEL}'] == '{drain}' \
             && object.spec.volumes.all(v, !({mounts}) || (has(v.persistentVolumeClaim) \
             && has(v.persistentVolumeClaim.readOnly) && v.persistentVolumeClaim.readOnly)))",
            drain = self.drain,
            mounts = self.mounts(),
        )
    }

    /// Reads the hold of the cluster, and compares it with this one.
    pub(crate) fn observe(&self, reader: &Reader) -> Result<State, Error> {
        let [policy, binding, parameter] = objects(reader, &self.drain)?;
        let any = [&policy, &binding, &parameter].iter().any(|object| object.is_some());
        let receipt = parameter.as_ref().and_then(|it| it["data"]["receipt"].as_str());
        let receipt = receipt.map(str::to_owned);
        let active = match (policy, binding, parameter) {
            (Some(policy), Some(binding), Some(_))
                if holds(&self.policy()["spec"], &policy["spec"])
                    && holds(&self.binding()["spec"], &binding["spec"]) =>
            {
                Some(keyring::Hold { policy: part(&policy), binding: part(&binding) })
            }
            _ => None,
        };
        Ok(State { active, any, receipt })
    }

    /// Makes the cluster's hold this one, without a receipt.
    pub(crate) fn put(&self, writer: &Writer) -> Result<(), Error> {
        let name = Self::name(&self.drain);
        self.record(writer, None)?;
        writer.apply(&format!("{POLICIES}/{name}"), &self.policy())?;
        writer.apply(&format!("{BINDINGS}/{name}"), &self.binding())
    }

    /// Writes the digest of the receipt into the parameter.
    pub(crate) fn record(&self, writer: &Writer, receipt: Option<&str>) -> Result<(), Error> {
        writer.apply(&parameter_path(&self.drain), &self.parameter(receipt))
    }

    /// Waits until the API server refuses a pod that mounts each claim. Nothing is created: the
    /// request is a dry run.
    pub(crate) fn prove(&self, reader: &Reader, limit: &Limit) -> Result<(), Error> {
        let name = Self::name(&self.drain);
        let mut refusals = 0;
        limit.until(|| {
            for claim in &self.claims {
                let (namespace, claim) = claim.split_once('/').unwrap_or_default();
                let path = format!("/api/v1/namespaces/{namespace}/pods");
                let answer = reader.dry_run(&path, &probe(namespace, claim))?;
                if answer.as_ref().is_none_or(|message| !message.contains(&name)) {
                    refusals = 0;
                    let answer = answer.unwrap_or_else(|| format!("a pod may mount {claim}"));
                    return Ok(Some(Error::HoldInactive { name: name.clone(), answer }));
                }
            }
            refusals += 1;
            let answer = format!("{refusals} of {PROOFS} refusals");
            Ok((refusals < PROOFS).then_some(Error::HoldInactive { name: name.clone(), answer }))
        })
    }
}

/// Removes the hold of a drain: pods may mount the claims again.
pub(crate) fn remove(reader: &Reader, writer: &Writer, drain: &str) -> Result<(), Error> {
    let paths = paths(drain);
    let [policy, binding, parameter] = objects(reader, drain)?;
    // The binding first: a policy without one denies nothing, a binding without parameter all.
    for (path, object) in [(&paths[1], binding), (&paths[0], policy), (&paths[2], parameter)] {
        let Some(object) = object else { continue };
        if object["metadata"]["labels"][LABEL] != drain {
            let message = format!("it lacks the label {LABEL}={drain}, so no drain has made it");
            let (who, request) = ("data-drain".to_owned(), format!("delete {path}"));
            return Err(Error::Rejected { who, request, message });
        }
        writer.delete(path, &object["metadata"]["uid"])?;
    }
    Ok(())
}

/// Whether the cluster knows such policies.
pub(crate) fn is_supported(reader: &Reader) -> Result<bool, Error> {
    Ok(reader.get(&format!("{BINDINGS}?limit=1"))?.is_some())
}

fn objects(reader: &Reader, drain: &str) -> Result<[Option<Value>; 3], Error> {
    let [policy, binding, parameter] = paths(drain);
    Ok([reader.get(&policy)?, reader.get(&binding)?, reader.get(&parameter)?])
}

fn paths(drain: &str) -> [String; 3] {
    let name = Held::name(drain);
    [format!("{POLICIES}/{name}"), format!("{BINDINGS}/{name}"), parameter_path(drain)]
}

fn parameter_path(drain: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{}", Held::name(drain))
}

/// A pod that every level of Pod Security admits, so that only the hold can refuse it.
fn probe(namespace: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "data-drain-probe-", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "probe",
                "image": "probe.invalid/probe",
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    })
}

/// Whether an object may be deleted: it or its namespace carries the digest of the receipt.
fn covered() -> String {
    let carries = |object: &str| {
        format!(
            "has({object}.metadata.annotations) && '{RECEIPT}' in {object}.metadata.annotations \
             && {object}.metadata.annotations['{RECEIPT}'] == variables.receipt"
        )
    };
    format!(
        "variables.receipt != '' && (({}) || (namespaceObject != null && {}))",
        carries("oldObject"),
        carries("namespaceObject")
    )
}

/// A list in CEL. Names of Kubernetes objects hold no quotes; folders may.
fn list(names: &[String]) -> String {
    let quoted =
        names.iter().map(|name| format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'")));
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}

/// Whether `actual` says all that `expected` says. The API server adds defaults.
fn holds(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => expected
            .iter()
            .all(|(name, value)| actual.get(name).is_some_and(|actual| holds(value, actual))),
        (Value::Array(expected), Value::Array(actual)) => {
            expected.len() == actual.len()
                && expected.iter().zip(actual).all(|(expected, actual)| holds(expected, actual))
        }
        (expected, actual) => expected == actual,
    }
}

fn part(object: &Value) -> HoldObject {
    let metadata = &object["metadata"];
    let text = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
    let generation = metadata["generation"].as_i64().unwrap_or_default();
    HoldObject { name: text("name"), uid: text("uid"), generation }
}
