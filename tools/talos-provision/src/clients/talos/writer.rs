//! Changes on machines. No other code sends requests that change a machine.

use std::time::Duration;

use documents::WritePermit;
use talos_api::machine::apply_configuration_request::Mode;
use talos_api::machine::{
    ApplyConfigurationRequest, BootstrapRequest, EtcdForfeitLeadershipRequest,
    EtcdLeaveClusterRequest, EtcdRemoveMemberByIdRequest,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::channel::{Connection, answer, single};
use super::{Access, NodeState, Reader, Reboot, Target, error_text, redact, runtime};
use crate::Error;
use crate::pki::sha256_hex;
use crate::plan::{Conflict, Etcd};
use crate::registries;
use crate::spec::{Cni, FirstContact};

/// Longest time for a machine to answer and to activate its configuration, in seconds.
const CONFIGURE_SECONDS_MAX: u64 = 600;
/// Longest time for which a request to etcd is repeated, in seconds.
const BOOTSTRAP_SECONDS_MAX: u64 = 300;
/// Pause between two attempts, in milliseconds.
const PAUSE_MILLISECONDS: u64 = 250;

/// Writes to the machines that a [`Reader`] observes.
#[derive(Debug)]
pub(crate) struct Writer<'a>(&'a Reader);

/// Machine, and the configuration that it must have.
#[derive(Clone)]
pub(crate) struct ConfigureRequest {
    pub(crate) target: Target,
    pub(crate) configuration: Zeroizing<String>,
    /// Whether the machine works already. It must then be ready again before the next machine is
    /// changed.
    pub(crate) alive: bool,
    /// Rule for a machine whose identity is not proven.
    pub(crate) first_contact: FirstContact,
    /// Network plugin that the document declares.
    pub(crate) cni: Cni,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(reader: &'a Reader, _permit: &WritePermit) -> Self {
        Self(reader)
    }

    /// Sends every machine its configuration, concurrently, and waits until it is active. Returns the
    /// machines that answered that they reboot for it.
    pub(crate) fn configure(&self, requests: Vec<ConfigureRequest>) -> Result<Vec<Reboot>, Error> {
        runtime()?.block_on(async {
            let mut tasks = JoinSet::new();
            for desired in requests {
                let reader = self.0.clone();
                tasks.spawn(async move {
                    let step = documents::step(&desired.target.name, "wait for the configuration");
                    let end = configure_machine(&reader, &desired).await;
                    if end.is_ok() {
                        step.done("the configuration is active, and the machine shows a certificate of this cluster");
                    }
                    end
                });
            }
            // Wait for all tasks: the failure of one machine must not interrupt the configuration
            // of another.
            let ends: Result<Vec<_>, Error> = tasks.join_all().await.into_iter().collect();
            Ok(ends?.into_iter().flatten().collect())
        })
    }

    /// Starts etcd on `target`. Counts as done if etcd was started before.
    pub(crate) fn bootstrap(&self, target: &Target) -> Result<(), Error> {
        let request = async |connection: &mut Connection| {
            answer(connection.machine.bootstrap(BootstrapRequest {})).await.map(drop)
        };
        self.ask(target, &request, |code| code == Code::AlreadyExists)
    }

    /// Removes a member from etcd with a request to another member. Counts as done if the member is
    /// gone.
    pub(crate) fn remove_member(&self, target: &Target, id: u64) -> Result<(), Error> {
        let request = async |connection: &mut Connection| {
            let request = EtcdRemoveMemberByIdRequest { member_id: id };
            answer(connection.machine.etcd_remove_member_by_id(request)).await.map(drop)
        };
        self.ask(target, &request, |code| code == Code::NotFound)
    }

    /// Hands over the leadership of a control plane, and lets it leave etcd.
    pub(crate) fn leave(&self, target: &Target) -> Result<(), Error> {
        // Handing over is optional: without it, the other members elect a leader a moment later.
        let forfeit = async |connection: &mut Connection| {
            let request = EtcdForfeitLeadershipRequest {};
            answer(connection.machine.etcd_forfeit_leadership(request)).await.map(drop)
        };
        // The last member cannot hand over, and the request to leave says why it cannot leave.
        self.ask(target, &forfeit, |code| matches!(code, Code::Unimplemented | Code::Unknown))?;
        let leave = async |connection: &mut Connection| {
            answer(connection.machine.etcd_leave_cluster(EtcdLeaveClusterRequest {}))
                .await
                .map(drop)
        };
        self.ask(target, &leave, |_| false)
    }

    /// Repeats a request until it succeeds or fails permanently. `done` selects the error codes
    /// that mean that an earlier request had the same effect.
    fn ask(
        &self,
        target: &Target,
        request: &impl AsyncFn(&mut Connection) -> Result<(), Status>,
        done: impl Fn(Code) -> bool,
    ) -> Result<(), Error> {
        runtime()?.block_on(async {
            let until = Instant::now() + Duration::from_secs(BOOTSTRAP_SECONDS_MAX);
            loop {
                documents::check_interrupt()?;
                let why = match self.0.connect(target).await {
                    Access::Secure(mut connection) => match request(&mut connection).await {
                        Ok(()) => return Ok(()),
                        Err(status) if done(status.code()) => return Ok(()),
                        Err(status) if is_temporary(&status) => error_text(&status),
                        Err(status) => return Err(node_error(target, &status)),
                    },
                    Access::Unreachable(why) => why,
                    Access::Maintenance(_) => "the machine waits for its configuration".to_owned(),
                    Access::Foreign(why) => return Err(Error::foreign(&target.name, why)),
                };
                pause(until, target, why).await?;
            }
        })
    }
}

/// Waits for the machine, sends the configuration unless the machine has it, and waits until it is
/// active. Returns the reboot that the machine announced.
pub(super) async fn configure_machine(
    reader: &Reader,
    desired: &ConfigureRequest,
) -> Result<Option<Reboot>, Error> {
    let (target, bytes) = (&desired.target, desired.configuration.as_bytes());
    let digest = sha256_hex(bytes);
    let until = Instant::now() + Duration::from_secs(CONFIGURE_SECONDS_MAX);
    let (mut sent, mut reboot) = (false, None);
    loop {
        documents::check_interrupt()?;
        let mut mode = Mode::Auto;
        let mut connection = match reader.connect(target).await {
            Access::Unreachable(why) => {
                pause(until, target, why).await?;
                continue;
            }
            Access::Foreign(why) => return Err(Error::foreign(&target.name, why)),
            Access::Maintenance(_) if sent => {
                pause(until, target, "the configuration is not active yet".to_owned()).await?;
                continue;
            }
            Access::Maintenance(_) if desired.first_contact == FirstContact::Refuse => {
                let names = vec![target.name.clone()];
                return Err(Error::Conflicts(vec![Conflict::FirstContact { names }]));
            }
            Access::Maintenance(connection) => connection,
            Access::Secure(mut connection) => {
                match super::read(&mut connection, target.role, Some(&digest)).await {
                    Ok(state) if state.has(&digest) => {
                        let Some(reason) = still_waiting(desired, &state)? else {
                            return Ok(reboot);
                        };
                        pause(until, target, reason).await?;
                        continue;
                    }
                    Ok(state) if !sent => {
                        mode = required_mode(&state, bytes);
                        connection
                    }
                    Ok(_) => {
                        pause(until, target, "the configuration is not active yet".to_owned())
                            .await?;
                        continue;
                    }
                    Err(status) if is_temporary(&status) => {
                        pause(until, target, error_text(&status)).await?;
                        continue;
                    }
                    Err(status) => return Err(node_error(target, &status)),
                }
            }
        };
        // Only a machine that has a configuration can reboot; in maintenance mode nothing is read.
        let boot_id = super::boot_id(&mut connection).await;
        let request = ApplyConfigurationRequest {
            data: bytes.to_vec(),
            mode: mode.into(),
            dry_run: false,
            try_mode_timeout: None,
        };
        let applied = answer(connection.machine.apply_configuration(request)).await;
        match applied.and_then(|applied| single(applied.messages)) {
            Ok(applied) => {
                sent = true;
                if applied.mode() == Mode::Reboot {
                    reboot = boot_id.map(|before| Reboot { target: target.clone(), before });
                }
                for warning in applied.warnings {
                    documents::detail(&target.name, redact::first_line(&warning));
                }
            }
            Err(status) if is_temporary(&status) => {
                pause(until, target, error_text(&status)).await?;
            }
            Err(status) => return Err(node_error(target, &status)),
        }
    }
}

/// Returns the mode in which a machine gets the configuration. Talos decides whether to reboot, except for
/// credentials of registries, which only a reboot activates.
fn required_mode(state: &NodeState, configuration: &[u8]) -> Mode {
    let credentials = registries::credentials(configuration);
    match &state.credentials {
        Some(current) if *current != credentials => Mode::Reboot,
        _ => Mode::Auto,
    }
}

/// Returns the reason for which a machine with the wanted configuration has to be waited for.
fn still_waiting(desired: &ConfigureRequest, state: &NodeState) -> Result<Option<String>, Error> {
    // A control plane whose etcd waits to be started is not ready before the step that starts etcd.
    if !desired.alive || state.etcd == Etcd::Absent {
        return Ok(None);
    }
    if let Some(crash) = state.crash_loop() {
        let name = desired.target.name.clone();
        return Err(Error::EtcdCrashes { name, event: crash.event.clone() });
    }
    Ok(state.not_ready_reason(desired.cni))
}

async fn pause(until: Instant, target: &Target, why: String) -> Result<(), Error> {
    if Instant::now() > until {
        return Err(Error::Unreachable { what: target.name.clone(), why });
    }
    sleep(Duration::from_millis(PAUSE_MILLISECONDS)).await;
    Ok(())
}

/// Texts of errors with the code `Unknown` after which the same request may succeed. Talos returns errors of
/// Go without a code, and those of etcd's client have none that gRPC sees: `EtcdError` in
/// <https://github.com/etcd-io/etcd/blob/v3.6.12/api/v3rpc/rpctypes/error.go>.
const TEMPORARY: [&str; 12] = [
    "etcdserver: leader changed",
    "etcdserver: no leader",
    "etcdserver: request timed out",
    "etcdserver: server stopped",
    "etcdserver: too many requests",
    "etcdserver: unhealthy cluster",
    "connection refused",
    "connection reset",
    "context deadline exceeded",
    "error reading from server: EOF",
    "no controlplane endpoints discovered yet",
    "transport is closing",
];

/// Returns whether an identical request may succeed a moment later. The API restarts when
/// maintenance mode ends, and answers `FailedPrecondition` until its dependencies are ready.
///
/// `Unknown` is final unless its text is known to pass, because Talos answers most final errors with it, for
/// example "re-configuration failed due to not enough started members" when the last member shall leave.
/// An `Unknown` with a source comes from this end: the connection broke.
fn is_temporary(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::FailedPrecondition
        | Code::Aborted => true,
        Code::Unknown => {
            std::error::Error::source(status).is_some()
                || TEMPORARY.iter().any(|text| status.message().contains(text))
        }
        _ => false,
    }
}

fn node_error(target: &Target, status: &Status) -> Error {
    Error::NodeError { name: target.name.clone(), why: error_text(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // hazard: The last member of etcd shall leave, and `apply` repeats the final error for five minutes.
    // class: A final error is retried.
    // members: every error of Go without a code, handing over the leadership of a single member
    // now: `Unknown` is final unless its text is known to pass
    #[test]
    fn unknown_errors_of_talos_are_final_unless_their_text_passes() {
        // Seen with Talos v1.13.9.
        for text in [
            "failed to leave cluster: failed to remove member 7: etcdserver: re-configuration failed due to not enough started members",
            "failed to forfeit leadership: cannot forfeit leadership, only one member",
            "error decoding document v1alpha1/WireguardConfig/wg0",
        ] {
            assert!(!is_temporary(&Status::unknown(text)), "{text}");
        }
        for text in TEMPORARY {
            assert!(is_temporary(&Status::unknown(format!("failed: {text}"))), "{text}");
        }
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let broken = Status::from_error(Box::new(broken));
        assert!(is_temporary(&broken), "{broken:?}");
        assert!(is_temporary(&Status::unavailable("x")));
        assert!(!is_temporary(&Status::invalid_argument("x")));
    }
}
