//! A real API server at a distance of 50 ms: the number of requests of a run without changes, and its time
//! beside `kubectl get` of the same objects. `tasks/bench delivery` prints the figures.

#[allow(dead_code, unused_imports, reason = "other test binaries use the rest of the lab")]
mod lab;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Lab, Published, Test, bin, documents, run};
use serde_json::{Value, json};
use testing::delay::listen_far_away;

/// Round-trip time from a runner of GitHub to a server in another region.
const ROUND_TRIP: Duration = Duration::from_millis(50);
const OBJECTS: usize = 300;
const REQUESTS_MAX: usize = 30;
/// Longest time of a run, as a multiple of the time of `kubectl`. Programs that tests build are slower, and
/// share the machine with other tests.
const RATIO_MAX: f64 = if cfg!(debug_assertions) { 10.0 } else { 3.0 };
/// Number of measurements, of which the fastest counts: any other one waited for another test.
const MEASUREMENTS: usize = 5;

/// Returns the manifests of [`OBJECTS`] objects of three kinds.
fn manifests() -> String {
    let object = |number: usize| {
        let kind = ["ConfigMap", "Secret", "ServiceAccount"][number % 3];
        let metadata = json!({"name": format!("object-{number}"), "namespace": "default"});
        json!({"apiVersion": "v1", "kind": kind, "metadata": metadata}).to_string()
    };
    (0..OBJECTS).map(object).collect::<Vec<_>>().join("\n---\n")
}

/// Returns the shortest time of several calls.
fn fastest(mut act: impl FnMut() -> Test) -> Test<Duration> {
    let mut times = Vec::new();
    for _ in 0..MEASUREMENTS {
        let began = Instant::now();
        act()?;
        times.push(began.elapsed());
    }
    Ok(times.into_iter().min().unwrap_or_default())
}

// hazard: A run on a distant cluster takes minutes, so that a job ends before the run does.
// class: Requests are sent one after the other, one for each object.
// members: declared objects, the inventory, owners of pods, every kind of a removal
// now: each kind is listed once, and up to 16 requests are under way
#[test]
fn run_without_changes_takes_at_most_30_requests_and_a_few_times_as_long_as_kubectl() -> Test {
    let mut lab = Lab::start()?;
    lab.play();
    let nothing = Published {
        reference: format!("127.78.0.1:5000/zabronax/greeter@{}", testing::documents::DIGEST),
        digest: testing::documents::DIGEST.to_owned(),
        public_key: "a key".to_owned(),
    };
    let deployments = lab.publish(&[("objects.yaml", &manifests())], "cosign")?;
    let near =
        documents(&lab.flux_seed("apply -q", &lab.documents(&deployments, &nothing)?).success())?;

    let far = listen_far_away("127.78.0.1:0", "127.78.0.1:6443", ROUND_TRIP)?;
    let kubeconfig = fs::read_to_string(lab.path("program.kubeconfig"))?;
    let kubeconfig = kubeconfig.replace("127.78.0.1:6443", &far.to_string());
    let file = lab.path("far.kubeconfig");
    fs::write(&file, &kubeconfig)?;
    let mut documents = near.clone();
    let delivery = documents.last_mut().ok_or("a Delivery")?;
    for (field, value) in [
        ("cluster", Value::Null),
        ("kubeconfig", json!({"file": file})),
        ("project", json!("holistic")),
    ] {
        delivery["spec"][field] = value;
    }
    if let Some(spec) = delivery["spec"].as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }

    let kubectl = fastest(|| {
        let mut kubectl = Command::new(bin("kubectl"));
        kubectl.arg("--kubeconfig").arg(&file);
        kubectl.args("get configmaps,secrets,serviceaccounts --output name".split(' '));
        run(&mut kubectl).map(drop)
    })?;
    let mut figures = Vec::new();
    for line in ["plan --check", "apply -q", "verify -q"] {
        let (_, from) = lab.asked(0)?;
        lab.flux_seed(line, &documents).success();
        let requests = lab.asked(from)?.0.len();
        let ours = fastest(|| {
            lab.flux_seed(line, &documents).success();
            Ok(())
        })?;
        let ratio = ours.as_secs_f64() / kubectl.as_secs_f64();
        figures.push((line, requests, ours.as_millis(), ratio));
    }
    #[expect(clippy::print_stderr, reason = "the figures are the result of `tasks/bench delivery`")]
    for (line, requests, milliseconds, ratio) in &figures {
        eprintln!(
            "flux-seed {line}: {requests} requests, {milliseconds} ms, {ratio:.2} of kubectl get ({} ms)",
            kubectl.as_millis()
        );
    }
    for (line, requests, _, ratio) in &figures {
        assert!((1..=REQUESTS_MAX).contains(requests), "{line}: {requests} requests");
        assert!(*ratio <= RATIO_MAX, "{line}: {ratio:.2} of kubectl");
    }
    Ok(())
}
