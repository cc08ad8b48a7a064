//! State of etcd: as each control plane reports it, and merged over the cluster.

use std::collections::BTreeMap;

use super::{ActualState, DesiredState, History, Machine, Node, Server};
use crate::spec::Role;

/// State of etcd as control planes report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Etcd {
    /// A control plane does not answer, or proves neither that etcd runs nor that it has no data.
    Unknown,
    /// Every control plane that has a configuration proves that it has no data of etcd.
    Absent,
    /// etcd runs and has these members.
    Members(Vec<Member>),
    /// etcd runs on every control plane that has data of etcd, and no member knows a leader for longer than
    /// an election takes. Without a leader, etcd lists no members.
    Leaderless {
        /// Number of members that were asked: one in the report of a single control plane.
        members: usize,
    },
}

/// Member in etcd's own list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Name of the member's machine.
    pub hostname: String,
    /// Member id; etcd's own tools show it in hex.
    pub id: u64,
    /// Whether the member is a learner: it receives data without a vote, and does not count for
    /// quorum.
    pub learner: bool,
}

impl Member {
    /// Returns the id in hex, as etcd's own tools show it.
    #[must_use]
    pub fn hex(&self) -> String {
        format!("{:x}", self.id)
    }
}

impl Etcd {
    /// Merges the reports of all control planes of the cluster. `reported` returns the report of
    /// one server, if it was asked.
    ///
    /// A server without a role may be a control plane that lost its label, so it counts as a
    /// control plane. A machine in maintenance mode is skipped, because it gets a configuration
    /// first.
    #[must_use]
    pub fn merge<'a>(
        servers: &BTreeMap<String, Server>,
        reported: impl Fn(&str) -> Option<&'a Self>,
    ) -> Self {
        let controls =
            servers.iter().filter(|(_, server)| server.ours && server.role != Some(Role::Worker));
        let (mut together, mut leaderless) = (Self::Absent, 0);
        for (name, server) in controls {
            let report = match (&server.node, reported(name)) {
                (Node::Maintenance, _) => continue,
                (Node::Configured { .. }, Some(report)) => report,
                (Node::Configured { .. } | Node::Unreachable { .. } | Node::Foreign { .. }, _) => {
                    &Self::Unknown
                }
            };
            match report {
                Self::Members(_) => return report.clone(),
                Self::Unknown => together = Self::Unknown,
                Self::Leaderless { members } => leaderless += members,
                Self::Absent => {}
            }
        }
        match together {
            Self::Absent if leaderless > 0 => Self::Leaderless { members: leaderless },
            together => together,
        }
    }
}

/// Decision about the start of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start<'a> {
    /// Do not start etcd: it runs, or the reports do not prove that it never ran.
    Nowhere,
    /// Start etcd on this control plane, once all control planes prove that they have no data.
    On(&'a str),
    /// Do not start etcd: it was started before, and all of its data is gone.
    Before(History),
}

impl<'a> Start<'a> {
    /// Decides from the reports of all control planes and from the record.
    pub(crate) fn decide(desired: &'a DesiredState, actual: &ActualState) -> Self {
        if actual.etcd != Etcd::Absent {
            return Self::Nowhere;
        }
        let history = actual.history();
        let id = |name: &str| actual.servers.get(name).map(|server| server.id);
        let is_control = |(_, machine): &(&String, &Machine)| machine.role == Role::Controlplane;
        let is_ours = |name: &str| actual.servers.get(name).is_none_or(|server| server.ours);
        let controls = desired.machines.iter().filter(is_control).map(|(name, _)| name.as_str());
        let mut controls: Vec<_> = controls.filter(|name| is_ours(name)).collect();
        // Prefer the server that received the request before, and otherwise the oldest server. If
        // any machine has data after all, it is most likely this one, and it then rejects the
        // request.
        controls.sort_by_key(|name| (id(name).unwrap_or(u64::MAX), *name));
        let allowed = |name: &&str| history.allows_bootstrap(desired.incarnation, id(name));
        match controls.iter().copied().find(allowed) {
            Some(name) => Self::On(name),
            None if controls.is_empty() => Self::Nowhere,
            None => Self::Before(history),
        }
    }
}

impl ActualState {
    /// Returns whether `Bootstrap` may be sent now. Every declared control plane must exist and
    /// prove that it has no data of etcd, every other control plane of the cluster must answer, and
    /// the record must allow a start on `name`.
    #[must_use]
    pub fn proves_no_etcd(&self, desired: &DesiredState, name: &str) -> bool {
        let is_configured = |name: &String| {
            let server = self.servers.get(name);
            server.is_some_and(|server| server.ours && server.node.is_configured())
        };
        let mut controls = desired
            .machines
            .iter()
            .filter(|(_, machine)| machine.role == Role::Controlplane)
            .map(|(name, _)| name);
        Start::decide(desired, self) == Start::On(name) && controls.all(is_configured)
    }

    /// Returns the reason for which a new worker cannot be configured yet. A worker gets its
    /// certificate from a control plane that it may find through Kubernetes alone, so `apply` would
    /// wait for it in vain until etcd runs. After an interrupted run, booting control planes show
    /// neither members nor an empty disk for a while.
    #[must_use]
    pub fn keeps_workers_waiting(&self) -> Option<String> {
        match self.etcd {
            Etcd::Members(_) => None,
            Etcd::Leaderless { .. } => Some("etcd has no leader".to_owned()),
            Etcd::Absent | Etcd::Unknown => {
                Some("no control plane reports yet whether its disk has data of etcd".to_owned())
            }
        }
    }

    /// Returns whether etcd has lost its quorum for good: no machine with further data exists, and those
    /// that have data are fewer than the majority of the declared control planes.
    ///
    /// If a majority runs without a leader, for example because its disks are slow, a leader may still be
    /// elected.
    #[must_use]
    pub(crate) fn has_lost_quorum(&self, desired: &DesiredState) -> bool {
        let machines = desired.machines.values();
        let declared = machines.filter(|machine| machine.role == Role::Controlplane).count();
        matches!(self.etcd, Etcd::Leaderless { members } if members <= declared / 2)
    }

    /// Returns the record that has to be written because etcd has members, or `None` if it is
    /// written.
    #[must_use]
    pub(crate) fn due_record(&self, desired: &DesiredState) -> Option<u16> {
        let recorded = match (&self.etcd, self.history()) {
            (Etcd::Absent | Etcd::Unknown | Etcd::Leaderless { .. }, _) => return None,
            (Etcd::Members(_), History::Begun { incarnation }) => Some(incarnation),
            (Etcd::Members(_), History::Never | History::Starting { .. } | History::Unknown) => {
                None
            }
        };
        // A number that was raised while the cluster lives is used up, so that it cannot start a
        // second cluster later.
        let due = recorded.unwrap_or(0).max(desired.incarnation);
        (recorded != Some(due)).then_some(due)
    }
}
