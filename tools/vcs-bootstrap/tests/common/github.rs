//! A mock of the part of GitHub's API that the program uses, since GitHub itself cannot run here.
//!
//! Requests are held against GitHub's own description of its API (`github-openapi.json`), and
//! answers are that description's examples with the values of this mock in them. History is real:
//! `git http-backend` serves it. What the description does not say, this mock cannot know.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crypto_box::{SecretKey, aead::OsRng};
use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::openapi::OpenApi;

/// Where these tests listen, and nothing else does.
const HOST: &str = "127.76.0.3";

pub(crate) const TOKEN: &str = "github_pat_example";

/// What the mock remembers, and how it is told to misbehave.
pub(crate) struct State {
    pub(crate) repository: Option<Value>,
    pub(crate) rulesets: BTreeMap<u64, Value>,
    pub(crate) secrets: BTreeMap<String, (String, String)>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) keys: BTreeMap<u64, Value>,
    pub(crate) writes: Vec<String>,
    /// How many reads of a new repository answer 404.
    pub(crate) hides: u32,
    /// How many requests answer that there were too many.
    pub(crate) limits: u32,
    /// The write whose answer is 502 although it took effect.
    pub(crate) loses: Option<usize>,
    /// Whether the key for secrets is replaced between being read and being used.
    pub(crate) rotates: bool,
    /// Whether rules cost money.
    pub(crate) gates_rules: bool,
    /// Whether the token may see who is exempt from a rule.
    pub(crate) hides_actors: bool,
    /// What was asked for in another way than GitHub describes.
    pub(crate) wrong: Vec<String>,
    secret_key: (SecretKey, u32),
    clock: u32,
}

pub(crate) struct GitHub {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    history: TempDir,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

type Answer = (u16, Value, Vec<(&'static str, String)>);

impl GitHub {
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let history = tempfile::tempdir()?;
        let listener = TcpListener::bind((HOST, 0))?;
        let state = Arc::new(Mutex::new(State {
            repository: None,
            rulesets: BTreeMap::new(),
            secrets: BTreeMap::new(),
            variables: BTreeMap::new(),
            keys: BTreeMap::new(),
            writes: Vec::new(),
            hides: 0,
            limits: 0,
            loses: None,
            rotates: false,
            gates_rules: false,
            hides_actors: false,
            wrong: Vec::new(),
            secret_key: (SecretKey::generate(&mut OsRng), 1),
            clock: 0,
        }));
        let mock = Self { address: listener.local_addr()?, state, history };
        let (state, address) = (mock.state.clone(), mock.address);
        let folder = mock.history.path().to_owned();
        let openapi = Arc::new(OpenApi::read()?);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (state, folder, openapi) = (state.clone(), folder.clone(), openapi.clone());
                thread::spawn(move || {
                    serve(client, |request| {
                        if request.path.contains(".git/") {
                            return git(request, &folder);
                        }
                        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                        let (status, body, headers) =
                            state.answer(request, &openapi, address, &folder);
                        let text = if body.is_null() { String::new() } else { body.to_string() };
                        let mut head = format!(
                            "HTTP/1.1 {status} Mock\r\nConnection: close\r\nContent-Length: {}\r\n",
                            text.len()
                        );
                        for (name, value) in headers {
                            head.extend([name, ": ", &value, "\r\n"]);
                        }
                        Ok((head + "\r\n" + &text).into_bytes())
                    })
                });
            }
        });
        Ok(mock)
    }

    pub(crate) fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.state(|it| std::mem::take(&mut it.writes))
    }

    /// What stands in `endpoints.forge`.
    pub(crate) fn endpoint(&self) -> String {
        format!("{{github: {{url: \"http://{}\", token: {{env: FORGE_TOKEN}}}}}}", self.address)
    }
}

impl State {
    fn now(&mut self) -> String {
        self.clock += 1;
        format!(
            "2026-01-01T{:02}:{:02}:{:02}Z",
            self.clock / 3600,
            self.clock / 60 % 60,
            self.clock % 60
        )
    }

    /// The value of a secret, opened.
    pub(crate) fn secret(&self, name: &str) -> Option<String> {
        let sealed = BASE64.decode(self.secrets.get(name)?.0.as_bytes()).ok()?;
        String::from_utf8(self.secret_key.0.unseal(&sealed).ok()?).ok()
    }

    fn answer(
        &mut self,
        request: &Request,
        openapi: &OpenApi,
        address: SocketAddr,
        folder: &std::path::Path,
    ) -> Answer {
        let plain = |status, body| (status, body, Vec::new());
        if request.headers.get("authorization").map(String::as_str)
            != Some(&format!("Bearer {TOKEN}"))
        {
            return plain(401, json!({"message": "Bad credentials"}));
        }
        if self.limits > 0 {
            self.limits -= 1;
            let body = json!({"message": "You have exceeded a secondary rate limit."});
            return (403, body, vec![("Retry-After", "1".to_owned())]);
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let Some(operation) = openapi.find(&request.method, &request.path) else {
            self.wrong.push(format!("no such operation: {} {}", request.method, request.path));
            return plain(404, json!({"message": "Not Found"}));
        };
        self.wrong.extend(openapi.mistakes(&operation, &request.query, &body));
        let (status, body, headers) =
            self.act(request, &body, &operation, openapi, address, folder);
        self.wrong.extend(
            (!openapi.may_answer(&operation, status))
                .then(|| format!("{operation} does not answer {status}")),
        );
        if request.method != "GET" {
            self.writes.push(format!("{} {}", request.method, request.path));
            if self.loses == Some(self.writes.len()) {
                return plain(502, json!("<html>Unicorn</html>"));
            }
        }
        (status, body, headers)
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    fn act(
        &mut self,
        request: &Request,
        body: &Value,
        operation: &str,
        openapi: &OpenApi,
        address: SocketAddr,
        folder: &std::path::Path,
    ) -> Answer {
        let plain = |status, body| (status, body, Vec::new());
        let missing = || plain(404, json!({"message": "Not Found"}));
        let last = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        let number = last.parse().unwrap_or_default();
        let with = |example: &Value, ours: &Value| overlay(example, ours);
        match operation {
            "GET /user" => {
                return plain(200, with(&openapi.example(operation), &json!({"login": "owner"})));
            }
            "POST /user/repos" | "POST /orgs/{org}/repos" => {
                if self.repository.is_some() {
                    return plain(
                        422,
                        json!({"message": "Repository creation failed.", "errors": [{"resource": "Repository", "code": "custom", "field": "name", "message": "name already exists on this account"}]}),
                    );
                }
                let name = body["name"].as_str().unwrap_or_default();
                let made = Command::new("git")
                    .args(["init", "--quiet", "--bare", "--initial-branch=main"])
                    .arg(folder.join("owner").join(format!("{name}.git")))
                    .status();
                assert!(made.is_ok_and(|it| it.success()));
                let ours = json!({"name": name, "full_name": format!("owner/{name}"), "owner": {"login": "owner"}, "description": null, "homepage": null, "private": true, "has_issues": true, "has_wiki": true, "has_projects": true, "archived": false, "topics": [], "default_branch": "main", "clone_url": format!("http://{address}/owner/{name}.git"), "html_url": format!("http://{address}/owner/{name}"), "permissions": {"admin": true}});
                self.repository = Some(overlay(&with(&openapi.example(operation), &ours), body));
                return plain(201, json!(self.repository));
            }
            _ => {}
        }
        if self.hides > 0 && self.repository.is_some() && request.method == "GET" {
            self.hides -= 1;
            return missing();
        }
        let Some(repository) = &mut self.repository else { return missing() };
        let archived = repository["archived"] == true;
        if archived && request.method != "GET" && operation.contains("{repo}/") {
            return plain(403, json!({"message": "Repository was archived so is read-only."}));
        }
        match operation {
            "GET /repos/{owner}/{repo}" => plain(200, repository.clone()),
            "PATCH /repos/{owner}/{repo}" => {
                *repository = overlay(repository, body);
                plain(200, repository.clone())
            }
            "DELETE /repos/{owner}/{repo}" => {
                self.repository = None;
                plain(204, Value::Null)
            }
            "PUT /repos/{owner}/{repo}/topics" => {
                repository["topics"] = body["names"].clone();
                plain(200, body.clone())
            }
            "GET /repos/{owner}/{repo}/rulesets" if self.gates_rules => plain(
                403,
                json!({"message": "Upgrade to GitHub Pro or make this repository public to enable this feature."}),
            ),
            "GET /repos/{owner}/{repo}/rulesets" => {
                let all = self.rulesets.values().map(|it| {
                    let mut it = it.clone();
                    it.as_object_mut().map(|it| {
                        ["rules", "conditions", "bypass_actors"].map(|name| it.remove(name))
                    });
                    it
                });
                page(request, &all.collect::<Vec<_>>(), |it| json!(it))
            }
            "POST /repos/{owner}/{repo}/rulesets" => {
                let id = 40 + self.rulesets.len() as u64;
                let ours = json!({"id": id, "source": "owner/x", "source_type": "Repository"});
                let ruleset = overlay(&with(&openapi.example(operation), &ours), body);
                self.rulesets.insert(id, ruleset.clone());
                plain(201, ruleset)
            }
            "GET /repos/{owner}/{repo}/rulesets/{ruleset_id}" => {
                let mut ruleset = self.rulesets.get(&number).cloned().unwrap_or_default();
                if self.hides_actors {
                    ruleset.as_object_mut().map(|it| it.remove("bypass_actors"));
                }
                plain(200, ruleset)
            }
            "PUT /repos/{owner}/{repo}/rulesets/{ruleset_id}" => {
                let ruleset =
                    overlay(&self.rulesets.get(&number).cloned().unwrap_or_default(), body);
                self.rulesets.insert(number, ruleset.clone());
                plain(200, ruleset)
            }
            "DELETE /repos/{owner}/{repo}/rulesets/{ruleset_id}" => {
                self.rulesets.remove(&number);
                plain(204, Value::Null)
            }
            "GET /repos/{owner}/{repo}/actions/secrets" => {
                let all = self.secrets.iter().map(|(name, (_, time))| json!({"name": name, "created_at": "2026-01-01T00:00:00Z", "updated_at": time}));
                page(
                    request,
                    &all.collect::<Vec<_>>(),
                    |it| json!({"total_count": 9, "secrets": it}),
                )
            }
            "GET /repos/{owner}/{repo}/actions/secrets/public-key" => {
                let (key, id) = &self.secret_key;
                let answer = json!({"key_id": id.to_string(), "key": BASE64.encode(key.public_key().as_bytes())});
                if std::mem::take(&mut self.rotates) {
                    self.secret_key = (SecretKey::generate(&mut OsRng), self.secret_key.1 + 1);
                }
                plain(200, answer)
            }
            "PUT /repos/{owner}/{repo}/actions/secrets/{secret_name}" => {
                if body["key_id"].as_str().and_then(|it| it.parse().ok()) != Some(self.secret_key.1)
                {
                    return plain(422, json!({"message": "Bad request - public key is outdated"}));
                }
                let time = self.now();
                let sealed = body["encrypted_value"].as_str().unwrap_or_default().to_owned();
                let new = self.secrets.insert(last, (sealed, time)).is_none();
                plain(if new { 201 } else { 204 }, Value::Null)
            }
            "DELETE /repos/{owner}/{repo}/actions/secrets/{secret_name}" => {
                self.secrets.remove(&last);
                plain(204, Value::Null)
            }
            "GET /repos/{owner}/{repo}/actions/variables" => {
                let all = self.variables.iter().map(|(name, value)| json!({"name": name, "value": value, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}));
                page(
                    request,
                    &all.collect::<Vec<_>>(),
                    |it| json!({"total_count": 99, "variables": it}),
                )
            }
            "POST /repos/{owner}/{repo}/actions/variables"
            | "PATCH /repos/{owner}/{repo}/actions/variables/{name}" => {
                let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
                self.variables.insert(text("name"), text("value"));
                let new = request.method == "POST";
                plain(if new { 201 } else { 204 }, Value::Null)
            }
            "DELETE /repos/{owner}/{repo}/actions/variables/{name}" => {
                self.variables.remove(&last);
                plain(204, Value::Null)
            }
            "GET /repos/{owner}/{repo}/keys" => {
                page(request, &self.keys.values().cloned().collect::<Vec<_>>(), |it| json!(it))
            }
            "POST /repos/{owner}/{repo}/keys" => {
                if self.keys.values().any(|it| it["key"] == body["key"]) {
                    return plain(
                        422,
                        json!({"message": "Validation Failed", "errors": [{"resource": "PublicKey", "code": "custom", "field": "key", "message": "key is already in use"}]}),
                    );
                }
                let id = 50 + self.keys.len() as u64;
                let key = overlay(&with(&openapi.example(operation), &json!({"id": id})), body);
                self.keys.insert(id, key.clone());
                plain(201, key)
            }
            "DELETE /repos/{owner}/{repo}/keys/{key_id}" => {
                self.keys.remove(&number);
                plain(204, Value::Null)
            }
            _ => missing(),
        }
    }
}

/// `example`, with the values of `ours` in it.
fn overlay(example: &Value, ours: &Value) -> Value {
    let mut all = example.as_object().cloned().unwrap_or_else(Map::new);
    all.extend(ours.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

/// One page of a list, and the link to the next.
fn page(request: &Request, all: &[Value], shape: impl Fn(&[Value]) -> Value) -> Answer {
    let query = |name: &str, otherwise: usize| {
        let found =
            request.query.split('&').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|it| it.parse().ok()).unwrap_or(otherwise)
    };
    let most = if request.path.ends_with("/variables") { 30 } else { 100 };
    let (size, page) = (query("per_page", 30).min(most), query("page", 1));
    let start = (size * (page - 1)).min(all.len());
    let end = (start + size).min(all.len());
    let more = end < all.len();
    let link = ("Link", format!("<https://api.github.com/x?page={}>; rel=\"next\"", page + 1));
    (200, shape(&all[start..end]), more.then_some(link).into_iter().collect())
}

fn serve(
    mut client: TcpStream,
    answer: impl FnOnce(&Request) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 8192]);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut chunk)? {
            0 => return Ok(()),
            read => bytes.extend(&chunk[..read]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line: Vec<_> = lines.next().unwrap_or_default().split(' ').map(str::to_owned).collect();
    let header =
        |it: &str| it.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers: BTreeMap<_, _> = lines.filter_map(header).collect();
    let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        match client.read(&mut chunk)? {
            0 => break,
            read => body.extend(&chunk[..read]),
        }
    }
    let (path, query) = line[1].split_once('?').unwrap_or((&line[1], ""));
    let request = Request {
        method: line[0].clone(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body,
    };
    client.write_all(&answer(&request)?)
}

/// Git's own server. It asks for the token as GitHub does, and for nothing less.
fn git(request: &Request, folder: &std::path::Path) -> io::Result<Vec<u8>> {
    let basic = format!("Basic {}", BASE64.encode(format!("x-access-token:{TOKEN}").as_bytes()));
    if request.headers.get("authorization") != Some(&basic) {
        return Ok(b"HTTP/1.1 401 Mock\r\nWWW-Authenticate: Basic realm=\"GitHub\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec());
    }
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "owner")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = backend.stdin.take() {
        input.write_all(&request.body)?;
    }
    let output = backend.wait_with_output()?.stdout;
    let status = if output.starts_with(b"Status: ") { &output[8..11] } else { b"200" };
    Ok([b"HTTP/1.1 ", status, b" Mock\r\nConnection: close\r\n", &output].concat())
}
