//! Foreign changes in the cloud, and the empty answers that a token of another project gets. The
//! machines never answer, because repairs do not need them.

mod harness;

use std::sync::Arc;

use emulator_hcloud::NoMachines;
use harness::support::{self, CONTROL, WORK};
use harness::{Harness, until};
use serde_json::{Value, json};

fn cluster() -> String {
    support::cluster("prod", &[CONTROL, WORK], "")
}

const SELECTOR: &str =
    "holistic/project=holistic,holistic/cluster=prod,holistic/role=controlplane,!holistic/removing";

/// Returns the steps of a plan as `KIND NAME`, without those that only an answer of a machine can
/// end.
fn steps(cluster: &Value) -> Vec<String> {
    let steps = cluster["status"]["plan"].as_array().expect("a plan");
    let text = |step: &Value| {
        let action = step["action"].as_str()?;
        let name = step["kind"].as_str().or(step["name"].as_str()).unwrap_or_default();
        let changes = step["changes"].as_array().into_iter().flatten();
        let parts = changes.filter_map(|change| change["part"].as_str());
        let words = [action, name].into_iter().chain(parts).collect::<Vec<_>>();
        (action != "configure").then(|| words.join(" "))
    };
    steps.iter().filter_map(text).collect()
}

fn id(harness: &Harness, family: &str, name: &str) -> u64 {
    let found = harness.list(family).into_iter().find(|item| item["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))["id"].as_u64().expect("a number")
}

/// Calls the API as another client does, and repeats the call while an action locks the resource.
fn change(harness: &Harness, method: &str, path: &str, body: &Value) {
    until(path, || {
        let answer = harness.call(method, &format!("/v1/{path}"), body);
        match answer["error"]["code"].as_str() {
            None => true,
            Some("locked" | "conflict") => false,
            Some(_) => panic!("{path}: {answer}"),
        }
    });
    until("the end of the action", || {
        !harness.list("servers").iter().any(|server| server["locked"] == true)
    });
}

fn created() -> Harness {
    let harness = Harness::open(Arc::new(NoMachines), &cluster());
    let run = harness.start("apply");
    until("three machines", || {
        let servers = harness.list("servers");
        servers.len() == 3 && servers.iter().all(|server| server["status"] == "running")
    });
    run.interrupt().code(111);
    assert_eq!(steps(&harness.run("plan").code(0).cluster()), [""; 0], "nothing has changed yet");
    harness
}

/// Runs `apply` until only machines are left to wait for.
fn apply(harness: &Harness) {
    let run = harness.start("apply");
    until("a look at the cloud", || run.said().contains("GET /load_balancers?"));
    let mut before = None;
    until("the end of all changes", || {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let now = Some(harness.writes());
        std::mem::replace(&mut before, now) == now
    });
    run.interrupt().code(111);
}

#[test]
fn foreign_changes_in_the_cloud_are_planned_and_repaired_once() {
    let harness = created();
    let [control, one, two] =
        ["prod-control-1", "prod-work-1", "prod-work-2"].map(|name| id(&harness, "servers", name));
    let (network, firewall) = (id(&harness, "networks", "prod"), id(&harness, "firewalls", "prod"));
    let balancer = format!("load_balancers/{}", id(&harness, "load_balancers", "prod"));
    let command = |path: String, command: &str| format!("{path}/actions/{command}");
    let server = |id: u64, name: &str| command(format!("servers/{id}"), name);
    let target = json!({"type": "server", "server": {"id": one}});
    let selector = json!({"type": "label_selector", "label_selector": {"selector": SELECTOR}});
    let labels = json!({"labels": {
        "holistic/project": "holistic", "holistic/cluster": "prod", "team": "blue",
    }});
    let changes = [
        ("POST", server(one, "poweroff"), json!({}), "powerOn prod-work-1"),
        ("POST", server(one, "remove_from_placement_group"), json!({}), "joinGroup prod-work-1"),
        (
            "POST",
            server(two, "detach_from_network"),
            json!({"network": network}),
            "attachNetwork prod-work-2",
        ),
        (
            "POST",
            command(format!("firewalls/{firewall}"), "remove_from_resources"),
            json!({"remove_from": [target]}),
            "attachFirewall prod-work-1",
        ),
        ("PUT", format!("servers/{control}"), labels, "setLabels prod-control-1"),
        (
            "POST",
            command(format!("firewalls/{firewall}"), "set_rules"),
            json!({"rules": []}),
            "update firewall rules",
        ),
        (
            "POST",
            command(balancer.clone(), "delete_service"),
            json!({"listen_port": 6443}),
            "services",
        ),
        ("POST", command(balancer.clone(), "remove_target"), selector, "targets"),
        (
            "POST",
            command(balancer.clone(), "detach_from_network"),
            json!({"network": network}),
            "network",
        ),
        (
            "PUT",
            format!("primary_ips/{}", id(&harness, "primary_ips", "prod")),
            json!({"auto_delete": true}),
            "update primaryIp autoDelete",
        ),
    ];
    let kinds: std::collections::BTreeSet<_> = changes.iter().map(|(.., step)| *step).collect();
    assert_eq!(kinds.len(), 10, "each change is of another kind");
    for (method, path, body, _) in &changes {
        change(&harness, method, path, body);
    }
    let plan = harness.run("plan --check").code(3).cluster();
    let planned = steps(&plan).join("\n");
    for (.., step) in &changes {
        assert!(planned.contains(step), "{step}: {planned}");
    }
    let end = harness.run("verify").code(100);
    assert!(end.err.contains("is left to do"), "{}", end.err);

    apply(&harness);
    let plan = harness.run("plan").code(0).cluster();
    assert_eq!(steps(&plan), [""; 0], "all is repaired");
    let labels = harness.list("servers").into_iter().find(|server| server["id"] == control);
    assert_eq!(labels.expect("the server")["labels"]["team"], "blue", "others' labels stay");
    let shown = &harness.list("load_balancers")[0];
    assert_eq!(shown["services"].as_array().map(Vec::len), Some(1));
    assert_eq!(shown["targets"][0]["label_selector"]["selector"], SELECTOR);
    let writes = harness.writes();
    apply(&harness);
    assert_eq!(harness.writes(), writes, "a second run changes nothing");

    // The API allows this only for a load balancer that is attached to a network.
    change(&harness, "POST", &command(balancer, "disable_public_interface"), &json!({}));
    let plan = harness.run("plan").code(0).cluster();
    assert_eq!(steps(&plan), ["update loadBalancer publicInterface"]);
    apply(&harness);
    assert_eq!(harness.list("load_balancers")[0]["public_net"]["enabled"], true);

    // A deleted load balancer is created again at the address that every machine has as its endpoint.
    let address = |harness: &Harness| {
        harness.list("load_balancers")[0]["public_net"]["ipv4"]["ip"].to_string()
    };
    let before = address(&harness);
    let gone = format!("load_balancers/{}", id(&harness, "load_balancers", "prod"));
    change(&harness, "DELETE", &gone, &Value::Null);
    let plan = harness.run("plan").code(0).cluster();
    assert_eq!(steps(&plan), ["create loadBalancer"]);
    let endpoint = plan["status"]["observed"]["endpoint"].as_str().expect("text").to_owned();
    assert_eq!(format!("https://{}:6443", before.trim_matches('"')), endpoint);
    apply(&harness);
    assert_eq!(address(&harness), before);

    // A running machine is restarted for its placement group, and the plan shows the restart.
    change(&harness, "POST", &server(two, "remove_from_placement_group"), &json!({}));
    let plan = harness.run("plan").code(0).cluster();
    let restarts = plan["status"]["plan"].as_array().expect("a plan").iter();
    let mut restarts = restarts.filter(|step| step["restarts"] == true);
    assert_eq!(restarts.next().expect("a restart")["name"], "prod-work-2");
}

// hazard: A server whose attach or start failed stays off for ever.
// class: A failed action is forgotten.
// members: attach to the network, start
// now: the next run attaches and powers it on
#[test]
fn a_server_whose_creation_failed_half_way_is_completed_by_the_next_run() {
    let harness = Harness::open(Arc::new(NoMachines), &cluster());
    let fault = json!([{
        "method": "POST", "path": "/v1/servers", "status": 200, "code": "no_subnet_available",
        "message": "no free IP", "command": "attach_to_network",
    }]);
    harness.call("POST", "/_lab/faults", &fault);
    let end = harness.run("apply").code(111);
    assert!(end.err.contains("no free IP"), "{}", end.err);
    // A new server is off for a moment before it starts, so one that is off may still be starting.
    until("one server off and the others running", || {
        let (running, rest): (Vec<_>, Vec<_>) =
            harness.list("servers").into_iter().partition(|server| server["status"] == "running");
        !running.is_empty() && rest.len() == 1 && rest[0]["status"] == "off"
    });
    apply(&harness);
    for server in harness.list("servers") {
        assert_eq!(server["status"], "running", "{server}");
        assert_eq!(server["private_net"].as_array().map(Vec::len), Some(1), "{server}");
    }
}

// hazard: A token of another project lists nothing, and `destroy` reports that nothing is left.
// class: Silence is taken for absence.
// members: plan, apply, verify and destroy
// now: `Unknown`, exit 100
#[test]
fn an_empty_list_of_another_project_is_unknown_and_not_absent() {
    let harness = created();
    let plan = harness.run("plan").code(0).cluster();
    let known = format!("{plan}\n");
    let other = Harness::open(Arc::new(NoMachines), &known);
    for image in other.list("images").iter().filter(|image| image["type"] == "snapshot") {
        other.call("DELETE", &format!("/v1/images/{}", image["id"]), &Value::Null);
    }
    let writes = other.writes();
    for verb in ["plan", "plan --destroy", "apply", "verify", "destroy"] {
        let end = other.run(verb).code(100);
        assert!(end.err.contains("unknown whether prod exists"), "{verb}: {}", end.err);
        let condition = &end.cluster()["status"]["conditions"][0];
        assert_eq!(
            [&condition["status"], &condition["reason"]],
            ["Unknown", "AbsenceUnproven"],
            "{verb}"
        );
    }
    assert_eq!(other.writes(), writes);
}

// hazard: Load balancers and volumes of cloud controllers keep billing after "nothing of it is
// left".
// class: Only our own is counted.
// members: load balancers in our network, volumes at our servers, volumes without a server that carry our label
// now: each is named with its cost
#[test]
fn destroy_names_resources_of_others_in_our_network() {
    let harness = created();
    let network = id(&harness, "networks", "prod");
    let theirs = json!({
        "name": "ingress", "load_balancer_type": "lb11", "location": "fsn1", "network": network,
    });
    harness.call("POST", "/v1/load_balancers", &theirs);
    let server = id(&harness, "servers", "prod-work-1");
    let volume = json!({"name": "pvc-1", "size": 10, "server": server});
    let volume = harness.call("POST", "/v1/volumes", &volume);
    assert_eq!(volume["volume"]["server"], server, "{volume}");
    // The labels of Hetzner's CSI driver, with the one that our manifest adds.
    for (name, cluster) in [("pvc-2", "prod"), ("pvc-3", "another")] {
        let labels = json!({"managed-by": "csi-driver", "holistic/cluster": cluster});
        let detached = json!({"name": name, "size": 10, "location": "fsn1", "labels": labels});
        harness.call("POST", "/v1/volumes", &detached);
    }
    let known = harness.run("plan").code(0).cluster();
    std::fs::write(harness.path("cluster.yaml"), known.to_string()).expect("written");
    let plan = harness.run("plan --destroy").code(0);
    let kept = [
        format!(
            "load balancer ingress ({}), 5.39 EUR per month",
            id(&harness, "load_balancers", "ingress")
        ),
        format!("volume pvc-1 ({}), 0.44 EUR per month", id(&harness, "volumes", "pvc-1")),
        format!("volume pvc-2 ({}), 0.44 EUR per month", id(&harness, "volumes", "pvc-2")),
    ];
    for kept in kept.iter().map(String::as_str).chain(["at 6.27 EUR per month"]) {
        assert!(plan.out.contains(kept), "{}", plan.out);
    }
    assert!(!plan.out.contains("pvc-3"), "{}", plan.out);
    let end = harness.run("destroy").code(0).cluster();
    let message = end["status"]["conditions"][0]["message"].as_str().expect("text").to_owned();
    for kept in kept.iter().map(String::as_str).chain(["together 6.27 EUR per month"]) {
        assert!(message.contains(kept), "{message}");
    }
    assert_eq!(harness.names("load_balancers"), ["ingress"]);
    // The image proves that the token belongs to the right project, so the empty answer proves
    // absence.
    harness.run("destroy").code(0);
}
