//! Everything that can go wrong, what to do about it, and whether to try again.

use documents::{Diagnostic, Exit, Refusal};

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not right, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret cannot be had.
    #[error(transparent)]
    Keyring(#[from] keyring::Error),
    /// The cluster's kubeconfig is not one that this program will use.
    #[error("the kubeconfig of the cluster cannot be used: {why}")]
    Kubeconfig {
        /// Why not.
        why: &'static str,
    },
    /// The API server did not answer.
    #[error("the API server does not answer to {request}")]
    Unreachable {
        /// What was asked.
        request: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server took longer than this program waits for one answer.
    #[error("the API server has not answered to {request} within {seconds} s")]
    Slow {
        /// What was asked.
        request: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server is not the one that the kubeconfig names.
    #[error("the API server cannot prove who it is, asked to {request}: {why}")]
    Untrusted {
        /// The request.
        request: String,
        /// The TLS library's own words.
        why: String,
    },
    /// The kubeconfig's certificate or token is not accepted.
    #[error("the API server does not accept the kubeconfig's credentials for {request}: {message}")]
    Unauthorized {
        /// The request.
        request: String,
        /// The API server's own words.
        message: String,
    },
    /// The kubeconfig's user may not do this.
    #[error("the API server does not permit {request}: {message}")]
    Forbidden {
        /// The request.
        request: String,
        /// The API server's own words.
        message: String,
    },
    /// A `ResourceQuota` is used up.
    #[error("a quota does not permit {request}: {message}")]
    QuotaExceeded {
        /// The request.
        request: String,
        /// The API server's own words.
        message: String,
    },
    /// The Namespace is being deleted.
    #[error("cannot {request}, since its Namespace is being deleted: {message}")]
    Terminating {
        /// The request.
        request: String,
        /// The API server's own words.
        message: String,
    },
    /// An admission policy or webhook denied the request.
    #[error("an admission policy denies {request}: {message}")]
    Denied {
        /// The request.
        request: String,
        /// The policy's own words.
        message: String,
    },
    /// An admission webhook did not answer.
    #[error("an admission webhook does not answer to {request}: {message}")]
    WebhookFailed {
        /// The request.
        request: String,
        /// The API server's own words.
        message: String,
    },
    /// Another writer was faster.
    #[error("the object was changed by another writer during {request}: {message}")]
    Changed {
        /// The request.
        request: String,
        /// The API server's own words.
        message: String,
    },
    /// The API server cannot answer now.
    #[error("the API server cannot do {request} now: {message}")]
    Busy {
        /// The request.
        request: String,
        /// The API server's own words.
        message: String,
    },
    /// The API server does not take what was sent.
    #[error("the API server rejects {request}: {message}")]
    Rejected {
        /// What was asked.
        request: String,
        /// What it said.
        message: String,
    },
    /// Somebody answered something that this version does not understand.
    #[error("cannot read the answer to {request}")]
    Garbled {
        /// What was asked.
        request: String,
    },
    /// The registry of Flux's images did not answer.
    #[error("cannot tell the digest of the image {image}: {why}")]
    Image {
        /// Which.
        image: String,
        /// Why not.
        why: String,
        /// Whether trying again may help.
        temporary: bool,
    },
    /// Something that the installation needs is there, and not ours.
    #[error("not made by this Delivery, and in its way: {}", objects.join("; "))]
    Foreign {
        /// Which, and who made them.
        objects: Vec<String>,
    },
    /// A step needs a value that is not known yet.
    #[error("`{object}` needs a value that is not known yet")]
    NotKnownYet {
        /// Which.
        object: String,
    },
    /// Flux does not accept the artifact's signature.
    #[error("Flux does not accept the artifact: {message}")]
    SignatureRefused {
        /// What Flux said.
        message: String,
    },
    /// Flux has given up.
    #[error("{object} is stalled: {message}")]
    Stalled {
        /// Which.
        object: String,
        /// What its status says.
        message: String,
    },
    /// The wait is over, and something is missing.
    #[error("after {seconds} s this is missing: {}", missing.join("; "))]
    NotYet {
        /// How long was waited.
        seconds: u32,
        /// What, and why.
        missing: Vec<String>,
    },
    /// The cluster took every step and still differs.
    #[error("steps left after all were taken: {}", steps.join("; "))]
    Unsettled {
        /// Which.
        steps: Vec<String>,
    },
    /// What is there is not what was attested.
    #[error("not proven: {}", what.join("; "))]
    Unproven {
        /// What does not hold.
        what: Vec<String>,
    },
    /// Somebody is still at work on what is to be proven.
    #[error("not to be proven yet: {}", what.join("; "))]
    NotYetProven {
        /// What is going on.
        what: Vec<String>,
    },
    /// Flux could not read what it delivers.
    #[error("not encrypted to {recipient}, and so not for this Delivery to read: {}", files.join(", "))]
    NotDecryptable {
        /// Which files.
        files: Vec<String>,
        /// Whose they should be.
        recipient: String,
    },
    /// The manifests cannot be looked at.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The artifact cannot be read, and claims depend on what is in it.
    #[error("cannot read the artifact {artifact}: {why}")]
    ArtifactUnreadable {
        /// Its reference.
        artifact: String,
        /// Why not.
        why: String,
        /// Whether a retry may help.
        temporary: bool,
    },
    /// The artifact holds objects of Flux's own installation.
    #[error("the artifact holds objects of Flux's own installation: {}", objects.join("; "))]
    DeliversItself {
        /// The objects.
        objects: Vec<String>,
    },
    /// Data would be lost.
    #[error("data would be lost: {}", refusals.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>().join("; "))]
    DataAtRisk {
        /// One entry for each claim.
        refusals: Vec<Refusal>,
    },
}

impl Diagnostic for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::Kubeconfig { .. } => "KubeconfigRefused",
            Self::Unreachable { .. } | Self::Slow { .. } => "Unreachable",
            Self::Untrusted { .. } => "Untrusted",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
            Self::QuotaExceeded { .. } => "QuotaExceeded",
            Self::Terminating { .. } => "Terminating",
            Self::Denied { .. } => "Denied",
            Self::WebhookFailed { .. } => "WebhookFailed",
            Self::Changed { .. } => "Changed",
            Self::Busy { .. } => "Busy",
            Self::Rejected { .. } => "Rejected",
            Self::Garbled { .. } => "Garbled",
            Self::Image { .. } => "ImageUnknown",
            Self::Foreign { .. } => "Foreign",
            Self::NotKnownYet { .. } => "NotKnownYet",
            Self::SignatureRefused { .. } => "SignatureRefused",
            Self::Stalled { .. } => "Stalled",
            Self::NotYet { .. } => "NotDelivered",
            Self::Unsettled { .. } => "Unsettled",
            Self::Unproven { .. } => "Unproven",
            Self::NotDecryptable { .. } => "NotDecryptable",
            Self::Unreadable { .. } => "Unreadable",
            Self::NotYetProven { .. } => "NotYetProven",
            Self::ArtifactUnreadable { .. } => "ArtifactUnreadable",
            Self::DeliversItself { .. } => "DeliversItself",
            Self::DataAtRisk { .. } => "NotDrained",
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::Kubeconfig { .. } => {
                "let talos-provision write it again: `talos-provision apply`"
            }
            Self::Unreachable { .. } | Self::Slow { .. } => {
                "check the way to the cluster's endpoint, then run the same command again"
            }
            Self::Untrusted { .. } => {
                "the endpoint must be this cluster's and its certificate must not have expired; \
                 compare both with the Cluster's status, and this machine's clock with the time"
            }
            Self::Unauthorized { .. } => {
                "the certificate in the kubeconfig has expired, or another cluster issued it: \
                 `talos-provision apply` writes a new one"
            }
            Self::Forbidden { .. } => {
                "give the kubeconfig's user the permission that the message names"
            }
            Self::QuotaExceeded { .. } => {
                "raise the quota that the message names, or remove what uses it"
            }
            Self::Terminating { .. } => {
                "wait until the Namespace is gone, then run the same command again; `kubectl get \
                 namespace NAME -o yaml` names the finalizers that hold it"
            }
            Self::Denied { .. } => {
                "change the object as the message says, or exempt the Namespace from that policy"
            }
            Self::WebhookFailed { .. } => {
                "start the workload that serves the webhook, then run the same command again"
            }
            Self::Changed { .. } => "run the same command again: it looks at the object anew",
            Self::Busy { .. } => "run the same command again in a minute",
            Self::Rejected { .. } => {
                "read the message: the field that it names is immutable, unknown or has a wrong \
                 value in this version of Kubernetes"
            }
            Self::Garbled { .. } => "check that the endpoint is the one of the service",
            Self::Image { temporary: true, .. } => {
                "check `endpoints.flux` of the Project, or give the digest in `flux.digests`"
            }
            Self::Image { .. } => {
                "push the image there, or give another `endpoints.flux` in the Project"
            }
            // Flux's definitions and Namespace are not to be deleted: its finalizers would prune
            // every workload that it has ever delivered.
            Self::Foreign { .. } => {
                "nothing was changed; do NOT delete them: deleting Flux's definitions or its \
                 Namespace makes Flux prune the workloads that it delivered. Deliver to a cluster \
                 without Flux, or uninstall the other Flux with the tool that installed it \
                 (`flux uninstall` leaves the workloads), or keep the Delivery's former name"
            }
            Self::NotKnownYet { .. } => "apply the documents that it refers to first",
            Self::SignatureRefused { .. } => {
                "publish the artifact with the project's own key: `artifact-attest apply`; what was \
                 delivered before keeps running"
            }
            Self::Stalled { .. } => {
                "correct what it says in the manifests, then publish and apply the new artifact"
            }
            Self::NotYet { .. } => {
                "see to what is missing; the same command waits again, `timeoutSeconds` long"
            }
            Self::Unsettled { .. } => {
                "another writer sets these fields back: find its manager with `kubectl get -o yaml \
                 --show-managed-fields`, then run the same command again"
            }
            Self::Unproven { .. } => {
                "`plan` shows which of it `apply` repairs; images are repaired by a manifest that \
                 pins each of them by its digest"
            }
            Self::NotYetProven { .. } => "run the same command again in a while",
            Self::NotDecryptable { .. } => {
                "add that recipient to .sops.yaml, then `sops updatekeys` each of the files"
            }
            Self::Unreadable { .. } => "run at the root of the repository, with leave to read it",
            Self::ArtifactUnreadable { temporary: true, .. } => {
                "check `endpoints.registry` of the Project, then run the same command again"
            }
            Self::ArtifactUnreadable { .. } => {
                "publish the artifact again: `artifact-attest apply`"
            }
            Self::DeliversItself { .. } => {
                "take them out of the manifests: this program installs them"
            }
            Self::DataAtRisk { .. } => {
                "nothing was removed; each claim needs a Drain (`data-drain apply`), or the \
                 document discards it by name in `dataOnDestroy`"
            }
        };
        Some(help.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::Image { temporary: true, .. }
            | Self::ArtifactUnreadable { temporary: true, .. }
            | Self::DataAtRisk { .. }
            | Self::Unreachable { .. }
            | Self::Slow { .. }
            | Self::Terminating { .. }
            | Self::WebhookFailed { .. }
            | Self::Changed { .. }
            | Self::Busy { .. }
            | Self::NotKnownYet { .. }
            | Self::NotYet { .. }
            | Self::NotYetProven { .. }
            | Self::Unsettled { .. } => Exit::Temporary,
            Self::Kubeconfig { .. }
            | Self::Untrusted { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::QuotaExceeded { .. }
            | Self::Denied { .. }
            | Self::Rejected { .. }
            | Self::Garbled { .. }
            | Self::Image { .. }
            | Self::ArtifactUnreadable { .. }
            | Self::Foreign { .. }
            | Self::SignatureRefused { .. }
            | Self::Stalled { .. }
            | Self::NotDecryptable { .. }
            | Self::Unreadable { .. }
            | Self::DeliversItself { .. }
            | Self::Unproven { .. } => Exit::Permanent,
        }
    }

    fn refusals(&self) -> Vec<Refusal> {
        match self {
            Self::DataAtRisk { refusals } => refusals.clone(),
            _ => Vec::new(),
        }
    }
}
