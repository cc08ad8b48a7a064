//! The list of failures. Each entry has its meaning, its word, whether it can pass, and the next action for a
//! person. The order is the order of a message: a failure comes before the failures that it causes.
//!
//! `knowledge/failures.md` has the table of this list.

use schemars::JsonSchema;
use serde::Serialize;

/// Chance that a failure passes without a change by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Recovery {
    /// The controller has given up, or the declaration itself is wrong. The wait ends at once.
    Never,
    /// Only a person can remove the cause, but one attempt proves little. The wait ends when the failure
    /// has lasted for the time of a second attempt.
    Unlikely,
    /// The cause may pass. The wait ends at its time limit.
    Possible,
}

macro_rules! failures {
    ($($(#[doc = $meaning:literal])+ $word:ident $recovery:ident $action:literal)+) => {
        /// Failure of an object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
        pub enum Failure {
            $($(#[doc = $meaning])+ $word,)+
        }

        impl Failure {
            /// All failures, in the order of the list.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$word),+];

            /// Returns the word as it stands in a status.
            #[cfg(test)]
            pub(crate) const fn word(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word),)+
                }
            }

            /// Returns the meaning as sentences.
            #[cfg(test)]
            pub(crate) const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$word => concat!($($meaning),+).trim_ascii(),)+
                }
            }

            /// Returns the chance that the failure passes.
            pub(crate) const fn recovery(self) -> Recovery {
                match self {
                    $(Self::$word => Recovery::$recovery,)+
                }
            }

            /// Returns the next action for a person, as a sentence without a full stop.
            pub(crate) const fn help(self) -> &'static str {
                match self {
                    $(Self::$word => $action,)+
                }
            }
        }
    };
}

failures! {
    // The artifact does not reach the cluster.

    /// The credentials of the registry are rejected, or they may not read the artifact.
    SourceDenied Unlikely "let the login of `endpoints.registry` read the repository, or give `reader` of the Project a token that may; then run `apply` again"
    /// The registry does not have the digest of the artifact.
    SourceNotFound Unlikely "publish the artifact again: `artifact-attest apply`"
    /// Flux does not accept the signature of an artifact.
    SourceUnverified Unlikely "publish the artifact with the key that the source verifies: `artifact-attest apply`"
    /// Flux cannot pull the artifact for another cause, for example because the registry does not answer.
    SourceFailed Possible "check that the cluster reaches the registry in `endpoints.registry` of the Project"

    // Flux cannot build or apply the artifact.

    /// A file cannot be decrypted with Flux's age identity.
    FileNotDecryptable Unlikely "add the recipient in `status.observed.sopsRecipient` to .sops.yaml, run `sops updatekeys FILE`, then publish and apply the new artifact"
    /// The artifact does not have the folder in `path`.
    PathNotFound Unlikely "correct `path` of the Delivery, or publish an artifact with this folder"
    /// kustomize cannot build the manifests: wrong YAML, a missing file, or an error in a kustomization.
    ManifestsInvalid Unlikely "correct the file that the message names (`kustomize build` shows the same error), then publish and apply the new artifact"
    /// The API server does not serve the kind of an object, and no definition in the artifact defines it.
    KindMissing Unlikely "add the `CustomResourceDefinition` of this kind to the manifests, or install the operator that brings it before this Delivery"
    /// The Namespace of an object does not exist.
    NamespaceMissing Unlikely "add the Namespace to the manifests, or correct `metadata.namespace`"
    /// A field that cannot be changed differs from the object in the cluster.
    FieldImmutable Unlikely "give the object another name, or annotate it with `kustomize.toolkit.fluxcd.io/force: enabled` so that Flux deletes it and creates it again"
    /// The API server rejects a field or a value.
    FieldRejected Unlikely "correct the field that the message names, then publish and apply the new artifact"
    /// An admission webhook or policy denies an object.
    ObjectDenied Unlikely "change the object as the message says, or exempt its Namespace from the policy"
    /// Pod Security admission denies the pods of a workload.
    PodDenied Unlikely "set the `securityContext` that the message names, or label the Namespace with a level that permits these pods"
    /// An admission webhook does not answer.
    WebhookSilent Possible "start the workload that serves the webhook, or remove its configuration"
    /// Flux fails to apply, prune or check the objects for another cause.
    ApplyFailed Possible "remove the cause in the message; Flux tries again every 15 seconds"

    // A controller has given up.

    /// A controller has stopped to reconcile the object (condition `Stalled`).
    ObjectStalled Never "correct the object as the message says, then publish and apply the new artifact"
    /// A Job has failed, and Kubernetes does not run it again.
    JobAborted Never "correct what the Job runs and give the Job another name, then publish and apply the new artifact; `kubectl logs job/NAME` shows its output"
    /// A rollout has taken longer than `progressDeadlineSeconds`.
    RolloutTooSlow Never "correct the workload as the message says, or raise `progressDeadlineSeconds`, then publish and apply the new artifact"

    // Pods cannot be created or scheduled.

    /// A `ResourceQuota` does not permit another pod or object.
    QuotaUsedUp Possible "raise the quota that the message names, or declare fewer replicas or smaller requests"
    /// Pods of a workload cannot be created for another cause.
    PodNotCreated Possible "remove the cause in the message, for example a missing ServiceAccount"
    /// No volume is bound to a claim.
    ClaimUnbound Possible "create the StorageClass that the claim names, or a volume that fits; without `storageClassName` the cluster needs a default StorageClass"
    /// No node fits a pod.
    PodUnschedulable Possible "add a node, lower the requests of the pod, or correct its selectors and tolerations"

    // Containers cannot start, or fail.

    /// The name of an image is not valid.
    ImageNameInvalid Never "correct the image reference in the manifest, then publish and apply the new artifact"
    /// The registry does not have the image.
    ImageNotFound Unlikely "push the image, or correct its reference in the manifest"
    /// The registry requires a login for the image, or rejects the one of the node.
    ImageDenied Unlikely "name a pull Secret in `imagePullSecrets` of the pod or of its ServiceAccount, declare the login in `spec.registries` of the Cluster, or make the image public"
    /// The image cannot be pulled for another cause, for example because the registry does not answer.
    ImagePullFailed Possible "check that the nodes reach the registry of the image"
    /// A container refers to a `ConfigMap`, a Secret or a key that does not exist, or has a wrong setting.
    ContainerConfigInvalid Possible "add the object that the message names to the manifests, or correct the reference"
    /// A volume cannot be mounted, for example because its `ConfigMap` or Secret does not exist.
    VolumeNotMounted Possible "add the object that the message names to the manifests, or correct the reference"
    /// The program of a container cannot be started.
    ContainerCannotStart Unlikely "correct `command` and `args` of the container, or the image"
    /// A container used more memory than its limit.
    ContainerOutOfMemory Possible "raise `resources.limits.memory` of the container"
    /// An init container ends with an error.
    InitContainerFailed Possible "correct what the init container does; `kubectl logs POD -c CONTAINER --previous` shows its output"
    /// A container ends with an error again and again.
    ContainerCrashes Possible "correct what the container runs; `kubectl logs POD -c CONTAINER --previous` shows its output"
    /// A probe of a container fails.
    ProbeFailed Possible "correct the probe, or what the container answers to it"
    /// A pod has failed, for example because it was evicted.
    PodFailed Possible "remove the cause in the message"

    // Objects that wait for others.

    /// A Kustomization or a `HelmRelease` waits for another one.
    DependencyPending Possible "correct the object for which it waits"
    /// A controller reports that the object is not ready.
    ObjectNotReady Possible "remove the cause in the message"
    /// The API of an object does not answer, for example an aggregated API without a server.
    ApiSilent Possible "start the server of this API, or remove its APIService"
    /// A delivered object does not exist any more.
    ObjectMissing Possible "find out who deletes the object; Flux creates it again at the next interval"
    /// An object is being deleted.
    ObjectTerminating Possible "wait until it is deleted; its finalizers name the controller that has to act"
    /// A controller is still at work. This is no failure.
    InProgress Possible "wait longer: raise `timeoutSeconds` of the Delivery"
}

impl Failure {
    /// Whether something is wrong, not merely unfinished.
    pub(crate) fn is_failure(self) -> bool {
        self != Self::InProgress
    }
}
