//! Configurations that Talos's own generator wrote from the same secrets, byte for byte.

use talos_provision::config::{Common, generate, render};
use talos_provision::pki::Bundle;
use talos_provision::spec::Role;

fn configuration(role: Role) -> String {
    let bundle = Bundle::parse(include_str!("fixtures/talos/secrets.yaml")).expect("a bundle");
    let common = Common {
        cluster: "base",
        endpoint: "https://base:6443",
        kubernetes: "1.28.0",
        bundle: &bundle,
    };
    render(&generate(&common, role)).to_string()
}

#[test]
fn the_control_plane_configuration_equals_that_of_talosctl() {
    let golden = include_str!("fixtures/talos/v1.13/base-controlplane.yaml");
    assert_eq!(configuration(Role::Controlplane), golden);
}

#[test]
fn the_worker_configuration_equals_that_of_talosctl() {
    assert_eq!(configuration(Role::Worker), include_str!("fixtures/talos/v1.13/base-worker.yaml"));
}

#[test]
fn an_empty_patch_changes_nothing() {
    use talos_provision::config::{Patch, patched};
    let golden = include_str!("fixtures/talos/v1.13/base-controlplane.yaml");
    let bundle = Bundle::parse(include_str!("fixtures/talos/secrets.yaml")).expect("a bundle");
    let common = Common {
        cluster: "base",
        endpoint: "https://base:6443",
        kubernetes: "1.28.0",
        bundle: &bundle,
    };
    let nothing = Patch::parse("machine: {}\n").expect("a patch");
    let documents =
        patched(generate(&common, Role::Controlplane), [&nothing]).expect("the patch fits");
    let text = render(&documents);
    assert_eq!(*text, golden, "the order of fields is Talos's own");
}
