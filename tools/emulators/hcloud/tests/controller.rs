//! The calls of Hetzner's cloud controller manager for one Service.
//!
//! Recorded on 2026-11-30 in `/_lab/journal`, while version v1.35.0 ran with the flags and the environment of
//! `deployments/manifests/cloud/controller-manager.yaml` against this emulator and a cluster of two real nodes. It
//! wrote the provider IDs and addresses of both nodes, removed the taint, created and deleted the load balancer of
//! `deployments/manifests/ingress/service.yaml`, and removed the node of a deleted server. No Go module of it is
//! available, so that this test repeats its calls.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod emulator;

use emulator::Emulator;
use serde_json::{Value, json};

const UID: &str = "22125c75-b48c-4238-8fee-c1923a0c3f68";

// hazard: A cluster has no way in, because the emulator accepts other calls than those of the vendor's controller.
// class: An emulator repeats the error of the client that it tests.
// members: search by label, creation, network, services with PROXY protocol, targets by id, waiting for actions
// now: the recorded calls have the effects that the controller observes
#[test]
fn the_calls_of_the_cloud_controller_manager_create_and_delete_a_load_balancer() {
    let emulator = Emulator::start("controller");
    let network = json!({
        "name": "prod", "ip_range": "10.0.0.0/16",
        "subnets": [{"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.1.0/24"}],
    });
    let network = emulator.post("/networks", &network)["network"]["id"].clone();
    let worker = json!({
        "name": "prod-work-1", "server_type": "cax21", "image": "debian-13", "location": "fsn1",
        "networks": [network],
    });
    let worker = emulator.post("/servers", &worker);
    emulator.wait(&worker);
    let worker = worker["server"]["id"].clone();

    // Each action is waited for as hcloud-go v2.47.0 does.
    let finished = |answer: &Value| {
        emulator.wait(answer);
        let id = &answer["action"]["id"];
        let seen = emulator.get(&format!("/actions?id={id}&page=1&sort=status&sort=id"));
        assert_eq!(seen["actions"][0]["status"], "success", "{seen}");
    };
    assert_eq!(emulator.get("/networks?name=prod")["networks"][0]["id"], network);
    let servers = emulator.get("/servers?page=1&per_page=50");
    let private = &servers["servers"][0]["private_net"][0];
    assert_eq!(private["network"], network);
    let labelled = format!(
        "/load_balancers?label_selector=hcloud-ccm%2Fservice-uid%3D{UID}&page=1&per_page=50"
    );
    assert_eq!(emulator.get(&labelled)["load_balancers"], json!([]));
    assert_eq!(emulator.get("/load_balancers?name=prod-ingress")["load_balancers"], json!([]));

    let create = json!({
        "name": "prod-ingress", "load_balancer_type": "lb11", "location": "fsn1",
        "labels": {"hcloud-ccm/service-uid": UID},
    });
    let created = emulator.post("/load_balancers", &create);
    finished(&created);
    let id = created["load_balancer"]["id"].clone();
    let act = |name: &str, body: &Value| {
        finished(&emulator.post(&format!("/load_balancers/{id}/actions/{name}"), body));
    };
    act("attach_to_network", &json!({"network": network}));
    for (listen, destination) in [(80, 30_446), (443, 31_144)] {
        let check = json!({"protocol": "tcp", "port": destination, "interval": 5, "timeout": 3, "retries": 2});
        let service = json!({
            "protocol": "tcp", "listen_port": listen, "destination_port": destination,
            "proxyprotocol": true, "health_check": check,
        });
        act("add_service", &service);
    }
    let target = json!({"type": "server", "server": {"id": worker}, "use_private_ip": true});
    act("add_target", &target);

    let found = emulator.get(&labelled)["load_balancers"].clone();
    assert_eq!(found.as_array().unwrap().len(), 1);
    let balancer = &found[0];
    assert_eq!(balancer["private_net"][0]["network"], network);
    assert_eq!(balancer["targets"][0]["server"]["id"], worker);
    assert_eq!(balancer["targets"][0]["use_private_ip"], true);
    let services = balancer["services"].as_array().unwrap();
    let ports: Vec<_> = services.iter().map(|service| service["listen_port"].clone()).collect();
    assert_eq!(ports, [json!(80), json!(443)]);
    for service in services {
        let check = &service["health_check"];
        let seen = [&check["interval"], &check["timeout"], &check["retries"]];
        assert_eq!(seen, [5, 3, 2], "{service}");
        assert_eq!(service["proxyprotocol"], true);
    }
    let (status, ..) = emulator.call("DELETE", &format!("/v1/load_balancers/{id}"), &Value::Null);
    assert!((200..300).contains(&status), "{status}");
    assert_eq!(emulator.get(&labelled)["load_balancers"], json!([]));
}
