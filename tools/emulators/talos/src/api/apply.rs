//! `ApplyConfiguration`: what a new configuration would do, and doing it.

use std::sync::Arc;
use std::time::Duration;

use talos_provision::wire::{ApplyConfiguration, ApplyMode, ConfigurationApplied, Reply, Stage};
use tokio::time::sleep;
use tonic::Status;

use super::Access;
use super::machine::internal;
use crate::change::{difference, needs_reboot, touched};
use crate::config::Configuration;
use crate::machine::{Machine, Order};

/// How long a trial lasts unless the caller says so.
const TRIAL: Duration = Duration::from_secs(60);

pub(super) fn apply(
    machine: &Arc<Machine>,
    access: Access,
    asked: &ApplyConfiguration,
) -> Result<Reply<ConfigurationApplied>, Status> {
    let next = Configuration::read(&asked.data)
        .map_err(|trouble| Status::invalid_argument(trouble.to_string()))?;
    let Ok(_applying) = machine.applying.try_lock() else {
        return Err(Status::failed_precondition(
            "another apply configuration is already in progress",
        ));
    };
    let asked_mode = ApplyMode::try_from(asked.mode)
        .map_err(|_| Status::invalid_argument(format!("mode {} is not known", asked.mode)))?;
    let now = machine.active();
    if access == Access::Maintenance || now.is_none() {
        if !asked.dry_run {
            machine.place.write("config.yaml", &next.bytes).map_err(internal)?;
            if !machine.order(Order::Install) {
                return Err(Status::unavailable("the machine is going down"));
            }
        }
        return Ok(answered(ApplyMode::NoReboot, asked.dry_run, b"", &next));
    }
    let now = now.ok_or_else(|| Status::internal("no configuration is active"))?;
    if !matches!(machine.view.status().0.stage(), Stage::Booting | Stage::Running) {
        return Err(Status::failed_precondition(
            "configuration was already applied and node is rebooting, wait for the reboot to finish",
        ));
    }
    let reboot = needs_reboot(&now, &next);
    let mode = match asked_mode {
        ApplyMode::Auto if reboot => ApplyMode::Reboot,
        ApplyMode::Auto => ApplyMode::NoReboot,
        ApplyMode::NoReboot | ApplyMode::Try if reboot => {
            // Real Talos v1.13.9 repeats the difference, secrets included.
            let difference = difference(&now.bytes, &next.bytes);
            return Err(Status::invalid_argument(format!(
                "this config change can't be applied in immediate mode\ndiff:\n{difference}"
            )));
        }
        other => other,
    };
    if !asked.dry_run {
        take(machine, mode, &now, &next, asked.try_mode_timeout.as_ref().map(|it| it.seconds))?;
    }
    Ok(answered(mode, asked.dry_run, &now.bytes, &next))
}

/// Makes `next` the configuration: now, after a reboot, or for a while.
fn take(
    machine: &Arc<Machine>,
    mode: ApplyMode,
    now: &Arc<Configuration>,
    next: &Arc<Configuration>,
    trial_seconds: Option<i64>,
) -> Result<(), Status> {
    if mode != ApplyMode::Try {
        machine.place.write("config.yaml", &next.bytes).map_err(internal)?;
    }
    let trial = {
        let mut live = machine.live();
        live.configured += 1;
        live.trial += 1;
        if mode != ApplyMode::Try {
            live.persistent = Some(next.clone());
        }
        if matches!(mode, ApplyMode::NoReboot | ApplyMode::Try) {
            live.active = Some(next.clone());
        }
        live.trial
    };
    let at_once = matches!(mode, ApplyMode::NoReboot | ApplyMode::Try);
    if at_once && next.control_plane.is_some() && touched(now, next).control_plane {
        // From now on, not from when the API server goes down: who asks in between is not told
        // that all is well.
        machine.view.condition("staticPods", Some("kube-system/kube-apiserver starts again"));
    }
    let accepted = match mode {
        ApplyMode::NoReboot | ApplyMode::Try if now.bytes == next.bytes => true,
        ApplyMode::NoReboot | ApplyMode::Try => machine.order(Order::Reconfigured(now.clone())),
        ApplyMode::Reboot | ApplyMode::Auto => {
            machine.order(Order::Reboot { actor: String::new() })
        }
        ApplyMode::Staged => true,
    };
    if !accepted {
        return Err(Status::unavailable("the machine is going down"));
    }
    if mode == ApplyMode::Try {
        let limit = trial_seconds.and_then(|it| u64::try_from(it).ok()).filter(|it| *it > 0);
        let limit = limit.map_or(TRIAL, Duration::from_secs);
        tokio::spawn(end_trial(machine.clone(), now.clone(), next.clone(), trial, limit));
    }
    Ok(())
}

/// Goes back to what was active before a trial, unless something else was applied meanwhile.
async fn end_trial(
    machine: Arc<Machine>,
    before: Arc<Configuration>,
    tried: Arc<Configuration>,
    trial: u64,
    limit: Duration,
) {
    sleep(limit).await;
    {
        let mut live = machine.live();
        if live.trial != trial {
            return;
        }
        live.configured += 1;
        live.active = Some(before);
    }
    machine.order(Order::Reconfigured(tried));
}

fn answered(
    mode: ApplyMode,
    dry_run: bool,
    now: &[u8],
    next: &Configuration,
) -> Reply<ConfigurationApplied> {
    let done = match mode {
        ApplyMode::Reboot | ApplyMode::Auto => "Applied configuration with a reboot",
        ApplyMode::NoReboot | ApplyMode::Try => "Applied configuration without a reboot",
        ApplyMode::Staged => "Staged configuration to be applied after the next reboot",
    };
    let mode_details = if dry_run {
        let difference = difference(now, &next.bytes);
        format!("Dry run summary:\n{done} (skipped in dry-run).\nConfig diff:\n\n{difference}")
    } else {
        done.to_owned()
    };
    Reply::from(ConfigurationApplied {
        metadata: None,
        warnings: Vec::new(),
        mode: mode.into(),
        mode_details,
    })
}
