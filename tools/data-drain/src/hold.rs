//! The hold. From freeze until thaw, the API server denies every pod except a reader on the drained
//! claims, and denies the deletion of the claims, their volumes and namespaces without the receipt.
//!
//! The hold consists of two `ValidatingAdmissionPolicy` objects (Kubernetes 1.30), so that no process of
//! ours must run. The first denies pods on the claims and changes of the volumes. It never changes after
//! its creation, and receipts name it. The second denies deletions. It contains the digest of the
//! receipt, and permits a deletion if the annotation [`RECEIPT`] of the object or of its namespace is
//! that digest.
//!
//! The digest is in the policy instead of a parameter `ConfigMap`. After the last policy with a parameter
//! of a built-in kind is deleted, the API server never reads parameters of that kind again
//! (`ensureParamsForPolicyLocked` in `pkg/admission/plugin/policy/generic/policy_source.go` of
//! k8s.io/apiserver v0.36.3 starts a shared informer a second time, which does nothing). The reader
//! of a second drain of the same cluster was then denied.
//!
//! Policies do not apply to policies, so that an administrator can delete the hold. Receipts therefore
//! name its UID and generation. Deleting, editing or recreating the hold invalidates them.

use contract::gate::HoldObject;
use contract::labels::{DRAIN, RECEIPT};
use serde_json::{Value, json};

use crate::clients::cluster::{Reader, Writer};
use crate::{Error, Limit};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
/// Number of consecutive denials that prove that the policy is active. The API server loads policies
/// once a second (`policy/generic/policy_source.go`), and each server of a control plane for itself.
const PROOFS: u32 = 4;

/// Objects under a hold. Each list is sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) drain: String,
    /// Namespace and name of each claim, for example `default/data`.
    pub(crate) claims: Vec<String>,
    /// Names of the claims' `PersistentVolume` objects.
    pub(crate) volumes: Vec<String>,
    /// Paths of `hostPath` and `local` volumes on the nodes.
    pub(crate) folders: Vec<String>,
}

/// State of a hold in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// UID and generation of policy and binding; `None` unless both are as declared.
    pub(crate) active: Option<contract::Hold>,
    /// Whether any object of the hold exists.
    pub(crate) any: bool,
    /// Digest of the receipt that permits deletions.
    pub(crate) receipt: Option<String>,
}

impl Held {
    pub(crate) fn name(drain: &str) -> String {
        format!("data-drain-{drain}")
    }

    /// Returns the name of the policy that denies deletions.
    fn deletion_name(drain: &str) -> String {
        format!("{}-deletion", Self::name(drain))
    }

    /// Renders the policy that denies pods on the claims and changes of their volumes.
    fn policy(&self) -> Value {
        let rules = json!([
            // Volumes of a pod never change, so an update cannot add one.
            rule(&["CREATE"], &["pods"]),
            rule(&["UPDATE"], &["persistentvolumeclaims", "persistentvolumes"]),
        ]);
        let validations = json!([
            {
                "expression": self.reader(),
                "message": format!("the volume is held by the Drain {}: no pod may mount it until `data-drain destroy`", self.drain),
                "reason": "Forbidden",
            },
            {
                "expression": "request.operation != 'UPDATE' || object.spec == oldObject.spec",
                "message": format!("the volume is held by the Drain {}: its spec cannot change until `data-drain destroy`", self.drain),
                "reason": "Forbidden",
            },
        ]);
        self.object(&Self::name(&self.drain), &rules, &validations)
    }

    /// Renders the policy that denies deletions without the digest `receipt`.
    fn deletion(&self, receipt: Option<&str>) -> Value {
        let held = ["persistentvolumeclaims", "persistentvolumes", "namespaces"];
        let rules = json!([rule(&["DELETE"], &held)]);
        let digest = receipt.unwrap_or_default();
        let variables = json!([
            {"name": "receipt", "expression": list(&[digest.to_owned()]) + "[0]"},
            {"name": "covered", "expression": covered()},
        ]);
        let validations = json!([{
            "expression": "variables.covered",
            "message": format!("the data is held by the Drain {}: deleting it takes the annotation {RECEIPT} with the digest of its receipt", self.drain),
            "reason": "Forbidden",
        }]);
        let name = Self::deletion_name(&self.drain);
        let mut policy = self.object(&name, &rules, &validations);
        policy["spec"]["variables"] = variables;
        if let Some(digest) = receipt {
            policy["metadata"]["annotations"] = json!({RECEIPT: digest});
        }
        policy
    }

    fn object(&self, name: &str, rules: &Value, validations: &Value) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name, "labels": {DRAIN: self.drain}},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    // The selector does not apply to objects without a namespace: they always match.
                    "namespaceSelector": {"matchExpressions": [{
                        "key": "kubernetes.io/metadata.name",
                        "operator": "In",
                        "values": self.namespaces(),
                    }]},
                    "resourceRules": rules,
                },
                "matchConditions": [{"name": "concerns-what-is-held", "expression": self.concerns()}],
                "validations": validations,
            },
        })
    }

    fn binding(&self, policy: &str) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": policy, "labels": {DRAIN: self.drain}},
            "spec": {"policyName": policy, "validationActions": ["Deny"]},
        })
    }

    fn namespaces(&self) -> Vec<&str> {
        let mut names: Vec<_> =
            self.claims.iter().filter_map(|name| name.split('/').next()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the CEL expression for "the pod's volume `v` is held".
    fn mounts(&self) -> String {
        format!(
            "(has(v.persistentVolumeClaim) && (request.namespace + '/' + v.persistentVolumeClaim.claimName) in {claims}) \
             || (has(v.hostPath) && {folders}.exists(f, v.hostPath.path == f || v.hostPath.path.startsWith(f + '/')))",
            claims = list(&self.claims),
            folders = list(&self.folders),
        )
    }

    /// Returns the CEL expression for "the request concerns a held object". It reads the name from the
    /// object, because `request.name` is empty when the namespace controller deletes a collection.
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

    /// Returns the CEL expression for "the pod is a reader". A reader mounts held claims read-only.
    fn reader(&self) -> String {
        format!(
            "request.resource.resource != 'pods' || (has(object.metadata.labels) \
             && '{DRAIN}' in object.metadata.labels && object.metadata.labels['{DRAIN}'] == '{drain}' \
             && object.spec.volumes.all(v, !({mounts}) || (has(v.persistentVolumeClaim) \
             && has(v.persistentVolumeClaim.readOnly) && v.persistentVolumeClaim.readOnly)))",
            drain = self.drain,
            mounts = self.mounts(),
        )
    }

    /// Reads the hold in the cluster and compares it with this one.
    pub(crate) fn observe(&self, reader: &Reader) -> Result<State, Error> {
        let [binding, policy, deletion_binding, deletion] = objects(reader, &self.drain)?;
        let all = [&binding, &policy, &deletion_binding, &deletion];
        let any = all.iter().any(|object| object.is_some());
        let annotations = deletion.as_ref().map(|object| &object["metadata"]["annotations"]);
        let receipt = annotations.and_then(|annotations| annotations[RECEIPT].as_str());
        let receipt = receipt.map(str::to_owned);
        let name = Self::deletion_name(&self.drain);
        let is = |actual: &Option<Value>, expected: &Value| {
            actual.as_ref().is_some_and(|actual| holds(&expected["spec"], &actual["spec"]))
        };
        let deletions_are_refused = is(&deletion, &self.deletion(receipt.as_deref()))
            && is(&deletion_binding, &self.binding(&name));
        let active = match (policy, binding) {
            (Some(policy), Some(binding))
                if holds(&self.policy()["spec"], &policy["spec"])
                    && holds(&self.binding(&Self::name(&self.drain))["spec"], &binding["spec"])
                    && deletions_are_refused =>
            {
                Some(contract::Hold { policy: part(&policy), binding: part(&binding) })
            }
            _ => None,
        };
        Ok(State { active, any, receipt })
    }

    /// Applies this hold to the cluster, without a receipt.
    pub(crate) fn put(&self, writer: &Writer) -> Result<(), Error> {
        let (name, deletion) = (Self::name(&self.drain), Self::deletion_name(&self.drain));
        self.record(writer, None)?;
        writer.apply(&format!("{BINDINGS}/{deletion}"), &self.binding(&deletion))?;
        writer.apply(&format!("{POLICIES}/{name}"), &self.policy())?;
        writer.apply(&format!("{BINDINGS}/{name}"), &self.binding(&name))?;
        Ok(())
    }

    /// Writes the digest of the receipt into the policy that denies deletions.
    pub(crate) fn record(&self, writer: &Writer, receipt: Option<&str>) -> Result<(), Error> {
        let path = format!("{POLICIES}/{}", Self::deletion_name(&self.drain));
        writer.apply(&path, &self.deletion(receipt))
    }

    /// Waits until the API server denies, for each claim, a pod that mounts the claim. The requests are dry
    /// runs.
    pub(crate) fn prove(&self, reader: &Reader, limit: &Limit) -> Result<(), Error> {
        let name = Self::name(&self.drain);
        // Require the message of the rule itself, because a policy with an evaluation error denies every
        // pod, and would deny the reader, too.
        let words = format!("held by the Drain {}:", self.drain);
        let mut refusals = 0;
        limit.until(|| {
            for claim in &self.claims {
                let (namespace, claim) = claim.split_once('/').unwrap_or_default();
                let path = format!("/api/v1/namespaces/{namespace}/pods");
                let answer = reader.dry_run(&path, &probe(namespace, claim))?;
                if answer.as_ref().is_none_or(|message| !message.contains(&words)) {
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
    // Delete each binding before its policy, because a policy without a binding denies nothing.
    for (path, object) in paths(drain).iter().zip(objects(reader, drain)?) {
        let Some(object) = object else { continue };
        if object["metadata"]["labels"][DRAIN] != drain {
            let message =
                format!("it lacks the label {DRAIN}={drain}, so that another owner has created it");
            let (who, request) = ("data-drain".to_owned(), format!("delete {path}"));
            return Err(Error::Rejected { who, request, message });
        }
        writer.delete(path, &object["metadata"]["uid"])?;
    }
    Ok(())
}

/// Whether the cluster supports `ValidatingAdmissionPolicy`.
pub(crate) fn is_supported(reader: &Reader) -> Result<bool, Error> {
    reader.serves(BINDINGS)
}

/// Reads binding and policy that deny pods, then binding and policy that deny deletions.
fn objects(reader: &Reader, drain: &str) -> Result<[Option<Value>; 4], Error> {
    let [binding, policy, deletion_binding, deletion] = paths(drain);
    Ok([
        reader.get(&binding)?,
        reader.get(&policy)?,
        reader.get(&deletion_binding)?,
        reader.get(&deletion)?,
    ])
}

fn paths(drain: &str) -> [String; 4] {
    let (name, deletion) = (Held::name(drain), Held::deletion_name(drain));
    [
        format!("{BINDINGS}/{name}"),
        format!("{POLICIES}/{name}"),
        format!("{BINDINGS}/{deletion}"),
        format!("{POLICIES}/{deletion}"),
    ]
}

fn rule(operations: &[&str], resources: &[&str]) -> Value {
    json!({
        "apiGroups": [""], "apiVersions": ["v1"], "operations": operations, "resources": resources,
    })
}

/// Renders a pod that every level of Pod Security admits, so that only the hold can deny it.
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

/// Returns the CEL expression for "the object or its namespace carries the digest of the receipt".
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

/// Renders a CEL list. Names of Kubernetes objects cannot contain quotes, but paths can.
fn list(names: &[String]) -> String {
    let quoted =
        names.iter().map(|name| format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'")));
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}

/// Whether `actual` has every field of `expected`. The API server adds defaults.
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
