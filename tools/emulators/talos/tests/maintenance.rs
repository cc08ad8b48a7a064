//! A machine's life without components: maintenance mode, a configuration, and power off.
//!
//! Needs openssl only. The boot cannot complete, because the folder of the components is empty.

mod common;

use std::net::Ipv4Addr;

use common::{CONTROL_PLANE, Talos, configuration, issue_talos, server, until};
use emulator_talos::Machines;
use talos_provision::wire::{
    ApplyConfiguration, ConfigurationApplied, Empty, Reply, ServiceList, Version, path,
};
use tonic::Code;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 73, 5, 1);

#[test]
fn a_configuration_ends_maintenance_mode_and_power_off_ends_the_api() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    issue_talos(place, "admin", "os:admin");
    let fleet = common::empty_fleet(place, Ipv4Addr::new(127, 73, 5, 9));
    fleet.power_on(&server(1, "alone", ADDRESS, None));

    let stranger = Talos::stranger(ADDRESS);
    let version = |talos: &Talos| talos.call::<_, Reply<Version>>(path::VERSION, Empty {});
    until("maintenance mode", 20, || version(&stranger).ok());
    let data = configuration(CONTROL_PLANE, ADDRESS).into_bytes();
    let request = ApplyConfiguration { data, ..ApplyConfiguration::default() };
    stranger
        .call::<_, Reply<ConfigurationApplied>>(path::APPLY_CONFIGURATION, request)
        .expect("applied");

    let admin = Talos::known(ADDRESS, place, "admin");
    until("the configured API", 20, || version(&admin).ok());
    assert!(version(&stranger).is_err(), "a client without a certificate has access");
    let etcd = || {
        let services: Reply<ServiceList> = admin.call(path::SERVICE_LIST, Empty {}).ok()?;
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
