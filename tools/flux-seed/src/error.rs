//! Errors of this program, each with its help and exit status.

use documents::{Diagnostic, Exit, Reason, Refusal};

use crate::cause::{self, Cause};
use crate::lifetime::ShortLived;
use crate::status::Facts;

/// Help for objects of another owner. A person must not delete Flux's definitions or its Namespace,
/// because its finalizers would prune every workload that it has delivered.
pub(crate) const FOREIGN_HELP: &str = "nothing was changed; do NOT delete them: deleting Flux's definitions or its Namespace makes Flux \
     prune the workloads that it delivered. Set `flux.adopt: true` to take over a Flux that another \
     program installed, deliver to a cluster without Flux, or uninstall the other \
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
    /// The kubeconfig is not accepted, or a request to the cluster failed.
    #[error(transparent)]
    Cluster(#[from] kubernetes::Error),
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
    /// Waiting cannot remove a cause for which the Delivery is not ready.
    #[error("cannot become ready: {}", cause::line(causes))]
    Failed {
        /// The causes, the worst first.
        causes: Vec<Cause>,
        /// Facts of the last observation.
        facts: Option<Box<Facts>>,
    },
    /// The time limit of a wait is over.
    #[error("not ready after {seconds} s: {}", cause::line(causes))]
    NotDelivered {
        /// Time limit in seconds.
        seconds: u64,
        /// The causes, the worst first.
        causes: Vec<Cause>,
        /// Facts of the last observation.
        facts: Option<Box<Facts>>,
    },
    /// The cluster differs from the attested artifact.
    #[error("not proven: {}", what.join("; "))]
    Unproven {
        /// Each difference, for example a container and its image.
        what: Vec<String>,
        /// Facts of the observation, with the causes of what is not ready.
        facts: Option<Box<Facts>>,
    },
    /// Controllers or kubelets have not finished, so that nothing can be proven yet.
    #[error("cannot be proven yet: {}", what.join("; "))]
    NotYetProven {
        /// Each object that is not finished, with its reason.
        what: Vec<String>,
        /// Facts of the observation, with the causes of what is not ready.
        facts: Option<Box<Facts>>,
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
    /// A declared Secret needs an endpoint that the Project does not declare.
    #[error(
        "the Secret {secret} needs the credentials of `endpoints.{endpoint}`, which the Project does not declare"
    )]
    EndpointMissing {
        /// Namespace and name of the Secret.
        secret: String,
        /// Name of the endpoint.
        endpoint: &'static str,
    },
    /// The cluster would get a token that expires within an hour.
    #[error(
        "the cluster cannot pull from {registry} for longer than {}: the token of the Project is {}", token.lifetime, token.kind
    )]
    ExpiringToken {
        /// Host of the registry.
        registry: String,
        /// Token of the Project.
        token: ShortLived,
    },
    /// The Delivery does not install Flux, and the cluster has no Flux.
    #[error("Flux is not installed in {cluster}: it has no {definition}")]
    FluxMissing {
        /// Cluster of the Delivery.
        cluster: String,
        /// Definition that Flux would have installed.
        definition: String,
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
            Self::Cluster(error) => error.reason(),
            Self::Garbled { .. } => Reason::InvalidResponse,
            Self::Image { .. } => Reason::ImageUnknown,
            Self::Foreign { .. } => Reason::Conflict,
            Self::NotKnownYet { .. } | Self::FluxMissing { .. } => Reason::DependencyNotReady,
            Self::SignatureRefused { .. } => Reason::SignatureInvalid,
            Self::Failed { .. } => Reason::Stalled,
            Self::Unproven { .. } => Reason::VerificationFailed,
            Self::NotDecryptable { .. } => Reason::DecryptionFailed,
            Self::Unreadable { .. } => Reason::FileFailed,
            Self::NotYetProven { .. } | Self::NotDelivered { .. } => Reason::NotConverged,
            Self::ArtifactUnreadable { .. } => Reason::ArtifactUnreadable,
            Self::DeliversItself { .. } => Reason::DeliversItself,
            Self::DataAtRisk { .. } => Reason::NotDrained,
            Self::EndpointMissing { .. } => Reason::EndpointMissing,
            Self::ExpiringToken { .. } => Reason::SecretUnavailable,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::Cluster(error) => return error.help(),
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
            Self::Failed { causes, .. } => return help(causes),
            Self::NotDelivered { causes, .. } => {
                let help = help(causes)?;
                return Some(format!("{help}; then run the same command again"));
            }
            Self::Unproven { .. } => {
                "run `plan` to see the differences that `apply` repairs; for an image, pin its digest \
                 in the manifest, then publish and apply the new artifact"
            }
            Self::NotYetProven { facts: Some(facts), .. } if !facts.causes.is_empty() => {
                let help = help(&facts.causes)?;
                return Some(format!("{help}; then run the same command again"));
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
            Self::EndpointMissing { .. } => {
                "declare the endpoint and its token in the Project, or another source of the Secret's \
                 values"
            }
            Self::ExpiringToken { token, .. } => token.instead,
            Self::FluxMissing { .. } => {
                "declare `flux` in this Delivery, or in another Delivery of the cluster that \
                 `dependsOn` names"
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
            Self::Cluster(error) => error.exit(),
            Self::Image { temporary: true, .. }
            | Self::ArtifactUnreadable { temporary: true, .. }
            | Self::DataAtRisk { .. }
            | Self::FluxMissing { .. }
            | Self::NotKnownYet { .. }
            | Self::NotDelivered { .. }
            | Self::NotYetProven { .. } => Exit::Temporary,
            Self::Garbled { .. }
            | Self::Image { .. }
            | Self::ArtifactUnreadable { .. }
            | Self::Foreign { .. }
            | Self::SignatureRefused { .. }
            | Self::Failed { .. }
            | Self::NotDecryptable { .. }
            | Self::Unreadable { .. }
            | Self::DeliversItself { .. }
            | Self::EndpointMissing { .. }
            | Self::ExpiringToken { .. }
            | Self::Unproven { .. } => Exit::Permanent,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Cluster(error) => error.is_transient(),
            Self::NotYetProven { .. } => true,
            _ => false,
        }
    }

    fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Cluster(error) if error.is_ambiguous())
    }

    fn refusals(&self) -> Vec<Refusal> {
        match self {
            Self::DataAtRisk { refusals } => refusals.clone(),
            _ => Vec::new(),
        }
    }
}

impl Error {
    /// Returns the facts of the last observation, which the status of the failed document shows.
    pub(crate) fn into_facts(self) -> Option<Facts> {
        match self {
            Self::Failed { facts, .. }
            | Self::NotDelivered { facts, .. }
            | Self::Unproven { facts, .. }
            | Self::NotYetProven { facts, .. } => facts.map(|facts| *facts),
            _ => None,
        }
    }
}

/// Returns the help for the worst cause.
fn help(causes: &[Cause]) -> Option<String> {
    causes.first().map(|cause| cause.failure.help().to_owned())
}
