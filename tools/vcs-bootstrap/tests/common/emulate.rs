//! Vercel's emulator of GitHub's API (npm `emulate`), which others wrote, behind a front that adds what
//! the emulator lacks.
//!
//! The front answers with the mock of these tests where the emulator has no operation: variables, rulesets,
//! deploy keys, the public key for secrets, repositories of an installation, accounts of organisations, and
//! git. Everything else is the emulator's own answer, which a few operations give to the user's token alone.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::remote::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::http::{Request, Response, listen_to_requests};
use testing::wait::poll;

use crate::common::Test;
use crate::mock::apps::KEY;
use crate::mock::github::State;
use crate::mock::http::{self, TOKEN};
use crate::mock::openapi::OpenApi;

/// Loopback address of the front.
const FRONT: &str = "127.76.0.9";

/// Time limit for the start of the emulator.
const START_MAX: Duration = Duration::from_secs(60);

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// Number of the App at the emulator.
pub(crate) const APP: &str = "12345";

/// Ends of paths below a repository for which the emulator has no operation.
pub(crate) const MISSING: [&str; 4] =
    ["/actions/variables", "/actions/secrets/public-key", "/keys", "/rulesets"];

/// Operations that GitHub permits to an installation with the permission `administration`, and the emulator to
/// users alone.
const OF_USERS: [&str; 4] = [
    "POST /orgs/{org}/repos",
    "PATCH /repos/{owner}/{repo}",
    "PUT /repos/{owner}/{repo}/topics",
    "DELETE /repos/{owner}/{repo}",
];

/// A running emulator behind its front. `owner` is a user, and `crew` an organisation with the App.
pub(crate) struct Emulator {
    pub(crate) address: SocketAddr,
    /// The emulator itself, without the front.
    pub(crate) direct: SocketAddr,
    state: Arc<Mutex<Front>>,
    server: Child,
    folder: TempDir,
}

/// State of the front.
struct Front {
    /// Mock that answers for the emulator.
    mock: State,
    /// Writes that either of them answered with success.
    writes: Vec<String>,
    /// Answers of the emulator to writes, with a status that GitHub does not describe.
    wrong: Vec<String>,
}

impl Emulator {
    pub(crate) fn start() -> Test<Self> {
        let modules = installed()?;
        let folder = tempfile::tempdir()?;
        let direct = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let history = folder.path().join("history");
        fs::create_dir(&history)?;
        let mock = State::new();
        let front = Front { mock, writes: Vec::new(), wrong: Vec::new() };
        let state = Arc::new(Mutex::new(front));
        let shared = Arc::clone(&state);
        let openapi = OpenApi::read()?;
        let address = listen_to_requests((FRONT, 0), move |request, stream| {
            let address = stream.local_addr()?;
            let mut front = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = front.answer(request, &openapi, (address, direct), &history)?;
            stream.write_all(&bytes)?;
            Ok(false)
        })?;
        let seed = folder.path().join("seed.yaml");
        fs::write(&seed, seed_text())?;
        let log = File::create(folder.path().join("log"))?;
        let node =
            format!("node-linux-{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" });
        let server = Command::new(modules.join(node).join("bin/node"))
            .arg(modules.join("emulate/dist/index.js"))
            .args(["start", "--service", "github", "--port", &direct.port().to_string()])
            .args(["--base-url", &format!("http://{address}")])
            .arg("--seed")
            .arg(&seed)
            .env_clear()
            .env("HOME", folder.path())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut emulator = Self { address, direct, state, server, folder };
        let listens = poll(START_MAX, || match emulator.server.try_wait() {
            Ok(None) => TcpStream::connect(direct).is_ok().then_some(true),
            _ => Some(false),
        });
        if listens != Some(true) {
            return Err(fs::read_to_string(emulator.folder.path().join("log"))?.into());
        }
        Ok(emulator)
    }

    fn front<T>(&self, with: impl FnOnce(&mut Front) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the successful writes since the last call.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.front(|front| std::mem::take(&mut front.writes))
    }

    /// Returns the differences between the requests, or the answers, and GitHub's description.
    pub(crate) fn differences(&self) -> Vec<String> {
        self.front(|front| [&front.mock.wrong[..], &front.wrong].concat())
    }

    /// Returns the repository, as the emulator last described it.
    pub(crate) fn repository(&self) -> Option<Value> {
        self.front(|front| front.mock.repository.clone())
    }

    /// Returns the names of the secrets at the emulator.
    pub(crate) fn secrets(&self, repository: &str) -> Test<Vec<String>> {
        let path = format!("/repos/{repository}/actions/secrets");
        let (_, body) = send(self.direct, &get(&path))?;
        let names = body["secrets"].as_array().into_iter().flatten();
        Ok(names.filter_map(|secret| secret["name"].as_str().map(str::to_owned)).collect())
    }

    /// Returns the status of the emulator's own answer to a GET.
    pub(crate) fn status_of(&self, path: &str) -> Test<u16> {
        Ok(send(self.direct, &get(path))?.0)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Front {
    /// Answers a request itself or with the emulator's answer. `addresses` are those of the front and of the
    /// emulator.
    fn answer(
        &mut self,
        request: &Request,
        openapi: &OpenApi,
        (front, emulator): (SocketAddr, SocketAddr),
        history: &Path,
    ) -> io::Result<Vec<u8>> {
        if request.path.contains(".git/") {
            return http::git(request, history, &self.mock.tokens.clone(), None);
        }
        let operation = openapi.find(&request.method, &request.path).unwrap_or_default();
        let is_missing = MISSING.iter().any(|end| operation.contains(end));
        let (status, body, headers) = if is_missing {
            self.mock.answer(request, openapi, front, history)
        } else {
            let query = &request.query;
            let sent = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
            if !operation.is_empty() {
                self.mock.wrong.extend(openapi.mistakes(&operation, query, &sent));
            }
            let mut passed = request.clone();
            let token = request.header("authorization").trim_start_matches("Bearer ");
            let is_known = self.mock.tokens.iter().any(|known| known == token);
            if is_known && OF_USERS.contains(&operation.as_str()) {
                passed.headers.insert("authorization".to_owned(), format!("Bearer {TOKEN}"));
            }
            let (status, body) = send(emulator, &passed)?;
            let (status, body) = self.added(request, &operation, (status, body));
            self.follow(request, &operation, (status, &body), history)?;
            // A classic token names its scopes, which the emulator does not.
            let scopes = ("X-OAuth-Scopes", "repo, workflow, delete_repo".to_owned());
            let is_user = operation == "GET /user" && status == 200;
            (status, body, is_user.then_some(scopes).into_iter().collect())
        };
        if request.method != "GET" && status < 300 {
            self.writes.push(format!("{} {}", request.method, request.path));
            let is_described = operation.is_empty() || openapi.may_answer(&operation, status);
            self.wrong.extend((!is_described).then(|| format!("{operation} answers {status}")));
        }
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let response =
            headers.into_iter().fold(Response::new(status, text), |response, (name, value)| {
                response.with(name, value)
            });
        http::whole(&response)
    }

    /// Returns the answers of GitHub that the emulator lacks.
    fn added(&self, request: &Request, operation: &str, answer: (u16, Value)) -> (u16, Value) {
        match (operation, request.path.as_str()) {
            ("GET /users/{username}", "/users/crew") => {
                (200, json!({"login": "crew", "type": "Organization"}))
            }
            ("GET /user/memberships/orgs/{org}", "/user/memberships/orgs/crew") => {
                (200, json!({"state": "active", "role": "admin"}))
            }
            ("GET /installation/repositories", _) => {
                let all: Vec<_> = self.mock.repository.iter().collect();
                (
                    200,
                    json!({"repository_selection": "all", "total_count": all.len(), "repositories": all}),
                )
            }
            _ => answer,
        }
    }

    /// Follows a change at the emulator with the mock and the history.
    fn follow(
        &mut self,
        request: &Request,
        operation: &str,
        (status, body): (u16, &Value),
        history: &Path,
    ) -> io::Result<()> {
        match (operation, status) {
            ("POST /app/installations/{installation_id}/access_tokens", 201) => {
                self.mock.tokens.extend(body["token"].as_str().map(str::to_owned));
            }
            ("POST /user/repos" | "POST /orgs/{org}/repos", 201) => {
                let name = body["full_name"].as_str().unwrap_or_default();
                let folder = history.join(format!("{name}.git"));
                let init = ["init", "--quiet", "--bare", "--initial-branch=main"];
                let made = Command::new("git").args(init).arg(folder).status()?;
                assert!(made.success());
                self.mock.repository = Some(body.clone());
            }
            ("PATCH /repos/{owner}/{repo}", 200) => {
                let name = body["full_name"].as_str().unwrap_or_default();
                let (old, new) = (request.path.trim_start_matches("/repos/"), name);
                if old != new {
                    let folder = |name: &str| history.join(format!("{name}.git"));
                    fs::rename(folder(old), folder(new))?;
                }
                self.mock.repository = Some(body.clone());
            }
            ("GET /repos/{owner}/{repo}", 200) => self.mock.repository = Some(body.clone()),
            ("DELETE /repos/{owner}/{repo}", 204) => {
                let (wrong, tokens) = (self.mock.wrong.clone(), self.mock.tokens.clone());
                self.mock = State::new();
                (self.mock.wrong, self.mock.tokens) = (wrong, tokens);
            }
            _ => {}
        }
        Ok(())
    }
}

fn get(path: &str) -> Request {
    let headers = [("authorization".to_owned(), format!("Bearer {TOKEN}"))].into();
    let (method, target) = ("GET".to_owned(), path.to_owned());
    Request { method, target, headers, path: path.to_owned(), ..Request::default() }
}

/// Sends `request` to the emulator, and returns its status and body.
fn send(to: SocketAddr, request: &Request) -> io::Result<(u16, Value)> {
    const MAX: Duration = Duration::from_secs(60);
    let settings =
        Settings { program: "test", is_plain: true, response_max: MAX, attempt_max: MAX };
    let agent = ::remote::agent(settings).map_err(io::Error::other)?;
    let mut sent = ::http::Request::builder()
        .method(request.method.as_str())
        .uri(format!("http://{to}{}", request.target));
    for name in ["authorization", "accept", "content-type", "x-github-api-version"] {
        if let Some(value) = request.headers.get(name) {
            sent = sent.header(name, value);
        }
    }
    let response = if request.body.is_empty() {
        ::remote::run(&agent, sent.body(()).map_err(io::Error::other)?, MAX)
    } else {
        let body = request.body.clone();
        ::remote::run(&agent, sent.body(body).map_err(io::Error::other)?, MAX)
    };
    let mut response = response.map_err(io::Error::other)?;
    let bytes = ::remote::read(&mut response, ANSWER_BYTES_MAX)?.unwrap_or_default();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok((response.status().as_u16(), body))
}

/// Returns the accounts of the emulator: a user with a token, and an organisation with an installed App.
fn seed_text() -> String {
    let key = format!("        {}\n", KEY.trim_end().replace('\n', "\n        "));
    format!(
        "tokens:\n  {TOKEN}: {{login: owner, scopes: [repo, workflow, delete_repo, 'admin:org']}}\n\
         github:\n  users: [{{login: owner, name: Owner, email: owner@example.org}}]\n  \
         orgs: [{{login: crew, name: Crew, members: [{{login: owner, role: admin}}]}}]\n  \
         apps:\n    - app_id: {APP}\n      slug: vcs\n      name: vcs\n      private_key: |\n{key}      \
         permissions: {{administration: write, contents: write, secrets: write, metadata: read}}\n      \
         installations: [{{installation_id: 100, account: crew, repository_selection: all}}]\n"
    )
}

/// Returns the folder for packages of other programs: `LAB_CACHE`, or a folder below `target`.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("LAB_CACHE")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// Returns the folder of the installed packages, and installs them if necessary.
fn installed() -> Test<PathBuf> {
    let wanted = include_str!("../emulate/package-lock.json");
    let folder = cache().join("emulate-of-tests");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?; // until the end of this function
    let (modules, complete) = (folder.join("node_modules"), folder.join("installed.json"));
    if fs::read_to_string(&complete).ok().as_deref() != Some(wanted) {
        fs::write(folder.join("package.json"), include_str!("../emulate/package.json"))?;
        fs::write(folder.join("package-lock.json"), wanted)?;
        let output = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&folder)
            .output()
            .map_err(|error| format!("npm cannot be started ({error}): apt-get install npm"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        fs::write(&complete, wanted)?;
    }
    Ok(modules)
}
