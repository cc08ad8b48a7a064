//! The health of the cluster, as one of its machines sees it.

use std::sync::Arc;
use std::time::Duration;

use talos_provision::wire::{HealthCheck, HealthCheckProgress};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::Stream;
use tonic::Status;

use super::Answers;
use super::machine::active;
use crate::config::Configuration;
use crate::machine::Machine;

const PAUSE: Duration = Duration::from_millis(500);
/// How long is waited unless the caller says so, and at most.
const WAIT: Duration = Duration::from_secs(300);

/// Waits for one check after the other, and says so.
pub(super) fn health(
    machine: &Arc<Machine>,
    asked: &HealthCheck,
) -> Result<Answers<HealthCheckProgress>, Status> {
    let config = active(machine)?;
    let wait = asked
        .wait_timeout
        .as_ref()
        .and_then(|it| u64::try_from(it.seconds).ok())
        .filter(|it| *it > 0);
    let end = Instant::now() + wait.map_or(WAIT, Duration::from_secs).min(WAIT);
    let (tell, told) = mpsc::channel(16);
    let machine = machine.clone();
    tokio::spawn(async move {
        for check in [
            "etcd to be healthy",
            "apid to be ready",
            "kubelet to be healthy",
            "control plane components to be ready",
        ] {
            loop {
                let well = is_well(&machine, &config, check);
                let word = if well { "OK" } else { "..." };
                let message = format!("waiting for {check}: {word}");
                if tell.send(Ok(HealthCheckProgress { metadata: None, message })).await.is_err() {
                    return;
                }
                if well {
                    break;
                }
                if Instant::now() > end {
                    let late = Status::deadline_exceeded(format!("{check}: not in time"));
                    let _ = tell.send(Err(late)).await;
                    return;
                }
                sleep(PAUSE).await;
            }
        }
    });
    Ok(Box::pin(Told(told)))
}

fn is_well(machine: &Machine, config: &Configuration, check: &str) -> bool {
    match check {
        "etcd to be healthy" => config.control_plane.is_none() || machine.view.is_well("etcd"),
        "apid to be ready" => machine.view.is_well("apid"),
        "kubelet to be healthy" => {
            machine.view.is_well("kubelet")
                || machine.fleet.settings.node != crate::fleet::Node::Real
        }
        _ => machine.fleet.kubernetes(config).is_some(),
    }
}

struct Told(mpsc::Receiver<Result<HealthCheckProgress, Status>>);

impl Stream for Told {
    type Item = Result<HealthCheckProgress, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
