//! Patches that give several machines one name or one address: `plan` finds each before a server is ordered.

mod support;

use std::fs;

use assert_cmd::cargo::cargo_bin;
use support::{CONTROL, WORK};
use testing::Test;
use testing::run::{program, stderr as said};

/// Address at which no server listens: a run that asks the cloud ends with another status.
const NOWHERE: &str = "http://127.74.0.2:1/v1";

/// Pool of one worker.
const ONE: &str = "name: one, role: worker, count: 1, type: cx23, locations: [hel1]";

const NAME: &str = "the name of a machine comes from its pool";
const ADDRESS: &str = "is the address of one machine";

/// Runs `plan` with `patch` for the machines of one pool or of the cluster, and returns the errors. The document
/// has another mistake, with which the run ends before any request when the patch has none.
fn planned(pools: [&str; 2], of_cluster: bool, patch: &str) -> Test<String> {
    let folder = tempfile::tempdir()?;
    support::write(folder.path(), NOWHERE);
    fs::write(folder.path().join("patch.yaml"), patch)?;
    let last = format!("{}, patches: [patch.yaml]", pools[1]);
    let closed = "  firewall: {talos: []}\n";
    let cluster = if of_cluster {
        support::cluster("prod", &pools, &format!("{closed}  patches: [patch.yaml]\n"))
    } else {
        support::cluster("prod", &[pools[0], &last], closed)
    };
    let input = fs::read_to_string(folder.path().join("project.yaml"))? + &cluster;
    let mut program = program(cargo_bin!("talos-provision"));
    let run = program.current_dir(folder.path()).arg("plan").write_stdin(input).assert().code(2);
    let said = said(&run);
    assert!(said.contains("no address may reach Talos's API"), "{said}");
    Ok(said)
}

fn hostname(fields: &str) -> String {
    format!("apiVersion: v1alpha1\nkind: HostnameConfig\n{fields}\n")
}

fn link(kind: &str, name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1alpha1\nkind: {kind}\nname: {name}\n{more}addresses: [{{address: 10.1.0.2/24}}]\n"
    )
}

// hazard: A patch names every machine of a pool alike. The second control plane removes the first one from etcd, and a
// machine is removed without its drain, because its node has another name.
// class: A value of one machine is given to several machines.
// members: HostnameConfig, its deletion, `hostname-override`, static addresses of links, `node-ip`
// now: exit status 2, with file, line and column
#[test]
fn a_name_for_a_machine_is_an_error_with_its_position() -> Test {
    let override_ = "machine: {kubelet: {extraArgs: {hostname-override: a}}}\n";
    for (patch, place) in [
        (hostname("hostname: a"), "patch.yaml:3:1: /hostname: "),
        (hostname("$patch: delete"), "patch.yaml:1:1: /hostname: "),
        (override_.to_owned(), "patch.yaml:1:33: /machine/kubelet/extraArgs/hostname-override: "),
    ] {
        for (pools, of_cluster) in
            [([CONTROL, WORK], false), ([CONTROL, ONE], false), ([CONTROL, WORK], true)]
        {
            let said = planned(pools, of_cluster, &patch)?;
            assert!(said.contains(&format!("{place}{NAME}")), "{patch}\n{said}");
            assert_eq!(said.matches(NAME).count(), 1, "each error once: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_static_address_for_several_machines_is_an_error_with_its_position() -> Test {
    let interface = "machine:\n  network:\n    interfaces:\n    - interface: eth1\n      addresses: [10.1.0.2/24]\n";
    for (patch, place) in [
        (link("LinkConfig", "eth1", ""), "patch.yaml:4:13: /addresses/0 "),
        (
            link("VLANConfig", "eth1.5", "vlanID: 5\nparent: eth1\n"),
            "patch.yaml:6:13: /addresses/0 ",
        ),
        (interface.to_owned(), "patch.yaml:5:19: /machine/network/interfaces/0/addresses/0 "),
        (
            "machine: {kubelet: {extraArgs: {node-ip: 10.0.1.9}}}\n".to_owned(),
            "patch.yaml:1:33: /machine/kubelet/extraArgs/node-ip ",
        ),
    ] {
        for (pools, of_cluster) in [([CONTROL, WORK], false), ([CONTROL, ONE], true)] {
            let said = planned(pools, of_cluster, &patch)?;
            assert!(said.contains(&format!("{place}{ADDRESS}")), "{patch}\n{said}");
        }
        let said = planned([CONTROL, ONE], false, &patch)?;
        assert!(!said.contains("patch.yaml"), "one machine may have it: {patch}\n{said}");
    }
    Ok(())
}

#[test]
fn a_value_that_machines_may_share_is_accepted() -> Test {
    for patch in [
        "machine: {nodeLabels: {tier: a}}\n".to_owned(),
        "machine: {network: {interfaces: [{interface: lo, addresses: [10.9.9.9/32]}]}}\n".to_owned(),
        "machine: {network: {interfaces: [{interface: dummy0, dummy: true, addresses: [10.9.9.9/32]}]}}\n".to_owned(),
        link("DummyLinkConfig", "dummy0", ""),
        link("BridgeConfig", "br0", "links: [eth1]\n"),
    ] {
        let said = planned([CONTROL, WORK], false, &patch)?;
        assert!(!said.contains("patch.yaml"), "{patch}\n{said}");
    }
    Ok(())
}
