//! Calls through one machine to others, and the certificates of workers, on machines without components.
//!
//! Needs openssl only. The boot cannot complete, because the folder of the components is empty.

mod common;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{CONTROL_PLANE, Talos, WORKER, configuration, issue_talos, server, until};
use emulator_talos::{Fleet, Machines};
use talos_api::cosi::resource::state_client::StateClient;
use talos_api::cosi::resource::{GetRequest, ListRequest};
use talos_api::machine::{EventsRequest, ResetRequest};
use talos_api::{MACHINE_STATUS, ResourceName};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

const CONTROL: Ipv4Addr = Ipv4Addr::new(127, 73, 6, 1);
const WORK: Ipv4Addr = Ipv4Addr::new(127, 73, 6, 2);
const ABSENT: Ipv4Addr = Ipv4Addr::new(127, 73, 6, 99);

/// Starts a control plane and a worker. Its own cluster for each test, at other addresses.
fn cluster(place: &Path, offset: u8, with_discovery: bool) -> (Arc<Fleet>, [Ipv4Addr; 2]) {
    issue_talos(place, "admin", "os:admin");
    issue_talos(place, "reader", "os:reader");
    let at = |address: Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        Ipv4Addr::new(a, b, c, d + offset)
    };
    let addresses = [at(CONTROL), at(WORK)];
    let fleet = common::empty_fleet(place, at(Ipv4Addr::new(127, 73, 6, 20)));
    fleet.discovery(with_discovery);
    for (id, name, text) in [(1, "control", CONTROL_PLANE), (2, "work", WORKER)] {
        let address = addresses[usize::from(id == 2)];
        let config = configuration(text, addresses[0]);
        fleet.power_on(&server(id, name, address, Some(config)));
    }
    (fleet, addresses)
}

/// Returns a request with addresses in the metadata `key`.
fn addressed<T>(message: T, key: &'static str, addresses: &[Ipv4Addr]) -> Request<T> {
    let mut request = Request::new(message);
    for address in addresses {
        let value = MetadataValue::try_from(address.to_string()).expect("a value");
        request.metadata_mut().append(key, value);
    }
    request
}

/// Asks `talos` for the host names of other machines.
fn hostnames(
    talos: &Talos,
    key: &'static str,
    addresses: &[Ipv4Addr],
) -> Result<Vec<String>, Status> {
    let request = addressed((), key, addresses);
    let answer = talos.call(async |mut talos| talos.hostname(request).await)?;
    Ok(answer.messages.into_iter().map(|message| message.hostname).collect())
}

// hazard: `talosctl -n WORKER reset` through a control plane of the lab resets the control plane.
// class: An emulator ignores a part of a request.
// members: reads that answer with another machine's data, limits of events, unknown types of resources
// now: the call reaches the named machine only, with the client's role
#[test]
fn a_call_for_another_machine_reaches_that_machine_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    let (fleet, [control, work]) = cluster(place, 0, true);
    let (admin, reader) =
        (Talos::known(control, place, "admin"), Talos::known(control, place, "reader"));
    let worker = Talos::known(work, place, "admin");
    until("the control plane", 20, || hostnames(&admin, "node", &[]).ok());
    until("the worker", 20, || hostnames(&worker, "node", &[]).ok());

    assert_eq!(hostnames(&admin, "node", &[]).expect("a name"), ["control"]);
    assert_eq!(hostnames(&admin, "node", &[work]).expect("a name"), ["work"]);
    assert_eq!(hostnames(&admin, "nodes", &[work]).expect("a name"), ["work"]);
    let both = hostnames(&admin, "nodes", &[control, work, ABSENT]).expect("names");
    assert_eq!(both, ["control", "work", ""], "the last answer is an error");
    let code = |talos: &Talos, key, addresses: &[_]| {
        hostnames(talos, key, addresses).expect_err("an error").code()
    };
    assert_eq!(code(&admin, "node", &[ABSENT]), Code::Unavailable);
    assert_eq!(code(&admin, "node", &[control, work]), Code::InvalidArgument);
    // A worker forwards nothing, and answers for itself.
    assert_eq!(hostnames(&worker, "node", &[work]).expect("a name"), ["work"]);
    assert_eq!(code(&worker, "node", &[control]), Code::PermissionDenied);
    assert_eq!(code(&worker, "nodes", &[control, work]), Code::PermissionDenied);

    let reset = |talos: &Talos| {
        let request = addressed(ResetRequest::default(), "node", &[work]);
        talos.call(async |mut talos| talos.reset(request).await)
    };
    assert_eq!(reset(&reader).expect_err("denied").code(), Code::PermissionDenied);
    reset(&admin).expect("begun");
    until("the worker to go off", 20, || hostnames(&worker, "node", &[]).err());
    assert_eq!(hostnames(&admin, "node", &[]).expect("a name"), ["control"]);
    fleet.shutdown();
}

#[test]
fn a_worker_gets_its_certificate_before_kubernetes_serves_only_with_a_discovery_service() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    let (fleet, [control, work]) = cluster(place, 2, false);
    let (admin, worker) =
        (Talos::known(control, place, "admin"), Talos::known(work, place, "admin"));
    until("the control plane", 20, || hostnames(&admin, "node", &[]).ok());
    std::thread::sleep(Duration::from_secs(2));
    assert!(hostnames(&worker, "node", &[]).is_err(), "no API server serves");
    fleet.discovery(true);
    until("the worker", 20, || hostnames(&worker, "node", &[]).ok());
    fleet.shutdown();
}

#[test]
fn requests_that_talos_rejects_are_rejected() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    let (fleet, [control, work]) = cluster(place, 4, false);
    let admin = Talos::known(control, place, "admin");
    until("the control plane", 20, || hostnames(&admin, "node", &[]).ok());

    let request = EventsRequest { tail_events: 5, tail_seconds: 5, ..EventsRequest::default() };
    let events = admin.first(async |mut talos| talos.events(request).await);
    let events = events.expect_err("two limits");
    assert_eq!(events.code(), Code::Unknown);
    assert!(events.message().contains("can't be specified at the same time"), "{events:?}");

    let get = |r#type| {
        let name = ResourceName { r#type, ..MACHINE_STATUS };
        let mut client = StateClient::new(admin.channel());
        admin.limited(client.get(GetRequest::from(name))).map(drop)
    };
    assert_eq!(get(MACHINE_STATUS.r#type).map_err(|status| status.code()), Ok(()));
    let unknown = get("Nothing.example.org").expect_err("no such type");
    assert_eq!(unknown.code(), Code::PermissionDenied);
    assert_eq!(unknown.message(), "resource type \"Nothing.example.org\" is not supported");
    let absent = get("Members.cluster.talos.dev").expect_err("not in the emulator");
    assert_eq!(absent.code(), Code::Unimplemented);

    let mut client = StateClient::new(admin.channel());
    let list = addressed(ListRequest::default(), "nodes", &[work]);
    let listed = admin.limited(client.list(list)).map(drop);
    assert_eq!(listed.expect_err("not merged").code(), Code::InvalidArgument);
    fleet.shutdown();
}
