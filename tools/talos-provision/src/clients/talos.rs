//! Client of Talos's API on the machines: a reader and a writer, so that code that plans cannot
//! write.
//!
//! **Invariant:** a secret is sent to a machine only over an encrypted connection, and only if the
//! machine shows a certificate of this cluster. The first configuration is the exception, because a
//! new machine has no such certificate. It is sent only if the document trusts on first use, and
//! only to the machine whose certificate was seen first in this run.

mod channel;
mod etcd;
mod readiness;
#[cfg(test)]
mod reboot_tests;
mod redact;
mod tls;
mod writer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rustls::ClientConfig;
use talos_api::cosi::resource::GetRequest;
use talos_api::machine::ReadRequest;
use talos_api::resource::config::MachineConfigSpec;
use talos_api::talos::resource::definitions::enums::RuntimeMachineStage as Stage;
use talos_api::talos::resource::definitions::runtime::MachineStatusSpec;
use talos_api::{ACTIVE_CONFIGURATION, MACHINE_STATUS, ResourceName};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::Error;
use crate::config::{self, Keys};
use crate::pki::{Pki, sha256_hex};
use crate::plan::{Etcd, Node};
use crate::registries;
use crate::spec::{Cni, Role};
use channel::{Closed, Connection, answer, first_messages, single};
pub(crate) use etcd::Crash;
pub(crate) use readiness::Readiness;
pub(crate) use writer::{ConfigureRequest, Writer};

/// Exits of etcd after which the service counts as crashing. One exit may be a coincidence. Talos starts
/// etcd again after 5 s, so that the second exit follows within seconds.
const CRASHES_MAX: usize = 2;
/// File of the kernel with a random id for each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Number of further attempts to connect to a machine that seems to be foreign.
const FOREIGN_TRIES: u32 = 4;
/// Pause between two such attempts, in milliseconds.
const PAUSE_MILLISECONDS: u64 = 500;

/// Machine to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: String,
    /// SHA-256 digest of the declared configuration.
    pub(crate) declared: Option<String>,
}

/// Reboot that a machine has announced.
#[derive(Clone, Debug)]
pub(crate) struct Reboot {
    pub(crate) target: Target,
    /// Id of the boot before, as the kernel shows it.
    pub(crate) before: String,
}

/// State that one machine reports.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    pub(crate) node: Node,
    /// Stage and readiness of the machine, if it answers.
    pub(crate) readiness: Option<Readiness>,
    /// State of etcd as this control plane reports it.
    pub(crate) etcd: Etcd,
    /// Exits of etcd, if etcd is not up.
    pub(crate) crash: Option<Crash>,
    /// Digest of the credentials of registries, if the machine has another configuration than the declared one.
    pub(crate) credentials: Option<String>,
}

impl NodeState {
    fn without_details(node: Node, etcd: Etcd) -> Self {
        Self { node, readiness: None, etcd, crash: None, credentials: None }
    }

    /// Returns the reason for which the machine is not ready.
    pub(crate) fn not_ready_reason(&self, cni: Cni) -> Option<String> {
        self.readiness.as_ref().and_then(|readiness| readiness.not_ready_reason(cni))
    }

    /// Returns the exits of etcd, if they are a crash loop.
    pub(crate) fn crash_loop(&self) -> Option<&Crash> {
        self.crash.as_ref().filter(|crash| crash.times >= CRASHES_MAX)
    }

    /// Returns whether the machine has the configuration with the digest `desired`.
    fn has(&self, desired: &str) -> bool {
        matches!(&self.node, Node::Configured { sha256, .. } if sha256 == desired)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Reader {
    secure: Arc<ClientConfig>,
    maintenance: Arc<ClientConfig>,
    /// Certificates that machines in maintenance mode have shown in this run.
    contacts: Arc<tls::Contacts>,
}

impl Reader {
    pub(crate) fn new(pki: &Pki) -> Result<Self, Error> {
        let contacts = Arc::default();
        let maintenance = tls::maintenance(&contacts)?;
        Ok(Self { secure: tls::secure(pki)?, maintenance, contacts })
    }

    /// Asks all `targets` concurrently.
    pub(crate) fn observe(&self, targets: &[Target]) -> Result<BTreeMap<String, NodeState>, Error> {
        runtime()?.block_on(async {
            let mut asked = JoinSet::new();
            for target in targets.iter().cloned() {
                let reader = self.clone();
                asked
                    .spawn(async move { (target.name.clone(), reader.observe_one(&target).await) });
            }
            Ok(asked.join_all().await.into_iter().collect())
        })
    }

    /// Returns which of the announced reboots have not taken place yet: the machine shows the boot id
    /// from before, or does not answer.
    pub(crate) fn rebooting(&self, reboots: &[Reboot]) -> Result<Option<String>, Error> {
        runtime()?.block_on(async {
            for Reboot { target, before } in reboots {
                let now = match self.connect(target).await {
                    Access::Secure(mut connection) => boot_id(&mut connection).await,
                    Access::Unreachable(_) | Access::Maintenance(_) | Access::Foreign(_) => None,
                };
                if now.as_ref().is_none_or(|now| now == before) {
                    return Ok(Some(format!(
                        "{} reboots to activate its configuration",
                        target.name
                    )));
                }
            }
            Ok(None)
        })
    }

    async fn observe_one(&self, target: &Target) -> NodeState {
        match self.connect(target).await {
            Access::Unreachable(why) => {
                NodeState::without_details(Node::Unreachable { why }, Etcd::Unknown)
            }
            Access::Foreign(why) => {
                NodeState::without_details(Node::Foreign { why }, Etcd::Unknown)
            }
            Access::Maintenance(_) => NodeState::without_details(Node::Maintenance, Etcd::Unknown),
            Access::Secure(mut connection) => {
                let state = read(&mut connection, target.role, target.declared.as_deref()).await;
                state.unwrap_or_else(|status| {
                    let why = error_text(&status);
                    let node = match status.code() {
                        Code::PermissionDenied | Code::Unauthenticated => Node::Foreign { why },
                        _ => Node::Unreachable { why },
                    };
                    NodeState::without_details(node, Etcd::Unknown)
                })
            }
        }
    }

    /// Connects with the cluster's credentials. If the machine shows a foreign certificate, it may
    /// be in maintenance mode, so the connection is tried without credentials.
    ///
    /// A machine may leave maintenance mode between the two attempts. It therefore counts as
    /// foreign only if it is still foreign a moment later.
    async fn connect(&self, target: &Target) -> Access {
        for _ in 0..FOREIGN_TRIES {
            match self.try_to_connect(target).await {
                Access::Foreign(_) => sleep(Duration::from_millis(PAUSE_MILLISECONDS)).await,
                access => return access,
            }
        }
        self.try_to_connect(target).await
    }

    async fn try_to_connect(&self, target: &Target) -> Access {
        let Ok(ip) = target.address.parse() else {
            return Access::Unreachable(format!("`{}` is not an address", target.address));
        };
        let address = SocketAddr::new(ip, talos_api::PORT);
        let foreign = match Connection::open(address, &self.secure).await {
            Ok(connection) => return Access::Secure(connection),
            Err(Closed::Unreachable(why)) => return Access::Unreachable(why),
            Err(Closed::Foreign(why)) => why,
        };
        let mut connection = match Connection::open(address, &self.maintenance).await {
            Ok(connection) => connection,
            Err(Closed::Unreachable(_)) => return Access::Foreign(foreign),
            Err(Closed::Foreign(_)) => {
                return Access::Foreign(format!(
                    "{foreign}, and it differs from the certificate that the machine showed earlier in this run"
                ));
            }
        };
        // A machine that requires a client certificate closes the connection, so it has a
        // configuration.
        let Ok(readiness) = readiness(&mut connection).await else {
            return Access::Foreign(foreign);
        };
        match readiness.stage {
            Stage::MachineStageMaintenance => {
                self.contacts.pin(ip);
                Access::Maintenance(connection)
            }
            Stage::MachineStageUnknown | Stage::MachineStageBooting => {
                Access::Unreachable("the machine is still booting".to_owned())
            }
            _ => Access::Foreign(foreign),
        }
    }
}

/// Result of an attempt to connect.
enum Access {
    Secure(Connection),
    Maintenance(Connection),
    Unreachable(String),
    Foreign(String),
}

/// Reads the state of a machine of this cluster. Keys and credentials are read only if the digest of the
/// configuration is not the `expected` one.
async fn read(
    connection: &mut Connection,
    role: Role,
    expected: Option<&str>,
) -> Result<NodeState, Status> {
    let version = single(answer(connection.machine.version(())).await?.messages)?;
    let readiness = readiness(connection).await?;
    let configuration = get(connection, ACTIVE_CONFIGURATION).await?;
    let configuration = MachineConfigSpec::decode(configuration.as_slice());
    let configuration =
        configuration.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    let (etcd, crash) = match role {
        Role::Controlplane => etcd::observe(connection).await?,
        Role::Worker => (Etcd::Unknown, None),
    };
    let sha256 = sha256_hex(&configuration.yaml_marshalled);
    let (keys, credentials) = if expected == Some(sha256.as_str()) {
        (Keys::new(), None)
    } else {
        let yaml = &configuration.yaml_marshalled;
        (config::keys_in(yaml), Some(registries::credentials(yaml)))
    };
    let talos = version.version.unwrap_or_default().tag;
    let node = Node::Configured { sha256, talos, keys };
    Ok(NodeState { node, readiness: Some(readiness), etcd, crash, credentials })
}

/// Returns the stage and the readiness of the machine.
async fn readiness(connection: &mut Connection) -> Result<Readiness, Status> {
    let spec = get(connection, MACHINE_STATUS).await?;
    let status = MachineStatusSpec::decode(spec.as_slice());
    Ok(status.map_err(|error| Status::new(Code::Internal, error.to_string()))?.into())
}

/// Returns the id of the machine's boot. `talosctl reboot` reads the same file before and after the
/// reboot, and waits until the id differs: `getBootID` and `BootIDChangedPostCheckFn` in
/// <https://github.com/siderolabs/talos/blob/v1.13.9/cmd/talosctl/pkg/talos/action/tracker.go>.
async fn boot_id(connection: &mut Connection) -> Option<String> {
    let request = ReadRequest { path: BOOT_ID.to_owned() };
    let data = first_messages(connection.machine.read(request), 1).await.ok()?;
    let text = String::from_utf8(data.into_iter().next()?.bytes).ok()?;
    let id = text.trim().to_owned();
    (!id.is_empty()).then_some(id)
}

/// Returns the encoded contents of a resource.
async fn get(connection: &mut Connection, name: ResourceName) -> Result<Vec<u8>, Status> {
    let got = answer(connection.state.get(GetRequest::from(name))).await?;
    Ok(got.resource.and_then(|resource| resource.spec).unwrap_or_default().proto_spec)
}

/// Returns a machine's error for people, without the text that the error quotes.
fn error_text(status: &Status) -> String {
    format!("{:?}: {}", status.code(), redact::first_line(status.message()))
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::Runtime)
}
