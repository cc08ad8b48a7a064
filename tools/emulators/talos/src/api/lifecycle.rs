//! The calls `Reset`, `Reboot` and `Shutdown`. They send orders, which the machine's life executes.
//! Each returns the id with which the events of the order are marked.

use talos_api::machine::ResetRequest;
use talos_api::machine::machine_status_event::MachineStage;
use talos_api::machine::reset_request::WipeMode;
use tonic::Status;

use crate::machine::{Machine, Order, Wipe};
use crate::view::stage_name;

pub(super) fn reset(machine: &Machine, request: &ResetRequest) -> Result<String, Status> {
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

pub(super) fn reboot(machine: &Machine) -> Result<String, Status> {
    begin(machine, |actor| Order::Reboot { actor })
}

pub(super) fn shutdown(machine: &Machine) -> Result<String, Status> {
    begin(machine, |actor| Order::Shutdown { actor })
}

fn begin(machine: &Machine, order: impl FnOnce(String) -> Order) -> Result<String, Status> {
    let stage = machine.view.status().0.stage();
    if matches!(
        stage,
        MachineStage::Rebooting | MachineStage::Resetting | MachineStage::ShuttingDown
    ) {
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
        Ok(actor_id)
    } else {
        Err(Status::unavailable("the machine is going down"))
    }
}
