//! What a machine shows of itself: its stage, its services, and what happened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use talos_provision::wire::{
    Any, EVENT_TYPE_PREFIX, Event, MachineStatus, MachineStatusEvent, SequenceAction,
    SequenceEvent, Service, ServiceEvent, ServiceEvents, ServiceHealth, Stage, Timestamp,
    UnmetCondition,
};
use tokio::sync::broadcast;

/// Most events that are remembered.
const EVENTS_MAX: usize = 512;
/// Most events of one service that are remembered.
const SERVICE_EVENTS_MAX: usize = 32;

/// What a machine shows.
pub(crate) struct View {
    now: Mutex<Now>,
    live: broadcast::Sender<Event>,
}

struct Now {
    boot_id: String,
    stage: Stage,
    unmet: BTreeMap<&'static str, String>,
    services: BTreeMap<&'static str, Seen>,
    events: VecDeque<Event>,
    event: u64,
    /// How often the status changed.
    version: u64,
}

struct Seen {
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
            stage: Stage::Unknown,
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

    /// A new boot: another id, no services, and no memory of what was.
    pub(crate) fn boot(&self) {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        {
            let mut now = self.now();
            boot_id.trim().clone_into(&mut now.boot_id);
            now.services.clear();
            now.unmet.clear();
            now.events.clear();
        }
        self.stage(Stage::Booting);
    }

    /// As `/proc/sys/kernel/random/boot_id` shows it.
    pub(crate) fn boot_id(&self) -> String {
        self.now().boot_id.clone()
    }

    pub(crate) fn stage(&self, stage: Stage) {
        let changed = std::mem::replace(&mut self.now().stage, stage) != stage;
        if changed {
            self.status_changed();
        }
    }

    /// The stage, whether the machine is ready, and why not.
    pub(crate) fn status(&self) -> (MachineStatusEvent, u64) {
        let now = self.now();
        let ready = match now.stage {
            Stage::Maintenance => true,
            Stage::Running => now.unmet.is_empty(),
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

    /// Says whether a condition is met, and why not.
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
        self.tell("MachineStatusEvent", &status, "");
    }

    /// A service is in another state, or says something else.
    pub(crate) fn service(
        &self,
        name: &'static str,
        state: &'static str,
        healthy: Option<bool>,
        message: &str,
    ) {
        let mut now = self.now();
        let seen = now.services.entry(name).or_insert_with(|| Seen {
            state: "",
            healthy: None,
            message: String::new(),
            changed: timestamp(),
            events: VecDeque::new(),
        });
        if (seen.state, seen.healthy, seen.message.as_str()) == (state, healthy, message) {
            return;
        }
        if seen.healthy != healthy {
            seen.changed = timestamp();
        }
        (seen.state, seen.healthy) = (state, healthy);
        message.clone_into(&mut seen.message);
        if seen.events.len() == SERVICE_EVENTS_MAX {
            seen.events.pop_front();
        }
        let event = ServiceEvent {
            msg: message.to_owned(),
            state: state.to_owned(),
            ts: Some(timestamp()),
        };
        seen.events.push_back(event);
        let waiting: Vec<_> = now
            .services
            .iter()
            .filter(|(_, it)| {
                it.state != "Skipped" && (it.state != "Running" || it.healthy == Some(false))
            })
            .map(|(name, it)| {
                format!("{name} not {}", if it.state == "Running" { "healthy" } else { "running" })
            })
            .collect();
        drop(now);
        let waiting = waiting.join(", ");
        self.condition("services", (!waiting.is_empty()).then_some(&waiting));
    }

    /// Whether a service runs and is well.
    pub(crate) fn is_well(&self, name: &str) -> bool {
        self.now()
            .services
            .get(name)
            .is_some_and(|it| it.state == "Running" && it.healthy != Some(false))
    }

    /// The state of a service, if the machine has the service.
    pub(crate) fn state(&self, name: &str) -> Option<&'static str> {
        self.now().services.get(name).map(|seen| seen.state)
    }

    pub(crate) fn services(&self) -> Vec<Service> {
        let now = self.now();
        let services = now.services.iter();
        services
            .map(|(id, it)| Service {
                id: (*id).to_owned(),
                state: it.state.to_owned(),
                events: Some(ServiceEvents { events: it.events.iter().cloned().collect() }),
                health: Some(ServiceHealth {
                    unknown: it.healthy.is_none(),
                    healthy: it.healthy == Some(true),
                    last_message: it.message.clone(),
                    last_change: Some(it.changed.clone()),
                }),
            })
            .collect()
    }

    /// A sequence begins or ends, on behalf of `actor`.
    pub(crate) fn sequence(&self, sequence: &str, action: SequenceAction, actor: &str) {
        let event =
            SequenceEvent { sequence: sequence.to_owned(), action: action.into(), error: None };
        self.tell("SequenceEvent", &event, actor);
    }

    /// A sequence failed.
    pub(crate) fn sequence_failed(&self, sequence: &str, why: &str, actor: &str) {
        let error = talos_provision::wire::CommonError { code: 0, message: why.to_owned() };
        let action = SequenceAction::Noop.into();
        let event = SequenceEvent { sequence: sequence.to_owned(), action, error: Some(error) };
        self.tell("SequenceEvent", &event, actor);
    }

    fn tell(&self, name: &str, message: &impl Message, actor: &str) {
        let mut now = self.now();
        now.event += 1;
        let event = Event {
            metadata: None,
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
        // Nobody may be listening.
        let _ = self.live.send(event);
    }

    /// What happened, and what will: past and live without a gap between them.
    pub(crate) fn events(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let now = self.now();
        (now.events.iter().cloned().collect(), self.live.subscribe())
    }
}

/// A stage in words, as Talos writes it into its resources.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Unknown => "unknown",
        Stage::Booting => "booting",
        Stage::Installing => "installing",
        Stage::Maintenance => "maintenance",
        Stage::Running => "running",
        Stage::Rebooting => "rebooting",
        Stage::ShuttingDown => "shutting down",
        Stage::Resetting => "resetting",
        Stage::Upgrading => "upgrading",
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
    fn a_machine_is_ready_once_every_service_runs_and_says_why_not_before() {
        let view = View::new();
        view.boot();
        view.service("apid", "Running", Some(true), "");
        view.service("etcd", "Preparing", None, "Running pre state");
        view.stage(Stage::Running);
        let status = view.status().0.status.expect("a status");
        assert!(!status.ready);
        assert_eq!(status.unmet_conditions[0].reason, "etcd not running");
        view.service("etcd", "Running", Some(true), "");
        assert!(view.status().0.status.expect("a status").ready);
    }

    #[test]
    fn what_happened_is_told_once_and_in_order() {
        let view = View::new();
        view.boot();
        view.stage(Stage::Running);
        view.stage(Stage::Running);
        let (past, _) = view.events();
        assert_eq!(past.len(), 2);
        assert!(past[0].id < past[1].id);
    }
}
