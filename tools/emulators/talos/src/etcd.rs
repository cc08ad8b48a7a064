//! A client of etcd's API: listing, adding, promoting and removing members, and the status of a member.
//!
//! Names and field numbers: `api/etcdserverpb/rpc.proto` of etcd v3.6.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::ClientConfig;
use talos_api::machine::{EtcdMember, EtcdMemberStatus};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::config::{Configuration, ControlPlane};
use crate::control_plane::peer_url;
use crate::error::{Attempt, Error};
use crate::pki::Leaf;
use crate::tls;

const LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct MemberAdd {
    #[prost(string, repeated, tag = "1")]
    peer_urls: Vec<String>,
    #[prost(bool, tag = "2")]
    is_learner: bool,
}

/// Request to remove or to promote a member, or to hand over to a member.
#[derive(Clone, PartialEq, Message)]
struct MemberId {
    #[prost(uint64, tag = "1")]
    id: u64,
}

/// Answer to every change of the members. Only the answer to an addition names the new member.
#[derive(Clone, PartialEq, Message)]
struct Members {
    #[prost(message, optional, tag = "2")]
    added: Option<Member>,
    #[prost(message, repeated, tag = "3")]
    members: Vec<Member>,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<Member>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Member {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    is_learner: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(int64, tag = "3")]
    size: i64,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "5")]
    raft_index: u64,
    #[prost(uint64, tag = "6")]
    raft_term: u64,
    #[prost(uint64, tag = "7")]
    raft_applied_index: u64,
    #[prost(string, repeated, tag = "8")]
    errors: Vec<String>,
    #[prost(int64, tag = "9")]
    size_in_use: i64,
    #[prost(bool, tag = "10")]
    is_learner: bool,
    #[prost(string, tag = "11")]
    storage_version: String,
}

/// A client of the member at one address.
#[derive(Clone)]
pub(crate) struct Etcd(Channel);

impl Etcd {
    /// Creates a client with a certificate of the cluster's etcd authority, as Talos's own client has.
    pub(crate) fn at(address: Ipv4Addr, control_plane: &ControlPlane) -> Result<Self, Error> {
        let issued = control_plane.etcd.issue(&Leaf::client("talos", &[]))?;
        let tls = tls::client(&control_plane.etcd.der, issued.certificate, issued.key, b"h2")?;
        Ok(Self(channel(SocketAddr::from((address, 2379)), tls)?))
    }

    async fn call<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let mut client = Grpc::new(self.0.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(question);
        request.set_timeout(LIMIT);
        let path = PathAndQuery::from_static(path);
        let answer = client.unary(request, path, ProstCodec::default());
        let answer = tokio::time::timeout(LIMIT, answer).await;
        Ok(answer.map_err(|_| Status::deadline_exceeded("etcd took too long"))??.into_inner())
    }

    /// Lists the members. Like etcd's own client, it asks for a list that a quorum has confirmed
    /// (`client/v3/cluster.go`, v3.6.12).
    pub(crate) async fn members(&self) -> Result<Vec<EtcdMember>, Status> {
        #[derive(Clone, PartialEq, Message)]
        struct List {
            #[prost(bool, tag = "1")]
            linearizable: bool,
        }
        let listed: Listed =
            self.call("/etcdserverpb.Cluster/MemberList", List { linearizable: true }).await?;
        Ok(listed.members.into_iter().map(to_talos).collect())
    }

    /// Adds the member at `address` as a learner, or finds a member with the address. Returns the member's id
    /// and the value of its flag `--initial-cluster`.
    pub(crate) async fn add(&self, name: &str, address: Ipv4Addr) -> Result<(u64, String), Status> {
        let peer = peer_url(address);
        let mut known = self.members().await?;
        // Only a machine without data joins. Like Talos, remove an older member of the same name: it is the
        // machine itself before its disk was lost (`addMember` in services/etcd.go, v1.13.9).
        if let Some(before) = known.iter().position(|member| member.hostname == name) {
            self.remove(known.remove(before).id).await?;
        }
        let found =
            known.iter().find(|member| member.peer_urls.contains(&peer)).map(|member| member.id);
        let (id, members) = if let Some(id) = found {
            (id, known)
        } else {
            let question = MemberAdd { peer_urls: vec![peer.clone()], is_learner: true };
            let added: Members = self.call("/etcdserverpb.Cluster/MemberAdd", question).await?;
            let id = added.added.map(|member| member.id).unwrap_or_default();
            (id, added.members.into_iter().map(to_talos).collect())
        };
        let mut cluster = BTreeMap::new();
        for member in members {
            for url in member.peer_urls {
                let is_new = url == peer;
                cluster.insert(url, if is_new { name.to_owned() } else { member.hostname.clone() });
            }
        }
        let cluster: Vec<_> = cluster.iter().map(|(url, name)| format!("{name}={url}")).collect();
        Ok((id, cluster.join(",")))
    }

    /// Makes a learner a voting member. A member that votes already is no error.
    pub(crate) async fn promote(&self, id: u64) -> Result<(), Status> {
        let promoted: Result<Members, _> =
            self.call("/etcdserverpb.Cluster/MemberPromote", MemberId { id }).await;
        match promoted {
            Err(status) if status.message().contains("can only promote a learner") => Ok(()),
            other => other.map(drop),
        }
    }

    pub(crate) async fn remove(&self, id: u64) -> Result<(), Status> {
        let removed: Result<Members, _> =
            self.call("/etcdserverpb.Cluster/MemberRemove", MemberId { id }).await;
        removed.map(drop).map_err(|status| match status.code() {
            Code::NotFound => Status::not_found(format!("etcd member {id:x} not found")),
            _ => status,
        })
    }

    /// Hands the leadership of this member over to the member `id`.
    pub(crate) async fn move_leader(&self, id: u64) -> Result<(), Status> {
        let moved: Result<Nothing, _> =
            self.call("/etcdserverpb.Maintenance/MoveLeader", MemberId { id }).await;
        moved.map(drop)
    }

    pub(crate) async fn status(&self) -> Result<EtcdMemberStatus, Status> {
        let status: StatusAnswer =
            self.call("/etcdserverpb.Maintenance/Status", Nothing {}).await?;
        Ok(EtcdMemberStatus {
            protocol_version: status.version,
            db_size: status.size,
            db_size_in_use: status.size_in_use,
            leader: status.leader,
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.raft_applied_index,
            errors: status.errors,
            is_learner: status.is_learner,
            member_id: status.header.map(|header| header.member).unwrap_or_default(),
            storage_version: status.storage_version,
        })
    }

    /// Whether the member answers, votes, and knows a leader.
    pub(crate) async fn is_healthy(&self) -> bool {
        self.status().await.is_ok_and(|status| {
            status.leader != 0 && !status.is_learner && status.errors.is_empty()
        })
    }
}

/// Creates a client of the member at `address`. `config` must be that of a control plane.
pub(crate) fn client(config: &Configuration, address: Ipv4Addr) -> Result<Etcd, Error> {
    let control_plane =
        config.control_plane.as_ref().ok_or_else(|| Error::new("a worker does not run etcd"))?;
    Etcd::at(address, control_plane)
}

fn to_talos(member: Member) -> EtcdMember {
    EtcdMember {
        id: member.id,
        hostname: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
    }
}

/// Creates a channel that connects at the first call.
fn channel(address: SocketAddr, tls: Arc<ClientConfig>) -> Result<Channel, Error> {
    // tonic must see the scheme `http`, because the connector adds TLS itself.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).attempt("an address")?;
    let endpoint = endpoint.connect_timeout(LIMIT).timeout(LIMIT);
    Ok(
        endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                tls::connect(address, tls).await.map(TokioIo::new).map_err(std::io::Error::from)
            }
        })),
    )
}
