//! An emulator that runs in the test's own process.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator_hcloud::{Cloud, Machines, Pace, Server, Settings};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "a-token-of-the-lab";
pub(crate) const READ_TOKEN: &str = "a-token-with-read-permission";

/// Machines that only record the calls to their power buttons.
#[derive(Debug, Default)]
pub(crate) struct Recorded(pub(crate) Mutex<Vec<String>>);

impl Recorded {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

impl Machines for Recorded {
    fn power_on(&self, server: &Server) {
        let rescue = if server.rescue { " into rescue" } else { "" };
        self.note(format!(
            "on {} at {} with {:?}{rescue}",
            server.name,
            server.ipv4,
            server.user_data.as_deref().unwrap_or("")
        ));
    }
    fn power_off(&self, _: u64) {
        self.note("off".to_owned());
    }
    fn delete(&self, _: u64) {
        self.note("delete".to_owned());
    }
}

pub(crate) struct Emulator {
    directory: Arc<tempfile::TempDir>,
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) machines: Arc<Recorded>,
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Emulator {
    pub(crate) fn start(name: &str) -> Self {
        Self::at_pace(name, Pace::default())
    }

    pub(crate) fn at_pace(name: &str, pace: Pace) -> Self {
        Self::inside(Arc::new(tempfile::Builder::new().prefix(name).tempdir().unwrap()), pace)
    }

    fn inside(directory: Arc<tempfile::TempDir>, pace: Pace) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.72.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let machines = Arc::new(Recorded::default());
        let settings = Settings {
            network: [127, 72],
            token: TOKEN.to_owned(),
            read_token: Some(READ_TOKEN.to_owned()),
            state: directory.path().join("state.json"),
            address,
        };
        let cloud = Cloud::open_at(settings, machines.clone(), pace).unwrap();
        runtime.spawn(Arc::clone(&cloud).serve(listener));
        Self { directory, cloud, machines, address, runtime: Some(runtime) }
    }

    /// Ends the emulator abruptly, and starts another one on the same state.
    pub(crate) fn restart(mut self, pace: Pace) -> Self {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        Self::inside(Arc::clone(&self.directory), pace)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state.json")
    }

    /// Makes a call. Returns the status, the header `RateLimit-Remaining`, and the body.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> (u16, Option<String>, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .into();
        let url = format!("http://{}{path}", self.address);
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", format!("Bearer {TOKEN}"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        let remaining = response
            .headers()
            .get("ratelimit-remaining")
            .map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().unwrap();
        (status, remaining, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.call("GET", &format!("/v1{path}"), &Value::Null).2
    }

    /// Makes a `POST` that must succeed, and waits for all its actions.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, _, answer) = self.call("POST", &format!("/v1{path}"), body);
        assert_eq!(status, 201, "{path}: {answer}");
        self.wait(&answer);
        answer
    }

    pub(crate) fn wait(&self, answer: &Value) {
        let next = answer["next_actions"].as_array().cloned().unwrap_or_default();
        for action in next.iter().chain([&answer["action"]]).filter(|action| !action.is_null()) {
            let path = format!("/actions/{}", action["id"]);
            until(|| self.get(&path)["action"]["status"] == json!("success"));
        }
    }
}

/// Waits until the condition is true, for at most 10 s.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}
