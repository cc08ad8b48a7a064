//! Everything that can go wrong, what to do about it, and whether to try again.

use std::io;
use std::path::PathBuf;

use documents::{Diagnostic, Exit, Refusal};

/// The name of the API server in messages.
pub(crate) const API_SERVER: &str = "the API server";

/// The reason in a status for a claim that cannot be drained.
pub(crate) const NOT_DRAINABLE: &str = "NotDrainable";

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not right, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret cannot be had, or a receipt not believed.
    #[error(transparent)]
    Keyring(#[from] keyring::Error),
    /// The project lacks an endpoint.
    #[error("the Project has no {0}")]
    NoEndpoint(&'static str),
    /// The cluster's kubeconfig is not one that this program will use.
    #[error("the kubeconfig of the cluster cannot be used: {why}")]
    Kubeconfig {
        /// Why not.
        why: &'static str,
    },
    /// This machine lets us not do what any program may.
    #[error("this machine cannot run a client")]
    Machine(#[source] io::Error),
    /// Nobody answered, or too late.
    #[error("{who} does not answer to {request}: {why}")]
    Unreachable {
        /// Who.
        who: String,
        /// What was asked.
        request: String,
        /// Why not.
        why: String,
    },
    /// An upload makes no progress.
    #[error(
        "{who} does not take {request}: no progress for {seconds} s, after {taken} of {bytes} bytes"
    )]
    Stalled {
        /// The store.
        who: String,
        /// What was asked.
        request: String,
        /// The time without progress.
        seconds: u64,
        /// Bytes of it that the connection took.
        taken: usize,
        /// The size of the upload.
        bytes: usize,
    },
    /// We are known, and not let.
    #[error("{who} does not let us {request}: {message}")]
    Forbidden {
        /// Who.
        who: String,
        /// What was asked.
        request: String,
        /// What was said.
        message: String,
    },
    /// What was sent is not taken.
    #[error("{who} refuses to {request}: {message}")]
    Rejected {
        /// Who.
        who: String,
        /// What was asked.
        request: String,
        /// What was said.
        message: String,
    },
    /// Somebody answered something that this version does not understand.
    #[error("cannot read the answer to {request}")]
    Garbled {
        /// What was asked.
        request: String,
    },
    /// The object is another by now.
    #[error("the cluster did not take {request}: {message}")]
    Conflict {
        /// The request.
        request: String,
        /// The answer.
        message: String,
    },
    /// Claims cannot be drained as they are.
    #[error("these cannot be drained as they are: {}", listed(refusals))]
    Refused {
        /// Whether the workloads have been stopped by now.
        stopped: bool,
        /// Each claim, with the reason.
        refusals: Vec<Refusal>,
    },
    /// Another run of the same drain is at work.
    #[error("another run of this drain is at work: {holder}")]
    Busy {
        /// Host, boot, PID namespace, PID and start of its process.
        holder: String,
    },
    /// The API server does not enforce the hold.
    #[error("the API server does not enforce the policy {name}: {answer}")]
    HoldInactive {
        /// The policy.
        name: String,
        /// The API server's answer to a pod that mounts a held claim.
        answer: String,
    },
    /// Something that is to be copied, or stopped, is not there.
    #[error("{what} is not there")]
    Missing {
        /// What.
        what: String,
    },
    /// The pod that reads a volume does not start.
    #[error("after {seconds} s the pod {pod}, which reads the volume, does not run: {why}")]
    NoReader {
        /// How long was waited.
        seconds: u32,
        /// Which.
        pod: String,
        /// What its status says.
        why: String,
    },
    /// A source could not be read to its end.
    #[error("cannot read {source_name} to its end")]
    Read {
        /// Which.
        source_name: String,
        /// Why not.
        source: io::Error,
    },
    /// A source is not what it was when it was copied.
    #[error("{source_name} has changed while it was copied")]
    Changed {
        /// Which.
        source_name: String,
    },
    /// Git has failed.
    #[error("git {command} failed: {message}")]
    Git {
        /// Which command of it.
        command: String,
        /// What it said.
        message: String,
    },
    /// A copy could not be made.
    #[error("cannot compress or encrypt")]
    Seal(#[source] io::Error),
    /// What lies in the store is not what was put there.
    #[error("{object} is not what was copied: {why}")]
    Tampered {
        /// Which object.
        object: String,
        /// In what it differs.
        why: String,
    },
    /// No receipt says that this was copied.
    #[error("no receipt proves that {} is copied as it is now{}", what.join(", "), because(why))]
    Unproven {
        /// What.
        what: Vec<String>,
        /// What has changed since a receipt, as far as the cluster tells.
        why: Vec<String>,
    },
    /// The store has several receipts.
    #[error("the store has {} receipts: {}", receipts.len(), receipts.join(", "))]
    Ambiguous {
        /// Where they lie.
        receipts: Vec<String>,
    },
    /// A file of this machine cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// Read or write.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was copied is not restored over something.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// Which folder.
        path: PathBuf,
    },
    /// What was copied cannot be written here.
    #[error("cannot restore {}", entry)]
    Restore {
        /// Which entry of the archive.
        entry: String,
        /// Why not.
        source: io::Error,
    },
}

fn listed(refusals: &[Refusal]) -> String {
    let line = |refusal: &Refusal| format!("{}: {}", refusal.object, refusal.message);
    refusals.iter().map(line).collect::<Vec<_>>().join("; ")
}

fn because(why: &[String]) -> String {
    if why.is_empty() { String::new() } else { format!(": {}", why.join(", ")) }
}

impl From<io::Error> for Error {
    /// Whoever reads an archive knows which it was, and says so; what went wrong on the way
    /// to it may already be one of ours.
    fn from(source: io::Error) -> Self {
        let read = |source| Self::Read { source_name: "the archive".to_owned(), source };
        source.downcast::<Self>().unwrap_or_else(read)
    }
}

impl Diagnostic for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::NoEndpoint(_) => "NoEndpoint",
            Self::Kubeconfig { .. } => "KubeconfigRefused",
            Self::Machine(_) | Self::File { .. } => "MachineFailed",
            Self::Unreachable { .. } | Self::Stalled { .. } => "Unreachable",
            Self::Forbidden { .. } => "Forbidden",
            Self::Rejected { .. } => "Rejected",
            Self::Garbled { .. } => "Garbled",
            Self::Conflict { .. } => "Conflict",
            Self::Refused { .. } => NOT_DRAINABLE,
            Self::Busy { .. } => "Busy",
            Self::HoldInactive { .. } => "HoldInactive",
            Self::Missing { .. } => "SourceMissing",
            Self::NoReader { .. } => "NoReader",
            Self::Read { .. } => "ReadFailed",
            Self::Changed { .. } => "SourceChanged",
            Self::Git { .. } => "GitFailed",
            Self::Seal(_) => "SealFailed",
            Self::Tampered { .. } => "Tampered",
            Self::Unproven { .. } => "Unproven",
            Self::Ambiguous { .. } => "Ambiguous",
            Self::NotEmpty { .. } => "NotEmpty",
            Self::Restore { .. } => "RestoreFailed",
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::NoEndpoint(_) => "declare it in `endpoints` of the Project",
            Self::Kubeconfig { .. } => {
                "let talos-provision write it again: `talos-provision apply`"
            }
            Self::Machine(_) => "look at the limits of this machine: files, memory",
            Self::Unreachable { .. } => "check the way there, then run the same command again",
            Self::Stalled { .. } => {
                "check the way there, then run the same command again: packs that have arrived are \
                 not sent again"
            }
            Self::Forbidden { message, .. } if message.contains("PodSecurity") => {
                "let the namespace admit the reader: label it \
                 `pod-security.kubernetes.io/enforce=baseline`"
            }
            Self::Forbidden { message, .. } if message.contains("exceeded quota") => {
                "raise the namespace's ResourceQuota by one pod with 1 GiB of memory"
            }
            Self::Forbidden { who, .. } if who == API_SERVER => {
                "the API server's message names the rule; a kubeconfig of a cluster administrator is \
                 needed: `talos-provision apply` writes one"
            }
            Self::Forbidden { .. } => {
                "give credentials that may: a writer needs PutObject, GetObject and ListBucket, a \
                 reader GetObject"
            }
            Self::Rejected { .. } => "read what it says; the document may ask for something else",
            Self::Conflict { .. } => "run the same command again",
            Self::Refused { stopped: false, .. } => {
                "nothing was stopped; see to each of them, then run this again"
            }
            Self::Refused { stopped: true, .. } => {
                "nothing was signed, and the workloads stay stopped: see to each of them and run \
                 `data-drain apply` again, or start them with `data-drain destroy`"
            }
            Self::Busy { .. } => "wait until it has ended, or end it; then run this again",
            Self::HoldInactive { .. } => {
                "nothing was copied, and the workloads stay stopped: see whether the API servers are \
                 healthy, and run `data-drain apply` again, or start them with `data-drain destroy`"
            }
            Self::Garbled { .. } => "check that the endpoint is the one of the service",
            Self::Missing { .. } => {
                "correct the document; what is gone already cannot be copied any more"
            }
            Self::NoReader { .. } => {
                "see to the reason; the pod needs the attested image and a node that has the volume. \
                 `timeoutSeconds` is how long is waited. What is stopped stays so"
            }
            Self::Read { .. } => {
                "run the same command again: packs that have arrived are not sent again"
            }
            Self::Changed { .. } => {
                "the workloads stay stopped; find out what else writes there, then run this again"
            }
            Self::Git { .. } => "read what it says, then run the same command again",
            Self::Seal(_) => "look at the memory of this machine",
            Self::Tampered { .. } => {
                "delete nothing: the source may be the only good copy. Find out who can write to the \
                 store; `data-drain destroy` and then `data-drain apply` make another copy"
            }
            Self::Unproven { .. } => "run `data-drain apply`",
            Self::Ambiguous { .. } => {
                "name one with `--receipt`, or give the documents that `data-drain apply` wrote"
            }
            Self::File { .. } => "look at its permissions, and at the space that is left",
            Self::NotEmpty { .. } => "name a folder that is empty or not there yet",
            Self::Restore { .. } => {
                "look at the space that is left; owners and devices can be restored by root alone"
            }
        };
        Some(help.to_owned())
    }

    fn refusals(&self) -> Vec<Refusal> {
        match self {
            Self::Refused { refusals, .. } => refusals.clone(),
            _ => Vec::new(),
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    fn is_ambiguous(&self) -> bool {
        // The store's writer looks itself whether an object arrived.
        let is_write =
            |request: &str| request.starts_with("PATCH ") || request.starts_with("DELETE ");
        matches!(self, Self::Unreachable { who, request, .. } if who == API_SERVER && is_write(request))
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::NoReader { .. }
            | Self::Read { .. }
            | Self::Changed { .. }
            | Self::Conflict { .. }
            | Self::Busy { .. }
            | Self::HoldInactive { .. }
            | Self::Git { .. }
            | Self::Machine(_)
            | Self::Unproven { .. } => Exit::Temporary,
            Self::NoEndpoint(_)
            | Self::Kubeconfig { .. }
            | Self::Forbidden { .. }
            | Self::Rejected { .. }
            | Self::Garbled { .. }
            | Self::Missing { .. }
            | Self::Refused { .. }
            | Self::Seal(_)
            | Self::Tampered { .. }
            | Self::File { .. }
            | Self::Ambiguous { .. }
            | Self::NotEmpty { .. }
            | Self::Restore { .. } => Exit::Permanent,
        }
    }
}
