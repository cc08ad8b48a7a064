//! The call `ApplyConfiguration`, with its modes and dry runs.

use std::sync::Arc;
use std::time::Duration;

use talos_api::machine::apply_configuration_request::Mode;
use talos_api::machine::machine_status_event::MachineStage;
use talos_api::machine::{ApplyConfiguration, ApplyConfigurationRequest};
use tokio::time::sleep;
use tonic::Status;

use super::client::Access;
use super::service::internal;
use crate::change::{difference, needs_reboot, touched};
use crate::config::Configuration;
use crate::machine::{Machine, Order};

/// Duration of a trial, unless the caller names one.
const TRIAL: Duration = Duration::from_secs(60);

pub(super) fn apply(
    machine: &Arc<Machine>,
    access: Access,
    request: &ApplyConfigurationRequest,
) -> Result<ApplyConfiguration, Status> {
    let next = Configuration::read(&request.data)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let Ok(_applying) = machine.applying.try_lock() else {
        return Err(Status::failed_precondition(
            "another apply configuration is already in progress",
        ));
    };
    let requested_mode = Mode::try_from(request.mode)
        .map_err(|_| Status::invalid_argument(format!("mode {} is not known", request.mode)))?;
    let now = machine.active();
    if access == Access::Maintenance || now.is_none() {
        if !request.dry_run {
            machine.directory.write("config.yaml", &next.bytes).map_err(internal)?;
            if !machine.order(Order::Install) {
                return Err(Status::unavailable("the machine is going down"));
            }
        }
        return Ok(answer(Mode::NoReboot, request.dry_run, b"", &next));
    }
    let now = now.ok_or_else(|| Status::internal("no configuration is active"))?;
    if !matches!(machine.view.status().0.stage(), MachineStage::Booting | MachineStage::Running) {
        return Err(Status::failed_precondition(
            "configuration was already applied and node is rebooting, wait for the reboot to finish",
        ));
    }
    let reboot = needs_reboot(&now, &next);
    let mode = match requested_mode {
        Mode::Auto if reboot => Mode::Reboot,
        Mode::Auto => Mode::NoReboot,
        Mode::NoReboot | Mode::Try if reboot => {
            // Talos v1.13.9 shows the difference with its secrets, too.
            let difference = difference(&now.bytes, &next.bytes);
            return Err(Status::invalid_argument(format!(
                "this config change can't be applied in immediate mode\ndiff:\n{difference}"
            )));
        }
        other => other,
    };
    if !request.dry_run {
        take(
            machine,
            mode,
            &now,
            &next,
            request.try_mode_timeout.as_ref().map(|timeout| timeout.seconds),
        )?;
    }
    Ok(answer(mode, request.dry_run, &now.bytes, &next))
}

/// Applies `next` in the given mode: now, after a reboot, or as a trial.
fn take(
    machine: &Arc<Machine>,
    mode: Mode,
    now: &Arc<Configuration>,
    next: &Arc<Configuration>,
    trial_seconds: Option<i64>,
) -> Result<(), Status> {
    if mode != Mode::Try {
        machine.directory.write("config.yaml", &next.bytes).map_err(internal)?;
    }
    let trial = {
        let mut state = machine.run_state();
        state.configured += 1;
        state.trial += 1;
        if mode != Mode::Try {
            state.persistent = Some(next.clone());
        }
        if matches!(mode, Mode::NoReboot | Mode::Try) {
            state.active = Some(next.clone());
        }
        state.trial
    };
    let at_once = matches!(mode, Mode::NoReboot | Mode::Try);
    if at_once && next.control_plane.is_some() && touched(now, next).control_plane {
        // Set before the API server goes down, so that a client which asks in between does not see a
        // ready machine.
        machine.view.condition("staticPods", Some("kube-system/kube-apiserver restarts"));
    }
    let accepted = match mode {
        Mode::NoReboot | Mode::Try if now.bytes == next.bytes => true,
        Mode::NoReboot | Mode::Try => machine.order(Order::Reconfigured(now.clone())),
        Mode::Reboot | Mode::Auto => machine.order(Order::Reboot { actor: String::new() }),
        Mode::Staged => true,
    };
    if !accepted {
        return Err(Status::unavailable("the machine is going down"));
    }
    if mode == Mode::Try {
        let limit = trial_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0);
        let limit = limit.map_or(TRIAL, Duration::from_secs);
        tokio::spawn(end_trial(machine.clone(), now.clone(), next.clone(), trial, limit));
    }
    Ok(())
}

/// Restores the configuration before a trial, unless another configuration has been applied since.
async fn end_trial(
    machine: Arc<Machine>,
    before: Arc<Configuration>,
    tried: Arc<Configuration>,
    trial: u64,
    limit: Duration,
) {
    sleep(limit).await;
    {
        let mut state = machine.run_state();
        if state.trial != trial {
            return;
        }
        state.configured += 1;
        state.active = Some(before);
    }
    machine.order(Order::Reconfigured(tried));
}

fn answer(mode: Mode, dry_run: bool, now: &[u8], next: &Configuration) -> ApplyConfiguration {
    let done = match mode {
        Mode::Reboot | Mode::Auto => "Applied configuration with a reboot",
        Mode::NoReboot | Mode::Try => "Applied configuration without a reboot",
        Mode::Staged => "Staged configuration to be applied after the next reboot",
    };
    let mode_details = if dry_run {
        let difference = difference(now, &next.bytes);
        format!("Dry run summary:\n{done} (skipped in dry-run).\nConfig diff:\n\n{difference}")
    } else {
        done.to_owned()
    };
    ApplyConfiguration { warnings: Vec::new(), mode: mode.into(), mode_details }
}
