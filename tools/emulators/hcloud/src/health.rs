//! What is known of the health of targets. Seen, never kept.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Whom a balancer sends traffic to.
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

/// One target of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Nothing, until one check went well or enough went badly.
    healthy: Option<bool>,
    /// Checks in a row that said the opposite.
    against: u32,
}

impl Seen {
    /// One good check makes an unknown target healthy; else it takes `retries` in a row to change a mind.
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

/// By balancer, listening port and target.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Health(BTreeMap<(u64, u16, Peer), Seen>);

impl Health {
    pub(crate) fn note(&mut self, balancer: u64, port: u16, peer: Peer, good: bool, retries: u32) {
        let seen = self.0.entry((balancer, port, peer)).or_default();
        *seen = seen.after(good, retries);
    }

    /// Forgets who is a target no longer.
    pub(crate) fn keep(&mut self, balancer: u64, port: u16, peers: &[Peer]) {
        self.0.retain(|(of, at, peer), _| (*of, *at) != (balancer, port) || peers.contains(peer));
    }

    pub(crate) fn forget(&mut self, balancer: u64, port: u16) {
        self.keep(balancer, port, &[]);
    }

    pub(crate) fn is_healthy(&self, balancer: u64, port: u16, peer: Peer) -> bool {
        self.0.get(&(balancer, port, peer)).and_then(|it| it.healthy) == Some(true)
    }

    /// The word that the API has for it.
    pub(crate) fn shown(&self, balancer: u64, port: u16, peer: &Peer) -> &'static str {
        match self.0.get(&(balancer, port, *peer)).and_then(|it| it.healthy) {
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
    fn a_target_changes_only_after_as_many_checks_in_a_row_as_there_are_retries() {
        for retries in 1..=5 {
            // Every sequence of ten checks.
            for sequence in 0..1024_u32 {
                let checks: Vec<bool> = (0..10).map(|it| sequence >> it & 1 == 1).collect();
                let mut seen = Seen::default();
                for end in 1..=checks.len() {
                    let before = seen.healthy;
                    seen = seen.after(checks[end - 1], retries);
                    let row =
                        checks[..end].iter().rev().take_while(|it| **it == checks[end - 1]).count();
                    let enough = row >= retries as usize || (before.is_none() && checks[end - 1]);
                    assert_eq!(
                        seen.healthy != before,
                        enough && before != Some(checks[end - 1]),
                        "{checks:?} {end} {retries}"
                    );
                }
            }
        }
    }
}
