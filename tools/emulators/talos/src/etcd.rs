//! etcd's own API, as far as a node needs it: who the members are, one more, one less, how it is.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::ClientConfig;
use talos_provision::wire::{EtcdMember, EtcdMemberStatus};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::config::{Configuration, ControlPlane};
use crate::control_plane::peer_url;
use crate::pki::Leaf;
use crate::tls;
use crate::trouble::{Attempt, Trouble};

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

/// Asks to remove or to promote.
#[derive(Clone, PartialEq, Message)]
struct MemberId {
    #[prost(uint64, tag = "1")]
    id: u64,
}

/// Every answer about members has this form; adding also answers which one is new.
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
    /// A client that shows a certificate of the cluster's etcd authority, as Talos's own does.
    pub(crate) fn at(address: Ipv4Addr, own: &ControlPlane) -> Result<Self, Trouble> {
        let issued = own.etcd.issue(&Leaf::client("talos", &[]))?;
        let tls = tls::client(&own.etcd.der, issued.certificate, issued.key, b"h2")?;
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

    /// The members; those of this member's own knowledge when `local`.
    pub(crate) async fn members(&self, local: bool) -> Result<Vec<EtcdMember>, Status> {
        #[derive(Clone, PartialEq, Message)]
        struct List {
            #[prost(bool, tag = "1")]
            linearizable: bool,
        }
        let listed: Listed =
            self.call("/etcdserverpb.Cluster/MemberList", List { linearizable: !local }).await?;
        Ok(listed.members.into_iter().map(shown).collect())
    }

    /// Adds the member at `peer` as a learner, or finds it there; the members by name and URL, as a
    /// new member's `--initial-cluster` wants them, and its id.
    pub(crate) async fn add(&self, name: &str, address: Ipv4Addr) -> Result<(u64, String), Status> {
        let peer = peer_url(address);
        let mut known = self.members(false).await?;
        // Only a machine without data joins. Talos removes the member that had its name before, which
        // is its own from before its disk was lost (`addMember` in services/etcd.go, v1.13.9).
        if let Some(before) = known.iter().position(|member| member.hostname == name) {
            self.remove(known.remove(before).id).await?;
        }
        let found = known.iter().find(|it| it.peer_urls.contains(&peer)).map(|it| it.id);
        let (id, members) = if let Some(id) = found {
            (id, known)
        } else {
            let question = MemberAdd { peer_urls: vec![peer.clone()], is_learner: true };
            let added: Members = self.call("/etcdserverpb.Cluster/MemberAdd", question).await?;
            let id = added.added.map(|it| it.id).unwrap_or_default();
            (id, added.members.into_iter().map(shown).collect())
        };
        let mut cluster = BTreeMap::new();
        for member in members {
            for url in member.peer_urls {
                let own = url == peer;
                cluster.insert(url, if own { name.to_owned() } else { member.hostname.clone() });
            }
        }
        let cluster: Vec<_> = cluster.iter().map(|(url, name)| format!("{name}={url}")).collect();
        Ok((id, cluster.join(",")))
    }

    /// Makes a learner a member that votes; done, when it is one already.
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

    pub(crate) async fn status(&self) -> Result<EtcdMemberStatus, Status> {
        let it: StatusAnswer = self.call("/etcdserverpb.Maintenance/Status", Nothing {}).await?;
        Ok(EtcdMemberStatus {
            protocol_version: it.version,
            db_size: it.size,
            db_size_in_use: it.size_in_use,
            leader: it.leader,
            raft_index: it.raft_index,
            raft_term: it.raft_term,
            raft_applied_index: it.raft_applied_index,
            errors: it.errors,
            is_learner: it.is_learner,
            member_id: it.header.map(|it| it.member).unwrap_or_default(),
            storage_version: it.storage_version,
        })
    }

    /// Whether the member answers, votes, and knows a leader.
    pub(crate) async fn is_healthy(&self) -> bool {
        self.status().await.is_ok_and(|it| it.leader != 0 && !it.is_learner && it.errors.is_empty())
    }
}

/// A client of the member at `address`, for a node that holds the authority's key.
pub(crate) fn client(config: &Configuration, address: Ipv4Addr) -> Result<Etcd, Trouble> {
    let own = config.control_plane.as_ref().ok_or_else(|| Trouble::new("a worker has no etcd"))?;
    Etcd::at(address, own)
}

fn shown(member: Member) -> EtcdMember {
    EtcdMember {
        id: member.id,
        hostname: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
    }
}

/// A channel that connects when it is used, over the TLS that is ours.
fn channel(address: SocketAddr, tls: Arc<ClientConfig>) -> Result<Channel, Trouble> {
    // The scheme is what tonic is told; the bytes are TLS.
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
