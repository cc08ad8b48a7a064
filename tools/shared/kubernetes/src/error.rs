//! Errors of requests to an API server, each with its help and exit status.

use std::io;
use std::time::Duration;

use documents::{Diagnostic, Exit, Reason};

/// Error of one request, or of the kubeconfig. `request` is for example `get Namespace flux-system`,
/// and `message` comes from the API server, without credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sealed kubeconfig cannot be opened.
    #[error(transparent)]
    Secret(#[from] secrets::Error),
    /// The cluster's kubeconfig is invalid or has a setting that is not permitted.
    #[error("the kubeconfig of the cluster cannot be used: {why}")]
    Kubeconfig {
        /// Cause, as a clause about the kubeconfig.
        why: &'static str,
    },
    /// The certificate authorities of the environment cannot be read.
    #[error(transparent)]
    Roots(#[from] remote::RootsError),
    /// This machine cannot start an asynchronous runtime.
    #[error("the HTTP client cannot start on this machine")]
    Runtime(#[source] io::Error),
    /// The API server did not answer.
    #[error("the API server does not answer: {request}: {why}")]
    Unreachable {
        /// The request.
        request: String,
        /// Error of the network.
        why: String,
        /// Whether the request may have arrived: a connection was open.
        was_sent: bool,
    },
    /// The API server took longer than the deadline of one request.
    #[error("the API server has not answered within {seconds} s: {request}")]
    TimedOut {
        /// The request.
        request: String,
        /// Deadline of one request in seconds.
        seconds: u64,
    },
    /// The server's certificate does not match the kubeconfig.
    #[error("the certificate of the API server is not trusted: {request}: {why}")]
    Untrusted {
        /// The request.
        request: String,
        /// Message of the TLS library.
        why: String,
    },
    /// The API server does not accept the kubeconfig's certificate or token.
    #[error("the API server does not accept the kubeconfig's credentials for {request}: {message}")]
    Unauthorized {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The kubeconfig's user may not do this.
    #[error("the API server does not permit {request}: {message}")]
    Forbidden {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// A `ResourceQuota` is used up.
    #[error("a quota does not permit {request}: {message}")]
    QuotaExceeded {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The Namespace is being deleted.
    #[error("cannot {request}, since its Namespace is being deleted: {message}")]
    Terminating {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// An admission policy or webhook denied the request.
    #[error("an admission policy denies {request}: {message}")]
    Denied {
        /// The request.
        request: String,
        /// Message of the policy or webhook.
        message: String,
    },
    /// An admission webhook did not answer.
    #[error("an admission webhook does not answer to {request}: {message}")]
    WebhookFailed {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The object, or its Namespace, does not exist.
    #[error("the object does not exist: {request}: {message}")]
    NotFound {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The server has no such API: it is another server, or another version.
    #[error("cannot parse the response to {request}: the server does not know this API")]
    NotServed {
        /// The request.
        request: String,
    },
    /// Another writer has changed or created the object.
    #[error("another writer changed the object during {request}: {message}")]
    Conflict {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The snapshot of a list has expired more often than the list is read again.
    #[error("the list changes faster than it can be read: {request}: {message}")]
    Gone {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// The API server rejects the request as invalid.
    #[error("the API server rejects {request}: {message}")]
    Invalid {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
    },
    /// A `PodDisruptionBudget` does not allow the eviction now.
    #[error("a PodDisruptionBudget does not allow {request}: {message}")]
    DisruptionBudget {
        /// The request.
        request: String,
        /// Messages that name the budgets.
        message: String,
    },
    /// The API server limits the request rate.
    #[error("the API server limits the request rate: {request}: {message}")]
    RateLimited {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
        /// Pause that the API server names.
        retry_after: Option<Duration>,
    },
    /// The API server is overloaded or temporarily unavailable.
    #[error("the API server is busy: {request}: {message}")]
    Busy {
        /// The request.
        request: String,
        /// Message of the API server.
        message: String,
        /// Pause that the API server names.
        retry_after: Option<Duration>,
    },
    /// The response is not one of the Kubernetes API.
    #[error("cannot parse the response to {request}: {why}")]
    InvalidResponse {
        /// The request.
        request: String,
        /// Cause, as a clause about the response.
        why: String,
    },
}

impl Error {
    /// Returns the pause that the API server names.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Secret(error) => error.reason(),
            Self::Kubeconfig { .. } => Reason::KubeconfigInvalid,
            Self::Roots(_) => Reason::FileFailed,
            Self::Runtime(_) => Reason::RuntimeFailed,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Gone { .. }
            | Self::Busy { .. } => Reason::Unreachable,
            Self::Untrusted { .. } => Reason::Untrusted,
            Self::Unauthorized { .. } => Reason::Unauthorized,
            Self::Forbidden { .. } => Reason::Forbidden,
            Self::QuotaExceeded { .. } => Reason::QuotaExceeded,
            Self::Terminating { .. } => Reason::Terminating,
            Self::Denied { .. } => Reason::AdmissionDenied,
            Self::WebhookFailed { .. } => Reason::WebhookFailed,
            Self::NotFound { .. } => Reason::NotFound,
            Self::Conflict { .. } => Reason::Changed,
            Self::Invalid { .. } => Reason::Rejected,
            Self::DisruptionBudget { .. } => Reason::NotEvicted,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::NotServed { .. } | Self::InvalidResponse { .. } => Reason::InvalidResponse,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Secret(error) => return error.help(),
            Self::Roots(error) => return Some(error.help()),
            Self::RateLimited { retry_after: Some(pause), .. } => {
                let seconds = pause.as_secs();
                return Some(format!("run the same command again in {seconds} s"));
            }
            Self::Kubeconfig { .. } => "write a new kubeconfig: `talos-provision apply`",
            Self::Runtime(_) => "check this machine's limits of open files and memory",
            Self::Unreachable { .. } | Self::TimedOut { .. } => {
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
            Self::NotFound { .. } => {
                "create the object that the message names, or correct its name"
            }
            Self::Conflict { .. } => {
                "run the same command again: it reads the changed object first"
            }
            Self::Invalid { .. } => {
                "correct the field that the message names: in this version of Kubernetes it is \
                 immutable, unknown or has an invalid value"
            }
            Self::DisruptionBudget { .. } => {
                "start more replicas, or relax the budget; then run the same command again"
            }
            Self::RateLimited { .. } | Self::Gone { .. } | Self::Busy { .. } => {
                "run the same command again in a minute"
            }
            Self::NotServed { .. } | Self::InvalidResponse { .. } => {
                "check that the endpoint in the kubeconfig is a Kubernetes API server"
            }
        };
        Some(help.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Secret(error) => error.exit(),
            Self::Runtime(_)
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Terminating { .. }
            | Self::WebhookFailed { .. }
            | Self::Conflict { .. }
            | Self::Gone { .. }
            | Self::DisruptionBudget { .. }
            | Self::RateLimited { .. }
            | Self::Busy { .. } => Exit::Temporary,
            Self::Kubeconfig { .. }
            | Self::Roots(_)
            | Self::Untrusted { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::QuotaExceeded { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::NotServed { .. }
            | Self::Invalid { .. }
            | Self::InvalidResponse { .. } => Exit::Permanent,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Secret(error) => error.is_transient(),
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Gone { .. }
            | Self::RateLimited { .. }
            | Self::Busy { .. } => true,
            _ => false,
        }
    }

    fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Busy { .. })
    }
}
