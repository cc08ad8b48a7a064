//! The traffic of load balancers: each listens on its own loopback address and forwards TCP to healthy
//! targets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cloud::Cloud;
use crate::health::Peer;
use crate::model::{Algorithm, Service};
use crate::tasks::{Listening, ServiceTasks};

/// Time that a target may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Pause before another attempt to listen or to accept.
const AGAIN: Duration = Duration::from_millis(20);
/// Shortest pause between two checks while all targets are healthy. Each check is a connection that a
/// machine must accept, so frequent checks would cost an idle lab CPU time.
const AT_REST: Duration = Duration::from_millis(500);

impl Cloud {
    /// Starts and ends listeners until they match the declared services. A service that keeps its port
    /// keeps its connections: everything else about it is read again for each connection and each check.
    pub(crate) fn balance(self: &Arc<Self>) {
        let wanted: Vec<Listening> = {
            let state = self.state();
            let balancers = state.load_balancers.iter();
            balancers
                .filter(|balancer| balancer.public || balancer.private_net.is_some())
                .flat_map(|balancer| {
                    let ports = balancer.services.iter().map(|service| service.listen_port);
                    ports.map(|port| (balancer.head.id, port, balancer.address))
                })
                .collect()
        };
        let mut running = self.tasks.services();
        running.retain(|listening, _| {
            let (id, port, _) = *listening;
            let keep = wanted.contains(listening);
            if !keep {
                self.state().health.forget(id, port);
            }
            keep
        });
        for listening in wanted {
            running.entry(listening).or_insert_with(|| {
                // Bound before the action ends if possible, so that a client which waited for the action
                // can connect.
                let (_, port, address) = listening;
                let bound = std::net::TcpListener::bind((address, port)).ok();
                let listen = tokio::spawn(listen(Arc::downgrade(self), listening, bound));
                let check = tokio::spawn(check(Arc::downgrade(self), listening));
                ServiceTasks(vec![listen.abort_handle(), check.abort_handle()])
            });
        }
    }

    /// Returns the current service, its algorithm, and its current targets.
    fn service(&self, (id, port, _): Listening) -> Option<(Service, Algorithm, Vec<Peer>)> {
        let state = self.state();
        let balancer = state.load_balancers.find(id)?;
        let service = balancer.services.iter().find(|service| service.listen_port == port)?.clone();
        let mut peers: Vec<_> =
            balancer.targets.iter().flat_map(|target| target.peers(&state, balancer)).collect();
        peers.sort_unstable();
        peers.dedup();
        Some((service, balancer.algorithm, peers))
    }

    fn healthy(&self, (id, port, _): Listening, peers: Vec<Peer>) -> Vec<Peer> {
        let state = self.state();
        peers.into_iter().filter(|peer| state.health.is_healthy(id, port, *peer)).collect()
    }
}

/// Accepts connections until the task is aborted. The connections end with the task.
async fn listen(cloud: Weak<Cloud>, listening: Listening, bound: Option<std::net::TcpListener>) {
    let bound = bound
        .filter(|listener| listener.set_nonblocking(true).is_ok())
        .and_then(|listener| TcpListener::from_std(listener).ok());
    let listener = match bound {
        Some(listener) => listener,
        None => loop {
            match TcpListener::bind((listening.2, listening.1)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        },
    };
    let open = Arc::new(Mutex::new(BTreeMap::<Peer, usize>::new()));
    let mut connections = JoinSet::new();
    let mut turn = 0_usize;
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, from)) = listener.accept().await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let Some((service, algorithm, healthy)) = cloud.upgrade().and_then(|cloud| {
            let (service, algorithm, peers) = cloud.service(listening)?;
            Some((service, algorithm, cloud.healthy(listening, peers)))
        }) else {
            return;
        };
        let order =
            order(algorithm, turn, healthy, &open.lock().unwrap_or_else(PoisonError::into_inner));
        turn = turn.wrapping_add(1);
        connections.spawn(forward(client, from, service, order, Arc::clone(&open)));
    }
}

/// Returns the peers in the order in which a connection tries them.
fn order(
    algorithm: Algorithm,
    turn: usize,
    mut peers: Vec<Peer>,
    open: &BTreeMap<Peer, usize>,
) -> Vec<Peer> {
    if !peers.is_empty() {
        let turn = turn % peers.len();
        peers.rotate_left(turn);
    }
    if algorithm == Algorithm::LeastConnections {
        peers.sort_by_key(|peer| open.get(peer).copied().unwrap_or(0));
    }
    peers
}

/// Forwards one connection to the first target that accepts it. Each direction ends by itself, so that a
/// client which has closed its sending half still receives the answer.
async fn forward(
    mut client: TcpStream,
    from: SocketAddr,
    service: Service,
    order: Vec<Peer>,
    open: Arc<Mutex<BTreeMap<Peer, usize>>>,
) {
    for peer in order {
        let to = SocketAddr::from((peer.address(), service.destination_port));
        let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await else {
            continue;
        };
        let _counted = Counted::new(peer, open);
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        if service.proxyprotocol
            && server.write_all(proxy_header(from, &client).as_bytes()).await.is_err()
        {
            return;
        }
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}

/// Returns the header of the PROXY protocol, version 1
/// (<https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>).
fn proxy_header(from: SocketAddr, client: &TcpStream) -> String {
    match client.local_addr() {
        Ok(to) => format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()),
        Err(_) => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

/// An open connection to a target. The count of open connections includes it until it is dropped.
struct Counted(Peer, Arc<Mutex<BTreeMap<Peer, usize>>>);

impl Counted {
    fn new(peer: Peer, open: Arc<Mutex<BTreeMap<Peer, usize>>>) -> Self {
        *open.lock().unwrap_or_else(PoisonError::into_inner).entry(peer).or_default() += 1;
        Self(peer, open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(count) = self.1.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.0)
        {
            *count = count.saturating_sub(1);
        }
    }
}

/// Checks every target of a service repeatedly. A target that accepts a connection is healthy.
async fn check(cloud: Weak<Cloud>, listening: Listening) {
    let (id, port, _) = listening;
    loop {
        let Some((second, found)) =
            cloud.upgrade().map(|cloud| (cloud.pace.second, cloud.service(listening)))
        else {
            return;
        };
        let Some((service, _, peers)) = found else { return };
        let timeout = Duration::from_secs(service.check.timeout.into());
        let mut checks = JoinSet::new();
        for peer in peers.iter().copied() {
            let to = SocketAddr::from((peer.address(), service.check.port));
            checks.spawn(async move {
                (
                    peer,
                    matches!(
                        tokio::time::timeout(timeout, TcpStream::connect(to)).await,
                        Ok(Ok(_))
                    ),
                )
            });
        }
        let mut all_healthy = !peers.is_empty();
        while let Some(checked) = checks.join_next().await {
            let (Ok((peer, good)), Some(cloud)) = (checked, cloud.upgrade()) else { continue };
            let health = &mut cloud.state().health;
            health.note(id, port, peer, good, service.check.retries);
            all_healthy &= good && health.is_healthy(id, port, peer);
        }
        if let Some(cloud) = cloud.upgrade() {
            cloud.state().health.keep(id, port, &peers);
        }
        let pause = second * service.check.interval;
        tokio::time::sleep(if all_healthy { pause.max(AT_REST) } else { pause }).await;
    }
}
