//! Runs `talos-provision` against an emulated cloud, which is served by a thread of the test.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

#[path = "../support.rs"]
pub(crate) mod support;

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use emulator_hcloud::{Cloud, Machines, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
pub(crate) use testing::wait::until;

/// Emulated cloud, and a folder with documents that refer to it.
pub(crate) struct Harness {
    pub(crate) folder: tempfile::TempDir,
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Harness {
    /// Starts a cloud with public addresses below 127.74, and writes `cluster` as `cluster.yaml`.
    pub(crate) fn open(machines: Arc<dyn Machines>, cluster: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.74.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let settings = Settings {
            network: [127, 74],
            token: "lab".to_owned(),
            read_token: Some("reader".to_owned()),
            state: folder.path().join("cloud.json"),
            address,
        };
        let cloud = Cloud::open(settings, machines).expect("a cloud");
        runtime.spawn(cloud.serve(listener));
        let url = format!("http://{address}/v1");
        support::write(folder.path(), &url);
        let reader = "token: {file: token}, reader: {file: read-token}";
        let project = support::project(&url).replace("token: {file: token}", reader);
        fs::write(folder.path().join("project.yaml"), project).expect("written");
        fs::write(folder.path().join("read-token"), "reader").expect("written");
        fs::write(folder.path().join("cluster.yaml"), cluster).expect("written");
        Self { folder, address, runtime: Some(runtime) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts `talos-provision <verb>` on both documents, with an empty environment.
    pub(crate) fn start(&self, verb: &str) -> Run {
        self.start_with(verb, &[])
    }

    /// Does the same as [`Self::start`], with these variables in the environment.
    pub(crate) fn start_with(&self, verb: &str, variables: &[(&str, &str)]) -> Run {
        // Two runs may be in progress at the same time.
        let output = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let file = |name: &str| File::create(output.path().join(name)).expect("a file");
        let mut program = Command::new(assert_cmd::cargo::cargo_bin!("talos-provision"));
        program.env_clear().envs(variables.iter().copied()).current_dir(self.folder.path());
        program.args(verb.split(' ')).args(["-v", "project.yaml", "cluster.yaml"]);
        program.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let child = program.spawn().expect("the program starts");
        Run { child, output }
    }

    /// Runs `talos-provision <verb>` to its end.
    pub(crate) fn run(&self, verb: &str) -> End {
        self.start(verb).wait(Duration::from_secs(900))
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let agent: ureq::Agent = config.into();
        let request = ureq::http::Request::builder().method(method);
        let request = request.uri(format!("http://{}{path}", self.address));
        let request = request.header("Authorization", "Bearer lab");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = agent.run(request.body(body).expect("a request"));
        let text = answer.expect("an answer").body_mut().read_to_string().expect("text");
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn list(&self, family: &str) -> Vec<Value> {
        let mut answer = self.call("GET", &format!("/v1/{family}"), &Value::Null);
        serde_json::from_value(answer[family].take()).expect("a list")
    }

    pub(crate) fn names(&self, family: &str) -> Vec<String> {
        let name = |item: Value| item["name"].as_str().unwrap_or_default().to_owned();
        let mut names: Vec<_> = self.list(family).into_iter().map(name).collect();
        names.sort();
        names
    }

    pub(crate) fn writes(&self) -> u64 {
        self.call("GET", "/_lab/writes", &Value::Null)["writes"].as_u64().expect("a number")
    }

    /// Returns the number of calls of clients, without those of the test itself.
    pub(crate) fn calls(&self) -> u64 {
        self.call("GET", "/_lab/calls", &Value::Null)["calls"].as_u64().expect("a number")
    }

    /// Replaces the list of server types that are sold out, each with a location.
    pub(crate) fn sell_out(&self, types: &[(&str, &str)]) {
        let answer = self.call("PUT", "/_lab/sold_out", &json!(types));
        assert!(answer["sold_out"].is_array(), "{answer}");
    }

    pub(crate) fn fault(&self, method: &str, path: &str, status: u16, code: &str, after: bool) {
        let fault = json!([{"method": method, "path": path, "status": status, "code": code, "after_effect": after}]);
        let answer = self.call("POST", "/_lab/faults", &fault);
        assert!(answer["faults"].is_array(), "{answer}");
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// Running process of the program.
pub(crate) struct Run {
    child: Child,
    /// Folder of its standard output and standard error.
    output: TempDir,
}

/// Exit status and output of a run.
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Returns the messages so far.
    pub(crate) fn said(&self) -> String {
        let bytes = fs::read(self.output.path().join("err")).expect("a file");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends SIGTERM, as a person or CI does, once the program handles the signal. On a busy
    /// machine, a program that was just started has no handler yet, and the signal would kill it.
    pub(crate) fn interrupt(self) -> End {
        let id = self.child.id().to_string();
        until("a handler for SIGTERM, or the end of the program", || {
            let status =
                fs::read_to_string(format!("/proc/{id}/status")).expect("the status of our child");
            let line =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let caught = line("SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
            let listens = caught.expect("a mask") >> 14 & 1 == 1; // signal 15
            listens || line("State:").is_some_and(|state| state.starts_with('Z'))
        });
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(sent.success());
        self.wait(Duration::from_secs(60))
    }

    /// Ends the program without a chance to tidy up, as a machine that loses power does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    pub(crate) fn wait(mut self, limit: Duration) -> End {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                break status;
            }
            if began.elapsed() > limit {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("the program does not end: {}", self.said());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let text = |name: &str| fs::read_to_string(self.output.path().join(name)).expect("text");
        End { status, out: text("out"), err: text("err") }
    }
}

impl End {
    /// Returns the `Cluster` document that the program wrote.
    pub(crate) fn cluster(&self) -> Value {
        let documents =
            self.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut documents = documents;
        documents
            .find(|document| document["kind"] == "Cluster")
            .unwrap_or_else(|| panic!("no Cluster: {}", self.err))
    }

    #[track_caller]
    pub(crate) fn code(self, wanted: i32) -> Self {
        assert_eq!(self.status.code(), Some(wanted), "{}\n{}", self.err, self.out);
        self
    }
}
