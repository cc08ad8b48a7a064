//! Changes on machines. No other code sends requests that change a machine.

use std::time::Duration;

use documents::WritePermit;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::{Access, Reader, Reboot, Target, error_text, redact, runtime};
use crate::Error;
use crate::pki::sha256_hex;
use crate::plan::Conflict;
use crate::spec::FirstContact;
use crate::wire;

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
            for wanted in requests {
                let reader = self.0.clone();
                tasks.spawn(async move {
                    let step = documents::step(&wanted.target.name, "wait for the configuration");
                    let end = configure_machine(&reader, &wanted).await;
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
        let request = wire::Bootstrap { recover_etcd: false, recover_skip_hash_check: false };
        self.ask::<_, wire::Done>(target, wire::path::BOOTSTRAP, &request, |code| {
            code == Code::AlreadyExists
        })
    }

    /// Removes a member from etcd with a request to another member. Counts as done if the member is
    /// gone.
    pub(crate) fn remove_member(&self, target: &Target, id: u64) -> Result<(), Error> {
        let request = wire::EtcdRemoveMemberById { member_id: id };
        self.ask::<_, wire::Done>(target, wire::path::ETCD_REMOVE_MEMBER_BY_ID, &request, |code| {
            code == Code::NotFound
        })
    }

    /// Hands over the leadership of a control plane, and lets it leave etcd.
    pub(crate) fn leave(&self, target: &Target) -> Result<(), Error> {
        // Handing over is optional: without it, the other members elect a leader a moment later.
        let cannot = |code| code == Code::Unimplemented;
        let forfeit = wire::path::ETCD_FORFEIT_LEADERSHIP;
        self.ask::<_, wire::EtcdLeadershipForfeited>(target, forfeit, &wire::Empty {}, cannot)?;
        let leave = wire::path::ETCD_LEAVE_CLUSTER;
        self.ask::<_, wire::Done>(target, leave, &wire::Empty {}, |_| false)
    }

    /// Repeats a request until it succeeds or fails permanently. `done` selects the error codes
    /// that mean that an earlier request had the same effect.
    fn ask<Q, A>(
        &self,
        target: &Target,
        path: &'static str,
        request: &Q,
        done: impl Fn(Code) -> bool,
    ) -> Result<(), Error>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + std::fmt::Debug + 'static,
    {
        runtime()?.block_on(async {
            let until = Instant::now() + Duration::from_secs(BOOTSTRAP_SECONDS_MAX);
            loop {
                documents::check_interrupt()?;
                let why = match self.0.connect(target).await {
                    Access::Secure(mut connection) => {
                        match connection.call::<Q, A>(path, request.clone()).await {
                            Ok(_) => return Ok(()),
                            Err(status) if done(status.code()) => return Ok(()),
                            Err(status) if is_temporary(&status) => error_text(&status),
                            Err(status) => return Err(node_error(target, &status)),
                        }
                    }
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
    wanted: &ConfigureRequest,
) -> Result<Option<Reboot>, Error> {
    let (target, bytes) = (&wanted.target, wanted.configuration.as_bytes());
    let digest = sha256_hex(bytes);
    let until = Instant::now() + Duration::from_secs(CONFIGURE_SECONDS_MAX);
    let (mut sent, mut reboot) = (false, None);
    loop {
        documents::check_interrupt()?;
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
            Access::Maintenance(_) if wanted.first_contact == FirstContact::Refuse => {
                let names = vec![target.name.clone()];
                return Err(Error::Conflicts(vec![Conflict::FirstContact { names }]));
            }
            Access::Maintenance(connection) => connection,
            Access::Secure(mut connection) => {
                match super::read(&mut connection, target.role, Some(&digest)).await {
                    Ok(state) if state.has(&digest) => match state.unmet.filter(|_| wanted.alive) {
                        None => return Ok(reboot),
                        Some(unmet) => {
                            pause(until, target, unmet).await?;
                            continue;
                        }
                    },
                    Ok(_) if !sent => connection,
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
        let request = wire::ApplyConfiguration {
            data: bytes.to_vec(),
            mode: wire::ApplyMode::Auto.into(),
            dry_run: false,
            try_mode_timeout: None,
        };
        let path = wire::path::APPLY_CONFIGURATION;
        match connection.call::<_, wire::ConfigurationApplied>(path, request).await {
            Ok(applied) => {
                sent = true;
                if applied.mode() == wire::ApplyMode::Reboot {
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

async fn pause(until: Instant, target: &Target, why: String) -> Result<(), Error> {
    if Instant::now() > until {
        return Err(Error::Unreachable { what: target.name.clone(), why });
    }
    sleep(Duration::from_millis(PAUSE_MILLISECONDS)).await;
    Ok(())
}

/// Returns whether an identical request may succeed a moment later. The API restarts when
/// maintenance mode ends, and answers `FailedPrecondition` until its dependencies are ready.
fn is_temporary(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unknown
    )
}

fn node_error(target: &Target, status: &Status) -> Error {
    Error::NodeError { name: target.name.clone(), why: error_text(status) }
}
