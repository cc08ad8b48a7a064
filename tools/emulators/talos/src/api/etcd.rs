//! The calls about etcd: members, status, alarms, leaving and removing.

use std::time::Duration;

use talos_api::machine::{EtcdMemberListRequest, EtcdMembers, EtcdStatus};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::Status;

use super::service::{active, internal};
use crate::config::Kind;
use crate::etcd::Etcd;
use crate::machine::{Machine, Order};

/// Pause before another search for a member that answers.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns a client of this machine's member.
fn own_member(machine: &Machine) -> Result<Etcd, Status> {
    if active(machine)?.kind == Kind::Worker {
        return Err(Status::unimplemented("etcd is only available on control plane nodes"));
    }
    let member = machine.run_state().etcd.clone();
    member.ok_or_else(|| Status::unavailable("etcd is not running"))
}

pub(super) async fn members(
    machine: &Machine,
    request: &EtcdMemberListRequest,
) -> Result<EtcdMembers, Status> {
    // Talos waits until a member of etcd answers (measured with v1.13.9: a machine that was not bootstrapped
    // never answers this call).
    let client = loop {
        match own_member(machine) {
            Err(status) if status.code() == tonic::Code::Unavailable => {}
            other => break other?,
        }
        if !request.query_local
            && let Some(peer) = machine.shared.etcd_peer(machine.id, &*active(machine)?)
        {
            break peer;
        }
        sleep(PAUSE).await;
    };
    let members = client.members(request.query_local).await?;
    Ok(EtcdMembers { members })
}

pub(super) async fn status(machine: &Machine) -> Result<EtcdStatus, Status> {
    let status = own_member(machine)?.status().await?;
    Ok(EtcdStatus { member_status: Some(status) })
}

/// Finds no alarms. etcd's alarms are about full disks and corrupt data.
pub(super) fn alarms(machine: &Machine) -> Result<(), Status> {
    own_member(machine).map(drop)
}

pub(super) async fn leave(machine: &Machine) -> Result<(), Status> {
    own_member(machine)?;
    let (answer, left) = oneshot::channel();
    if !machine.order(Order::LeaveEtcd(answer)) {
        return Err(Status::unavailable("the machine is going down"));
    }
    left.await.map_err(internal)?.map_err(internal)
}

pub(super) async fn remove(machine: &Machine, member_id: u64) -> Result<(), Status> {
    own_member(machine)?.remove(member_id).await
}
