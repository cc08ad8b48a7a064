//! Errors of this program, each with its help and exit status.

use std::io;
use std::path::PathBuf;

use documents::{Diagnostic, Exit, Reason, Refusal};

/// Error of one command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is invalid, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret or key is unavailable, or a receipt is invalid.
    #[error(transparent)]
    Keyring(#[from] secrets::Error),
    /// The certificate authorities that a variable names cannot be read.
    #[error(transparent)]
    Roots(#[from] remote::RootsError),
    /// The project lacks an endpoint.
    #[error("the Project has no {0}")]
    NoEndpoint(&'static str),
    /// The kubeconfig is not accepted, or a request to the cluster failed.
    #[error(transparent)]
    Cluster(#[from] kubernetes::Error),
    /// This machine cannot start an asynchronous runtime.
    #[error("the HTTP client cannot start on this machine")]
    Machine(#[source] io::Error),
    /// A service did not answer, or answered too late.
    #[error("{who} does not answer: {request}: {why}")]
    Unreachable {
        /// Service, for example the URL of the store.
        who: String,
        /// Request, for example `write BUCKET/KEY`.
        request: String,
        /// Cause, from the service or the network.
        why: String,
    },
    /// The certificate of a service is not trusted.
    #[error("the certificate of {who} is not trusted: {why}")]
    Untrusted {
        /// Service, for example the URL of the store.
        who: String,
        /// Cause, in the words of the TLS library.
        why: String,
    },
    /// An upload makes no progress.
    #[error(
        "{who} does not take {request}: no progress for {seconds} s, after {taken} of {bytes} bytes"
    )]
    Stalled {
        /// URL of the store.
        who: String,
        /// Request, for example `write BUCKET/KEY`.
        request: String,
        /// The time without progress.
        seconds: u64,
        /// Bytes of it that the connection took.
        taken: usize,
        /// The size of the upload.
        bytes: usize,
    },
    /// The credentials are valid, and lack the permission.
    #[error("{who} denies permission: {request}: {message}")]
    Forbidden {
        /// Service, for example the URL of the store.
        who: String,
        /// Request, for example `write BUCKET/KEY`.
        request: String,
        /// Message of the service.
        message: String,
    },
    /// The service rejects the request as invalid.
    #[error("{who} rejects the request: {request}: {message}")]
    Rejected {
        /// Service, for example the URL of the store.
        who: String,
        /// Request, for example `write BUCKET/KEY`.
        request: String,
        /// Message of the service.
        message: String,
    },
    /// The response is not one of the Kubernetes API.
    #[error("cannot parse the response to {request}")]
    Garbled {
        /// Request, for example `write BUCKET/KEY`.
        request: String,
    },
    /// Claims cannot be drained in their present state.
    #[error("these cannot be drained as they are: {}", listed(refusals))]
    Refused {
        /// Whether the workloads have been stopped by now.
        stopped: bool,
        /// Each claim, with the reason.
        refusals: Vec<Refusal>,
    },
    /// Another run of the same drain holds the lease.
    #[error("another run of this drain is in progress: {holder}")]
    Busy {
        /// Host, boot, PID namespace, PID and start of its process.
        holder: String,
    },
    /// The API server does not enforce the hold.
    #[error("the API server does not enforce the policy {name}: {answer}")]
    HoldInactive {
        /// Name of the policy.
        name: String,
        /// The API server's answer to a pod that mounts a held claim.
        answer: String,
    },
    /// A source, workload or receipt does not exist.
    #[error("{what} does not exist")]
    Missing {
        /// Missing object, for example `PersistentVolumeClaim default/data`.
        what: String,
    },
    /// The pod that reads a volume does not start.
    #[error("after {seconds} s the pod {pod}, which reads the volume, does not run: {why}")]
    NoReader {
        /// Length of the wait in seconds.
        seconds: u32,
        /// Name of the pod.
        pod: String,
        /// Cause, from the pod's status and events.
        why: String,
    },
    /// A source could not be read completely.
    #[error("cannot read {source_name} completely")]
    Read {
        /// Claim or repository, for example `default/data`.
        source_name: String,
        /// Error of the stream.
        source: io::Error,
    },
    /// A source has changed during its copy.
    #[error("{source_name} has changed while it was copied")]
    Changed {
        /// Claim or repository, for example `default/data`.
        source_name: String,
    },
    /// A Git command has failed.
    #[error("git {command} failed: {message}")]
    Git {
        /// Subcommand of Git, for example `clone`.
        command: String,
        /// Standard error of Git.
        message: String,
    },
    /// A pack could not be compressed or encrypted.
    #[error("cannot compress or encrypt")]
    Seal(#[source] io::Error),
    /// An object in the store differs from the one that was written.
    #[error("{object} is not what was copied: {why}")]
    Tampered {
        /// Object key in the store.
        object: String,
        /// Difference, as a clause about the object.
        why: String,
    },
    /// No receipt covers the present state of a source.
    #[error("no receipt proves that {} is copied in its present state{}", what.join(", "), because(why))]
    Unproven {
        /// Sources without a valid receipt.
        what: Vec<String>,
        /// Changes in the cluster since the receipt.
        why: Vec<String>,
    },
    /// The store has several receipts.
    #[error("the store has {} receipts: {}", receipts.len(), receipts.join(", "))]
    Ambiguous {
        /// Object keys of the receipts.
        receipts: Vec<String>,
    },
    /// A file of this machine cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// Verb of the operation, `read` or `write`.
        what: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The target folder of a restore is not empty, and a restore overwrites nothing.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// Path of the folder.
        path: PathBuf,
    },
    /// An entry of an archive cannot be written to the target folder.
    #[error("cannot restore {}", entry)]
    Restore {
        /// Path of the entry in the archive.
        entry: String,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// Returns the help for a failed request. A namespace may have to permit the reader of a volume.
fn cluster_help(error: &kubernetes::Error) -> Option<String> {
    use kubernetes::Error::{Denied, Forbidden, QuotaExceeded};
    let help = match error {
        Denied { message, .. } if message.contains("PodSecurity") => {
            "permit the reader in the namespace: label the namespace \
             `pod-security.kubernetes.io/enforce=baseline`"
        }
        QuotaExceeded { .. } => {
            "raise the namespace's ResourceQuota by one pod with 1 GiB of memory"
        }
        Forbidden { .. } => {
            "the API server's message names the rule; a kubeconfig of a cluster administrator is \
             needed: `talos-provision apply` writes one"
        }
        error => return error.help(),
    };
    Some(help.to_owned())
}

fn listed(refusals: &[Refusal]) -> String {
    let line = |refusal: &Refusal| format!("{}: {}", refusal.object, refusal.message);
    refusals.iter().map(line).collect::<Vec<_>>().join("; ")
}

fn because(why: &[String]) -> String {
    if why.is_empty() { String::new() } else { format!(": {}", why.join(", ")) }
}

impl From<io::Error> for Error {
    /// Unwraps an error of this type, which a reader may have wrapped. Any other error becomes a read
    /// error, and the caller fills in the name of the source.
    fn from(source: io::Error) -> Self {
        let read = |source| Self::Read { source_name: "the archive".to_owned(), source };
        source.downcast::<Self>().unwrap_or_else(read)
    }
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::NoEndpoint(_) => Reason::EndpointMissing,
            Self::Cluster(error) => error.reason(),
            Self::Machine(_) => Reason::RuntimeFailed,
            Self::File { .. } | Self::Restore { .. } | Self::Roots(_) => Reason::FileFailed,
            Self::Unreachable { .. } | Self::Stalled { .. } => Reason::Unreachable,
            Self::Untrusted { .. } => Reason::Untrusted,
            Self::Forbidden { .. } => Reason::Forbidden,
            Self::Rejected { .. } => Reason::Rejected,
            Self::Garbled { .. } => Reason::InvalidResponse,
            Self::Changed { .. } => Reason::Changed,
            Self::Refused { .. } => Reason::NotDrainable,
            Self::Busy { .. } => Reason::Busy,
            Self::HoldInactive { .. } => Reason::HoldInactive,
            Self::Missing { .. } => Reason::NotFound,
            Self::NoReader { .. } => Reason::NoReader,
            Self::Read { .. } => Reason::ReadFailed,
            Self::Git { .. } => Reason::GitFailed,
            Self::Seal(_) => Reason::EncryptionFailed,
            Self::Tampered { .. } => Reason::Corrupt,
            Self::Unproven { .. } => Reason::VerificationFailed,
            Self::Ambiguous { .. } => Reason::NotUnique,
            Self::NotEmpty { .. } => Reason::WouldOverwrite,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::Roots(error) => return Some(error.help()),
            Self::NoEndpoint(_) => "declare it in `endpoints` of the Project",
            Self::Cluster(error) => return cluster_help(error),
            Self::Machine(_) => "check this machine's limits of open files and memory",
            Self::Unreachable { .. } => {
                "check the network to the service, then run the same command again"
            }
            Self::Untrusted { .. } => remote::UNTRUSTED_HELP,
            Self::Stalled { .. } => {
                "check the network to the store, then run the same command again: packs that have arrived are \
                 not sent again"
            }
            Self::Forbidden { .. } => {
                "use credentials with the permission: a writer needs PutObject, GetObject and \
                 ListBucket, a reader GetObject"
            }
            Self::Rejected { .. } => "correct the document or the object as the message says",
            Self::Refused { stopped: false, .. } => {
                "nothing was stopped; correct each claim as its message says, then run this again"
            }
            Self::Refused { stopped: true, .. } => {
                "nothing was signed, and the workloads stay stopped: correct each claim and run \
                 `data-drain apply` again, or start the workloads with `data-drain destroy`"
            }
            Self::Busy { .. } => {
                "wait until the other run has ended, or end it, then run this again"
            }
            Self::HoldInactive { .. } => {
                "nothing was copied, and the workloads stay stopped: check that the API servers are \
                 healthy and run `data-drain apply` again, or start the workloads with `data-drain \
                 destroy`"
            }
            Self::Garbled { .. } => {
                "check that the endpoint in the kubeconfig is a Kubernetes API server"
            }
            Self::Missing { .. } => {
                "correct the document; a deleted source cannot be copied any more"
            }
            Self::NoReader { .. } => {
                "correct the cause; the pod needs the attested image and a node that has the volume. \
                 `timeoutSeconds` sets the wait. Stopped workloads stay stopped"
            }
            Self::Read { .. } => {
                "run the same command again: packs that have arrived are not sent again"
            }
            Self::Changed { .. } => {
                "the workloads stay stopped; find the other writer, then run this again"
            }
            Self::Git { .. } => {
                "correct the cause in the message of Git, then run the same command again"
            }
            Self::Seal(_) => "check the free memory of this machine",
            Self::Tampered { .. } => {
                "delete nothing: the source may be the only good copy. Find out who can write to the \
                 store; `data-drain destroy` and then `data-drain apply` make another copy"
            }
            Self::Unproven { .. } => "run `data-drain apply`",
            Self::Ambiguous { .. } => {
                "name one with `--receipt`, or give the documents that `data-drain apply` wrote"
            }
            Self::File { .. } => "check the permissions of the path and the free disk space",
            Self::NotEmpty { .. } => "use a folder that is empty or does not exist yet",
            Self::Restore { .. } => {
                "check the free disk space; only root can restore owners and devices"
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
        match self {
            Self::Unreachable { .. } => true,
            Self::Cluster(error) => error.is_transient(),
            _ => false,
        }
    }

    fn is_ambiguous(&self) -> bool {
        // The store's writer looks itself whether an object arrived.
        matches!(self, Self::Cluster(error) if error.is_ambiguous())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::Cluster(error) => error.exit(),
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::NoReader { .. }
            | Self::Read { .. }
            | Self::Changed { .. }
            | Self::Busy { .. }
            | Self::HoldInactive { .. }
            | Self::Git { .. }
            | Self::Machine(_)
            | Self::Unproven { .. } => Exit::Temporary,
            Self::NoEndpoint(_)
            | Self::Roots(_)
            | Self::Forbidden { .. }
            | Self::Untrusted { .. }
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
