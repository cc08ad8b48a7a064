//! Steps of a plan: flat JSON for programs, and one sentence each for people.

use std::fmt;

use documents::Effect;
use schemars::JsonSchema;
use serde::Serialize;

use crate::object::{Identity, Stage, order};

/// Most dependents that a line of the plan names. The JSON names all of them.
const NAMED_MAX: usize = 5;

/// One change of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// The object does not exist and is created.
    Create {
        /// The object.
        #[serde(flatten)]
        object: Identity,
    },
    /// Another program installed the object. It is changed to its declaration and keeps its UID.
    Adopt {
        /// The object.
        #[serde(flatten)]
        object: Identity,
        /// Field managers that installed the object, for example `flux`.
        from: String,
    },
    /// The object differs from its declaration and is changed.
    Update {
        /// The object.
        #[serde(flatten)]
        object: Identity,
        /// Paths of the fields that differ, for example `spec.suspend`. Values are left out, because
        /// they may be secret.
        changed: Vec<String>,
    },
    /// Other writers added fields to the object, which are removed.
    RemoveFields {
        /// The object.
        #[serde(flatten)]
        object: Identity,
        /// Paths of the fields and their writers, for example `spec.patches, added by kubectl-patch`.
        /// Values are left out, because they may be secret.
        fields: Vec<String>,
    },
    /// The object is as declared, and its controller has not acted on it yet. Flux is asked to
    /// reconcile it.
    Reconcile {
        /// The object.
        #[serde(flatten)]
        object: Identity,
        /// Reason from the status of the object, for example `Namespace empty: Terminating`.
        because: String,
    },
    /// The Kustomization is suspended, so that Flux applies and prunes nothing during the removal.
    Suspend {
        /// The Kustomization.
        #[serde(flatten)]
        object: Identity,
    },
    /// The object was created by this Delivery and is deleted.
    Remove {
        /// The object.
        #[serde(flatten)]
        object: Identity,
        /// Objects that Kubernetes deletes with it, for example `Pod default/greeter-7d5`. The step is
        /// complete when they are deleted.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        dependents: Vec<String>,
    },
    /// The record of what `destroy` has to remove is deleted, because everything in it is deleted.
    RemoveRecord {
        /// The first `ConfigMap` of the record.
        #[serde(flatten)]
        object: Identity,
    },
}

impl Step {
    /// Returns the object that the step changes.
    pub(crate) fn object(&self) -> &Identity {
        match self {
            Self::Create { object }
            | Self::Adopt { object, .. }
            | Self::Update { object, .. }
            | Self::RemoveFields { object, .. }
            | Self::Reconcile { object, .. }
            | Self::Suspend { object }
            | Self::Remove { object, .. }
            | Self::RemoveRecord { object } => object,
        }
    }

    /// Returns the stage of `apply` in which the step is executed. Removals are last, because the
    /// objects of earlier stages may still use what is removed.
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Create { object }
            | Self::Adopt { object, .. }
            | Self::Update { object, .. }
            | Self::RemoveFields { object, .. }
            | Self::Reconcile { object, .. } => order(object).0,
            Self::Suspend { .. } | Self::Remove { .. } | Self::RemoveRecord { .. } => Stage::Rest,
        }
    }
}

impl documents::Step for Step {
    fn effect(&self) -> Effect {
        match self {
            Self::Create { .. } => Effect::Create,
            Self::Adopt { .. }
            | Self::Update { .. }
            | Self::RemoveFields { .. }
            | Self::Reconcile { .. }
            | Self::Suspend { .. } => Effect::Change,
            Self::Remove { .. } | Self::RemoveRecord { .. } => Effect::Remove,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { object } => write!(f, "create {object}"),
            Self::Adopt { object, from } => write!(f, "adopt {object}, made by {from}"),
            Self::Update { object, changed } => {
                write!(f, "change {object}: {}", changed.join(", "))
            }
            Self::RemoveFields { object, fields } => {
                write!(f, "remove fields of {object}: {}", fields.join("; "))
            }
            Self::Reconcile { object, because } => write!(f, "reconcile {object}: {because}"),
            Self::Suspend { object } => write!(f, "suspend {object}: false → true"),
            Self::Remove { object, dependents } => {
                write!(f, "remove {object}")?;
                match dependents.len() {
                    0 => Ok(()),
                    count if count <= NAMED_MAX => write!(f, ", with {}", dependents.join(", ")),
                    count => {
                        let named = dependents[..NAMED_MAX].join(", ");
                        write!(f, ", with {named} and {} more", count - NAMED_MAX)
                    }
                }
            }
            Self::RemoveRecord { object } => {
                write!(f, "remove the record of the removal, {object}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Identity {
        Identity {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            namespace: Some("default".to_owned()),
            name: "greeter".to_owned(),
        }
    }

    #[test]
    fn step_is_flat_json() {
        let step = Step::Update { object: deployment(), changed: vec!["spec.replicas".to_owned()] };
        let expected = json!({
            "action": "update", "apiVersion": "apps/v1", "kind": "Deployment",
            "namespace": "default", "name": "greeter", "changed": ["spec.replicas"],
        });
        assert_eq!(json!(step), expected);
        assert_eq!(step.to_string(), "change Deployment default/greeter: spec.replicas");
    }

    #[test]
    fn removal_names_five_dependents_and_counts_the_others() {
        let remove = |count: usize| Step::Remove {
            object: deployment(),
            dependents: (0..count).map(|number| format!("Pod default/{number}")).collect(),
        };
        assert_eq!(remove(0).to_string(), "remove Deployment default/greeter");
        assert_eq!(remove(1).to_string(), "remove Deployment default/greeter, with Pod default/0");
        assert!(remove(7).to_string().ends_with("Pod default/4 and 2 more"));
    }
}
