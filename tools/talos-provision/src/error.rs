//! Errors of this program, each with its help and its exit status.

use std::io;

use documents::{Diagnostic, Exit, Reason};
use remote::{RootsError, TokenError, UNTRUSTED_HELP};

use crate::api_error::ApiError;
use crate::plan::Conflict;

const NOT_WRITTEN_HELP: &str = "correct the cause, then run the same command again, which starts another \
                                temporary server; `spec.firewall.talos` must allow your address to reach \
                                its port 50000";

/// Error of serde in an answer. It shows the position and not the value, which may be secret.
#[derive(Debug)]
pub struct Unreadable(serde_json::Error);

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.0.classify() {
            serde_json::error::Category::Data => "a field has the wrong type",
            serde_json::error::Category::Syntax => "invalid JSON",
            serde_json::error::Category::Eof => "truncated JSON",
            serde_json::error::Category::Io => "read error",
        };
        write!(f, "{what} at line {} column {}", self.0.line(), self.0.column())
    }
}

impl std::error::Error for Unreadable {}

/// Error of this program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading, ordering or writing the documents failed.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret could not be read, derived or sealed.
    #[error(transparent)]
    Keyring(#[from] secrets::Error),
    /// The certificate authorities that a variable names cannot be read.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The cloud's token fits into no request.
    #[error("the token of the cloud cannot be sent: {0}")]
    TokenUnusable(#[from] TokenError),
    /// The certificate of the cloud's API is not trusted.
    #[error("the certificate of the cloud's API is not trusted: {why}")]
    Untrusted {
        /// Error of the TLS library.
        why: String,
    },
    /// The removal would lose data.
    #[error("no machine of {cluster} is removed, because its data may have no other copy: {}", lines(.refusals))]
    NotDrained {
        /// Name of the cluster.
        cluster: String,
        /// One entry for each volume or pod that would be lost, with the reason.
        refusals: Vec<documents::Refusal>,
    },
    /// The cloud's API answered with an error.
    #[error("the cloud's API returned an error: {0}")]
    Api(ApiError),
    /// A service or machine did not answer within its limit.
    #[error("no answer from {what}: {why}")]
    Unreachable {
        /// The service or machine that was asked.
        what: String,
        /// Error of the last attempt.
        why: String,
    },
    /// The name of the cloud's host has no address.
    #[error("the host {host} of the cloud has no address: {why}")]
    Unresolved {
        /// Name of the host in the Project's `endpoints.cloud`.
        host: String,
        /// Error of the resolver.
        why: String,
    },
    /// An answer does not have the expected structure.
    #[error("invalid response from {what}")]
    InvalidResponse {
        /// The service that answered.
        what: &'static str,
        /// Position of the error in the answer.
        source: Unreadable,
    },
    /// An answer lacks something that the API promises.
    #[error("incomplete response from the cloud: {what}")]
    Unexpected {
        /// Description of what the answer lacks.
        what: String,
    },
    /// The cloud has no image of the declared Talos version.
    #[error("there is no image of Talos {version} for {architecture}")]
    NoImage {
        /// Declared version of Talos.
        version: String,
        /// Architecture of the server type: `x86` or `arm`.
        architecture: String,
    },
    /// A temporary server did not write the image.
    #[error("the temporary server {name} has not written the image: {why}")]
    ImageNotWritten {
        /// Name of the temporary server.
        name: String,
        /// Cause, as the temporary server reports it.
        why: String,
    },
    /// A server type is unavailable in every declared location.
    #[error("{name}: server type {type} is unavailable in {locations}: {why}")]
    Unavailable {
        /// Name of the machine.
        name: String,
        /// Declared server type, for example `cax11`.
        r#type: String,
        /// Locations in which a server was requested, separated by commas.
        locations: String,
        /// The cloud's message for the last location.
        why: String,
    },
    /// No location has a load balancer.
    #[error("load balancer {name} is unavailable in {locations}: {why}")]
    NoBalancer {
        /// Name of the load balancer.
        name: String,
        /// Locations in which a load balancer was requested, separated by commas.
        locations: String,
        /// The cloud's message for the last location.
        why: String,
    },
    /// A resource of others has a name that this cluster needs.
    #[error("{what} exists and does not carry the labels of this cluster")]
    Taken {
        /// Kind and name of the existing resource.
        what: String,
    },
    /// An action of the cloud ended with an error.
    #[error("the cloud's action {command} failed: {message} ({code})")]
    ActionFailed {
        /// The API's name of the action, for example `start_server`.
        command: String,
        /// The API's error code of the action.
        code: String,
        /// The API's message about the action.
        message: String,
    },
    /// The response to a write was lost, so the write may have been applied.
    #[error("the response of the cloud was lost: {why}")]
    ResponseLost {
        /// Error of the request.
        why: String,
    },
    /// An operation did not end within its limit.
    #[error("timed out: {what}")]
    TimedOut {
        /// Description of the unfinished work.
        what: String,
    },
    /// TLS or the certificate parser rejects derived keys, which is a bug of this program.
    #[error("the derived keys are invalid: {0}")]
    Keys(String),
    /// The async runtime could not be started, because the system lacks resources.
    #[error("cannot start the async runtime")]
    Runtime(#[source] io::Error),
    /// A machine answered with an error.
    #[error("{name} returned an error: {why}")]
    NodeError {
        /// Name of the machine.
        name: String,
        /// The machine's message, without text that it quotes.
        why: String,
    },
    /// etcd ends again and again after its start.
    #[error("etcd on {name} exits again after each start: {event}")]
    EtcdCrashes {
        /// Name of the control plane.
        name: String,
        /// Last event of the service.
        event: String,
    },
    /// A request to the Kubernetes API failed.
    #[error(transparent)]
    Kubernetes(#[from] ::kubernetes::Error),
    /// The Kubernetes API is not ready for the removal of a machine.
    #[error("the Kubernetes API is not ready: {why}")]
    KubernetesNotReady {
        /// The failing check.
        why: String,
    },
    /// Differences that no step can change.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nerror: "))]
    Conflicts(Vec<Conflict>),
    /// A patch does not fit the configuration.
    #[error("a patch does not fit: {0}")]
    Patch(String),
    /// The observed state differs from the declared state.
    #[error("verification failed: {what}")]
    VerificationFailed {
        /// The first difference that was found.
        what: String,
    },
    /// An eviction would lose pods of a machine that is removed, or the contents of their volumes.
    #[error("{machine} is not removed: {}", lines(.refusals))]
    PodsLost {
        /// Name of the machine.
        machine: String,
        /// One entry for each such pod, with the reason.
        refusals: Vec<documents::Refusal>,
    },
    /// Pods of a machine that is removed were not evicted within the declared time.
    #[error("{machine} is not removed: no pod has left it for {seconds} s: {why}")]
    NotEvicted {
        /// Name of the machine.
        machine: String,
        /// The declared limit, in seconds.
        seconds: u64,
        /// The remaining pods, each with the budget that does not allow its eviction.
        why: String,
    },
    /// The cloud lists no resource of a cluster that the document's status describes.
    #[error(
        "unknown whether {cluster} exists: the status of its document lists the servers {servers}, \
         and the token's project contains no resource of it and no action on these servers"
    )]
    WrongProject {
        /// Name of the cluster.
        cluster: String,
        /// Servers in the status, each with name and id.
        servers: String,
    },
    /// The declared end of the authorities' certificates has passed.
    #[error("the certificates of the authorities expired on {day}")]
    Expired {
        /// Last day of the certificates, for example `2036-11-01`.
        day: String,
    },
}

impl Error {
    /// Returns the error for a machine whose certificate another authority signed.
    pub(crate) fn foreign(name: &str, why: String) -> Self {
        Self::Conflicts(vec![Conflict::Foreign { name: name.to_owned(), why }])
    }
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::NotDrained { .. } => Reason::NotDrained,
            Self::Api(error) => error.reason(),
            Self::Unreachable { .. }
            | Self::Unresolved { .. }
            | Self::KubernetesNotReady { .. } => Reason::Unreachable,
            Self::Kubernetes(error) => error.reason(),
            Self::ResponseLost { .. } => Reason::ResponseLost,
            Self::InvalidResponse { .. } | Self::Unexpected { .. } => Reason::InvalidResponse,
            Self::NoImage { .. } => Reason::NoImage,
            Self::ImageNotWritten { .. } => Reason::ImageNotWritten,
            Self::Unavailable { .. } | Self::NoBalancer { .. } => Reason::Unavailable,
            Self::ActionFailed { .. } => Reason::ActionFailed,
            Self::TimedOut { .. } => Reason::TimedOut,
            Self::Keys(_) => Reason::Bug,
            Self::Runtime(_) => Reason::RuntimeFailed,
            Self::NodeError { .. } => Reason::Rejected,
            Self::EtcdCrashes { .. } => Reason::EtcdCrashes,
            Self::Taken { .. } | Self::Conflicts(_) => Reason::Conflict,
            Self::Patch(_) => Reason::PatchUnfit,
            Self::VerificationFailed { .. } => Reason::VerificationFailed,
            Self::Expired { .. } => Reason::Expired,
            Self::PodsLost { .. } => Reason::PodsWouldBeLost,
            Self::NotEvicted { .. } => Reason::NotEvicted,
            Self::WrongProject { .. } => Reason::AbsenceUnproven,
            Self::Roots(_) => Reason::FileFailed,
            Self::Untrusted { .. } => Reason::Untrusted,
            Self::TokenUnusable(_) => Reason::SecretUnavailable,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::Kubernetes(error) => return error.help(),
            Self::Roots(error) => return Some(error.help()),
            Self::Untrusted { .. } => UNTRUSTED_HELP,
            Self::TokenUnusable(_) => {
                "write the token alone, on one line, where spec.endpoints.cloud of the Project points"
            }
            Self::Conflicts(conflicts) => {
                return conflicts.first().map(|conflict| conflict.help().to_owned());
            }
            Self::NoImage { version, architecture } => {
                return Some(image_help(version, architecture));
            }
            Self::ImageNotWritten { .. } => NOT_WRITTEN_HELP,
            Self::Api(error) => match error.code.as_str() {
                "unauthorized" => "check the token in the Project's `endpoints.cloud`",
                "forbidden" | "token_readonly" => {
                    "create a token with the permission \"Read & Write\" for `endpoints.cloud`: this token may only read"
                }
                "resource_limit_exceeded" => "ask the vendor to raise the project's limit",
                "protected" => "remove the protection by hand, if the resource may be deleted",
                "not_found" => {
                    "check the URL in the Project's `endpoints.cloud`, which must end in `/v1`"
                }
                _ => {
                    "correct the cause in the vendor's message, then run `plan` to see the remaining steps"
                }
            },
            Self::Unreachable { .. }
            | Self::ResponseLost { .. }
            | Self::TimedOut { .. }
            | Self::KubernetesNotReady { .. } => {
                "run the same command again: finished steps are not repeated"
            }
            Self::Unresolved { .. } => {
                "check the host in the Project's `endpoints.cloud`, and that this machine reaches a name server"
            }
            Self::NotDrained { refusals, .. } => {
                let unknown = refusals.iter().any(|refusal| refusal.reason == Reason::FactsUnknown);
                if unknown {
                    "make the Kubernetes API answer at the endpoint or at port 6443 of a control plane, where \
                     `firewall.rules` may have to allow your address. Nothing was changed"
                } else {
                    "resolve each reason as its line says, then run the same command again; nothing was changed"
                }
            }
            Self::InvalidResponse { .. } | Self::Unexpected { .. } => {
                "check the address, or update `talos-provision`: another service answers there, or its API has changed"
            }
            Self::Unavailable { .. } => {
                "declare more locations or another type, or run the same command later"
            }
            Self::NoBalancer { .. } => {
                "declare more locations, or run the same command later; if the load balancer's primary IP \
                 belongs to the location, and no machine exists yet, run `destroy` first"
            }
            Self::Taken { .. } => "rename the cluster, or delete the resource that has its name",
            Self::ActionFailed { .. } => {
                "run the same command again; if the action fails again, see the vendor's status page"
            }
            Self::Keys(_) => "this is a bug of `talos-provision`: please report it",
            Self::Runtime(_) => {
                "raise the limits of processes and memory on this machine, then run the same command again"
            }
            Self::NodeError { .. } => {
                "run `talos-provision derive`, then `talosctl validate --mode cloud --config MACHINE.yaml` on \
                 your own terminal: the rest of the machine's answer is hidden, because it may quote secrets"
            }
            Self::EtcdCrashes { .. } => {
                "read `talosctl logs etcd` of that machine, correct `cluster.etcd` in the patches, and \
                 run the same command again"
            }
            Self::Patch(_) => {
                "correct the patch, then run `plan`, which applies all patches and changes nothing"
            }
            Self::VerificationFailed { .. } => {
                "run `plan` to see what differs, and `apply` to correct it"
            }
            Self::PodsLost { .. } => {
                "resolve each reason as its line says, then run the same command again; these pods were not \
                 evicted"
            }
            Self::NotEvicted { .. } => {
                "add a machine, start more replicas, or relax the PodDisruptionBudget; then run the same \
                 command again. The machine stays cordoned; to keep the machine, declare it again"
            }
            Self::WrongProject { .. } => {
                "use a token of the Hetzner project that contains these servers; only if a person deleted \
                 the servers, delete `status` from the document"
            }
            Self::Expired { .. } => {
                "raise `spec.certificates.years` and run `apply`, as long as the authorities on the machines \
                 are valid; once those have expired, machines accept no client: destroy the cluster and \
                 apply it again"
            }
        };
        Some(help.to_owned())
    }

    fn refusals(&self) -> Vec<documents::Refusal> {
        match self {
            Self::NotDrained { refusals, .. } | Self::PodsLost { refusals, .. } => refusals.clone(),
            _ => Vec::new(),
        }
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::WrongProject { .. })
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_transient(),
            Self::Keyring(error) => error.is_transient(),
            Self::Kubernetes(error) => error.is_transient(),
            error => matches!(error, Self::Unreachable { .. } | Self::ResponseLost { .. }),
        }
    }

    fn is_ambiguous(&self) -> bool {
        match self {
            Self::Kubernetes(error) => error.is_ambiguous(),
            error => matches!(error, Self::ResponseLost { .. }),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::Kubernetes(error) => error.exit(),
            Self::Unreachable { .. }
            | Self::Unresolved { .. }
            | Self::ResponseLost { .. }
            | Self::Unavailable { .. }
            | Self::NoBalancer { .. }
            | Self::ImageNotWritten { .. }
            | Self::ActionFailed { .. }
            | Self::TimedOut { .. }
            | Self::Runtime(_)
            | Self::KubernetesNotReady { .. }
            | Self::NotEvicted { .. }
            | Self::NotDrained { .. } => Exit::Temporary,
            Self::Api(_)
            | Self::InvalidResponse { .. }
            | Self::Unexpected { .. }
            | Self::NoImage { .. }
            | Self::Taken { .. }
            | Self::Keys(_)
            | Self::NodeError { .. }
            | Self::EtcdCrashes { .. }
            | Self::Conflicts(_)
            | Self::Patch(_)
            | Self::VerificationFailed { .. }
            | Self::PodsLost { .. }
            | Self::WrongProject { .. }
            | Self::Roots(_)
            | Self::Untrusted { .. }
            | Self::TokenUnusable(_)
            | Self::Expired { .. } => Exit::Permanent,
        }
    }
}

/// Returns the messages of refusals, one a line.
fn lines(refusals: &[documents::Refusal]) -> String {
    let messages: Vec<_> = refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    format!("\n  {}", messages.join("\n  "))
}

fn image_help(version: &str, architecture: &str) -> String {
    // Measured: the digest of the schematic without extensions.
    let plain = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
    let file = match architecture {
        "arm" => "hcloud-arm64.raw.xz",
        _ => "hcloud-amd64.raw.xz",
    };
    format!(
        "declare `image: {{}}`, so that `apply` creates the image; or boot any server into its rescue system, write https://factory.talos.dev/image/{plain}/{version}/{file} \
         to /dev/sda with xz -d, make a snapshot of the server, and label the snapshot os=talos and version={version}"
    )
}
