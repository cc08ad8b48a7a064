//! Errors of this program, each with its help and exit status.

use documents::{Diagnostic, Exit, Reason, Refusal};

/// Help for objects of another owner. A person must not delete Flux's definitions or its Namespace,
/// because its finalizers would prune every workload that it has delivered.
pub(crate) const FOREIGN_HELP: &str = "nothing was changed; do NOT delete them: deleting Flux's definitions or its Namespace makes Flux \
     prune the workloads that it delivered. Deliver to a cluster without Flux, or uninstall the other \
     Flux with the tool that installed it (`flux uninstall` leaves the workloads), or keep the \
     Delivery's former name";

/// Error of one command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is invalid, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret or key is unavailable.
    #[error(transparent)]
    Keyring(#[from] secrets::Error),
    /// The cluster's kubeconfig is invalid or has a setting that this program does not permit.
    #[error("the kubeconfig of the cluster cannot be used: {why}")]
    Kubeconfig {
        /// Cause, as a clause about the kubeconfig.
        why: &'static str,
    },
    /// The API server did not answer.
    #[error("the API server does not answer: {request}")]
    Unreachable {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Error of the Kubernetes client.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server took longer than this program waits for one answer.
    #[error("the API server has not answered within {seconds} s: {request}")]
    Slow {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Deadline of one response in seconds.
        seconds: u64,
    },
    /// The server's certificate does not match the kubeconfig.
    #[error("the certificate of the API server is not trusted: {request}: {why}")]
    Untrusted {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the TLS library.
        why: String,
    },
    /// The API server does not accept the kubeconfig's certificate or token.
    #[error("the API server does not accept the kubeconfig's credentials for {request}: {message}")]
    Unauthorized {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The kubeconfig's user may not do this.
    #[error("the API server does not permit {request}: {message}")]
    Forbidden {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// A `ResourceQuota` is used up.
    #[error("a quota does not permit {request}: {message}")]
    QuotaExceeded {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The Namespace is being deleted.
    #[error("cannot {request}, since its Namespace is being deleted: {message}")]
    Terminating {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// An admission policy or webhook denied the request.
    #[error("an admission policy denies {request}: {message}")]
    Denied {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the policy or webhook.
        message: String,
    },
    /// An admission webhook did not answer.
    #[error("an admission webhook does not answer to {request}: {message}")]
    WebhookFailed {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// Another writer has changed the object since it was read.
    #[error("another writer changed the object during {request}: {message}")]
    Changed {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The API server is overloaded or temporarily unavailable.
    #[error("the API server is busy: {request}: {message}")]
    Busy {
        /// HTTP status of the response, for example 429.
        code: u16,
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The API server rejects the request as invalid.
    #[error("the API server rejects {request}: {message}")]
    Rejected {
        /// Request, for example `get Namespace flux-system`.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The response is not one of the Kubernetes API.
    #[error("cannot parse the response to {request}")]
    Garbled {
        /// Request, for example `get Namespace flux-system`.
        request: String,
    },
    /// The registry of Flux's images did not give the digest of an image.
    #[error("cannot resolve the digest of the image {image}: {why}")]
    Image {
        /// Image reference with its tag.
        image: String,
        /// Cause, from the registry or the network.
        why: String,
        /// Whether a retry may help.
        temporary: bool,
    },
    /// Objects with the names of declared objects exist and have another owner.
    #[error("not made by this Delivery: {}", objects.join("; "))]
    Foreign {
        /// One sentence for each object, with its managers.
        objects: Vec<String>,
    },
    /// A step needs a value that another document supplies after its `apply`.
    #[error("`{object}` needs a value that is not known yet")]
    NotKnownYet {
        /// Object that lacks the value.
        object: String,
    },
    /// Flux does not accept the artifact's signature.
    #[error("Flux does not accept the artifact: {message}")]
    SignatureRefused {
        /// Message of source-controller in the condition `SourceVerified`.
        message: String,
    },
    /// A controller has stopped to reconcile an object, and only a change of the object helps.
    #[error("{object} is stalled: {message}")]
    Stalled {
        /// Object that is stalled.
        object: String,
        /// Message in the object's status.
        message: String,
    },
    /// The cluster differs from the attested artifact.
    #[error("not proven: {}", what.join("; "))]
    Unproven {
        /// Each difference, for example a container and its image.
        what: Vec<String>,
    },
    /// Controllers or kubelets have not finished, so that nothing can be proven yet.
    #[error("cannot be proven yet: {}", what.join("; "))]
    NotYetProven {
        /// Each object that is not finished, with its reason.
        what: Vec<String>,
    },
    /// Manifests are encrypted, and Flux's age identity is not a recipient.
    #[error("Flux cannot decrypt these files, because they are not encrypted to {recipient}: {}", files.join(", "))]
    NotDecryptable {
        /// Paths of the files.
        files: Vec<String>,
        /// Recipient that the files lack.
        recipient: String,
    },
    /// A file or folder of the manifests cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Path of the file or folder.
        path: std::path::PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The artifact cannot be read, so that its effect on claims is unknown.
    #[error("cannot read the artifact {artifact}: {why}")]
    ArtifactUnreadable {
        /// Reference of the artifact.
        artifact: String,
        /// Cause, from the registry or the archive.
        why: String,
        /// Whether a retry may help.
        temporary: bool,
    },
    /// The artifact holds objects of Flux's own installation.
    #[error("the artifact holds objects of Flux's own installation: {}", objects.join("; "))]
    DeliversItself {
        /// Objects that this program installs itself.
        objects: Vec<String>,
    },
    /// The operation would delete data without a receipt.
    #[error("data would be lost: {}", refusals.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>().join("; "))]
    DataAtRisk {
        /// Entries of `status.refusals`, one for each claim.
        refusals: Vec<Refusal>,
    },
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::Kubeconfig { .. } => Reason::KubeconfigInvalid,
            Self::Busy { code: 429, .. } => Reason::RateLimited,
            Self::Unreachable { .. } | Self::Slow { .. } | Self::Busy { .. } => Reason::Unreachable,
            Self::Untrusted { .. } => Reason::Untrusted,
            Self::Unauthorized { .. } => Reason::Unauthorized,
            Self::Forbidden { .. } => Reason::Forbidden,
            Self::QuotaExceeded { .. } => Reason::QuotaExceeded,
            Self::Terminating { .. } => Reason::Terminating,
            Self::Denied { .. } => Reason::AdmissionDenied,
            Self::WebhookFailed { .. } => Reason::WebhookFailed,
            Self::Changed { .. } => Reason::Changed,
            Self::Rejected { .. } => Reason::Rejected,
            Self::Garbled { .. } => Reason::InvalidResponse,
            Self::Image { .. } => Reason::ImageUnknown,
            Self::Foreign { .. } => Reason::Conflict,
            Self::NotKnownYet { .. } => Reason::DependencyNotReady,
            Self::SignatureRefused { .. } => Reason::SignatureInvalid,
            Self::Stalled { .. } => Reason::Stalled,
            Self::Unproven { .. } => Reason::VerificationFailed,
            Self::NotDecryptable { .. } => Reason::DecryptionFailed,
            Self::Unreadable { .. } => Reason::FileFailed,
            Self::NotYetProven { .. } => Reason::NotConverged,
            Self::ArtifactUnreadable { .. } => Reason::ArtifactUnreadable,
            Self::DeliversItself { .. } => Reason::DeliversItself,
            Self::DataAtRisk { .. } => Reason::NotDrained,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::Kubeconfig { .. } => "write a new kubeconfig: `talos-provision apply`",
            Self::Unreachable { .. } | Self::Slow { .. } => {
                "check the network between here and the cluster's endpoint, then run the same command again"
            }
            Self::Untrusted { .. } => {
                "compare the endpoint with the Cluster's status, check that the certificate has not \
                 expired, and check the clock of this machine"
            }
            Self::Unauthorized { .. } => {
                "the certificate in the kubeconfig has expired, or another cluster issued it: \
                 `talos-provision apply` writes a new one"
            }
            Self::Forbidden { .. } => {
                "grant the kubeconfig's user the permission that the message names"
            }
            Self::QuotaExceeded { .. } => {
                "raise the quota that the message names, or remove objects that use it"
            }
            Self::Terminating { .. } => {
                "wait until the Namespace is deleted, then run the same command again; `kubectl get \
                 namespace NAME -o yaml` shows the finalizers that block its deletion"
            }
            Self::Denied { .. } => {
                "change the object as the message says, or exempt the Namespace from the policy"
            }
            Self::WebhookFailed { .. } => {
                "start the workload that serves the webhook, then run the same command again"
            }
            Self::Changed { .. } => "run the same command again: it reads the changed object first",
            Self::Busy { .. } => "run the same command again in a minute",
            Self::Rejected { .. } => {
                "correct the field that the message names: in this version of Kubernetes it is \
                 immutable, unknown or has an invalid value"
            }
            Self::Garbled { .. } => {
                "check that the endpoint in the kubeconfig is a Kubernetes API server"
            }
            Self::Image { temporary: true, .. } => {
                "check `endpoints.flux` of the Project, or give the digest in `flux.digests`"
            }
            Self::Image { .. } => {
                "push the image there, or give another `endpoints.flux` in the Project"
            }
            Self::Foreign { .. } => FOREIGN_HELP,
            Self::NotKnownYet { .. } => "apply the documents that this document refers to first",
            Self::SignatureRefused { .. } => {
                "publish the artifact with the project's own key: `artifact-attest apply`; the last \
                 delivered artifact keeps running"
            }
            Self::Stalled { .. } => {
                "correct the manifests as the message says, then publish and apply the new artifact"
            }
            Self::Unproven { .. } => {
                "run `plan` to see the differences that `apply` repairs; for an image, pin its digest \
                 in the manifest, then publish and apply the new artifact"
            }
            Self::NotYetProven { .. } => {
                "wait a minute until Flux has reconciled, then run the same command again"
            }
            Self::NotDecryptable { .. } => {
                "add the recipient to .sops.yaml, then run `sops updatekeys FILE` for each file"
            }
            Self::Unreadable { .. } => {
                "run this at the root of the repository, as a user that may read its files"
            }
            Self::ArtifactUnreadable { temporary: true, .. } => {
                "check `endpoints.registry` of the Project, then run the same command again"
            }
            Self::ArtifactUnreadable { .. } => {
                "publish the artifact again: `artifact-attest apply`"
            }
            Self::DeliversItself { .. } => {
                "remove these objects from the manifests: flux-seed installs them"
            }
            Self::DataAtRisk { .. } => {
                "nothing was removed; copy each claim with a Drain (`data-drain apply`), or discard it \
                 by name in `dataOnDestroy`"
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
            | Self::NotYetProven { .. } => Exit::Temporary,
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

    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Slow { .. } | Self::Busy { .. })
    }

    fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Slow { .. })
    }

    fn refusals(&self) -> Vec<Refusal> {
        match self {
            Self::DataAtRisk { refusals } => refusals.clone(),
            _ => Vec::new(),
        }
    }
}
