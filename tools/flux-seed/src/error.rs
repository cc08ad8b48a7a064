//! Everything that can go wrong, what to do about it, and whether to try again.

use phase::{Exit, Fault};

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not right, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] phase::Error),
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
    /// The API server knows us, and does not let us.
    #[error("the API server refuses {request}: {message}")]
    Forbidden {
        /// What was asked.
        request: String,
        /// What it said.
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
    /// Data may have been written since it was copied.
    #[error("{workload} was started again since {claim} was copied")]
    StartedAgain {
        /// Which claim.
        claim: String,
        /// What uses it.
        workload: String,
    },
    /// Data would be lost.
    #[error("no Drain that is Ready names the claims {}, and removing them loses their data", claims.join(", "))]
    NotDrained {
        /// Which.
        claims: Vec<String>,
    },
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::Kubeconfig { .. } => "KubeconfigRefused",
            Self::Unreachable { .. } | Self::Slow { .. } => "Unreachable",
            Self::Forbidden { .. } => "Forbidden",
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
            Self::NotDrained { .. } | Self::StartedAgain { .. } => "NotDrained",
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
            Self::Forbidden { .. } => {
                "the kubeconfig must be an administrator's; right after the cluster was made, run \
                 the same command again"
            }
            Self::Rejected { .. } => {
                "correct the document, or use a version that this cluster knows"
            }
            Self::Garbled { .. } => "check that the endpoint is the one of the service",
            Self::Image { temporary: true, .. } => {
                "check `endpoints.flux` of the Project, or give the digest in `flux.digests`"
            }
            Self::Image { .. } => {
                "push the image there, or give another `endpoints.flux` in the Project"
            }
            Self::Foreign { .. } => {
                "remove them, or have whoever made them do so; nothing was changed"
            }
            Self::NotKnownYet { .. } => "apply the documents that it refers to first",
            Self::SignatureRefused { .. } => {
                "publish the artifact with the project's own key: `artifact-attest apply`; what was \
                 delivered before keeps running"
            }
            Self::Stalled { .. } => "correct what it says in the artifact or the document",
            Self::NotYet { .. } => {
                "run the same command again: it goes on from here; `timeoutSeconds` is how long it waits"
            }
            Self::Unsettled { .. } => "`plan` shows them; another writer may be at work",
            Self::Unproven { .. } => "`plan` shows what differs, `apply` puts it right",
            Self::NotYetProven { .. } => "run the same command again in a while",
            Self::NotDecryptable { .. } => {
                "add that recipient to .sops.yaml, then `sops updatekeys` each of the files"
            }
            Self::Unreadable { .. } => "run at the root of the repository, with leave to read it",
            Self::StartedAgain { .. } => "run `data-drain apply` again, then this",
            Self::NotDrained { .. } => {
                "run `data-drain apply` before this, or say `claims: discarded` if nobody needs it"
            }
        };
        Some(help.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::Image { temporary: true, .. }
            | Self::Unreachable { .. }
            | Self::Slow { .. }
            | Self::Forbidden { .. }
            | Self::NotKnownYet { .. }
            | Self::NotYet { .. }
            | Self::NotYetProven { .. }
            | Self::NotDrained { .. }
            | Self::StartedAgain { .. }
            | Self::Unsettled { .. } => Exit::Temporary,
            Self::Kubeconfig { .. }
            | Self::Rejected { .. }
            | Self::Garbled { .. }
            | Self::Image { .. }
            | Self::Foreign { .. }
            | Self::SignatureRefused { .. }
            | Self::Stalled { .. }
            | Self::NotDecryptable { .. }
            | Self::Unreadable { .. }
            | Self::Unproven { .. } => Exit::Permanent,
        }
    }
}
