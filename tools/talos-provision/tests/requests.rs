//! Number of requests that each verb sends to the cloud. An account may send 3,600 in an hour
//! (<https://docs.hetzner.cloud/reference/cloud#rate-limiting>).
//!
//! | verb | requests, for N machines in P placement groups |
//! |---|---|
//! | `plan` of nothing | 11 |
//! | `plan`, `verify`, and an `apply` that finds nothing to do | 8 |
//! | first `apply`, until all machines exist | 21 + P + N, and waits |
//! | `destroy` | 19 + P + N, 2 more after etcd has started, 2 more with `spec.image`, and waits |
//!
//! Each list has one page for 50 resources. 8 are the seven lists (servers, five kinds of shared resources,
//! snapshots) and the prices; 11 are these and the offers: server types, load balancer types, locations. They
//! do not depend on N. A first `apply` cannot stay within 6 + 3 N for few machines, because it creates the
//! network, the firewall, the address and the load balancer of even one machine, and lists again what it
//! has created.
//!
//! Waits are counted apart, because the cloud decides how long an action runs: one request asks for up to
//! 25 actions at once, and after 15 s of waiting the seven lists are read again.

mod harness;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use emulator_hcloud::NoMachines;
use harness::{Harness, support, until};

/// Requests of a run, by their kind.
#[derive(Debug, Default)]
struct Requests {
    /// Requests for the state of actions.
    waits: u64,
    /// Requests that write.
    writes: u64,
    /// All other requests.
    reads: u64,
}

impl Requests {
    /// Reads the requests from the lines that `-v` prints.
    fn parse(err: &str) -> Self {
        let mut requests = Self::default();
        for line in err.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let methods = ["GET", "POST", "PUT", "DELETE"];
            let is_request =
                |pair: &&[&str]| methods.contains(&pair[0]) && pair[1].starts_with('/');
            let Some(pair) = words.windows(2).find(is_request) else { continue };
            match (pair[0], pair[1]) {
                ("GET", path) if path.starts_with("/actions?") => requests.waits += 1,
                ("GET", _) => requests.reads += 1,
                _ => requests.writes += 1,
            }
        }
        requests
    }

    fn sum(&self) -> u64 {
        self.waits + self.writes + self.reads
    }
}

fn pools(machines: u64) -> Vec<String> {
    let pool = |name: &str, role: &str, count: u64| {
        format!("name: {name}, role: {role}, count: {count}, type: cax11, locations: [fsn1, nbg1]")
    };
    let control = pool("control", "controlplane", 1);
    let workers = (machines > 1).then(|| pool("work", "worker", machines - 1));
    std::iter::once(control).chain(workers).collect()
}

/// Returns the requests of a run to its end, and asserts that the cloud has counted the same.
#[track_caller]
fn count(harness: &Harness, verb: &str, code: i32) -> Requests {
    let before = harness.calls();
    let end = harness.run(verb).code(code);
    let requests = Requests::parse(&end.err);
    assert_eq!(requests.sum(), harness.calls() - before, "{verb}: {}", end.err);
    requests
}

/// Returns the most lists that a run of this time reads because they have become old.
fn old_lists(time: Duration) -> u64 {
    7 * (time.as_secs() / 15)
}

fn requests_stay_within_the_formula(machines: u64) {
    let pools = pools(machines);
    let groups = pools.len() as u64;
    let pools: Vec<_> = pools.iter().map(String::as_str).collect();
    let harness = Harness::open(Arc::new(NoMachines), &support::cluster("prod", &pools, ""));
    let plan = count(&harness, "plan --check", 3);
    assert_eq!((plan.sum(), plan.reads), (11, 11), "{machines} machines: {plan:?}");

    let began = Instant::now();
    let run = harness.start("apply");
    until("all machines", || {
        let servers = harness.list("servers");
        servers.len() as u64 == machines
            && servers.iter().all(|server| server["status"] == "running")
    });
    let end = run.interrupt().code(111);
    let apply = Requests::parse(&end.err);
    assert_eq!(apply.writes, 4 + groups + machines, "each resource once: {apply:?}\n{}", end.err);
    // The plan, each kind of shared resource again, and the servers.
    let reads = 11 + 5 + 1 + old_lists(began.elapsed());
    assert!(apply.reads <= reads, "{machines} machines, at most {reads}: {apply:?}\n{}", end.err);

    let plan = count(&harness, "plan", 0);
    assert_eq!((plan.sum(), plan.reads), (8, 8), "{machines} machines: {plan:?}");
    let known = harness.run("plan").code(0).cluster();
    fs::write(harness.path("cluster.yaml"), known.to_string()).expect("written");

    let began = Instant::now();
    let destroy = count(&harness, "destroy", 0);
    assert_eq!(destroy.writes, 4 + groups + machines, "each resource once: {destroy:?}");
    // The lists and prices, volumes, and again each family but the snapshots.
    let reads = 8 + 1 + 6 + old_lists(began.elapsed());
    assert!(destroy.reads <= reads, "{machines} machines, at most {reads}: {destroy:?}");
}

// hazard: A verb asks for each machine alone, and a large cluster exceeds the rate limit.
// class: The number of requests grows with the cluster for no reason.
// members: plan, the first apply, a plan of an existing cluster, destroy
// now: one list for a family, one request for many actions, and only families that changed are listed again
#[test]
fn requests_for_one_machine_stay_within_the_formula() {
    requests_stay_within_the_formula(1);
}

#[test]
fn requests_for_three_machines_stay_within_the_formula() {
    requests_stay_within_the_formula(3);
}

#[test]
fn requests_for_six_machines_stay_within_the_formula() {
    requests_stay_within_the_formula(6);
}
