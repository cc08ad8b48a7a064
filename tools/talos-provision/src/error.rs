//! Errors of this program, each with its help and its exit status.

use std::io;

use documents::{Diagnostic, Exit};

use crate::api_error::ApiError;
use crate::plan::Conflict;

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
            serde_json::error::Category::Data => "a field has another type",
            serde_json::error::Category::Syntax => "it is not JSON",
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Io => "it cannot be read",
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
    Keyring(#[from] keyring::Error),
    /// The removal would lose data.
    #[error("the machines of {cluster} stay, because data may be nowhere else: {}", lines(.refusals))]
    NotDrained {
        /// Name of the cluster.
        cluster: String,
        /// One entry for each volume or pod that would be lost, with the reason.
        refusals: Vec<documents::Refusal>,
    },
    /// The cloud's API answered with an error.
    #[error("the cloud refuses: {} ({}){}", .0.message, .0.code, .0.correlation.as_ref().map_or(String::new(), |id| format!(", call {id}")))]
    Api(ApiError),
    /// A service or machine did not answer within its limit.
    #[error("no answer from {what}: {why}")]
    Unreachable {
        /// The service or machine that was asked.
        what: String,
        /// Error of the last attempt.
        why: String,
    },
    /// An answer does not have the expected structure.
    #[error("{what} answered something that this version does not understand")]
    InvalidResponse {
        /// The service that answered.
        what: &'static str,
        /// Position of the error in the answer.
        source: Unreadable,
    },
    /// An answer lacks something that the API promises.
    #[error("the cloud answered something unexpected: {what}")]
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
    /// The cloud does not offer a server type in the declared locations.
    #[error("unknown server type `{name}`: it is not offered in {place}")]
    UnknownType {
        /// Declared type, for example `cx23`.
        name: String,
        /// Declared locations, separated by commas.
        place: String,
        /// Types that are offered in these locations, separated by commas.
        others: String,
    },
    /// A server type is unavailable in every declared location.
    #[error("{name}, a {type}, is not to be had now in any of {locations}: {why}")]
    Unavailable {
        /// Name of the machine.
        name: String,
        /// Declared server type.
        r#type: String,
        /// Locations in which a server was requested, separated by commas.
        locations: String,
        /// The cloud's message for the last location.
        why: String,
    },
    /// A resource of others has a name that this cluster needs.
    #[error("the name is taken: {what}, which does not carry the labels of this cluster")]
    Taken {
        /// The existing resource.
        what: String,
    },
    /// An action of the cloud ended with an error.
    #[error("the cloud could not {command}: {message} ({code})")]
    ActionFailed {
        /// The API's name of the action, for example `start_server`.
        command: String,
        /// The API's error code of the action.
        code: String,
        /// The API's message about the action.
        message: String,
    },
    /// An operation did not end within its limit.
    #[error("still not done after all the time there was: {what}")]
    TimedOut {
        /// Description of the unfinished work.
        what: String,
    },
    /// TLS or the certificate parser rejects derived keys, which is a bug of this program.
    #[error("the derived keys cannot be used: {0}")]
    Keys(String),
    /// The async runtime could not be started, because the system lacks resources.
    #[error("cannot start to talk to machines")]
    Runtime(#[source] io::Error),
    /// A machine answered with an error.
    #[error("{name} refuses: {why}")]
    NodeRefused {
        /// Name of the machine.
        name: String,
        /// The machine's message, without text that it quotes.
        why: String,
    },
    /// etcd ends again and again after its start.
    #[error("etcd on {name} ends by itself again and again: {event}")]
    EtcdCrashes {
        /// Name of the control plane.
        name: String,
        /// Last event of the service.
        event: String,
    },
    /// The Kubernetes API returned an error.
    #[error("the Kubernetes API does not do it: {why}")]
    KubernetesRefused {
        /// The API's message.
        why: String,
    },
    /// Differences that no step can change.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nerror: "))]
    Conflicts(Vec<Conflict>),
    /// A patch does not fit the configuration.
    #[error("a patch does not fit: {0}")]
    Patch(String),
    /// Every step is done, and checks of the cluster still fail.
    #[error("every step is taken, and the cluster is not well: {what}")]
    Unhealthy {
        /// Failing checks, separated by semicolons.
        what: String,
    },
    /// Steps are left after the last round.
    #[error("{steps} steps are left after all were taken")]
    NotConverged {
        /// Number of remaining steps.
        steps: usize,
    },
    /// The observed state differs from the declared state.
    #[error("it does not hold: {what}")]
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
        "unknown whether {cluster} exists: its status lists the servers {servers}, and this token's \
         project has nothing of it"
    )]
    WrongProject {
        /// Name of the cluster.
        cluster: String,
        /// Servers in the status, each with name and id.
        servers: String,
    },
    /// The declared end of the authorities' certificates has passed.
    #[error("the certificates have ended on {day}")]
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
    fn reason(&self) -> &'static str {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::NotDrained { .. } => "NotDrained",
            Self::Api(_) => "CloudRefused",
            Self::Unreachable { .. } => "Unreachable",
            Self::InvalidResponse { .. } | Self::Unexpected { .. } => "Garbled",
            Self::NoImage { .. } => "NoImage",
            Self::UnknownType { .. } => "UnknownType",
            Self::Unavailable { .. } => "Unavailable",
            Self::Taken { .. } => "NameTaken",
            Self::ActionFailed { .. } => "ActionFailed",
            Self::TimedOut { .. } => "TimedOut",
            Self::Keys(_) => "KeysUnusable",
            Self::Runtime(_) => "RuntimeFailed",
            Self::NodeRefused { .. } => "NodeRefused",
            Self::EtcdCrashes { .. } => "EtcdCrashes",
            Self::KubernetesRefused { .. } => "KubernetesRefused",
            Self::Conflicts(_) => "Obstructed",
            Self::Patch(_) => "PatchUnfit",
            Self::Unhealthy { .. } => "Unwell",
            Self::NotConverged { .. } => "Unsettled",
            Self::VerificationFailed { .. } => "Unproven",
            Self::Expired { .. } => "Expired",
            Self::PodsLost { .. } => "PodsWouldBeLost",
            Self::NotEvicted { .. } => "NotEvicted",
            Self::WrongProject { .. } => "Unknown",
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::Conflicts(conflicts) => {
                return conflicts.first().map(|conflict| conflict.help().to_owned());
            }
            Self::NoImage { version, architecture } => {
                return Some(image_help(version, architecture));
            }
            Self::UnknownType { others, .. } if !others.is_empty() => {
                return Some(format!("there are {others}"));
            }
            Self::UnknownType { .. } => "nothing at all is offered there: check the locations",
            Self::Api(refusal) => match refusal.code.as_str() {
                "unauthorized" => "check the token in the Project's `endpoints.cloud`",
                "forbidden" | "token_readonly" => {
                    "the token may only read: make one that may write"
                }
                "resource_limit_exceeded" => "ask the vendor to raise the project's limit",
                "protected" => "lift the protection by hand, if it may really go",
                "not_found" => "check the URL in the Project's `endpoints.cloud`: it ends in `/v1`",
                _ => {
                    "correct what the vendor's answer names; `plan` shows where the run would go on"
                }
            },
            Self::Unreachable { .. } | Self::TimedOut { .. } => {
                "run the same command again: it goes on from here"
            }
            Self::NotDrained { refusals, .. } => {
                let unknown = refusals.iter().any(|refusal| refusal.reason == "FactsUnknown");
                if unknown {
                    "make the Kubernetes API answer at the endpoint or at a control plane, which may need \
                     `firewall.kubernetes` to let you in; nothing was touched"
                } else {
                    "nothing was touched; settle each as its line says, then run the same command again"
                }
            }
            Self::InvalidResponse { .. } | Self::Unexpected { .. } => {
                "something else answers at that address, or this version is too old for it"
            }
            Self::Unavailable { .. } => {
                "declare more locations or another type, or try again later"
            }
            Self::Taken { .. } => "rename the cluster, or remove what has its name",
            Self::ActionFailed { .. } => {
                "run the same command again; the vendor's status page may know more"
            }
            Self::Keys(_) => "this is a mistake of the program: please report it",
            Self::Runtime(_) => "check the limits of this machine, then run the same command again",
            Self::NodeRefused { .. } => {
                "the rest of the machine's answer may quote secrets: see it on your own terminal with \
                 `talos-provision derive`, then `talosctl validate --mode cloud --config MACHINE.yaml`"
            }
            Self::EtcdCrashes { .. } => {
                "read `talosctl logs etcd` of that machine, correct `cluster.etcd` in the patches, and \
                 run the same command again"
            }
            Self::KubernetesRefused { .. } => {
                "run the same command again: what was done is seen, and not repeated"
            }
            Self::Patch(_) => {
                "correct the patch; `plan` tries all of them without touching anything"
            }
            Self::Unhealthy { .. } => "run the same command again; `-v` tells what it waits for",
            Self::NotConverged { .. } => "`plan` shows them; another writer may be at work",
            Self::VerificationFailed { .. } => "`plan` shows what differs, `apply` puts it right",
            Self::PodsLost { .. } => {
                "the removal stopped before these pods were touched; settle each as its line says, then \
                 run the same command again"
            }
            Self::NotEvicted { .. } => {
                "make room: add a machine, start more replicas, or relax the PodDisruptionBudget; then \
                 run the same command again. The machine takes no new pods meanwhile; declare it again \
                 to keep it"
            }
            Self::WrongProject { .. } => {
                "use a token of the Hetzner project that has these servers; only if they were removed \
                 by hand, delete `status` from the document"
            }
            Self::Expired { .. } => {
                "raise `spec.certificates.years` and apply, as long as the machines' own authorities \
                 last; once those have ended, machines accept no client any more: destroy the cluster \
                 and apply it anew"
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

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::UnknownType { .. } => Exit::Usage,
            Self::Unreachable { .. }
            | Self::Unavailable { .. }
            | Self::ActionFailed { .. }
            | Self::TimedOut { .. }
            | Self::Runtime(_)
            | Self::KubernetesRefused { .. }
            | Self::Unhealthy { .. }
            | Self::NotEvicted { .. }
            | Self::NotDrained { .. }
            | Self::NotConverged { .. } => Exit::Temporary,
            Self::Api(_)
            | Self::InvalidResponse { .. }
            | Self::Unexpected { .. }
            | Self::NoImage { .. }
            | Self::Taken { .. }
            | Self::Keys(_)
            | Self::NodeRefused { .. }
            | Self::EtcdCrashes { .. }
            | Self::Conflicts(_)
            | Self::Patch(_)
            | Self::VerificationFailed { .. }
            | Self::PodsLost { .. }
            | Self::WrongProject { .. }
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
        "start any server in its rescue system, write https://factory.talos.dev/image/{plain}/{version}/{file} \
         to /dev/sda with xz -d, make a snapshot of it, and give that the labels os=talos and version={version}"
    )
}
