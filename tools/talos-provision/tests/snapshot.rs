//! Snapshots of Talos that a person made, and what a plan checks about images. No machine runs.

mod harness;

use std::fs;
use std::sync::Arc;

use emulator_hcloud::NoMachines;
use harness::support::{CONTROL, WORK, cluster};
use harness::{Harness, until};
use serde_json::{Value, json};

/// Makes a snapshot with the labels of Talos's documentation from a server of type `cx33`, whose disk has
/// 80 GB.
fn make_large_snapshot(harness: &Harness) {
    let server =
        json!({"name": "by-hand", "server_type": "cx33", "image": "debian-13", "location": "hel1"});
    let id = harness.call("POST", "/v1/servers", &server)["server"]["id"].clone();
    until("a server", || {
        harness.list("servers").iter().any(|server| server["status"] == "running")
    });
    let labels = json!({"os": "talos", "version": "v1.13.9"});
    let path = format!("/v1/servers/{id}/actions/create_image");
    harness.call("POST", &path, &json!({"type": "snapshot", "labels": labels}));
    until("a snapshot", || {
        harness
            .list("images")
            .iter()
            .any(|image| image["disk_size"] == 80.0 && image["status"] == "available")
    });
}

// hazard: `plan` succeeds, `apply` creates five resources, and then the cloud rejects the first server because
// the disk of its image is larger than its own.
// class: A plan that cannot be executed.
// members: a snapshot made on a larger type; an image of ours that is too large for a new pool
// now: the size is compared when the plan is made, and a snapshot that fits is preferred
#[test]
fn a_snapshot_that_is_larger_than_a_declared_disk_is_an_error_of_the_plan() {
    let harness = Harness::open(Arc::new(NoMachines), &cluster("prod", &[CONTROL, WORK], ""));
    harness.run("plan").code(0);
    make_large_snapshot(&harness);
    harness.run("plan").code(0);
    for image in harness.list("images") {
        let is_for_x86 = image["architecture"] == "x86" && image["labels"]["os"] == "talos";
        if is_for_x86 && image["disk_size"] != 80.0 {
            harness.call("DELETE", &format!("/v1/images/{}", image["id"]), &Value::Null);
        }
    }
    let writes = harness.writes();
    for verb in ["plan", "apply"] {
        let end = harness.run(verb).code(2);
        let why = "the disk of cx23 has 40 GB, and the image of Talos needs 80 GB";
        for part in [why, "`image: {}`", "cluster.yaml:"] {
            assert!(end.err.contains(part), "{part}: {}", end.err);
        }
    }
    assert_eq!(harness.writes(), writes);

    let larger = WORK.replace("cx23", "cx33");
    fs::write(harness.path("cluster.yaml"), cluster("prod", &[CONTROL, &larger], ""))
        .expect("written");
    harness.run("plan").code(0);
}

#[test]
fn the_configuration_of_a_machine_names_the_installer_of_its_schematic() {
    let image = "  endpoint: https://prod.example.org:6443\n  image: {kernelArguments: [noapic, nolapic]}\n  firewall: {talos: [anywhere], kubernetes: []}\n";
    let harness = Harness::open(Arc::new(NoMachines), &cluster("prod", &[CONTROL], image));
    harness.run("derive --to derived").code(0);
    let file = harness.path("derived/talos-provision/prod/prod-control-1.yaml");
    let file = fs::read_to_string(file).expect("the configuration");
    let installer = "image: factory.talos.dev/hcloud-installer/\
                     9cba8e32753f91a16c1837ab8abf356af021706ef284aef07380780177d9a06c:v1.13.9\n";
    assert!(file.contains(installer), "{file}");
}

#[test]
fn wrong_fields_of_an_image_are_errors_of_the_document() {
    let agent = "siderolabs/qemu-guest-agent";
    for (image, message) in [
        (format!("{{extensions: [{agent}, {agent}]}}"), "is declared twice"),
        ("{extensions: [qemu-guest-agent]}".to_owned(), "not the name of an extension"),
        ("{kernelArguments: ['a b']}".to_owned(), "not one argument of the kernel"),
        ("{factory: http://factory.talos.dev}".to_owned(), "not an HTTPS URL without a path"),
        ("{schematic: x}".to_owned(), "unknown field `schematic`"),
    ] {
        let document = cluster("prod", &[CONTROL], &format!("  image: {image}\n"));
        let harness = Harness::open(Arc::new(NoMachines), &document);
        let end = harness.run("plan").code(2);
        assert!(end.err.contains(message) && end.err.contains("cluster.yaml:"), "{}", end.err);
    }
}
