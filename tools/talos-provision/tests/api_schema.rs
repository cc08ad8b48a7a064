//! Every request that this program makes, and every answer that it gets, in the schema of the vendor.
//!
//! The schema is that of the `hcloud` crate, which is generated from Hetzner's description of its API. A
//! request is read as the generated type and written again: a field that is lost is unknown to the schema.
//! Differences between the crate and the vendor's own client are listed in [`newer`].

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;

use emulator_hcloud::NoMachines;
use harness::support::{self, WORK};
use harness::{Harness, until};
use hcloud::models;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const CONTROL: &str =
    "name: control, role: controlplane, count: 1, type: cax11, locations: [fsn1, nbg1]";

/// Reads a value as `T` and writes it again.
fn again<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, String> {
    let read: T = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(read).map_err(|error| error.to_string())
}

/// Type of a request or of an answer.
type Schema = fn(&Value) -> Result<Value, String>;

/// Returns the schema of the request and of the answer of a call. `path` has `ID` in place of numbers.
fn schema(method: &str, path: &str) -> Option<(Option<Schema>, Option<Schema>)> {
    macro_rules! both {
        ($request:ident, $answer:ident) => {
            (Some(again::<models::$request> as Schema), Some(again::<models::$answer> as Schema))
        };
    }
    macro_rules! answer {
        ($answer:ident) => {
            (None, Some(again::<models::$answer> as Schema))
        };
    }
    Some(match (method, path) {
        ("GET", "/actions") => answer!(GetMultipleActionsResponse),
        ("GET", "/servers/ID/actions") => answer!(ListActionsResponse),
        ("GET", "/pricing") => answer!(ListPricesResponse),
        ("GET", "/locations") => answer!(ListLocationsResponse),
        ("GET", "/server_types") => answer!(ListServerTypesResponse),
        ("GET", "/load_balancer_types") => answer!(ListLoadBalancerTypesResponse),
        ("GET", "/images") => answer!(ListImagesResponse),
        ("GET", "/servers") => answer!(ListServersResponse),
        ("GET", "/servers/ID") => answer!(GetServerResponse),
        ("GET", "/networks") => answer!(ListNetworksResponse),
        ("GET", "/networks/ID") => answer!(GetNetworkResponse),
        ("GET", "/volumes") => answer!(ListVolumesResponse),
        ("GET", "/firewalls") => answer!(ListFirewallsResponse),
        ("GET", "/placement_groups") => answer!(ListPlacementGroupsResponse),
        ("GET", "/primary_ips") => answer!(ListPrimaryIpsResponse),
        ("GET", "/load_balancers") => answer!(ListLoadBalancersResponse),
        ("POST", "/servers") => both!(CreateServerRequest, CreateServerResponse),
        ("POST", "/networks") => both!(CreateNetworkRequest, CreateNetworkResponse),
        ("POST", "/firewalls") => both!(CreateFirewallRequest, CreateFirewallResponse),
        ("POST", "/placement_groups") => {
            both!(CreatePlacementgroupRequest, CreatePlacementgroupResponse)
        }
        ("POST", "/primary_ips") => both!(CreatePrimaryIpRequest, CreatePrimaryIpResponse),
        ("POST", "/load_balancers") => both!(CreateLoadBalancerRequest, CreateLoadBalancerResponse),
        ("PUT", "/servers/ID") => both!(ReplaceServerRequest, ReplaceServerResponse),
        ("PUT", "/networks/ID") => both!(ReplaceNetworkRequest, ReplaceNetworkResponse),
        ("PUT", "/primary_ips/ID") => both!(ReplacePrimaryIpRequest, ReplacePrimaryIpResponse),
        ("POST", "/servers/ID/actions/attach_to_network") => {
            both!(AttachServerToNetworkRequest, AttachServerToNetworkResponse)
        }
        ("POST", "/servers/ID/actions/add_to_placement_group") => {
            both!(AddServerToPlacementGroupRequest, AddServerToPlacementGroupResponse)
        }
        ("POST", "/servers/ID/actions/remove_from_placement_group") => {
            answer!(RemoveFromPlacementGroupResponse)
        }
        ("POST", "/servers/ID/actions/poweron") => answer!(PowerOnServerResponse),
        ("POST", "/servers/ID/actions/poweroff") => answer!(PowerOffServerResponse),
        ("POST", "/servers/ID/actions/shutdown") => answer!(ShutdownServerResponse),
        ("POST", "/firewalls/ID/actions/set_rules") => both!(SetRulesRequest, SetRulesResponse),
        ("POST", "/firewalls/ID/actions/apply_to_resources") => {
            both!(ApplyToResourcesRequest, ApplyToResourcesResponse)
        }
        ("POST", "/load_balancers/ID/actions/add_service") => {
            both!(LoadBalancerService, AddServiceResponse)
        }
        ("POST", "/load_balancers/ID/actions/update_service") => {
            both!(UpdateLoadBalancerService, UpdateServiceResponse)
        }
        ("POST", "/load_balancers/ID/actions/delete_service") => {
            both!(DeleteServiceRequest, DeleteServiceResponse)
        }
        ("POST", "/load_balancers/ID/actions/add_target") => {
            both!(LoadBalancerAddTarget, AddTargetResponse)
        }
        ("POST", "/load_balancers/ID/actions/remove_target") => {
            both!(RemoveTargetRequest, RemoveTargetResponse)
        }
        ("POST", "/load_balancers/ID/actions/attach_to_network") => {
            both!(AttachLoadBalancerToNetworkRequest, AttachLoadBalancerToNetworkResponse)
        }
        ("POST", "/load_balancers/ID/actions/detach_from_network") => {
            both!(DetachLoadBalancerFromNetworkRequest, DetachLoadBalancerFromNetworkResponse)
        }
        ("POST", "/load_balancers/ID/actions/enable_public_interface") => {
            answer!(EnablePublicInterfaceOfLoadBalancerResponse)
        }
        ("DELETE", "/servers/ID") => answer!(DeleteServerResponse),
        // No body, or since 2026-10-05 an action that the crate does not know.
        (
            "DELETE",
            "/networks/ID"
            | "/firewalls/ID"
            | "/placement_groups/ID"
            | "/primary_ips/ID"
            | "/load_balancers/ID",
        ) => (None, None),
        _ => return None,
    })
}

/// Translates the requests and answers in which the vendor's own client differs from the crate.
fn newer(method: &str, path: &str, body: &mut Value, answer: &mut Value) {
    match (method, path) {
        // hcloud-go v2.52.0, `LoadBalancerCreateRequestPublicNet`.
        ("POST", "/load_balancers") => {
            let public_net = body.as_object_mut().and_then(|body| body.remove("public_net"));
            let public_net = public_net.expect("the Primary IP");
            assert!(public_net["ipv4"].is_u64(), "{public_net}");
            assert_eq!(public_net.as_object().map(serde_json::Map::len), Some(1));
        }
        // The description has a string, and hcloud-go v2.53.0 writes an id as a number (`schema.IDOrName`).
        ("POST", "/servers") => body["image"] = json!(body["image"].to_string()),
        // https://docs.hetzner.cloud/changelog#2026-04-27-primary-ips-make-assignee_type-optional
        ("POST", "/primary_ips") => body["assignee_type"] = json!("server"),
        _ => {}
    }
    let mut ips: Vec<&mut Value> = Vec::new();
    if let Some(answer) = answer.as_object_mut() {
        for (key, value) in answer {
            match key.as_str() {
                "primary_ip" => ips.push(value),
                "primary_ips" => ips.extend(value.as_array_mut().into_iter().flatten()),
                _ => {}
            }
        }
    }
    for ip in ips {
        let known = ["server", "unassigned", "load_balancer"];
        assert!(known.iter().any(|kind| ip["assignee_type"] == **kind), "{ip}");
        ip["assignee_type"] = json!("server");
    }
}

/// Returns the places of `sent` that `read` lacks or has with another value. An optional field without a value may be
/// left out.
fn lost(at: &str, sent: &Value, read: &Value) -> Vec<String> {
    match (sent, read) {
        (Value::Object(sent), Value::Object(read)) => sent
            .iter()
            .filter(|(_, value)| !value.is_null())
            .flat_map(|(key, value)| {
                lost(&format!("{at}/{key}"), value, read.get(key).unwrap_or(&Value::Null))
            })
            .collect(),
        (Value::Array(sent), Value::Array(read)) if sent.len() == read.len() => sent
            .iter()
            .zip(read)
            .flat_map(|(sent, read)| lost(&format!("{at}/-"), sent, read))
            .collect(),
        (Value::Number(sent), Value::Number(read)) if sent.as_f64() == read.as_f64() => Vec::new(),
        (sent, read) if sent == read => Vec::new(),
        (sent, read) => vec![format!("{at}: {sent} became {read}")],
    }
}

fn create(harness: &Harness) {
    let run = harness.start("apply");
    until("three machines", || {
        let servers = harness.list("servers");
        servers.len() == 3 && servers.iter().all(|server| server["status"] == "running")
    });
    run.interrupt().code(111);
}

fn id(harness: &Harness, family: &str, name: &str) -> u64 {
    let found = harness.list(family).into_iter().find(|item| item["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))["id"].as_u64().expect("a number")
}

/// Changes everything that `apply` repairs.
fn drift(harness: &Harness) {
    let id = |family: &str, name: &str| id(harness, family, name);
    let network = id("networks", "prod");
    let balancer = format!("load_balancers/{}/actions", id("load_balancers", "prod"));
    let firewall = format!("firewalls/{}/actions", id("firewalls", "prod"));
    let [one, two] = ["prod-work-1", "prod-work-2"].map(|name| id("servers", name));
    let targets = harness.list("load_balancers")[0]["targets"].clone();
    let selector =
        json!({"type": "label_selector", "label_selector": targets[0]["label_selector"]});
    let other = json!({"type": "ip", "ip": {"ip": "203.0.113.9"}});
    let service = |listen: u16, to: u16| json!({"listen_port": listen, "destination_port": to, "protocol": "tcp"});
    let server = json!([{"type": "server", "server": {"id": one}}]);
    for (method, path, body) in [
        ("POST", format!("servers/{one}/actions/poweroff"), json!({})),
        ("POST", format!("servers/{one}/actions/remove_from_placement_group"), json!({})),
        ("POST", format!("servers/{two}/actions/detach_from_network"), json!({"network": network})),
        (
            "PUT",
            format!("servers/{one}"),
            json!({"labels": {
                "holistic/project": "holistic", "holistic/cluster": "prod",
            }}),
        ),
        ("POST", format!("{firewall}/remove_from_resources"), json!({"remove_from": server})),
        ("POST", format!("{firewall}/set_rules"), json!({"rules": []})),
        ("PUT", format!("primary_ips/{}", id("primary_ips", "prod")), json!({"auto_delete": true})),
        ("POST", format!("{balancer}/update_service"), service(6443, 6444)),
        ("POST", format!("{balancer}/add_service"), service(80, 80)),
        ("POST", format!("{balancer}/add_target"), other),
        ("POST", format!("{balancer}/remove_target"), selector),
        ("POST", format!("{balancer}/detach_from_network"), json!({"network": network})),
    ] {
        until(&path, || {
            let answer = harness.call(method, &format!("/v1/{path}"), &body);
            match answer["error"]["code"].as_str() {
                None => true,
                Some("locked" | "conflict") => false,
                Some(_) => panic!("{path}: {answer}"),
            }
        });
    }
}

/// Returns the calls of the program, without those of the test.
fn calls(harness: &Harness) -> Vec<Value> {
    let mut answer = harness.call("GET", "/_lab/journal", &Value::Null);
    let mut journal: Vec<Value> = serde_json::from_value(answer["journal"].take()).expect("a list");
    journal.retain(|call| call["agent"] == "talos-provision");
    journal
}

#[test]
fn every_request_and_answer_has_the_form_of_the_vendors_schema() {
    let harness =
        Harness::open(Arc::new(NoMachines), &support::cluster("prod", &[CONTROL, WORK], ""));
    harness.fault("POST", "/v1/servers", 503, "unavailable", true);
    create(&harness);
    drift(&harness);
    let run = harness.start("apply");
    until("the end of the repairs", || {
        let plan = harness.run("plan").code(0).cluster();
        let steps = plan["status"]["plan"].as_array().cloned().unwrap_or_default();
        steps.iter().all(|step| step["action"] == "configure")
    });
    run.interrupt().code(111);
    harness.run("plan --destroy").code(0);
    harness.run("destroy").code(0);

    let (mut checked, mut wrong) = (BTreeSet::new(), Vec::new());
    for call in calls(&harness) {
        let text = |key: &str| call[key].as_str().unwrap_or_default().to_owned();
        let (method, path) = (text("method"), text("path"));
        let path: Vec<_> = path
            .trim_start_matches("/v1")
            .split('/')
            .map(|part| if part.parse::<u64>().is_ok() { "ID" } else { part })
            .collect();
        let path = path.join("/");
        if call["status"].as_u64().is_none_or(|status| status >= 300) {
            continue;
        }
        let (mut body, mut answer) = (call["body"].clone(), call["answer"].clone());
        let Some((request_schema, answer_schema)) = schema(&method, &path) else {
            wrong.push(format!("{method} {path} has no schema here"));
            continue;
        };
        newer(&method, &path, &mut body, &mut answer);
        match request_schema.map(|schema| schema(&body)) {
            Some(Ok(read)) => wrong.extend(lost(&format!("{method} {path}"), &body, &read)),
            Some(Err(error)) => wrong.push(format!("{method} {path}: request: {error}")),
            None if body.as_object().is_none_or(serde_json::Map::is_empty) => {}
            None => wrong.push(format!("{method} {path}: a body without a schema: {body}")),
        }
        if let Some(Err(error)) = answer_schema.map(|schema| schema(&answer)) {
            wrong.push(format!("{method} {path}: answer: {error}"));
        }
        checked.insert(format!("{method} {path}"));
    }
    wrong.sort();
    wrong.dedup();
    assert_eq!(wrong, [""; 0]);
    assert!(checked.len() >= 30, "{} kinds of calls: {checked:#?}", checked.len());
}
