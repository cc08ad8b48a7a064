//! Tests against an emulated cloud whose machines do not answer. Resources are created exactly once
//! whatever the cloud answers, and resources of others are left alone.

mod harness;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulator_hcloud::{Machines, NoMachines, Server};
use emulator_talos::{Fleet, FleetSettings, Node};
use harness::support::{self, WORK};
use harness::{Harness, until};
use serde_json::{Value, json};

/// Pool of one control plane, in the first location that has a server.
const CONTROL: &str =
    "name: control, role: controlplane, count: 1, type: cax11, locations: [fsn1, nbg1]";

fn cluster() -> String {
    support::cluster("prod", &[CONTROL, WORK], "")
}

fn harness() -> Harness {
    Harness::open(Arc::new(NoMachines), &cluster())
}

fn steps(cluster: &Value) -> Vec<String> {
    let steps = cluster["status"]["plan"].as_array().expect("a plan");
    let kind = |step: &Value| {
        let words = [step["action"].as_str(), step["name"].as_str()];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    steps.iter().map(kind).collect()
}

#[test]
fn apply_creates_no_machine_unless_first_contact_is_declared() {
    let document = cluster().replace("  firstContact: trustOnFirstUse\n", "");
    let harness = Harness::open(Arc::new(NoMachines), &document);
    for verb in ["plan", "apply"] {
        let end = harness.run(verb).code(100);
        assert!(end.err.contains("declare `firstContact: trustOnFirstUse`"), "{}", end.err);
    }
    assert_eq!(harness.writes(), 0);
}

/// The page `tests/page/plan.md` has the same plan as people see it.
#[test]
fn plan_lists_steps_with_their_costs_and_changes_nothing() {
    let harness = harness();
    let end = harness.run("plan --check").code(3);
    let cluster = end.cluster();
    assert_eq!(
        steps(&cluster),
        [
            "create prod-control",
            "create prod-work",
            "create prod",
            "create prod",
            "create prod",
            "create prod",
            "createServer prod-control-1",
            "createServer prod-work-1",
            "createServer prod-work-2",
            "configure prod-control-1",
            "bootstrap prod-control-1",
            "recordStart",
            "configure prod-work-1",
            "configure prod-work-2",
        ]
    );
    let plan = &cluster["status"]["plan"];
    assert_eq!(plan[6]["monthly"], "3.79");
    assert_eq!(plan[9]["sha256"], "known after apply");
    assert_eq!(cluster["status"]["observed"]["endpoint"], "known after apply");
    assert_eq!(harness.writes(), 0);
}

// hazard: A workflow of pull requests needs the key that signs certificates of administrators to plan machines.
// class: Read-only work that holds a key which writes.
// members: talos-provision with READER_KEY; a token that writes given to plan and verify; an empty key
// now: the cloud is planned with a token that only reads, and machines are reported as Unknown
#[test]
fn a_reader_plans_the_cloud_and_reports_machines_as_unknown() {
    let harness = harness();
    fs::remove_file(harness.path("root")).expect("the root was there");
    let key = testing::documents::ROOT;
    let run = |verb: &str, variables: &[(&str, &str)]| {
        harness.start_with(verb, variables).wait(Duration::from_secs(60))
    };
    let reader = [("READER_KEY", key)];

    let cluster = run("plan --check", &reader).code(3).cluster();
    let created: Vec<_> =
        steps(&cluster).into_iter().filter(|step| step.starts_with("create")).collect();
    assert_eq!(created.len(), 9, "{created:?}");
    assert_eq!(cluster["status"]["plan"][6]["monthly"], "3.79");
    let conditions = cluster["status"]["conditions"].as_array().expect("conditions");
    let unknown: Vec<_> = conditions
        .iter()
        .filter(|condition| condition["status"] == "Unknown")
        .map(|condition| condition["type"].as_str().expect("text"))
        .collect();
    assert_eq!(unknown, ["Configured", "Etcd", "Api", "Nodes"]);

    let said = run("plan", &[]).code(100).err;
    assert!(said.contains("root"), "without any key, the error names the root: {said}");
    let said = run("plan", &[("READER_KEY", "")]).code(100).err;
    assert!(said.contains("READER_KEY"), "an empty key is an error: {said}");
    for verb in ["apply", "verify", "destroy", "plan --destroy"] {
        let said = run(verb, &reader).code(100).err;
        assert!(said.contains("root"), "{verb} needs the key of talos-provision: {said}");
    }
    assert_eq!(harness.writes(), 0);

    // The emulator does not count writes that it rejects, so a run with the reader's token must
    // show the error.
    fs::copy(harness.path("read-token"), harness.path("token")).expect("copied");
    fs::write(harness.path("root"), key).expect("written");
    let said = harness.run("apply").code(100).err;
    assert!(said.contains("token_readonly"), "{said}");
}

#[test]
fn every_machine_is_created_once_whatever_the_cloud_answers() {
    let harness = harness();
    harness.fault("GET", "/v1/networks", 429, "rate_limit_exceeded", false);
    harness.fault("POST", "/v1/networks", 423, "locked", false);
    harness.fault("POST", "/v1/firewalls", 504, "timeout", true);
    harness.fault("POST", "/v1/load_balancers", 409, "conflict", false);
    harness.fault("POST", "/v1/servers", 412, "resource_unavailable", false);
    harness.fault("POST", "/v1/servers", 503, "unavailable", true);
    harness.fault("POST", "/v1/servers", 502, "bad_gateway", false);
    harness.fault("GET", "/v1/actions", 500, "server_error", false);
    let run = harness.start("apply");
    let running = |server: &Value| server["status"] == "running";
    until("three machines", || {
        let servers = harness.list("servers");
        servers.len() == 3 && servers.iter().all(running)
    });
    let end = run.interrupt().code(111);
    let condition = &end.cluster()["status"]["conditions"][0];
    assert_eq!([&condition["status"], &condition["reason"]], ["False", "Interrupted"]);

    assert_eq!(harness.names("servers"), ["prod-control-1", "prod-work-1", "prod-work-2"]);
    for family in ["networks", "firewalls", "load_balancers"] {
        assert_eq!(harness.names(family), ["prod"], "{family}");
    }
    let servers = harness.list("servers");
    let control =
        servers.iter().find(|server| server["name"] == "prod-control-1").expect("the machine");
    assert_eq!(control["location"]["name"], "nbg1", "the first location had none");
    assert_eq!(control["labels"]["holistic/role"], "controlplane");
    assert_eq!(control["image"]["architecture"], "arm");
    assert!(!harness.call("GET", "/v1/servers", &Value::Null).to_string().contains("user_data"));

    // The next run observes the existing machines, and creates no others.
    let writes = harness.writes();
    let plan = harness.run("plan").code(0).cluster();
    let left = ["configure prod-control-1", "configure prod-work-1", "configure prod-work-2"];
    assert_eq!(steps(&plan), left, "etcd is unknown, and not assumed to be absent");
    assert!(
        plan["status"]["observed"]["endpoint"]
            .as_str()
            .expect("text")
            .starts_with("https://127.74.")
    );
    let run = harness.start("apply");
    until("a request to the cloud", || {
        let said = run.said();
        said.contains("/v1/") || said.contains("GET")
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    run.interrupt().code(111);
    assert_eq!(harness.writes(), writes);
    harness.run("verify").code(100);

    let end = harness.run("plan --destroy").code(0);
    assert!(end.err.contains("  cost: 16.66 → 0.00 EUR per month, net"), "{}", end.err);
    let undone = end.cluster();
    assert_eq!(steps(&undone).len(), 9);
    let destroyed = harness.run("destroy").code(0).cluster();
    assert_eq!(destroyed["status"]["conditions"][0]["reason"], "Destroyed");
    for family in
        ["servers", "networks", "firewalls", "load_balancers", "primary_ips", "placement_groups"]
    {
        assert_eq!(harness.names(family), [""; 0], "{family}");
    }
    harness.run("destroy").code(0);
}

/// Machines whose deletion takes four seconds, as if their pods were still terminating.
struct SlowToGo;

impl Machines for SlowToGo {
    fn power_on(&self, _: &Server) {}
    fn power_off(&self, _: u64) {}
    fn delete(&self, _: u64) {
        std::thread::sleep(std::time::Duration::from_secs(4));
    }
}

#[test]
fn apply_waits_for_a_machine_that_is_being_deleted_and_creates_it_again() {
    let harness = Harness::open(Arc::new(SlowToGo), &cluster());
    let running = |name: &str| {
        let servers = harness.list("servers");
        let found =
            servers.iter().find(|server| server["name"] == name && server["status"] == "running");
        found.and_then(|server| server["id"].as_u64())
    };
    let delete = |id: u64| {
        let deleted = harness.call("DELETE", &format!("/v1/servers/{id}"), &Value::Null);
        assert_eq!(deleted["action"]["status"], "running", "{deleted}");
    };
    let run = harness.start("apply");
    until("a machine", || running("prod-work-2").is_some());
    run.interrupt().code(111);
    let lost = running("prod-work-2").expect("a machine");
    delete(lost);
    let plan = harness.run("plan").code(0).cluster();
    assert!(steps(&plan).contains(&"createServer prod-work-2".to_owned()), "{plan}");
    assert!(
        harness.names("servers").contains(&"prod-work-2".to_owned()),
        "the server is still being deleted"
    );

    let run = harness.start("apply");
    until("another machine", || running("prod-work-2").is_some_and(|id| id != lost));
    run.interrupt().code(111);

    delete(running("prod-work-2").expect("a machine"));
    harness.run("destroy").code(0);
    for family in ["servers", "networks", "placement_groups"] {
        assert_eq!(harness.names(family), [""; 0], "{family}");
    }
}

#[test]
fn resources_of_others_are_neither_adopted_nor_deleted() {
    let harness = harness();
    let theirs = json!({"name": "prod-work-2", "server_type": "cx23", "image": "debian-13", "location": "hel1"});
    harness.call("POST", "/v1/servers", &theirs);
    harness.call("POST", "/v1/networks", &json!({"name": "prod", "ip_range": "10.9.0.0/16"}));
    let writes = harness.writes();
    let end = harness.run("apply").code(100);
    assert!(end.err.contains("the server prod-work-2 exists"), "{}", end.err);
    assert!(end.err.contains("the network prod exists"), "{}", end.err);
    assert_eq!(end.cluster()["status"]["conditions"][0]["reason"], "Conflict");
    let end = harness.run("destroy").code(0);
    let message = end.cluster()["status"]["conditions"][0]["message"].clone();
    assert!(message.as_str().expect("text").contains("prod-work-2"), "{message}");
    assert_eq!(harness.writes(), writes);
}

#[test]
fn a_wrong_token_and_an_unknown_server_type_fail_with_help() {
    let harness = harness();
    fs::write(harness.path("read-token"), "another").expect("written");
    let end = harness.run("plan").code(100);
    assert!(
        end.err.contains("(unauthorized)") && end.err.contains("help: check the token"),
        "{}",
        end.err
    );
    assert!(!end.err.contains("another"), "{}", end.err);

    fs::write(harness.path("read-token"), "reader").expect("written");
    fs::write(harness.path("cluster.yaml"), cluster().replace("cx23", "cx24")).expect("written");
    let end = harness.run("plan").code(2);
    assert!(end.err.contains("spec.pools.1.type: unknown server type: in hel1"), "{}", end.err);
    assert!(end.err.contains("cx23 (2 cores, 4 GB)"), "{}", end.err);

    fs::write(harness.path("cluster.yaml"), cluster().replace("v1.13.9", "v1.13.8"))
        .expect("written");
    let end = harness.run("plan").code(100);
    assert!(end.err.contains("there is no image of Talos v1.13.8 for"), "{}", end.err);
    assert!(end.err.contains("factory.talos.dev"), "{}", end.err);
}

/// A machine that is silent until the test turns it on. It has no component, so it can only wait for its
/// configuration.
struct Late {
    fleet: Arc<Fleet>,
    server: Mutex<Option<Server>>,
    _disks: tempfile::TempDir,
}

impl Late {
    fn new() -> Self {
        let disks = tempfile::tempdir().expect("a folder");
        let settings = FleetSettings {
            directory: disks.path().join("machines"),
            binaries: disks.path().join("no-components"),
            plain_registries: Vec::new(),
            pause_image: String::new(), // no pod runs
            cni: "/usr/lib/cni".into(),
            kubeprism: SocketAddr::from((Ipv4Addr::new(127, 74, 0, 11), 7445)),
            node: Node::ControlPlaneOnly("this machine is not configured".to_owned()),
        };
        let fleet = Fleet::new(settings).expect("a fleet");
        Self { fleet, server: Mutex::default(), _disks: disks }
    }

    fn turn_on(&self) {
        let server = self.server.lock().expect("no test has panicked with it").clone();
        self.fleet.power_on(&server.expect("the cloud has created the server"));
    }
}

impl Machines for Late {
    fn power_on(&self, server: &Server) {
        *self.server.lock().expect("no test has panicked with it") = Some(server.clone());
    }
    fn power_off(&self, _: u64) {}
    fn delete(&self, _: u64) {}
}

impl Drop for Late {
    fn drop(&mut self) {
        self.fleet.shutdown();
    }
}

#[test]
fn verify_waits_for_a_machine_that_is_silent_for_three_seconds() {
    let machine = Arc::new(Late::new());
    // The address of a machine follows from its name, and no other test has a machine that answers there.
    let harness = Harness::open(machine.clone(), &support::cluster("late", &[CONTROL], ""));
    let run = harness.start("apply");
    until("one machine", || {
        harness.list("servers").iter().any(|server| server["status"] == "running")
    });
    run.interrupt().code(111);

    let run = harness.start("verify");
    std::thread::sleep(Duration::from_secs(3));
    machine.turn_on();
    let end = run.wait(Duration::from_secs(60)).code(100);
    assert!(end.err.contains("waiting, 2 s so far: a difference that should pass"), "{}", end.err);
    // etcd of a machine that is silent may have been started before, so no plan would start it.
    let message = end.cluster()["status"]["conditions"][0]["message"].to_string();
    assert!(message.contains("`configure late-control-1 as controlplane: sha256:"), "{message}");
    assert!(message.contains("is left to do, and 2 steps after it"), "{message}");
}
