//! Readiness of a machine, as Talos computes it.

use talos_api::talos::resource::definitions::enums::RuntimeMachineStage as Stage;
use talos_api::talos::resource::definitions::runtime::MachineStatusSpec;

use super::redact;
use crate::spec::Cni;

/// Talos's check of the node in Kubernetes. Without a network plugin no node becomes Ready.
const NODE_READY: &str = "nodeReady";

/// Stage of a machine, and the checks that fail in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Stage of the machine, for example `running`.
    pub(crate) stage: Stage,
    ready: bool,
    /// Failing checks: name and reason.
    unmet: Vec<(String, String)>,
}

impl From<MachineStatusSpec> for Readiness {
    fn from(spec: MachineStatusSpec) -> Self {
        let stage = spec.stage();
        let status = spec.status.unwrap_or_default();
        let unmet = status.unmet_conditions.iter();
        let unmet =
            unmet.map(|unmet| (redact::first_line(&unmet.name), redact::first_line(&unmet.reason)));
        Self { stage, ready: status.ready, unmet: unmet.collect() }
    }
}

impl Readiness {
    /// Returns the reason for which the machine is not ready.
    ///
    /// Talos v1.13.9 computes `ready` in the stages booting and running only, and reports `true` in every
    /// other stage (`machine_status.go`), so the stage is checked first.
    ///
    /// A node without a network plugin never becomes Ready, and the plugin is delivered only after `apply`.
    /// The check `nodeReady` is therefore ignored if the document declares none. `talosctl health` skips the
    /// same check then
    /// (`cniDisabledStatus` in <https://github.com/siderolabs/talos/blob/v1.13.9/pkg/cluster/check/default.go>).
    pub(super) fn not_ready_reason(&self, cni: Cni) -> Option<String> {
        let is_ignored = |name: &str| cni == Cni::None && name == NODE_READY;
        let unmet = self.unmet.iter().filter(|(name, _)| !is_ignored(name));
        let unmet: Vec<_> = unmet.map(|(name, reason)| format!("{name}: {reason}")).collect();
        let ready = self.ready || !self.unmet.is_empty() && unmet.is_empty();
        match self.stage {
            Stage::MachineStageRunning if ready => None,
            Stage::MachineStageRunning | Stage::MachineStageBooting if !unmet.is_empty() => {
                Some(unmet.join("; "))
            }
            stage => Some(format!("the stage is {}", stage_text(stage))),
        }
    }
}

/// Returns the name of a stage without the prefix of all names, for example `Booting`.
fn stage_text(stage: Stage) -> String {
    format!("{stage:?}").replace("MachineStage", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 9] = [
        Stage::MachineStageUnknown,
        Stage::MachineStageBooting,
        Stage::MachineStageInstalling,
        Stage::MachineStageMaintenance,
        Stage::MachineStageRunning,
        Stage::MachineStageRebooting,
        Stage::MachineStageShuttingDown,
        Stage::MachineStageResetting,
        Stage::MachineStageUpgrading,
    ];

    fn readiness(stage: Stage, ready: bool, unmet: &[&str]) -> Readiness {
        let unmet = unmet.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        Readiness { stage, ready, unmet }
    }

    #[test]
    fn ready_counts_only_in_the_stage_running() {
        for cni in [Cni::Flannel, Cni::None] {
            for stage in STAGES {
                let is_ready = readiness(stage, true, &[]).not_ready_reason(cni).is_none();
                assert_eq!(is_ready, stage == Stage::MachineStageRunning, "{stage:?}");
            }
            let unexplained = readiness(Stage::MachineStageRunning, false, &[]);
            assert!(unexplained.not_ready_reason(cni).is_some());
        }
        let services = readiness(Stage::MachineStageRunning, false, &["services"]);
        assert_eq!(services.not_ready_reason(Cni::Flannel).as_deref(), Some("services: x"));
    }

    // hazard: A cluster without a network plugin is never healthy, so the program that brings the plugin
    // never runs.
    // class: A check requires what only a later phase can bring.
    // members: `apply`, `verify`, the wait after a change of a machine
    // now: `nodeReady` is ignored with `cni: none`, as `talosctl health` does
    #[test]
    fn without_a_network_plugin_only_the_state_of_the_node_is_ignored() {
        let running = |unmet: &[&str]| readiness(Stage::MachineStageRunning, false, unmet);
        assert_eq!(running(&["nodeReady"]).not_ready_reason(Cni::None), None);
        assert!(running(&["nodeReady"]).not_ready_reason(Cni::Flannel).is_some());
        let both = running(&["staticPods", "nodeReady"]);
        assert_eq!(both.not_ready_reason(Cni::None).as_deref(), Some("staticPods: x"));
        for stage in STAGES.into_iter().filter(|stage| *stage != Stage::MachineStageRunning) {
            let reason = readiness(stage, false, &["nodeReady"]).not_ready_reason(Cni::None);
            assert!(reason.is_some(), "{stage:?}");
        }
    }
}
