//! A machine without components: maintenance mode, a configuration, the roles of clients, and power off.
//!
//! Needs openssl only. The boot cannot complete, because the folder of the components is empty.

mod common;

use std::net::Ipv4Addr;

use common::{CONTROL_PLANE, Talos, configuration, issue_talos, server, until};
use emulator_talos::Machines;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use talos_api::machine::{ApplyConfigurationRequest, VersionResponse};
use tonic::client::Grpc;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 73, 5, 1);
const GUARDED: Ipv4Addr = Ipv4Addr::new(127, 73, 5, 2);

#[test]
fn a_configuration_ends_maintenance_mode_and_power_off_ends_the_api() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    issue_talos(place, "admin", "os:admin");
    let fleet = common::empty_fleet(place, Ipv4Addr::new(127, 73, 5, 9));
    fleet.power_on(&server(1, "alone", ADDRESS, None));

    let stranger = Talos::stranger(ADDRESS);
    until("maintenance mode", 20, || version(&stranger).ok());
    let data = configuration(CONTROL_PLANE, ADDRESS).into_bytes();
    let request = ApplyConfigurationRequest { data, ..ApplyConfigurationRequest::default() };
    stranger.call(async |mut talos| talos.apply_configuration(request).await).expect("applied");

    let admin = Talos::known(ADDRESS, place, "admin");
    until("the configured API", 20, || version(&admin).ok());
    assert!(version(&stranger).is_err(), "a client without a certificate has access");
    let etcd = || {
        let services = admin.call(async |mut talos| talos.service_list(()).await).ok()?;
        let services = services.messages.into_iter().flat_map(|list| list.services);
        services.into_iter().find(|service| service.id == "etcd").map(|service| service.state)
    };
    until("etcd's service", 20, etcd);

    fleet.power_off(1);
    assert_eq!(version(&admin).expect_err("off").code(), Code::Unavailable);
    fleet.power_on(&server(1, "alone", ADDRESS, None));
    until("the configured API after a power cycle", 20, || version(&admin).ok());
    fleet.shutdown();
    assert_eq!(version(&admin).expect_err("off").code(), Code::Unavailable);
}

#[test]
fn every_method_needs_a_role_and_an_unknown_method_is_unimplemented() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    issue_talos(place, "admin", "os:admin");
    issue_talos(place, "guest", "os:guest");
    let fleet = common::empty_fleet(place, Ipv4Addr::new(127, 73, 5, 8));
    let config = configuration(CONTROL_PLANE, GUARDED);
    fleet.power_on(&server(1, "guarded", GUARDED, Some(config)));
    let (admin, guest) =
        (Talos::known(GUARDED, place, "admin"), Talos::known(GUARDED, place, "guest"));
    until("the configured API", 20, || version(&admin).ok());

    let methods = methods();
    assert!(methods.len() > 20, "{methods:?}");
    for path in methods {
        assert_eq!(call(&guest, &path).code(), Code::PermissionDenied, "{path}");
    }
    for path in ["/machine.MachineService/Copy", "/time.TimeService/Time", "/"] {
        assert_eq!(call(&admin, path).code(), Code::Unimplemented, "{path}");
    }
    fleet.shutdown();
}

/// Returns the path of every described method.
fn methods() -> Vec<String> {
    let descriptions = FileDescriptorSet::decode(talos_api::FILE_DESCRIPTOR_SET);
    let files = descriptions.expect("descriptions").file;
    let services = files.iter().flat_map(|file| {
        file.service
            .iter()
            .map(|service| (format!("/{}.{}", file.package(), service.name()), service))
    });
    services
        .flat_map(|(path, service)| {
            service.method.iter().map(move |method| format!("{path}/{}", method.name()))
        })
        .collect()
}

/// Returns the error of a call without arguments.
fn call(talos: &Talos, path: &str) -> Status {
    let mut client = Grpc::new(talos.channel());
    let path = PathAndQuery::try_from(path).expect("a path");
    let answer = talos.limited(async {
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        client.unary(Request::new(()), path, ProstCodec::<(), ()>::default()).await
    });
    answer.expect_err("no error")
}

fn version(talos: &Talos) -> Result<VersionResponse, Status> {
    talos.call(async |mut client| client.version(()).await)
}
