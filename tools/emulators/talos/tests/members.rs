//! Three control planes, whose members of etcd join and leave as with Talos.
//!
//! Needs `LAB_BIN`, the folder with the built components.

#![expect(clippy::print_stderr, reason = "times are measured here")]

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::{CONTROL_PLANE, Talos, configuration, etcd_fleet, issue_talos, server, until};
use emulator_talos::Machines;
use prost::Message as _;
use talos_api::machine::apply_configuration_request::Mode;
use talos_api::machine::{
    ApplyConfigurationRequest, BootstrapRequest, EtcdForfeitLeadershipRequest,
    EtcdLeaveClusterRequest, EtcdMember, EtcdMemberListRequest, EtcdRemoveMemberByIdRequest,
    EventsRequest, ListRequest, ReadRequest, ResetRequest, ResetResponse, SequenceEvent,
};
use tonic::{Code, Status};

const ADDRESSES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(127, 73, 3, 1), Ipv4Addr::new(127, 73, 3, 2), Ipv4Addr::new(127, 73, 3, 3)];

#[test]
fn members_of_etcd_join_one_by_one_and_leave_on_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    issue_talos(place, "admin", "os:admin");
    let fleet = etcd_fleet(&place.join("machines"), Ipv4Addr::new(127, 73, 3, 9));
    let config = configuration(CONTROL_PLANE, ADDRESSES[0]);
    for (id, address) in (1..).zip(ADDRESSES) {
        fleet.power_on(&server(id, &format!("control-{id}"), address, Some(config.clone())));
    }
    let talos = ADDRESSES.map(|address| Talos::known(address, place, "admin"));
    until("an empty data directory", 30, || {
        (etcd_state(&talos[0])? == "Preparing" && data(&talos[0]).ok()? == ["."]).then_some(())
    });
    // Measured with Talos v1.13.9: without a member that answers, the call stays open.
    let silent = talos[0].call(async |mut talos| {
        let request = talos.etcd_member_list(EtcdMemberListRequest::default());
        let answer = tokio::time::timeout(Duration::from_secs(2), request).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("2 s")))
    });
    assert_eq!(silent.expect_err("no answer").code(), Code::DeadlineExceeded);
    let start = Instant::now();
    until("bootstrap", 30, || bootstrap(&talos[0]).ok());
    until("three members that vote", 120, || {
        let members = members(&talos[1]).ok()?;
        (members.len() == 3 && members.iter().all(|member| !member.is_learner)).then_some(())
    });
    eprintln!("bootstrap to three members: {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(bootstrap(&talos[2]).expect_err("refused").code(), Code::AlreadyExists);

    // A change without a reboot keeps the boot id, and a change with a reboot changes it.
    let boot = boot_id(&talos[2]).expect("a boot");
    let labelled = config.replace("balancers: \"\"", "balancers: \"x\"");
    assert_eq!(apply(&talos[2], &labelled).expect("applied"), Mode::NoReboot);
    until("the same boot", 20, || (boot_id(&talos[2])? == boot).then_some(()));
    let deeper = labelled.replace("diskQuotaSupport: true", "diskQuotaSupport: false");
    assert_eq!(apply(&talos[2], &deeper).expect("applied"), Mode::Reboot);
    fleet.slow_etcd("control-3", Duration::from_secs(3));
    until("another boot", 60, || (boot_id(&talos[2])? != boot).then_some(()));
    boots_with_data(&talos[2]);
    until("three members again", 90, || status_of(&talos[2]).ok());

    // The leader hands over, so that another member leads.
    let leader = |talos: &Talos| {
        let status = talos.call(async |mut talos| talos.etcd_status(()).await).ok()?;
        let status = status.messages.into_iter().next()?.member_status?;
        Some((status.leader, status.member_id)).filter(|(leader, _)| *leader != 0)
    };
    let (first, _) = until("a leader", 20, || leader(&talos[0]));
    let leads = |talos: &&Talos| leader(talos).is_some_and(|(leader, own)| leader == own);
    let leading = talos.iter().find(leads).expect("the leader");
    let request = EtcdForfeitLeadershipRequest {};
    leading.call(async |mut talos| talos.etcd_forfeit_leadership(request).await).expect("moved");
    until("another leader", 20, || leader(leading).filter(|(leader, _)| *leader != first));

    // One member leaves by itself, another member leaves at its reset, and the last member cannot leave.
    talos[2]
        .call(async |mut talos| talos.etcd_leave_cluster(EtcdLeaveClusterRequest {}).await)
        .expect("left");
    // The member that left may have led, and a list of members needs a leader.
    let left = until("a leader of those that are left", 20, || members(&talos[0]).ok());
    assert_eq!(left.len(), 2, "{left:?}");
    fleet.power_off(3);
    fleet.delete(3);
    let none = EtcdRemoveMemberByIdRequest { member_id: 1 };
    let none = talos[0].call(async |mut talos| talos.etcd_remove_member_by_id(none).await);
    assert_eq!(none.expect_err("refused").code(), Code::NotFound);
    reset(&talos[1]).expect("begun");
    until("one member", 60, || (members(&talos[0]).ok()?.len() == 1).then_some(()));
    let actor = reset(&talos[0]).expect("begun").messages[0].actor_id.clone();
    let failed = until("the reset to fail", 30, || {
        let request = EventsRequest {
            tail_events: -1,
            with_actor_id: actor.clone(),
            ..EventsRequest::default()
        };
        let events = talos[0].take(2, async |mut talos| talos.events(request).await).ok()?;
        events.into_iter().find_map(|event| {
            let event = event.data.filter(|data| data.type_url.ends_with("SequenceEvent"))?;
            SequenceEvent::decode(event.value.as_slice()).ok()?.error
        })
    });
    // The text of etcd itself, as seen with Talos v1.13.9.
    assert!(failed.message.contains("not enough started members"), "{failed:?}");
    let forfeit = EtcdForfeitLeadershipRequest {};
    let forfeit = talos[0].call(async |mut talos| talos.etcd_forfeit_leadership(forfeit).await);
    let forfeit = forfeit.expect_err("one member");
    assert_eq!(forfeit.code(), Code::Unknown);
    assert!(forfeit.message().ends_with("only one member"), "{forfeit:?}");
    let leave = EtcdLeaveClusterRequest {};
    let leave = talos[0].call(async |mut talos| talos.etcd_leave_cluster(leave).await);
    assert_eq!(leave.expect_err("one member").code(), Code::Unknown);
    fleet.shutdown();
}

fn members(talos: &Talos) -> Result<Vec<EtcdMember>, Status> {
    let request = EtcdMemberListRequest::default();
    let members = talos.call(async |mut talos| talos.etcd_member_list(request).await)?;
    Ok(members.messages.into_iter().flat_map(|message| message.members).collect())
}

/// Asserts that a boot with data goes through all states, and that the data directory can be listed once its
/// volume is mounted.
fn boots_with_data(talos: &Talos) {
    until("etcd to wait", 20, || (etcd_state(talos)? == "Waiting").then_some(()));
    assert!(data(talos).is_err(), "the volume is not mounted yet");
    until("etcd to prepare", 20, || (etcd_state(talos)? == "Preparing").then_some(()));
    assert_eq!(data(talos).expect("mounted"), [".", "member"]);
}

fn etcd_state(talos: &Talos) -> Option<String> {
    let services = talos.call(async |mut talos| talos.service_list(()).await).ok()?;
    let services = services.messages.into_iter().flat_map(|list| list.services);
    services.into_iter().find(|service| service.id == "etcd").map(|service| service.state)
}

/// Lists etcd's data directory.
fn data(talos: &Talos) -> Result<Vec<String>, Status> {
    let request = ListRequest { root: "/var/lib/etcd".to_owned() };
    let files = talos.take(10, async |mut talos| talos.list(request).await)?;
    Ok(files.into_iter().map(|file| file.relative_name).collect())
}

fn status_of(talos: &Talos) -> Result<(), Status> {
    talos.call(async |mut talos| talos.etcd_status(()).await).map(drop)
}

fn boot_id(talos: &Talos) -> Option<Vec<u8>> {
    let path = "/proc/sys/kernel/random/boot_id".to_owned();
    let data = talos.first(async |mut talos| talos.read(ReadRequest { path }).await);
    data.ok().map(|data| data.bytes)
}

fn apply(talos: &Talos, config: &str) -> Result<Mode, Status> {
    let data = config.as_bytes().to_vec();
    let request = ApplyConfigurationRequest { data, mode: Mode::Auto.into(), ..Default::default() };
    let answer = talos.call(async |mut talos| talos.apply_configuration(request).await)?;
    Ok(answer.messages[0].mode())
}

fn bootstrap(talos: &Talos) -> Result<(), Status> {
    talos.call(async |mut talos| talos.bootstrap(BootstrapRequest {}).await).map(drop)
}

fn reset(talos: &Talos) -> Result<ResetResponse, Status> {
    let request = ResetRequest { graceful: true, reboot: false, ..ResetRequest::default() };
    talos.call(async |mut talos| talos.reset(request).await)
}
