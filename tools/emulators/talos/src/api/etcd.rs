//! The calls about etcd: members, status, alarms, leaving and removing.

use std::time::Duration;

use talos_api::machine::{EtcdMemberListRequest, EtcdMembers, EtcdStatus};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::service::{active, internal};
use crate::etcd::Etcd;
use crate::kind::Kind;
use crate::machine::{Machine, Order};

/// Pause before another search for a member that answers.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns an error of etcd's client as machined does: without a code, so that gRPC shows `Unknown`.
fn unknown(operation: &str, status: &Status) -> Status {
    Status::unknown(format!("{operation}{}", status.message()))
}

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
            Err(status) if status.code() == Code::Unavailable => {}
            other => break other?,
        }
        if !request.query_local
            && let Some(peer) = machine.shared.etcd_peer(machine.id, &*active(machine)?)
        {
            break peer;
        }
        sleep(PAUSE).await;
    };
    let members = client.members().await.map_err(|status| unknown("", &status))?;
    Ok(EtcdMembers { members })
}

pub(super) async fn status(machine: &Machine) -> Result<EtcdStatus, Status> {
    // The local member answers without a leader, too: after a boot without quorum, for example.
    let member = match own_member(machine) {
        Err(_) if machine.processes.runs("etcd") => {
            crate::etcd::client(&*active(machine)?, machine.address).map_err(internal)?
        }
        member => member?,
    };
    let status = member.status().await;
    let status = status.map_err(|status| unknown("failed to query etcd status: ", &status))?;
    Ok(EtcdStatus { member_status: Some(status) })
}

/// Hands the leadership over to another member, if this member leads.
pub(super) async fn forfeit_leadership(machine: &Machine) -> Result<(), Status> {
    let operation = "failed to forfeit leadership: ";
    let member = own_member(machine)?;
    let members = member.members().await.map_err(|status| unknown(operation, &status))?;
    if members.len() == 1 {
        let status = Status::unknown("cannot forfeit leadership, only one member");
        return Err(unknown(operation, &status));
    }
    let status = member.status().await.map_err(|status| unknown(operation, &status))?;
    let heir = members.iter().find(|other| other.id != status.member_id);
    match heir {
        Some(heir) if status.leader == status.member_id => {
            member.move_leader(heir.id).await.map_err(|status| unknown(operation, &status))
        }
        _ => Ok(()),
    }
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
    let left = left.await.map_err(internal)?;
    left.map_err(|error| Status::unknown(format!("failed to leave cluster: {error}")))
}

pub(super) async fn remove(machine: &Machine, member_id: u64) -> Result<(), Status> {
    own_member(machine)?.remove(member_id).await.map_err(|status| match status.code() {
        Code::NotFound => status,
        _ => unknown("failed to remove member: ", &status),
    })
}
