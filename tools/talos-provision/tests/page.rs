//! The page `tests/page/plan.md`: plans as people see them, against an emulated cloud whose machines do not
//! answer. The cluster `shop` exists, and the cluster `prod` does not.

mod harness;

use std::fs;
use std::sync::Arc;

use assert_cmd::cargo::cargo_bin;
use emulator_hcloud::NoMachines;
use harness::support::{WORK, cluster};
use harness::{Harness, until};
use serde_json::json;
use testing::page::Page;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/plan.md");

const CONTROL: &str =
    "name: control, role: controlplane, count: 1, type: cax11, locations: [fsn1, nbg1]";
const IMAGE: &str = "  image: {extensions: [siderolabs/qemu-guest-agent]}\n";
const SPARE: &str = "name: spare, role: worker, count: 1, type: cx23, locations: [hel1]";

#[test]
fn plan_page_shows_what_the_program_prints() {
    let harness = Harness::open(Arc::new(NoMachines), &cluster("shop", &[CONTROL, SPARE], ""));
    let run = harness.start("apply");
    until("two machines", || {
        let servers = harness.list("servers");
        servers.len() == 2 && servers.iter().all(|server| server["status"] == "running")
    });
    run.interrupt().code(111);
    let server =
        harness.list("servers").into_iter().find(|server| server["name"] == "shop-control-1");
    let id = server.expect("the server")["id"].clone();
    harness.call("POST", &format!("/v1/servers/{id}/actions/poweroff"), &json!({}));
    until("a server that is off", || {
        harness.list("servers").iter().any(|server| server["status"] == "off")
    });

    let folder = tempfile::tempdir().expect("a folder");
    let page = Page::copy(PAGE, folder.path()).expect("copied");
    let input = page.input();
    for name in ["project.yaml", "root", "token", "read-token"] {
        fs::copy(harness.path(name), input.join(name)).expect("copied");
    }
    for (name, document) in [
        ("prod.yaml", cluster("prod", &[CONTROL, WORK], "")),
        ("image.yaml", cluster("prod", &[CONTROL, WORK], IMAGE)),
        (
            "shop.yaml",
            cluster(
                "shop",
                &[CONTROL, WORK],
                "  firewall: {talos: [192.0.2.0/24], rules: [{protocol: tcp, port: 443, from: [anywhere]}]}\n",
            ),
        ),
        ("larger.yaml", cluster("shop", &[CONTROL, &SPARE.replace("cx23", "cx33")], "")),
    ] {
        fs::write(input.join(name), document).expect("written");
    }
    let writes = harness.writes();
    page.run("talos-provision", cargo_bin!("talos-provision"), &[]).expect("the page runs");
    assert_eq!(harness.writes(), writes, "a plan writes nothing");
}
