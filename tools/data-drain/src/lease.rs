//! Mutual exclusion of a drain's runs by a `Lease` in the cluster, which a thread renews.
//!
//! Clocks of other machines are not trusted. A run that finds the lease taken watches it. A lease that
//! does not change for [`DEAD`] belongs to a run that was killed (as in client-go's
//! `leaderelection`). If that run was a process of this machine, `/proc` shows its end at once.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use contract::labels::{DRAIN, HEARTBEAT};
use documents::WritePermit;
use kubernetes::Kubeconfig;
use serde_json::{Value, json};

use crate::Error;
use crate::clients::cluster::{Reader, WriteAccess, Writer};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Pause between two renewals.
const RENEWAL: Duration = Duration::from_secs(5);
/// Time without a renewal after which the holder counts as dead. It covers several renewals, because
/// one or two may get lost.
const DEAD: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(250);

/// The lease of a drain. Dropping it releases the lease.
pub(crate) struct Lease {
    state: Arc<State>,
    keeper: Option<JoinHandle<()>>,
    name: String,
    writer: Writer,
    reader: Reader,
    holder: String,
}

#[derive(Default)]
struct State {
    lost: AtomicBool,
    done: AtomicBool,
}

impl Lease {
    /// Takes the lease of a drain, and waits until another run that holds it is dead.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]: another run holds the lease, and is alive.
    pub(crate) fn take(
        drain: &str,
        kubeconfig: &Kubeconfig,
        permit: &WritePermit,
    ) -> Result<Self, Error> {
        let access = WriteAccess::new(kubeconfig, permit);
        let (reader, writer) = (access.reader()?, access.writer()?);
        let (name, holder) = (format!("data-drain-{drain}"), identity());
        let path = format!("{LEASES}/{name}");
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name, "namespace": "kube-system", "labels": {DRAIN: drain},
                "annotations": {HEARTBEAT: "0"},
            },
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": DEAD.as_secs()},
        });
        let mut seen: Option<(Value, Instant)> = None;
        while !writer.create(LEASES, &lease)? {
            documents::check_interrupt()?;
            let Some(mut found) = reader.get(&path)? else { continue };
            let version = found["metadata"]["resourceVersion"].clone();
            let other = found["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
            let since = match &seen {
                None => {
                    documents::note(drain, format_args!("another run may be at work: {other}"));
                    seen = Some((version, Instant::now()));
                    Duration::ZERO
                }
                Some((before, _)) if *before != version => {
                    return Err(Error::Busy { holder: other });
                }
                Some((_, since)) => since.elapsed(),
            };
            if since < DEAD && !is_dead(&other) {
                thread::sleep(TICK);
                continue;
            }
            found["spec"] = lease["spec"].clone();
            if writer.replace(&path, &found)? {
                break;
            }
        }
        let state = Arc::new(State::default());
        let keeper = {
            let (state, path, holder) = (Arc::clone(&state), path.clone(), holder.clone());
            thread::spawn(move || keep(&state, &access, &path, &holder))
        };
        Ok(Self { state, keeper: Some(keeper), name: path, writer, reader, holder })
    }

    /// Checks that this run still holds the lease.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if another run has taken the lease, because this run did not renew it in time.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.state.lost.load(Ordering::Relaxed) {
            return Err(Error::Busy { holder: "a run that has taken over the lease".to_owned() });
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.done.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        // The next run finds that the holder of a lease that stays is dead.
        if let Ok(Some(lease)) = self.reader.get(&self.name)
            && lease["spec"]["holderIdentity"] == self.holder.as_str()
        {
            let _ = self.writer.delete(&self.name, &lease["metadata"]["uid"]);
        }
    }
}

/// Renews the lease until the run is done.
fn keep(state: &State, access: &WriteAccess, path: &str, holder: &str) {
    let mut beat: u64 = 0;
    let mut next = Instant::now() + RENEWAL;
    while !state.done.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + RENEWAL;
        beat += 1;
        // When the API server does not answer, the next renewal tells who holds the lease.
        if let Ok(false) = renew(access, path, holder, beat) {
            state.lost.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// Renews the lease and returns whether it is still ours. After a conflict, the next renewal decides.
fn renew(access: &WriteAccess, path: &str, holder: &str, beat: u64) -> Result<bool, Error> {
    let (reader, writer) = (access.reader()?, access.writer()?);
    let Some(mut lease) = reader.get(path)? else { return Ok(false) };
    if lease["spec"]["holderIdentity"] != holder {
        return Ok(false);
    }
    lease["metadata"]["annotations"][HEARTBEAT] = beat.to_string().into();
    writer.replace(path, &lease)?;
    Ok(true)
}

/// Returns the identity of this process: host, boot, PID namespace, PID and start, because a PID is
/// used again.
fn identity() -> String {
    let host = read("/proc/sys/kernel/hostname");
    let pid = std::process::id();
    let (boot, namespace) = machine();
    format!("{host} {boot} {namespace} {pid} {}", start(pid).unwrap_or_default())
}

/// Whether the holder was a process of this machine that has ended.
fn is_dead(holder: &str) -> bool {
    let words: Vec<_> = holder.split(' ').collect();
    let [_, boot, namespace, pid, started] = words.as_slice() else { return false };
    let (here, inside) = machine();
    if here.is_empty() || inside.is_empty() || *boot != here || *namespace != inside {
        return false;
    }
    pid.parse().is_ok_and(|pid| start(pid).is_none_or(|start| start != *started))
}

/// Returns the boot id and the PID namespace, because a PID is unique only within both.
fn machine() -> (String, String) {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    (read("/proc/sys/kernel/random/boot_id"), namespace.to_string_lossy().into_owned())
}

/// Returns the start time of a process in ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
fn start(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name in parentheses may contain spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // A zombie has ended already.
    (state != "Z").then(|| fields.nth(18).map(str::to_owned))?
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_dead_only_after_it_has_ended() {
        let alive = identity();
        assert!(!is_dead(&alive), "{alive}");
        let (boot, namespace) = machine();
        assert!(is_dead(&format!("host {boot} {namespace} 1 999999999999")), "another start");
        assert!(is_dead(&format!("host {boot} {namespace} 4194305 1")), "no such process");
        assert!(!is_dead(&format!("host another {namespace} 4194305 1")), "another machine");
        assert!(!is_dead("a person's own holder"));
    }
}
