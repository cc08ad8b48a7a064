//! Client of Talos's API on the machines: a reader and a writer, so that code that plans cannot
//! write.
//!
//! **Invariant:** a secret is sent to a machine only over an encrypted connection, and only if the
//! machine shows a certificate of this cluster. The first configuration is the exception, because a
//! new machine has no such certificate. It is sent only if the document trusts on first use, and
//! only to the machine whose certificate was seen first in this run.

mod channel;
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
use talos_api::machine::{
    EtcdMember, EtcdMemberListRequest, FileInfo, ListRequest, ReadRequest, ServiceInfo,
};
use talos_api::resource::config::MachineConfigSpec;
use talos_api::talos::resource::definitions::enums::RuntimeMachineStage as Stage;
use talos_api::talos::resource::definitions::runtime::{MachineStatusSpec, MachineStatusStatus};
use talos_api::{ACTIVE_CONFIGURATION, MACHINE_STATUS, ResourceName};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::Error;
use crate::config::{self, Keys};
use crate::pki::{Pki, sha256_hex};
use crate::plan::{Etcd, Member, Node};
use crate::spec::Role;
use channel::{Closed, Connection, answer, first_messages, single};
pub(crate) use writer::{ConfigureRequest, Writer};

/// Data directory of etcd: `constants.EtcdDataPath` in Talos.
const ETCD_DATA: &str = "/var/lib/etcd";
/// Most entries of that directory that are read. One entry beside the directory itself proves that
/// it is not empty.
const FILES_MAX: usize = 2;
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
    /// Stage of the machine, for example `running`.
    pub(crate) stage: Option<Stage>,
    /// Reason for which the machine is not ready. `None` when it is ready.
    pub(crate) unmet: Option<String>,
    /// State of etcd as this control plane reports it.
    pub(crate) etcd: Etcd,
    /// Restarts of etcd, if etcd is not up.
    pub(crate) crash: Option<Crash>,
}

/// Repeated exits of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    /// Number of exits in the machine's list of events.
    pub(crate) times: usize,
    /// Last event that reports an exit.
    pub(crate) event: String,
}

impl NodeState {
    fn without_details(node: Node, etcd: Etcd) -> Self {
        Self { node, stage: None, unmet: None, etcd, crash: None }
    }

    /// Returns whether the machine has the configuration with the digest `wanted`.
    fn has(&self, wanted: &str) -> bool {
        matches!(&self.node, Node::Configured { sha256, .. } if sha256 == wanted)
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
            Access::Maintenance(_) => NodeState {
                stage: Some(Stage::MachineStageMaintenance),
                ..NodeState::without_details(Node::Maintenance, Etcd::Unknown)
            },
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
        match stage(&mut connection).await {
            Ok((Stage::MachineStageMaintenance, _)) => {
                self.contacts.pin(ip);
                Access::Maintenance(connection)
            }
            Ok((Stage::MachineStageUnknown | Stage::MachineStageBooting, _)) => {
                Access::Unreachable("the machine is still booting".to_owned())
            }
            // A machine that requires a client certificate closes the connection, so it has a
            // configuration.
            Ok(_) | Err(_) => Access::Foreign(foreign),
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

/// Reads the state of a machine of this cluster. Keys are read only if the digest of the
/// configuration is not the `expected` one.
async fn read(
    connection: &mut Connection,
    role: Role,
    expected: Option<&str>,
) -> Result<NodeState, Status> {
    let version = single(answer(connection.machine.version(())).await?.messages)?;
    let (stage, unmet) = stage(connection).await?;
    let configuration = get(connection, ACTIVE_CONFIGURATION).await?;
    let configuration = MachineConfigSpec::decode(configuration.as_slice());
    let configuration =
        configuration.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    let (etcd, crash) = match role {
        Role::Controlplane => etcd(connection).await?,
        Role::Worker => (Etcd::Unknown, None),
    };
    let sha256 = sha256_hex(&configuration.yaml_marshalled);
    let keys = if expected == Some(sha256.as_str()) {
        Keys::new()
    } else {
        config::keys_in(&configuration.yaml_marshalled)
    };
    let talos = version.version.unwrap_or_default().tag;
    let node = Node::Configured { sha256, talos, keys };
    Ok(NodeState { node, stage: Some(stage), unmet, etcd, crash })
}

/// Returns the stage of the machine, and the reason for which it is not ready.
async fn stage(connection: &mut Connection) -> Result<(Stage, Option<String>), Status> {
    let spec = get(connection, MACHINE_STATUS).await?;
    let status = MachineStatusSpec::decode(spec.as_slice());
    let status = status.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    let stage = status.stage();
    let status = status.status.unwrap_or_default();
    Ok((stage, unmet(stage, &status)))
}

/// Returns the reason for which a machine is not ready. Talos v1.13.9 computes `ready` in the
/// stages booting and running only, and reports `true` in every other stage (`machine_status.go`),
/// so the stage is checked first.
fn unmet(stage: Stage, status: &MachineStatusStatus) -> Option<String> {
    let conditions = status.unmet_conditions.iter();
    let conditions = conditions.map(|unmet| {
        format!("{}: {}", redact::first_line(&unmet.name), redact::first_line(&unmet.reason))
    });
    let conditions: Vec<_> = conditions.collect();
    match stage {
        Stage::MachineStageRunning if status.ready => None,
        Stage::MachineStageRunning | Stage::MachineStageBooting if !conditions.is_empty() => {
            Some(conditions.join("; "))
        }
        stage => Some(format!("the stage is {}", stage_text(stage))),
    }
}

/// Returns the name of a stage without the prefix of all names, for example `Booting`.
fn stage_text(stage: Stage) -> String {
    format!("{stage:?}").replace("MachineStage", "")
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

/// Reads the state of etcd from its service and its data directory.
async fn etcd(connection: &mut Connection) -> Result<(Etcd, Option<Crash>), Status> {
    let list = single(answer(connection.machine.service_list(())).await?.messages)?;
    let Some(service) = list.services.into_iter().find(|service| service.id == "etcd") else {
        return Ok((Etcd::Unknown, None));
    };
    let etcd = match service.state.as_str() {
        "Running" => members(connection).await,
        "Preparing" => {
            let request = ListRequest { root: ETCD_DATA.to_owned() };
            let files = first_messages(connection.machine.list(request), FILES_MAX).await;
            if files.is_ok_and(|files| is_empty(&files)) { Etcd::Absent } else { Etcd::Unknown }
        }
        _ => Etcd::Unknown,
    };
    let crash = if etcd == Etcd::Unknown { crash(&service) } else { None };
    Ok((etcd, crash))
}

/// Returns whether the listing of a directory proves that the directory is empty: the directory
/// itself is listed, and no other file.
///
/// Talos v1.13.9 goes through `Starting`, `Waiting` and `Preparing` on every boot, also of a member
/// that has data: `ServiceRunner.Run` in `internal/app/machined/pkg/system/service_runner.go`,
/// <https://github.com/siderolabs/talos/blob/v1.13.9>. The data directory is on a volume, and that
/// volume is a condition of the service. It is therefore mounted once the state is `Preparing`, and
/// not before. Of all states, only `Preparing` with an empty directory is a proof. `Bootstrap`
/// itself rejects a directory that is not empty (`v1alpha1_server.go`), but it knows one machine
/// only.
fn is_empty(files: &[FileInfo]) -> bool {
    let is_root =
        |file: &FileInfo| file.relative_name == "." && file.is_dir && file.error.is_empty();
    matches!(files, [root] if is_root(root))
}

/// Counts the exits of etcd, if etcd is not up now.
///
/// Talos v1.13.9 starts etcd again every 5 s without end, and reports each restart in an event:
/// `internal/app/machined/pkg/system/runner/restart/restart.go`.
fn crash(service: &ServiceInfo) -> Option<Crash> {
    let events = service.events.iter().flat_map(|events| &events.events);
    let restarts: Vec<_> = events.filter(|event| event.msg.contains("going to restart")).collect();
    let event = redact::first_line(&restarts.last()?.msg);
    Some(Crash { times: restarts.len(), event })
}

async fn members(connection: &mut Connection) -> Etcd {
    let request = EtcdMemberListRequest { query_local: false };
    let members = answer(connection.machine.etcd_member_list(request)).await;
    let Ok(members) = members.and_then(|list| single(list.messages)) else {
        return Etcd::Unknown;
    };
    let member = |member: EtcdMember| Member {
        hostname: member.hostname,
        id: member.id,
        learner: member.is_learner,
    };
    let mut members: Vec<_> = members.members.into_iter().map(member).collect();
    members.sort();
    if members.is_empty() { Etcd::Unknown } else { Etcd::Members(members) }
}

/// Returns a machine's error for people, without the text that the error quotes.
fn error_text(status: &Status) -> String {
    format!("{:?}: {}", status.code(), redact::first_line(status.message()))
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::Runtime)
}

#[cfg(test)]
mod tests {
    use talos_api::machine::{ServiceEvent, ServiceEvents};
    use talos_api::talos::resource::definitions::runtime::UnmetCondition;

    use super::*;

    fn file(relative_name: &str, is_dir: bool, error: &str) -> FileInfo {
        FileInfo {
            relative_name: relative_name.to_owned(),
            is_dir,
            error: error.to_owned(),
            ..FileInfo::default()
        }
    }

    #[test]
    fn only_a_directory_that_lists_itself_and_nothing_else_is_empty() {
        assert!(is_empty(&[file(".", true, "")]));
        for files in [
            vec![],
            vec![file(".", true, "permission denied")],
            vec![file("etcd", false, "")],
            vec![file(".", true, ""), file("member", true, "")],
            vec![file(".", true, ""), file("lost+found", true, "")],
            vec![file("member", true, "")],
        ] {
            assert!(!is_empty(&files), "{files:?}");
        }
    }

    // hazard: etcd crashes after its start, and `apply` reports that it has begun, for an hour.
    // class: An event is taken for success.
    // members: a learner counted as a member, `ready` read without its stage
    // now: `EtcdCrashes`, with the last event
    #[test]
    fn repeated_exits_of_etcd_are_reported_with_the_last_event() {
        let event = |msg: &str| ServiceEvent { msg: msg.to_owned(), ..Default::default() };
        let service = |events: Vec<ServiceEvent>| ServiceInfo {
            events: Some(ServiceEvents { events }),
            ..Default::default()
        };
        let waits = event("Waiting for service \"cri\" to be \"up\"");
        assert_eq!(crash(&service(vec![waits.clone()])), None);
        // Seen with Talos v1.13.9.
        let ended = event("Error running Containerd(etcd), going to restart forever: exit code 2");
        let crash = crash(&service(vec![waits, ended.clone(), ended])).expect("a crash");
        assert_eq!(crash.times, 2);
        assert!(crash.event.ends_with("exit code 2"), "{}", crash.event);
    }

    #[test]
    fn ready_counts_only_in_the_stage_running() {
        let status = |ready, conditions: &[&str]| MachineStatusStatus {
            ready,
            unmet_conditions: conditions
                .iter()
                .map(|name| UnmetCondition { name: (*name).to_owned(), reason: "x".to_owned() })
                .collect(),
        };
        assert_eq!(unmet(Stage::MachineStageRunning, &status(true, &[])), None);
        let services = unmet(Stage::MachineStageRunning, &status(false, &["services"]));
        assert_eq!(services.as_deref(), Some("services: x"));
        for stage in [
            Stage::MachineStageUnknown,
            Stage::MachineStageBooting,
            Stage::MachineStageInstalling,
            Stage::MachineStageMaintenance,
            Stage::MachineStageRebooting,
            Stage::MachineStageShuttingDown,
            Stage::MachineStageResetting,
            Stage::MachineStageUpgrading,
        ] {
            assert!(unmet(stage, &status(true, &[])).is_some(), "{stage:?}");
        }
        assert!(unmet(Stage::MachineStageRunning, &status(false, &[])).is_some());
    }
}
