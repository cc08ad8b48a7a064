//! etcd's members, as the machine service shows them.

use std::sync::Arc;
use std::time::Duration;

use talos_provision::wire::{
    Done, EtcdAlarms, EtcdMemberListRequest, EtcdMembers, EtcdRemoveMemberById, EtcdStatus, Reply,
};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::Status;

use super::machine::{active, internal};
use crate::config::Kind;
use crate::etcd::Etcd;
use crate::machine::{Machine, Order};

/// Between two looks for a member that answers.
const PAUSE: Duration = Duration::from_millis(100);

/// This machine's own member.
fn own(machine: &Machine) -> Result<Etcd, Status> {
    if active(machine)?.kind == Kind::Worker {
        return Err(Status::unimplemented("etcd is only available on control plane nodes"));
    }
    let own = machine.live().etcd.clone();
    own.ok_or_else(|| Status::unavailable("etcd is not running"))
}

pub(super) async fn members(
    machine: Arc<Machine>,
    asked: EtcdMemberListRequest,
) -> Result<Reply<EtcdMembers>, Status> {
    // Talos's client of etcd waits for a member to answer, and the machine for its client: seen with
    // v1.13.9, where a machine that was not bootstrapped never answers.
    let client = loop {
        match own(&machine) {
            Err(status) if status.code() == tonic::Code::Unavailable => {}
            other => break other?,
        }
        if !asked.query_local
            && let Some(peer) = machine.fleet.etcd_peer(&machine, &*active(&machine)?)
        {
            break peer;
        }
        sleep(PAUSE).await;
    };
    let members = client.members(asked.query_local).await?;
    Ok(Reply::from(EtcdMembers { metadata: None, legacy_members: Vec::new(), members }))
}

pub(super) async fn status(machine: Arc<Machine>) -> Result<Reply<EtcdStatus>, Status> {
    let status = own(&machine)?.status().await?;
    Ok(Reply::from(EtcdStatus { metadata: None, member_status: Some(status) }))
}

/// There is a disk big enough for every alarm here.
pub(super) fn alarms(machine: &Machine) -> Result<Reply<EtcdAlarms>, Status> {
    own(machine)?;
    Ok(Reply::from(EtcdAlarms::default()))
}

pub(super) async fn leave(machine: Arc<Machine>) -> Result<Reply<Done>, Status> {
    own(&machine)?;
    let (answer, left) = oneshot::channel();
    if !machine.order(Order::LeaveEtcd(answer)) {
        return Err(Status::unavailable("the machine is going down"));
    }
    left.await.map_err(internal)?.map_err(internal)?;
    Ok(Reply::from(Done { metadata: None }))
}

pub(super) async fn remove(
    machine: Arc<Machine>,
    asked: EtcdRemoveMemberById,
) -> Result<Reply<Done>, Status> {
    own(&machine)?.remove(asked.member_id).await?;
    Ok(Reply::from(Done { metadata: None }))
}
