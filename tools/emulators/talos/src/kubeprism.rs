//! `KubePrism`: one local address that forwards to an API server of the cluster that answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::{Attempt, Error};

const CONNECT: Duration = Duration::from_secs(1);
/// Most concurrent connections, so that clients cannot exhaust file descriptors.
const CONNECTIONS_MAX: usize = 1024;

/// Forwards connections until the task is aborted. `servers` returns the API servers to try, in order.
pub(crate) async fn serve(
    listener: TcpListener,
    servers: impl Fn() -> Vec<Ipv4Addr> + Clone + Send + Sync + 'static,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((mut here, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let servers = servers();
        tokio::spawn(async move {
            let _permit = permit;
            for server in servers {
                let there = TcpStream::connect(SocketAddr::from((server, 6443)));
                if let Ok(Ok(mut there)) = timeout(CONNECT, there).await {
                    let _ = here.set_nodelay(true);
                    let _ = there.set_nodelay(true);
                    let _ = copy_bidirectional(&mut here, &mut there).await;
                    return;
                }
            }
        });
    }
}

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.attempt(format!("cannot listen on {address}"))
}
