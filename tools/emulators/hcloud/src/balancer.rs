//! Load balancers that balance: each listens on its own loopback address and carries TCP to healthy targets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::Cloud;
use crate::health::Peer;
use crate::load_balancers::Algorithm;
use crate::services::Service;

/// How long a target may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long until a port that could not be listened on is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// How long nobody looks when all targets are well, however fast the cloud's seconds are: every look
/// is a connection that somebody accepts, and a lab that rests should cost little.
const AT_REST: Duration = Duration::from_millis(500);

/// A balancer, a port of it, and where it listens.
type Place = (u64, u16, Ipv4Addr);

/// What runs. Dropping a `Running` ends it and its connections.
#[derive(Default)]
pub(crate) struct Balancers {
    running: Mutex<BTreeMap<Place, Running>>,
    /// Tasks of actions, ended with the rest.
    actions: Mutex<Vec<AbortHandle>>,
}

struct Running(Vec<AbortHandle>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Ends everything that runs for a cloud, when the future that serves it is dropped.
pub(crate) struct Until(pub(crate) Arc<Cloud>);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.balancers.running.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for action in
            self.0.balancers.actions.lock().unwrap_or_else(PoisonError::into_inner).drain(..)
        {
            action.abort();
        }
    }
}

impl Balancers {
    /// Remembers the task of an action until it is done.
    pub(crate) fn keep(&self, task: AbortHandle) {
        let mut tasks = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|it| !it.is_finished());
        tasks.push(task);
    }
}

impl Cloud {
    /// Makes what runs equal to what is declared. A service whose port stays goes on undisturbed: everything
    /// else about it is read anew for each connection and each check.
    pub(crate) fn balance(self: &Arc<Self>) {
        let wanted: Vec<Place> = {
            let state = self.state();
            let listening =
                state.load_balancers.iter().filter(|it| it.public || it.private_net.is_some());
            listening
                .flat_map(|it| {
                    it.services.iter().map(|service| (it.head.id, service.listen_port, it.address))
                })
                .collect()
        };
        let mut running = self.balancers.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|place, _| wanted.contains(place) || self.forget(*place));
        for place in wanted {
            running.entry(place).or_insert_with(|| {
                // Bound at once where that is possible, so that who waited for the action can connect.
                let bound = std::net::TcpListener::bind((place.2, place.1)).ok();
                let listen =
                    tokio::spawn(listen(Arc::downgrade(self), place, bound)).abort_handle();
                let check = tokio::spawn(check(Arc::downgrade(self), place)).abort_handle();
                Running(vec![listen, check])
            });
        }
    }

    /// Says `false`, for `retain`.
    fn forget(&self, (id, port, _): Place) -> bool {
        self.state().health.forget(id, port);
        false
    }

    /// The service as it is now, with the targets it has now.
    fn service(&self, (id, port, _): Place) -> Option<(Service, Algorithm, Vec<Peer>)> {
        let state = self.state();
        let balancer = state.load_balancers.seen(id)?;
        let service = balancer.services.iter().find(|it| it.listen_port == port)?.clone();
        let mut peers: Vec<_> =
            balancer.targets.iter().flat_map(|it| it.peers(&state, balancer)).collect();
        peers.sort_unstable();
        peers.dedup();
        Some((service, balancer.algorithm, peers))
    }

    fn healthy(&self, (id, port, _): Place, peers: Vec<Peer>) -> Vec<Peer> {
        let state = self.state();
        peers.into_iter().filter(|it| state.health.is_healthy(id, port, *it)).collect()
    }
}

/// Accepts for ever; connections end with it.
async fn listen(cloud: Weak<Cloud>, place: Place, bound: Option<std::net::TcpListener>) {
    let bound = bound
        .filter(|it| it.set_nonblocking(true).is_ok())
        .and_then(|it| TcpListener::from_std(it).ok());
    let listener = match bound {
        Some(listener) => listener,
        None => loop {
            match TcpListener::bind((place.2, place.1)).await {
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
            let (service, algorithm, peers) = cloud.service(place)?;
            Some((service, algorithm, cloud.healthy(place, peers)))
        }) else {
            return;
        };
        let order =
            order(algorithm, turn, healthy, &open.lock().unwrap_or_else(PoisonError::into_inner));
        turn = turn.wrapping_add(1);
        connections.spawn(carry(client, from, service, order, Arc::clone(&open)));
    }
}

/// Whom to try, in which order.
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
        peers.sort_by_key(|it| open.get(it).copied().unwrap_or(0));
    }
    peers
}

/// Carries one connection, to the first target that accepts it. Each direction ends by itself, so that a
/// client that has said everything still hears the answer.
async fn carry(
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

/// Version 1 of the PROXY protocol.
fn proxy_header(from: SocketAddr, client: &TcpStream) -> String {
    match client.local_addr() {
        Ok(to) => format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()),
        Err(_) => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

/// An open connection to a target, counted while it lives.
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

/// Looks at every target of a service, again and again: a target that accepts a connection is well.
async fn check(cloud: Weak<Cloud>, place: Place) {
    let (id, port, _) = place;
    loop {
        let Some((second, found)) = cloud.upgrade().map(|it| (it.pace.second, it.service(place)))
        else {
            return;
        };
        let Some((service, _, peers)) = found else { return };
        let timeout = Duration::from_secs(service.check.timeout.into());
        let mut looks = JoinSet::new();
        for peer in peers.iter().copied() {
            let to = SocketAddr::from((peer.address(), service.check.port));
            looks.spawn(async move {
                (
                    peer,
                    matches!(
                        tokio::time::timeout(timeout, TcpStream::connect(to)).await,
                        Ok(Ok(_))
                    ),
                )
            });
        }
        let mut well = !peers.is_empty();
        while let Some(look) = looks.join_next().await {
            let (Ok((peer, good)), Some(cloud)) = (look, cloud.upgrade()) else { continue };
            let health = &mut cloud.state().health;
            health.note(id, port, peer, good, service.check.retries);
            well &= good && health.is_healthy(id, port, peer);
        }
        if let Some(cloud) = cloud.upgrade() {
            cloud.state().health.keep(id, port, &peers);
        }
        let pause = second * service.check.interval;
        tokio::time::sleep(if well { pause.max(AT_REST) } else { pause }).await;
    }
}
