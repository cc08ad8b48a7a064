//! Health of the targets of load balancers. It is observed by checks and never stored.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A machine or address that a balancer sends traffic to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Server(u64, Ipv4Addr),
    Ip(Ipv4Addr),
}

impl Peer {
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Self::Server(_, address) | Self::Ip(address) => address,
        }
    }

    pub(crate) fn id(self) -> Option<u64> {
        match self {
            Self::Server(id, _) => Some(id),
            Self::Ip(_) => None,
        }
    }
}

/// Health of one target of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TargetHealth {
    /// `None` until one check succeeds or enough checks fail.
    healthy: Option<bool>,
    /// Number of consecutive checks that contradicted `healthy`.
    against: u32,
}

impl TargetHealth {
    /// Returns the health after one more check. One success makes an unknown target healthy; every other
    /// change takes `retries` consecutive checks.
    fn after(self, good: bool, retries: u32) -> Self {
        if self.healthy == Some(good) || (self.healthy.is_none() && good) {
            return Self { healthy: Some(good), against: 0 };
        }
        if self.against + 1 >= retries {
            Self { healthy: Some(good), against: 0 }
        } else {
            Self { against: self.against + 1, ..self }
        }
    }
}

/// Health of every target, keyed by balancer, listening port and target.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Health(BTreeMap<(u64, u16, Peer), TargetHealth>);

impl Health {
    pub(crate) fn note(&mut self, balancer: u64, port: u16, peer: Peer, good: bool, retries: u32) {
        let health = self.0.entry((balancer, port, peer)).or_default();
        *health = health.after(good, retries);
    }

    /// Forgets the peers of a service that are no longer among its targets.
    pub(crate) fn keep(&mut self, balancer: u64, port: u16, peers: &[Peer]) {
        self.0.retain(|(id, listening, peer), _| {
            (*id, *listening) != (balancer, port) || peers.contains(peer)
        });
    }

    pub(crate) fn forget(&mut self, balancer: u64, port: u16) {
        self.keep(balancer, port, &[]);
    }

    pub(crate) fn is_healthy(&self, balancer: u64, port: u16, peer: Peer) -> bool {
        self.0.get(&(balancer, port, peer)).and_then(|health| health.healthy) == Some(true)
    }

    /// Returns the API's word for the health of a target.
    pub(crate) fn word(&self, balancer: u64, port: u16, peer: &Peer) -> &'static str {
        match self.0.get(&(balancer, port, *peer)).and_then(|health| health.healthy) {
            Some(true) => "healthy",
            Some(false) => "unhealthy",
            None => "unknown",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_target_changes_only_after_as_many_consecutive_checks_as_retries() {
        for retries in 1..=5 {
            // Every sequence of ten checks.
            for sequence in 0..1024_u32 {
                let checks: Vec<bool> = (0..10).map(|bit| sequence >> bit & 1 == 1).collect();
                let mut health = TargetHealth::default();
                for end in 1..=checks.len() {
                    let before = health.healthy;
                    health = health.after(checks[end - 1], retries);
                    let last = checks[end - 1];
                    let row =
                        checks[..end].iter().rev().take_while(|check| **check == last).count();
                    let enough = row >= retries as usize || (before.is_none() && checks[end - 1]);
                    assert_eq!(
                        health.healthy != before,
                        enough && before != Some(checks[end - 1]),
                        "{checks:?} {end} {retries}"
                    );
                }
            }
        }
    }
}
