//! `plan --output tofu` against an emulated cloud whose machines do not answer, and the page
//! `tests/page/tofu.md`. The schemas of the provider are those of `tools/shared/testing/schemas`.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use assert_cmd::cargo::cargo_bin;
use emulator_hcloud::NoMachines;
use harness::support::{CONTROL, WORK, cluster};
use harness::{Harness, until};
use serde_json::{Value, json};
use testing::page::Page;
use testing::tofu::Schema;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/tofu.md");

/// Returns a cloud with the cluster `name`, whose machines were created and do not answer.
fn created(name: &str, pools: &[&str], machines: usize) -> Harness {
    let harness = Harness::open(Arc::new(NoMachines), &cluster(name, pools, ""));
    let run = harness.start("apply");
    until("running machines", || {
        let servers = harness.list("servers");
        servers.len() == machines && servers.iter().all(|server| server["status"] == "running")
    });
    run.interrupt().code(111);
    harness
}

fn configuration(text: &str) -> Value {
    let configuration = serde_json::from_str(text).expect("JSON");
    let schema = Schema::read("hcloud").expect("schemas");
    assert_eq!(schema.differences(&configuration), [""; 0]);
    configuration
}

fn imports(configuration: &Value) -> BTreeSet<(String, String)> {
    let imports = configuration["import"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    imports.map(|import| (text(&import["to"]), text(&import["id"]))).collect()
}

/// Returns every line of the files below `folder` that is long enough to be a secret.
fn secrets(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            lines.extend(secrets(&path));
        } else {
            let text = fs::read_to_string(&path).expect("text");
            lines.extend(text.lines().map(|line| line.trim().to_owned()));
        }
    }
    lines.retain(|line| line.len() >= 24);
    lines
}

#[test]
fn configuration_imports_exactly_what_the_program_has_created() {
    let harness = created("prod", &[CONTROL, WORK], 3);
    let body = json!({"name": "theirs", "server_type": "cx23", "image": "debian-13",
                      "location": "fsn1", "start_after_create": false});
    harness.call("POST", "/v1/servers", &body);
    harness.call("POST", "/v1/networks", &json!({"name": "theirs", "ip_range": "10.9.0.0/16"}));
    until("a server of others", || harness.names("servers").contains(&"theirs".to_owned()));

    let writes = harness.writes();
    let end = harness.run("plan --output tofu").code(0);
    assert_eq!(harness.writes(), writes, "a plan writes nothing");
    assert!(!end.out.contains("theirs"), "{}", end.out);
    let configuration = configuration(&end.out);
    let id = |family: &str, name: &str| {
        let found = harness.list(family).into_iter().find(|item| item["name"] == name);
        found.expect("the resource")["id"].as_u64().expect("a number").to_string()
    };
    let (network, balancer) = (id("networks", "prod"), id("load_balancers", "prod"));
    let mut expected = BTreeSet::from([
        ("hcloud_network.prod".to_owned(), network.clone()),
        ("hcloud_network_subnet.prod-10_0_1_0_24".to_owned(), format!("{network}-10.0.1.0/24")),
        ("hcloud_firewall.prod".to_owned(), id("firewalls", "prod")),
        ("hcloud_primary_ip.prod".to_owned(), id("primary_ips", "prod")),
        ("hcloud_load_balancer.prod".to_owned(), balancer.clone()),
        ("hcloud_load_balancer_network.prod".to_owned(), format!("{balancer}-{network}")),
        ("hcloud_load_balancer_service.prod-6443".to_owned(), format!("{balancer}__6443")),
        (
            "hcloud_load_balancer_target.prod-control-planes".to_owned(),
            format!(
                "{balancer}__label_selector__holistic/project=holistic,holistic/cluster=prod,\
                 holistic/role=controlplane,!holistic/removing"
            ),
        ),
    ]);
    for group in ["prod-control", "prod-work"] {
        let address = format!("hcloud_placement_group.{group}");
        expected.insert((address, id("placement_groups", group)));
    }
    for server in ["prod-control-1", "prod-work-1", "prod-work-2"] {
        let id = id("servers", server);
        expected.insert((format!("hcloud_server_network.{server}"), format!("{id}-{network}")));
        expected.insert((format!("hcloud_server.{server}"), id));
    }
    assert_eq!(imports(&configuration), expected);
}

#[test]
fn configuration_holds_no_secret() {
    let harness = created("prod", &[CONTROL], 1);
    // The address of the endpoint, which `derive` needs, is in the status.
    let planned = harness.run("plan").code(0).cluster();
    fs::write(harness.path("cluster.yaml"), planned.to_string()).expect("written");
    let to = harness.path("derived");
    let verb = format!("derive --to {}", to.display());
    harness.run(&verb).code(0);
    let mut secrets = secrets(&to);
    secrets.push(fs::read_to_string(harness.path("root")).expect("the root").trim().to_owned());
    assert!(secrets.len() > 20, "{}", secrets.len());
    let text = harness.run("plan --output tofu").code(0).out;
    for secret in secrets {
        assert!(!text.contains(&secret), "a derived value is in the configuration");
    }
    let provider = configuration(&text)["provider"]["hcloud"].clone();
    let names: Vec<_> = provider.as_object().expect("arguments").keys().cloned().collect();
    assert_eq!(names, ["endpoint"]);
}

#[test]
fn reader_gets_the_same_configuration_as_an_administrator() {
    let harness = created("prod", &[CONTROL], 1);
    let administrators = harness.run("plan --output tofu").code(0).out;
    fs::remove_file(harness.path("root")).expect("removed");
    let key = ("READER_KEY", testing::documents::ROOT);
    let run = harness.start_with("plan --output tofu", &[key]);
    let readers = run.wait(std::time::Duration::from_secs(60)).code(0).out;
    assert_eq!(readers, administrators);
}

#[test]
fn configuration_in_a_file_leaves_the_documents_on_standard_output() {
    let harness = created("prod", &[CONTROL], 1);
    let alone = harness.run("plan --output tofu").code(0).out;
    let beside = harness.run("plan --check --output tofu=main.tf.json").code(3);
    assert_eq!(fs::read_to_string(harness.path("main.tf.json")).expect("a file"), alone);
    assert!(beside.cluster()["status"]["plan"].is_array());
}

#[test]
fn nothing_is_written_unless_every_document_could_be_planned() {
    let harness = created("prod", &[CONTROL], 1);
    let wrong = cluster("prod", &[&CONTROL.replace("cax11", "cax21")], "");
    fs::write(harness.path("cluster.yaml"), wrong).expect("written");
    let end = harness.run("plan --output tofu").code(100);
    assert_eq!(end.out, "");
    assert!(end.err.contains("no configuration of OpenTofu is written"), "{}", end.err);
    fs::write(harness.path("main.tf.json"), "before").expect("written");
    harness.run("plan --output tofu=main.tf.json").code(100).cluster();
    assert_eq!(fs::read_to_string(harness.path("main.tf.json")).expect("a file"), "before");
}

#[test]
fn tofu_page_shows_what_the_program_prints() {
    let harness = created("shop", &[CONTROL], 1);
    let folder = tempfile::tempdir().expect("a folder");
    let page = Page::copy(PAGE, folder.path()).expect("copied");
    let input = page.input();
    for name in ["project.yaml", "root", "token", "read-token"] {
        fs::copy(harness.path(name), input.join(name)).expect("copied");
    }
    let second = fs::read_to_string(harness.path("project.yaml")).expect("text");
    let second = second.replace("name: holistic", "name: another");
    fs::write(input.join("another.yaml"), second).expect("written");
    let other = cluster("next", &[CONTROL], "").replace("project: holistic", "project: another");
    for (name, document) in
        [("shop.yaml", cluster("shop", &[CONTROL, WORK], "")), ("next.yaml", other)]
    {
        fs::write(input.join(name), document).expect("written");
    }
    page.run("talos-provision", cargo_bin!("talos-provision"), &[]).expect("the page runs");
}
