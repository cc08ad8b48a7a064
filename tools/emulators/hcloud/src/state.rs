//! The state of the emulated project, and the file that holds it.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::catalogue::SoldOut;
use crate::error::ApiError;
use crate::health::Health;
use crate::labels::{self, Labels};
use crate::model::{
    Action, Effect, Firewall, Image, LoadBalancer, Network, PlacementGroup, PrimaryIp, Progress,
    Server, SshKey, Volume, stock_images,
};
use crate::resource::{Head, Table, check_name, now};

/// Number of finished actions that the state keeps, so that its file stays small.
const ACTIONS_KEPT: usize = 1000;

/// Everything that exists in the project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// First two bytes of every public address.
    pub(crate) network: [u8; 2],
    /// Next id, for resources and actions alike. An id is never used twice.
    pub(crate) next_id: u64,
    pub(crate) servers: Table<Server>,
    pub(crate) networks: Table<Network>,
    pub(crate) firewalls: Table<Firewall>,
    pub(crate) placement_groups: Table<PlacementGroup>,
    pub(crate) ssh_keys: Table<SshKey>,
    pub(crate) images: Table<Image>,
    pub(crate) load_balancers: Table<LoadBalancer>,
    pub(crate) primary_ips: Table<PrimaryIp>,
    #[serde(default)]
    pub(crate) volumes: Table<Volume>,
    pub(crate) actions: BTreeMap<u64, Action>,
    /// Server types that a test has sold out.
    #[serde(default)]
    pub(crate) sold_out: SoldOut,
    /// Health of targets. The file does not hold it, because the checks observe it again.
    #[serde(skip)]
    pub(crate) health: Health,
}

impl State {
    /// Creates a project that holds only the stock images.
    pub(crate) fn new(network: [u8; 2]) -> Self {
        let mut state = Self {
            network,
            next_id: 1001,
            servers: Table::default(),
            networks: Table::default(),
            firewalls: Table::default(),
            placement_groups: Table::default(),
            ssh_keys: Table::default(),
            images: Table::default(),
            load_balancers: Table::default(),
            primary_ips: Table::default(),
            volumes: Table::default(),
            actions: BTreeMap::new(),
            sold_out: SoldOut::new(),
            health: Health::default(),
        };
        for image in stock_images() {
            state.images.insert(image);
        }
        state
    }

    /// Reads the state from its file, or creates the file.
    pub(crate) fn open(path: &Path, network: [u8; 2]) -> io::Result<Self> {
        let state = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<Self>(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let state = Self::new(network);
                state.save(path)?;
                state
            }
            Err(error) => return Err(error),
        };
        if state.network == network {
            Ok(state)
        } else {
            let [a, b] = state.network;
            let message = format!("{} holds the network {a}.{b}: use another file", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }

    /// Writes a file beside the old one and renames it, so that a reader sees the old or the new state.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, path)
    }

    /// Returns an id that no resource or action has.
    pub(crate) fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Creates the head of a new resource after checking name and labels. Whether the name is free is
    /// checked by the caller.
    pub(crate) fn head(&mut self, name: String, labels: Option<Labels>) -> Result<Head, ApiError> {
        let labels = labels.unwrap_or_default();
        labels::check(&labels)?;
        check_name(&name)?;
        Ok(Head { id: self.id(), name, labels, created: now() })
    }

    /// Begins an action and returns it.
    pub(crate) fn begin(
        &mut self,
        command: &str,
        resources: &[(&str, u64)],
        effect: Effect,
    ) -> Action {
        let action = Action {
            id: self.id(),
            command: command.to_owned(),
            status: Progress::Running,
            progress: 0,
            started: now(),
            finished: None,
            resources: resources.iter().map(|(kind, id)| ((*kind).to_owned(), *id)).collect(),
            error: None,
            effect,
            failure: None,
        };
        self.actions.insert(action.id, action.clone());
        if self.actions.len() > ACTIONS_KEPT {
            let oldest = self.actions.values().find(|action| !action.is_running());
            if let Some(id) = oldest.map(|action| action.id) {
                self.actions.remove(&id);
            }
        }
        action
    }

    /// Ends an action: with success, or with this code and message.
    pub(crate) fn finish(&mut self, id: u64, error: Option<(String, String)>) {
        if let Some(action) = self.actions.get_mut(&id) {
            action.status = if error.is_some() { Progress::Error } else { Progress::Success };
            action.progress = 100;
            action.finished = Some(now());
            action.error = error;
        }
    }

    /// Whether a running action locks this resource.
    pub(crate) fn is_locked(&self, kind: &str, id: u64) -> bool {
        let mut running = self.actions.values().filter(|action| action.is_running());
        running.any(|action| {
            action.resources.first().is_some_and(|(first, number)| first == kind && *number == id)
        })
    }

    /// Refuses a locked resource, with the code that the API uses for its kind.
    pub(crate) fn require_unlocked(&self, kind: &str, id: u64) -> Result<(), ApiError> {
        match (self.is_locked(kind, id), kind) {
            (false, _) => Ok(()),
            (true, "network" | "firewall") => Err(ApiError::conflict(kind)),
            (true, _) => Err(ApiError::locked(kind)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::call::Call;
    use crate::routes;
    use serde_json::json;

    #[test]
    fn the_file_holds_the_whole_state_after_every_kind_of_creation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let mut state = State::open(&path, [127, 72]).unwrap();
        let calls = [
            ("ssh_keys", json!({"name": "k", "public_key": crate::ssh_keys::SAMPLE_KEY})),
            ("placement_groups", json!({"name": "p", "type": "spread"})),
            (
                "networks",
                json!({"name": "n", "ip_range": "10.0.0.0/16", "subnets": [{"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.1.0/24"}]}),
            ),
            (
                "firewalls",
                json!({"name": "f", "rules": [{"direction": "in", "protocol": "icmp", "source_ips": ["0.0.0.0/0", "::/0"]}], "apply_to": [{"type": "label_selector", "label_selector": {"selector": "a=b"}}]}),
            ),
            (
                "primary_ips",
                json!({"name": "i", "type": "ipv4", "assignee_type": "server", "location": "fsn1"}),
            ),
            (
                "servers",
                json!({"name": "s", "server_type": "cax11", "image": "debian-13", "labels": {"a": "b"}, "user_data": "x", "networks": [1003], "location": "fsn1"}),
            ),
            (
                "load_balancers",
                json!({"name": "l", "load_balancer_type": "lb11", "location": "fsn1", "services": [{"protocol": "tcp", "listen_port": 6443, "destination_port": 6443}], "targets": [{"type": "label_selector", "label_selector": {"selector": "a=b"}}]}),
            ),
        ];
        for (family, body) in calls {
            let answer = routes::write(&mut state, &Call::post(family, &body))
                .unwrap_or_else(|error| panic!("{family}: {error:?}"));
            assert_eq!(answer.status, 201, "{family}");
            state.save(&path).unwrap();
            assert_eq!(State::open(&path, [127, 72]).unwrap(), state, "after {family}");
        }
        assert!(State::open(&path, [127, 73]).is_err(), "the state of another network was opened");
    }
}
