//! The call `HealthCheck`: the health of the cluster as one machine observes it.

use std::sync::Arc;
use std::time::Duration;

use talos_api::cluster::{HealthCheckProgress, HealthCheckRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::Stream;
use tonic::Status;

use super::Answers;
use super::service::active;
use crate::config::Configuration;
use crate::machine::Machine;

const PAUSE: Duration = Duration::from_millis(500);
/// Default and longest time that a health check waits.
const WAIT: Duration = Duration::from_secs(300);

/// Waits for one check after the other, and streams the progress.
pub(super) fn health(
    machine: &Arc<Machine>,
    request: &HealthCheckRequest,
) -> Result<Answers<HealthCheckProgress>, Status> {
    let config = active(machine)?;
    let wait = request
        .wait_timeout
        .as_ref()
        .and_then(|timeout| u64::try_from(timeout.seconds).ok())
        .filter(|seconds| *seconds > 0);
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
                let is_healthy = is_healthy(&machine, &config, check);
                let word = if is_healthy { "OK" } else { "..." };
                let message = format!("waiting for {check}: {word}");
                if tell.send(Ok(HealthCheckProgress { message })).await.is_err() {
                    return;
                }
                if is_healthy {
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
    Ok(Box::pin(ProgressStream(told)))
}

fn is_healthy(machine: &Machine, config: &Configuration, check: &str) -> bool {
    match check {
        "etcd to be healthy" => config.control_plane.is_none() || machine.view.is_healthy("etcd"),
        "apid to be ready" => machine.view.is_healthy("apid"),
        "kubelet to be healthy" => {
            machine.view.is_healthy("kubelet")
                || machine.shared.settings.node != crate::settings::Node::Real
        }
        _ => machine.shared.kubernetes(config).is_some(),
    }
}

struct ProgressStream(mpsc::Receiver<Result<HealthCheckProgress, Status>>);

impl Stream for ProgressStream {
    type Item = Result<HealthCheckProgress, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
