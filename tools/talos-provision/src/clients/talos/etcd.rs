//! State of etcd as one control plane reports it.

use std::time::Duration;

use talos_api::machine::{
    EtcdMember, EtcdMemberListRequest, EtcdMemberStatus, FileInfo, ListRequest, ServiceEvent,
    ServiceInfo,
};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::channel::{Connection, answer, first_messages, single};
use super::{CRASHES_MAX, redact};
use crate::plan::{Etcd, Member};

/// Data directory of etcd: `constants.EtcdDataPath` in Talos.
const ETCD_DATA: &str = "/var/lib/etcd";
/// Most entries of that directory that are read. One entry beside the directory itself proves that
/// it is not empty.
const FILES_MAX: usize = 2;
/// Longest time for which a member may know no leader. An election takes about one second: the default
/// election timeout of etcd is 1000 ms (<https://etcd.io/docs/v3.6/tuning/>).
const ELECTION_MAX: Duration = Duration::from_secs(10);
/// Pause between two requests for the leader.
const ELECTION_POLL: Duration = Duration::from_secs(1);
/// Longest time between two exits of a crash loop, in seconds. Talos waits 5 s before it starts etcd again.
const CRASH_GAP_SECONDS_MAX: i64 = 60;
/// Words in every event of Talos that reports an exit.
const RESTART: &str = "going to restart";

/// Repeated exits of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    /// Number of exits since the last start by Talos, each soon after the one before.
    pub(crate) times: usize,
    /// Last event that reports an exit.
    pub(crate) event: String,
}

/// Reads the state of etcd from its service, its own status and its data directory.
pub(super) async fn observe(connection: &mut Connection) -> Result<(Etcd, Option<Crash>), Status> {
    let list = single(answer(connection.machine.service_list(())).await?.messages)?;
    let Some(service) = list.services.into_iter().find(|service| service.id == "etcd") else {
        return Ok((Etcd::Unknown, None));
    };
    let is_healthy = service.health.as_ref().is_some_and(|health| health.healthy);
    let crash = if is_healthy { None } else { crash(&service) };
    if crash.as_ref().is_some_and(|crash| crash.times >= CRASHES_MAX) {
        return Ok((Etcd::Unknown, crash));
    }
    let etcd = match service.state.as_str() {
        "Running" if has_no_leader(connection).await => Etcd::Leaderless { members: 1 },
        "Running" => members(connection).await,
        "Preparing" => {
            let request = ListRequest { root: ETCD_DATA.to_owned() };
            let files = first_messages(connection.machine.list(request), FILES_MAX).await;
            if files.is_ok_and(|files| is_empty(&files)) { Etcd::Absent } else { Etcd::Unknown }
        }
        _ => Etcd::Unknown,
    };
    let crash = crash.filter(|_| etcd == Etcd::Unknown);
    Ok((etcd, crash))
}

/// Returns whether the machine's own member knows no leader for longer than an election takes.
///
/// The list of members needs a leader: Talos v1.13.9 reads it with `clientv3.WithRequireLeader`
/// (`EtcdMemberList` in `v1alpha1_server.go`). The status is the answer of the local member alone.
async fn has_no_leader(connection: &mut Connection) -> bool {
    let began = Instant::now();
    loop {
        match status(connection).await {
            Ok(status) if status.leader == 0 && !status.is_learner => {
                if began.elapsed() > ELECTION_MAX {
                    return true;
                }
            }
            // A member that does not answer proves nothing.
            Ok(_) | Err(_) => return false,
        }
        sleep(ELECTION_POLL).await;
    }
}

async fn status(connection: &mut Connection) -> Result<EtcdMemberStatus, Status> {
    let status = single(answer(connection.machine.etcd_status(())).await?.messages)?;
    status.member_status.ok_or_else(|| Status::internal("the answer contains no status"))
}

/// Returns whether the listing of a directory proves that the directory is empty: the directory
/// itself is listed, and no other file.
///
/// Talos v1.13.9 goes through `Starting`, `Waiting` and `Preparing` on every boot, also of a member
/// that has data: `ServiceRunner.Run` in `internal/app/machined/pkg/system/service_runner.go`,
/// <https://github.com/siderolabs/talos/blob/v1.13.9>. The data directory is on a volume, and that
/// volume is a condition of the service. It is therefore mounted once the state is `Preparing`, and
/// not before. Of all states, only `Preparing` with an empty directory is a proof. `Bootstrap`
/// itself rejects a directory that is not empty (`v1alpha1_server.go`), but it knows one machine
/// only.
fn is_empty(files: &[FileInfo]) -> bool {
    let is_root =
        |file: &FileInfo| file.relative_name == "." && file.is_dir && file.error.is_empty();
    matches!(files, [root] if is_root(root))
}

/// Counts the last exits of etcd, if etcd is not up now.
///
/// Talos v1.13.9 starts etcd again every 5 s without end. Each exit is an event in the state `Waiting`, and
/// each start that follows is one in the state `Running`:
/// `internal/app/machined/pkg/system/runner/restart/restart.go`. Any other state means that Talos itself
/// has started the service since, for example with another configuration.
fn crash(service: &ServiceInfo) -> Option<Crash> {
    let events: Vec<_> = service.events.iter().flat_map(|events| &events.events).collect();
    let is_exit = |event: &&ServiceEvent| event.msg.contains(RESTART);
    let loop_of =
        events.iter().rev().take_while(|event| is_exit(event) || event.state == "Running");
    let exits: Vec<_> = loop_of.copied().filter(is_exit).collect();
    let seconds = |event: &ServiceEvent| event.ts.as_ref().map(|time| time.seconds);
    let is_soon = |pair: &&[&ServiceEvent]| match (seconds(pair[0]), seconds(pair[1])) {
        (Some(later), Some(earlier)) => later.saturating_sub(earlier) <= CRASH_GAP_SECONDS_MAX,
        _ => true,
    };
    let event = redact::first_line(&exits.first()?.msg);
    Some(Crash { times: 1 + exits.windows(2).take_while(is_soon).count(), event })
}

async fn members(connection: &mut Connection) -> Etcd {
    let request = EtcdMemberListRequest { query_local: false };
    let members = answer(connection.machine.etcd_member_list(request)).await;
    let Ok(members) = members.and_then(|list| single(list.messages)) else {
        return Etcd::Unknown;
    };
    let member = |member: EtcdMember| Member {
        hostname: member.hostname,
        id: member.id,
        learner: member.is_learner,
    };
    let mut members: Vec<_> = members.members.into_iter().map(member).collect();
    members.sort();
    if members.is_empty() { Etcd::Unknown } else { Etcd::Members(members) }
}

#[cfg(test)]
mod tests {
    use talos_api::machine::ServiceEvents;

    use super::*;

    fn file(relative_name: &str, is_dir: bool, error: &str) -> FileInfo {
        FileInfo {
            relative_name: relative_name.to_owned(),
            is_dir,
            error: error.to_owned(),
            ..FileInfo::default()
        }
    }

    #[test]
    fn only_a_directory_that_lists_itself_and_nothing_else_is_empty() {
        assert!(is_empty(&[file(".", true, "")]));
        for files in [
            vec![],
            vec![file(".", true, "permission denied")],
            vec![file("etcd", false, "")],
            vec![file(".", true, ""), file("member", true, "")],
            vec![file(".", true, ""), file("lost+found", true, "")],
            vec![file("member", true, "")],
        ] {
            assert!(!is_empty(&files), "{files:?}");
        }
    }

    /// Events with the texts of Talos v1.13.9: state, message, and seconds since the boot.
    fn service(events: &[(&str, &str, i64)]) -> ServiceInfo {
        let event = |(state, msg, seconds): &(&str, &str, i64)| {
            let (msg, state) = ((*msg).to_owned(), (*state).to_owned());
            let mut event = ServiceEvent { msg, state, ..ServiceEvent::default() };
            event.ts.get_or_insert_default().seconds = *seconds;
            event
        };
        let events = Some(ServiceEvents { events: events.iter().map(event).collect() });
        ServiceInfo { events, ..ServiceInfo::default() }
    }

    const EXIT: &str = "Error running Containerd(etcd), going to restart forever: exit code 2";
    const START: &str = "Started task etcd (PID 42) for container etcd";

    // hazard: etcd crashes after its start, and `apply` reports that it has begun, for an hour.
    // class: An event is taken for success.
    // members: a learner counted as a member, `ready` read without its stage
    // now: `EtcdCrashes` after the second exit, with the last event
    #[test]
    fn repeated_exits_of_etcd_are_reported_with_the_last_event() {
        let waits = ("Waiting", "Waiting for service \"cri\" to be \"up\"", 0);
        assert_eq!(crash(&service(&[waits])), None);
        let crash = crash(&service(&[
            waits,
            ("Preparing", "Running pre state", 1),
            ("Running", START, 2),
            ("Waiting", "Error running Containerd(etcd), going to restart forever: exit code 1", 3),
            ("Running", START, 8),
            ("Waiting", EXIT, 9),
        ]));
        let crash = crash.expect("a crash");
        assert_eq!(crash.times, 2);
        assert!(crash.event.ends_with("exit code 2"), "{}", crash.event);
    }

    #[test]
    fn exits_before_a_start_by_talos_or_long_ago_are_no_crash_loop() {
        let times = |events: &[_]| crash(&service(events)).map(|crash| crash.times);
        let exits = [("Waiting", EXIT, 10), ("Running", START, 15), ("Waiting", EXIT, 16)];
        assert_eq!(times(&exits), Some(2));
        let configured =
            [&exits[..], &[("Finished", "Service finished successfully", 20)]].concat();
        assert_eq!(times(&configured), None);
        let again = [&configured[..], &[("Running", START, 21), ("Waiting", EXIT, 22)]].concat();
        assert_eq!(times(&again), Some(1));
        let rare = [("Waiting", EXIT, 10), ("Running", START, 15), ("Waiting", EXIT, 90_000)];
        assert_eq!(times(&rare), Some(1));
    }
}
