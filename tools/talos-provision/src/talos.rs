//! Talos's API on the machines: a reader and a writer, so that code that plans cannot write.
//!
//! **Invariant:** what is secret goes to a machine only over a connection that nobody else can
//! read; and, but for its very first configuration, only to one that shows a certificate of ours.

mod channel;
mod tls;
mod writer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::Error;
use crate::config::{self, Keys};
use crate::pki::{Pki, hex};
use crate::plan::{Etcd, Member, Node};
use crate::spec::Role;
use crate::wire;
use channel::{Closed, Connection};
pub(crate) use writer::{Order, Writer};

/// How often a machine that seems to be a stranger is looked at again.
const STRANGER_LOOKS: u32 = 4;
/// Between two such looks, in milliseconds.
const PAUSE_MILLISECONDS: u64 = 500;

/// A machine to ask.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: String,
    /// The digest of the configuration that it is to have.
    pub(crate) declared: Option<String>,
}

/// What one machine says.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) node: Node,
    /// What it works on: `running` or the like.
    pub(crate) stage: Option<wire::Stage>,
    /// Why it is not ready; nothing when it is.
    pub(crate) unmet: Option<String>,
    /// What a control plane says of etcd.
    pub(crate) etcd: Etcd,
}

impl Look {
    fn nothing(node: Node, etcd: Etcd) -> Self {
        Self { node, stage: None, unmet: None, etcd }
    }

    /// Whether its configuration is the one with this digest.
    fn has(&self, wanted: &str) -> bool {
        matches!(&self.node, Node::Configured { sha256, .. } if sha256 == wanted)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Reader {
    secure: Arc<ClientConfig>,
    maintenance: Arc<ClientConfig>,
}

impl Reader {
    pub(crate) fn new(pki: &Pki) -> Result<Self, Error> {
        Ok(Self { secure: tls::secure(pki)?, maintenance: tls::maintenance()? })
    }

    /// Asks all of `targets` at once.
    pub(crate) fn look(&self, targets: &[Target]) -> Result<BTreeMap<String, Look>, Error> {
        runtime()?.block_on(async {
            let mut asked = JoinSet::new();
            for target in targets.iter().cloned() {
                let reader = self.clone();
                asked.spawn(async move { (target.name.clone(), reader.look_at(&target).await) });
            }
            Ok(asked.join_all().await.into_iter().collect())
        })
    }

    async fn look_at(&self, target: &Target) -> Look {
        match self.connect(target).await {
            Access::Silent(why) => Look::nothing(Node::Silent { why }, Etcd::Unknown),
            Access::Stranger(why) => Look::nothing(Node::Refused { why }, Etcd::Unknown),
            Access::Maintenance(_) => Look {
                stage: Some(wire::Stage::Maintenance),
                ..Look::nothing(Node::Maintenance, Etcd::Absent)
            },
            Access::Secure(mut connection) => {
                let look = read(&mut connection, target.role, target.declared.as_deref()).await;
                look.unwrap_or_else(|status| {
                    let why = said(&status);
                    let node = match status.code() {
                        Code::PermissionDenied | Code::Unauthenticated => Node::Refused { why },
                        _ => Node::Silent { why },
                    };
                    Look::nothing(node, Etcd::Unknown)
                })
            }
        }
    }

    /// Connects as this cluster does; to a machine that nobody has configured yet, as anybody does.
    /// A machine that takes its configuration over changes from one to the other between two calls:
    /// it is a stranger only if it still is a moment later.
    async fn connect(&self, target: &Target) -> Access {
        for _ in 0..STRANGER_LOOKS {
            match self.try_to_connect(target).await {
                Access::Stranger(_) => sleep(Duration::from_millis(PAUSE_MILLISECONDS)).await,
                access => return access,
            }
        }
        self.try_to_connect(target).await
    }

    async fn try_to_connect(&self, target: &Target) -> Access {
        let Ok(ip) = target.address.parse() else {
            return Access::Silent(format!("`{}` is not an address", target.address));
        };
        let address = SocketAddr::new(ip, wire::PORT);
        let stranger = match Connection::open(address, &self.secure).await {
            Ok(connection) => return Access::Secure(connection),
            Err(Closed::Silent(why)) => return Access::Silent(why),
            Err(Closed::Stranger(why)) => why,
        };
        let mut connection = match Connection::open(address, &self.maintenance).await {
            Ok(connection) => connection,
            Err(Closed::Silent(_) | Closed::Stranger(_)) => return Access::Stranger(stranger),
        };
        match stage(&mut connection).await {
            Ok((wire::Stage::Maintenance, _)) => Access::Maintenance(connection),
            Ok((wire::Stage::Unknown | wire::Stage::Booting, _)) => {
                Access::Silent("it has not finished booting".to_owned())
            }
            // One that asks for a certificate ends the connection: it has a configuration.
            Ok(_) | Err(_) => Access::Stranger(stranger),
        }
    }
}

/// How a machine lets us in.
enum Access {
    Secure(Connection),
    Maintenance(Connection),
    Silent(String),
    Stranger(String),
}

/// A machine of this cluster, asked for all that matters. Of one whose configuration has the digest
/// that is `expected`, the keys are known.
async fn read(
    connection: &mut Connection,
    role: Role,
    expected: Option<&str>,
) -> Result<Look, Status> {
    let version: wire::Version = connection.call(wire::path::VERSION, wire::Empty {}).await?;
    let (stage, unmet) = stage(connection).await?;
    let configuration = get(
        connection,
        wire::resource::CONFIG_NAMESPACE,
        wire::resource::CONFIG_TYPE,
        wire::resource::CONFIG_ACTIVE,
    );
    let configuration = wire::MachineConfigSpec::decode(configuration.await?.as_slice());
    let configuration = configuration.map_err(|it| Status::new(Code::Internal, it.to_string()))?;
    let etcd = match role {
        Role::Controlplane => etcd(connection).await?,
        Role::Worker => Etcd::Unknown,
    };
    let sha256 = hex(&configuration.yaml_marshalled);
    let keys = if expected == Some(sha256.as_str()) {
        Keys::new()
    } else {
        config::keys_in(&configuration.yaml_marshalled)
    };
    let talos = version.version.unwrap_or_default().tag;
    let node = Node::Configured { sha256, talos, keys };
    Ok(Look { node, stage: Some(stage), unmet, etcd })
}

/// What it works on, and why it is not ready.
async fn stage(connection: &mut Connection) -> Result<(wire::Stage, Option<String>), Status> {
    let spec = get(
        connection,
        wire::resource::STATUS_NAMESPACE,
        wire::resource::STATUS_TYPE,
        wire::resource::STATUS_ID,
    );
    let status = wire::MachineStatusEvent::decode(spec.await?.as_slice());
    let status = status.map_err(|it| Status::new(Code::Internal, it.to_string()))?;
    let stage = wire::Stage::try_from(status.stage).unwrap_or(wire::Stage::Unknown);
    let status = status.status.unwrap_or_default();
    let unmet = status.unmet_conditions.iter().map(|it| format!("{}: {}", it.name, it.reason));
    let unmet = unmet.collect::<Vec<_>>().join("; ");
    Ok((stage, (!status.ready).then_some(unmet)))
}

async fn get(
    connection: &mut Connection,
    namespace: &str,
    r#type: &str,
    id: &str,
) -> Result<Vec<u8>, Status> {
    let request = wire::StateGet {
        namespace: namespace.to_owned(),
        r#type: r#type.to_owned(),
        id: id.to_owned(),
    };
    let got: wire::StateGot = connection.unary(wire::path::STATE_GET, request).await?;
    Ok(got.resource.and_then(|it| it.spec).unwrap_or_default().proto_spec)
}

/// Members, if it runs; absent, if it has never been told to; or nothing that can be relied on.
async fn etcd(connection: &mut Connection) -> Result<Etcd, Status> {
    let list: wire::ServiceList = connection.call(wire::path::SERVICE_LIST, wire::Empty {}).await?;
    let service = list.services.iter().find(|it| it.id == "etcd");
    match service.map(|it| it.state.as_str()) {
        // Measured by others: "Running pre state" is where it waits for its bootstrap.
        Some("Initialized" | "Preparing" | "Waiting") => return Ok(Etcd::Absent),
        Some("Running") => {}
        None | Some(_) => return Ok(Etcd::Unknown),
    }
    let request = wire::EtcdMemberListRequest { query_local: false };
    let members = connection.call::<_, wire::EtcdMembers>(wire::path::ETCD_MEMBER_LIST, request);
    let Ok(members) = members.await else {
        return Ok(Etcd::Unknown);
    };
    let member = |it: wire::EtcdMember| Member { hostname: it.hostname, id: it.id };
    let mut members: Vec<_> = members.members.into_iter().map(member).collect();
    members.sort();
    Ok(if members.is_empty() { Etcd::Unknown } else { Etcd::Members(members) })
}

/// What all control planes together say of etcd. `asked` is all of them that there are.
pub(crate) fn agree<'a>(asked: impl IntoIterator<Item = &'a Etcd>) -> Etcd {
    let mut together = Etcd::Absent;
    for etcd in asked {
        match etcd {
            Etcd::Members(_) => return etcd.clone(),
            Etcd::Unknown => together = Etcd::Unknown,
            Etcd::Absent => {}
        }
    }
    together
}

/// What a machine answered, for people. Talos puts no secret into it.
fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::Runtime)
}
