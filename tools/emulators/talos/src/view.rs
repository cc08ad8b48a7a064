//! The status that a machine shows: its stage, its services, and its events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use prost_types::{Any, Timestamp};
use talos_api::machine::machine_status_event::machine_status::UnmetCondition;
use talos_api::machine::machine_status_event::{MachineStage, MachineStatus};
use talos_api::machine::sequence_event::Action;
use talos_api::machine::{
    Event, MachineStatusEvent, SequenceEvent, ServiceEvent, ServiceEvents, ServiceHealth,
    ServiceInfo,
};
use tokio::sync::broadcast;

/// Most events that a machine keeps.
const EVENTS_MAX: usize = 512;
/// Most events of one service that a machine keeps.
const SERVICE_EVENTS_MAX: usize = 32;
/// Prefix of an event's type; the name of the message follows:
/// <https://github.com/siderolabs/talos/blob/v1.13.9/internal/app/machined/pkg/runtime/events.go>.
const EVENT_TYPE_PREFIX: &str = "talos/runtime/machine.";

/// The status of a machine, and its live events.
pub(crate) struct View {
    now: Mutex<Now>,
    live: broadcast::Sender<Event>,
}

struct Now {
    boot_id: String,
    stage: MachineStage,
    unmet: BTreeMap<&'static str, String>,
    services: BTreeMap<&'static str, ServiceState>,
    events: VecDeque<Event>,
    event: u64,
    /// Number of changes of the status.
    version: u64,
}

struct ServiceState {
    state: &'static str,
    healthy: Option<bool>,
    message: String,
    changed: Timestamp,
    events: VecDeque<ServiceEvent>,
}

impl View {
    pub(crate) fn new() -> Self {
        let now = Now {
            boot_id: String::new(),
            stage: MachineStage::Unknown,
            unmet: BTreeMap::new(),
            services: BTreeMap::new(),
            events: VecDeque::new(),
            event: 0,
            version: 0,
        };
        Self { now: Mutex::new(now), live: broadcast::channel(EVENTS_MAX).0 }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new boot, with another id and without services and events.
    pub(crate) fn boot(&self) {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        {
            let mut now = self.now();
            boot_id.trim().clone_into(&mut now.boot_id);
            now.services.clear();
            now.unmet.clear();
            now.events.clear();
        }
        self.stage(MachineStage::Booting);
    }

    /// Returns the boot id, which the file `/proc/sys/kernel/random/boot_id` of the machine holds.
    pub(crate) fn boot_id(&self) -> String {
        self.now().boot_id.clone()
    }

    pub(crate) fn stage(&self, stage: MachineStage) {
        let changed = std::mem::replace(&mut self.now().stage, stage) != stage;
        if changed {
            self.status_changed();
        }
    }

    /// Returns the stage, the readiness with its unmet conditions, and the version of the status.
    pub(crate) fn status(&self) -> (MachineStatusEvent, u64) {
        let now = self.now();
        let ready = match now.stage {
            MachineStage::Maintenance => true,
            MachineStage::Running => now.unmet.is_empty(),
            _ => false,
        };
        let unmet = now.unmet.iter();
        let unmet_conditions = unmet
            .map(|(name, reason)| UnmetCondition {
                name: (*name).to_owned(),
                reason: reason.clone(),
            })
            .collect();
        let status = Some(MachineStatus { ready, unmet_conditions });
        (MachineStatusEvent { stage: now.stage.into(), status }, now.version)
    }

    /// Records that a condition is met, or the reason why it is not.
    pub(crate) fn condition(&self, name: &'static str, unmet: Option<&str>) {
        let changed = {
            let mut now = self.now();
            let changed = now.unmet.get(name).map(String::as_str) != unmet;
            match unmet {
                Some(reason) => now.unmet.insert(name, reason.to_owned()),
                None => now.unmet.remove(name),
            };
            changed
        };
        if changed {
            self.status_changed();
        }
    }

    fn status_changed(&self) {
        self.now().version += 1;
        let (status, _) = self.status();
        self.emit("MachineStatusEvent", &status, "");
    }

    /// Records the state of a service, its health, and its message.
    pub(crate) fn service(
        &self,
        name: &'static str,
        state: &'static str,
        healthy: Option<bool>,
        message: &str,
    ) {
        let mut now = self.now();
        let service = now.services.entry(name).or_insert_with(|| ServiceState {
            state: "",
            healthy: None,
            message: String::new(),
            changed: timestamp(),
            events: VecDeque::new(),
        });
        if (service.state, service.healthy, service.message.as_str()) == (state, healthy, message) {
            return;
        }
        if service.healthy != healthy {
            service.changed = timestamp();
        }
        (service.state, service.healthy) = (state, healthy);
        message.clone_into(&mut service.message);
        if service.events.len() == SERVICE_EVENTS_MAX {
            service.events.pop_front();
        }
        let event = ServiceEvent {
            msg: message.to_owned(),
            state: state.to_owned(),
            ts: Some(timestamp()),
        };
        service.events.push_back(event);
        let waiting: Vec<_> = now
            .services
            .iter()
            .filter(|(_, service)| {
                service.state != "Skipped"
                    && (service.state != "Running" || service.healthy == Some(false))
            })
            .map(|(name, service)| {
                format!(
                    "{name} not {}",
                    if service.state == "Running" { "healthy" } else { "running" }
                )
            })
            .collect();
        drop(now);
        let waiting = waiting.join(", ");
        self.condition("services", (!waiting.is_empty()).then_some(&waiting));
    }

    /// Whether a service runs and is not unhealthy.
    pub(crate) fn is_healthy(&self, name: &str) -> bool {
        self.now()
            .services
            .get(name)
            .is_some_and(|service| service.state == "Running" && service.healthy != Some(false))
    }

    /// Returns the state of a service, if the machine has the service.
    pub(crate) fn state(&self, name: &str) -> Option<&'static str> {
        self.now().services.get(name).map(|service| service.state)
    }

    pub(crate) fn services(&self) -> Vec<ServiceInfo> {
        let now = self.now();
        let services = now.services.iter();
        services
            .map(|(id, service)| ServiceInfo {
                id: (*id).to_owned(),
                state: service.state.to_owned(),
                events: Some(ServiceEvents { events: service.events.iter().cloned().collect() }),
                health: Some(ServiceHealth {
                    unknown: service.healthy.is_none(),
                    healthy: service.healthy == Some(true),
                    last_message: service.message.clone(),
                    last_change: Some(service.changed),
                }),
            })
            .collect()
    }

    /// Records that a sequence begins or ends, on behalf of `actor`.
    pub(crate) fn sequence(&self, sequence: &str, action: Action, actor: &str) {
        let event =
            SequenceEvent { sequence: sequence.to_owned(), action: action.into(), error: None };
        self.emit("SequenceEvent", &event, actor);
    }

    /// Records that a sequence failed, on behalf of `actor`.
    pub(crate) fn sequence_failed(&self, sequence: &str, why: &str, actor: &str) {
        let error = talos_api::common::Error { message: why.to_owned() };
        let action = Action::Noop.into();
        let event = SequenceEvent { sequence: sequence.to_owned(), action, error: Some(error) };
        self.emit("SequenceEvent", &event, actor);
    }

    fn emit(&self, name: &str, message: &impl Message, actor: &str) {
        let mut now = self.now();
        now.event += 1;
        let event = Event {
            data: Some(Any {
                type_url: format!("{EVENT_TYPE_PREFIX}{name}"),
                value: message.encode_to_vec(),
            }),
            id: format!("{:020x}", now.event),
            actor_id: actor.to_owned(),
        };
        if now.events.len() == EVENTS_MAX {
            now.events.pop_front();
        }
        now.events.push_back(event.clone());
        // An error means that no client listens.
        let _ = self.live.send(event);
    }

    /// Returns the past events and a receiver of the live events, without a gap between them.
    pub(crate) fn events(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let now = self.now();
        (now.events.iter().cloned().collect(), self.live.subscribe())
    }
}

/// Returns the name of a stage in Talos's resources.
pub(crate) fn stage_name(stage: MachineStage) -> &'static str {
    match stage {
        MachineStage::Unknown => "unknown",
        MachineStage::Booting => "booting",
        MachineStage::Installing => "installing",
        MachineStage::Maintenance => "maintenance",
        MachineStage::Running => "running",
        MachineStage::Rebooting => "rebooting",
        MachineStage::ShuttingDown => "shutting down",
        MachineStage::Resetting => "resetting",
        MachineStage::Upgrading => "upgrading",
    }
}

pub(crate) fn timestamp() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_ready_once_every_service_runs() {
        let view = View::new();
        view.boot();
        view.service("apid", "Running", Some(true), "");
        view.service("etcd", "Preparing", None, "Running pre state");
        view.stage(MachineStage::Running);
        let status = view.status().0.status.expect("a status");
        assert!(!status.ready);
        assert_eq!(status.unmet_conditions[0].reason, "etcd not running");
        view.service("etcd", "Running", Some(true), "");
        assert!(view.status().0.status.expect("a status").ready);
    }

    #[test]
    fn each_change_is_one_event_in_order() {
        let view = View::new();
        view.boot();
        view.stage(MachineStage::Running);
        view.stage(MachineStage::Running);
        let (past, _) = view.events();
        assert_eq!(past.len(), 2);
        assert!(past[0].id < past[1].id);
    }
}
