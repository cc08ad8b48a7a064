//! The calls `Reset`, `Reboot` and `Shutdown`. They send orders, which the machine's life executes.

use talos_provision::wire::{Begun, Reply, Reset, Stage, WipeMode};
use tonic::Status;

use crate::machine::{Machine, Order, Wipe};
use crate::view::stage_name;

pub(super) fn reset(machine: &Machine, request: &Reset) -> Result<Reply<Begun>, Status> {
    let everything =
        request.system_partitions_to_wipe.is_empty() && request.mode() != WipeMode::UserDisks;
    let wiped = |label: &str| {
        everything
            || request
                .system_partitions_to_wipe
                .iter()
                .any(|partition| partition.wipe && partition.label == label)
    };
    let wipe = Wipe { state: wiped("STATE"), ephemeral: wiped("EPHEMERAL") };
    let (graceful, reboot) = (request.graceful, request.reboot);
    begin(machine, |actor| Order::Reset { actor, graceful, reboot, wipe })
}

pub(super) fn reboot(machine: &Machine) -> Result<Reply<Begun>, Status> {
    begin(machine, |actor| Order::Reboot { actor })
}

pub(super) fn shutdown(machine: &Machine) -> Result<Reply<Begun>, Status> {
    begin(machine, |actor| Order::Shutdown { actor })
}

fn begin(machine: &Machine, order: impl FnOnce(String) -> Order) -> Result<Reply<Begun>, Status> {
    let stage = machine.view.status().0.stage();
    if matches!(stage, Stage::Rebooting | Stage::Resetting | Stage::ShuttingDown) {
        return Err(Status::failed_precondition(format!(
            "the machine is already {}",
            stage_name(stage)
        )));
    }
    let actor_id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap_or_default()
        .trim()
        .to_owned();
    if machine.order(order(actor_id.clone())) {
        Ok(Reply::from(Begun { metadata: None, actor_id }))
    } else {
        Err(Status::unavailable("the machine is going down"))
    }
}
