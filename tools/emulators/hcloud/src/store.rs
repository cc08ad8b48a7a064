//! Everything there is, and its file.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action::Action;
use crate::call::Call;
use crate::error::Refusal;
use crate::firewalls::Firewall;
use crate::health::Health;
use crate::images::Image;
use crate::labels::{self, Labels};
use crate::load_balancers::LoadBalancer;
use crate::networks::Network;
use crate::placement_groups::PlacementGroup;
use crate::primary_ips::PrimaryIp;
use crate::servers::{self, Server};
use crate::ssh_keys::SshKey;
use crate::volumes::Volume;

/// What every resource has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) created: String,
}

/// What the API calls the resource, in error messages and in `resources` of an action.
pub(crate) trait Resource {
    const KIND: &'static str;
    fn head(&self) -> &Head;
    fn head_mut(&mut self) -> &mut Head;
}

/// `Resource` for a struct with a `head`.
macro_rules! resource {
    ($type:ty, $kind:literal) => {
        impl crate::store::Resource for $type {
            const KIND: &'static str = $kind;
            fn head(&self) -> &crate::store::Head {
                &self.head
            }
            fn head_mut(&mut self) -> &mut crate::store::Head {
                &mut self.head
            }
        }
    };
}
pub(crate) use resource;

/// The resources of one kind, by id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
pub(crate) struct Table<T>(BTreeMap<u64, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Resource> Table<T> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut()
    }

    /// For what may be gone by now.
    pub(crate) fn seen(&self, id: u64) -> Option<&T> {
        self.0.get(&id)
    }

    pub(crate) fn seen_mut(&mut self, id: u64) -> Option<&mut T> {
        self.0.get_mut(&id)
    }

    pub(crate) fn get(&self, id: u64) -> Result<&T, Refusal> {
        self.0.get(&id).ok_or_else(|| Refusal::not_found(T::KIND, id))
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Result<&mut T, Refusal> {
        self.0.get_mut(&id).ok_or_else(|| Refusal::not_found(T::KIND, id))
    }

    pub(crate) fn insert(&mut self, resource: T) {
        self.0.insert(resource.head().id, resource);
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        self.0.remove(&id)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.0.retain(|_, it| keep(it));
    }

    /// Refuses a name that another of the kind has.
    pub(crate) fn unique(&self, name: &str, own: u64) -> Result<(), Refusal> {
        let taken = self.iter().any(|it| it.head().name == name && it.head().id != own);
        if taken { Err(Refusal::taken(T::KIND, "name")) } else { Ok(()) }
    }

    /// Renames and relabels, as every `PUT` may.
    pub(crate) fn update(&mut self, id: u64, call: &Call) -> Result<&mut T, Refusal> {
        #[derive(Deserialize)]
        struct Input {
            name: Option<String>,
            labels: Option<Labels>,
        }
        let input: Input = call.input()?;
        self.get(id)?;
        if let Some(name) = &input.name {
            named(name)?;
            self.unique(name, id)?;
        }
        labels::check(input.labels.as_ref().unwrap_or(&Labels::new()))?;
        let resource = self.get_mut(id)?;
        let head = resource.head_mut();
        if let Some(name) = input.name {
            head.name = name;
        }
        if let Some(labels) = input.labels {
            head.labels = labels;
        }
        Ok(resource)
    }
}

/// Refuses a name that nothing may have.
pub(crate) fn named(name: &str) -> Result<(), Refusal> {
    if (1..=128).contains(&name.chars().count()) {
        Ok(())
    } else {
        Err(Refusal::invalid(&[("name", "must have 1 to 128 characters")]))
    }
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) network: [u8; 2],
    /// Counts up for ever, for resources and actions alike.
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
    /// Seen, not kept.
    #[serde(skip)]
    pub(crate) health: Health,
}

impl State {
    /// An empty project, with the images that are there before anybody came.
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
            health: Health::default(),
        };
        for image in crate::images::ready_made() {
            state.images.insert(image);
        }
        state
    }

    pub(crate) fn open(path: &Path, network: [u8; 2]) -> io::Result<Self> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
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
            Err(wrong(format!(
                "{} was made for the network {a}.{b}: use another file",
                path.display()
            )))
        }
    }

    /// Writes beside the file, then renames: a reader sees the old state or the new one.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, path)
    }

    pub(crate) fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The head of something new: its labels checked, its name not.
    pub(crate) fn head(&mut self, name: String, labels: Option<Labels>) -> Result<Head, Refusal> {
        let labels = labels.unwrap_or_default();
        labels::check(&labels)?;
        named(&name)?;
        Ok(Head { id: self.id(), name, labels, created: now() })
    }

    /// The machines that are on.
    pub(crate) fn running(&self) -> Vec<crate::Server> {
        let on = self.servers.iter().filter(|it| it.status == servers::Status::Running);
        on.map(|it| it.machine(self)).collect()
    }
}

/// The time as the API writes it.
pub(crate) fn now() -> String {
    let second = jiff::Unit::Second;
    let now = jiff::Timestamp::now();
    now.round(second).unwrap_or(now).to_string()
}

/// The fields that all resources share, as JSON.
pub(crate) fn shown(head: &Head, more: Value) -> Value {
    let mut all = serde_json::json!({"id": head.id, "name": head.name, "labels": head.labels, "created": head.created});
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::routes;
    use serde_json::json;

    #[test]
    fn a_state_that_is_read_again_is_the_same_after_every_call_of_a_whole_life() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let mut state = State::open(&path, [127, 72]).unwrap();
        let calls = [
            ("ssh_keys", json!({"name": "k", "public_key": crate::ssh_keys::SAMPLE})),
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
        for (path_of, body) in calls {
            let call = Call {
                method: "POST".into(),
                path: vec![path_of.into()],
                query: vec![],
                body: body.to_string().into_bytes(),
            };
            let answer = routes::write(&mut state, &call)
                .unwrap_or_else(|error| panic!("{path_of}: {error:?}"));
            assert_eq!(answer.status, 201, "{path_of}");
            state.save(&path).unwrap();
            assert_eq!(State::open(&path, [127, 72]).unwrap(), state, "after {path_of}");
        }
        assert!(State::open(&path, [127, 73]).is_err(), "a state of another network was taken");
    }
}
