//! A mock of the part of GitHub's API that the program uses, because GitHub cannot run here.
//!
//! Requests are compared with GitHub's own description of its API (`github-openapi.json`). Responses are the
//! description's examples with the values of this mock. `git http-backend` serves the history.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crypto_box::{SecretKey, aead::OsRng};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::http::{Request, Response, listen_to_requests};

use super::apps::{self, Apps};
use super::http::{self, Answer, LfsServer, TOKEN, page};
use super::openapi::{OpenApi, overlay};

/// Loopback address that only these tests use.
const HOST: &str = "127.76.0.3";

/// State of the mock, and its configured faults.
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(crate) struct State {
    pub(crate) repository: Option<Value>,
    pub(crate) rulesets: BTreeMap<u64, Value>,
    pub(crate) secrets: BTreeMap<String, (String, String)>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) keys: BTreeMap<u64, Value>,
    pub(crate) writes: Vec<String>,
    /// Number of reads of a new repository that answer 404.
    pub(crate) hides: u32,
    /// Number of requests that answer with a rate limit.
    pub(crate) limits: u32,
    /// Number of requests that answer 502.
    pub(crate) fails: u32,
    /// Index of the write that takes effect and answers 502.
    pub(crate) loses: Option<usize>,
    /// Whether the public key for secrets changes between reading and using it.
    pub(crate) rotates: bool,
    /// Whether rules need a paid plan.
    pub(crate) gates_rules: bool,
    /// Whether the token may see the actors that are exempt from a rule.
    pub(crate) hides_actors: bool,
    /// Whether the token may not read the variables.
    pub(crate) hides_variables: bool,
    /// Scopes of a classic token; a fine-grained token has none.
    pub(crate) scopes: Option<&'static str>,
    /// Whether the existing repository is hidden from the token.
    pub(crate) hides_repository: bool,
    /// Number of the owner's repositories that are hidden from the token.
    pub(crate) unseen: usize,
    /// Status and `Location` of every response of the API, instead of the correct one.
    pub(crate) redirects: Option<(u16, String)>,
    /// Response of git's server to a service (`git-receive-pack`), instead of the correct one.
    pub(crate) git_refuses: Option<(&'static str, u16, String)>,
    /// LFS server of the forge; `None` when the forge has none.
    pub(crate) lfs: Option<LfsServer>,
    /// URL of the next page that each list names.
    pub(crate) next: String,
    /// Scheme and host of the clone URL, instead of the correct one.
    pub(crate) clone_host: Option<String>,
    /// Items of `issues`, `pulls` and `releases`.
    pub(crate) lists: BTreeMap<&'static str, Vec<Value>>,
    /// Whether a branch is pushed while `destroy` reads the releases.
    pub(crate) races: bool,
    /// Former names of the repository.
    pub(crate) previously: Vec<String>,
    /// Tokens that the forge accepts.
    pub(crate) tokens: Vec<String>,
    /// Accounts and Apps.
    pub(crate) apps: Apps,
    /// Default branch of the accounts, which a new repository gets.
    pub(crate) default_branch: &'static str,
    /// Whether the first pushed branch becomes the default branch.
    pub(crate) follows_first_push: bool,
    /// First line and `Authorization` header of every request.
    pub(crate) seen: Vec<(String, Option<String>)>,
    /// Requests that differ from GitHub's description.
    pub(crate) wrong: Vec<String>,
    secret_key: (SecretKey, u32),
    clock: u32,
}

pub(crate) struct GitHub {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    history: TempDir,
}

#[allow(dead_code, reason = "not every test that has this module needs all of it")]
impl GitHub {
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let history = tempfile::tempdir()?;
        let state = Arc::new(Mutex::new(State::new()));
        let (shared, folder) = (Arc::clone(&state), history.path().to_owned());
        let openapi = OpenApi::read()?;
        let address = listen_to_requests((HOST, 0), move |request, stream| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let line = format!("{} {}?{}", request.method, request.path, request.query);
            state.seen.push((line, request.headers.get("authorization").cloned()));
            if request.path.contains(".git/info/lfs/") {
                let server = state.lfs.clone();
                drop(state);
                return stream.write_all(&http::lfs(request, server)?).map(|()| false);
            }
            if request.path.contains(".git/") {
                let (refuses, tokens) = (state.git_refuses.clone(), state.tokens.clone());
                drop(state);
                stream.write_all(&http::git(request, &folder, &tokens, refuses)?)?;
                return Ok(false);
            }
            let address = stream.local_addr()?;
            let (status, body, headers) = state.answer(request, &openapi, address, &folder);
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let headers = headers.into_iter();
            let response = headers.fold(Response::new(status, text), |response, (name, value)| {
                response.with(name, value)
            });
            stream.write_all(&http::whole(&response)?)?;
            Ok(false)
        })?;
        Ok(Self { address, state, history })
    }

    pub(crate) fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.state(|state| std::mem::take(&mut state.writes))
    }

    /// Installs a hook in the repository, as forges have.
    pub(crate) fn hook(&self, repository: &str, name: &str, script: &str) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let hook = self.bare(repository).join("hooks").join(name);
        std::fs::create_dir_all(hook.parent().unwrap_or(&hook))?;
        std::fs::write(&hook, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))
    }

    /// Returns the folder of the repository's history.
    pub(crate) fn bare(&self, repository: &str) -> std::path::PathBuf {
        self.history.path().join("owner").join(format!("{repository}.git"))
    }

    /// Renames the repository, as a user does on the forge's website.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.bare(from), self.bare(to))?;
        let clone_url = format!("http://{}/owner/{to}.git", self.address);
        self.state(|state| {
            state.previously.push(from.to_owned());
            if let Some(repository) = &mut state.repository {
                repository["name"] = to.into();
                repository["full_name"] = format!("owner/{to}").into();
                repository["clone_url"] = clone_url.into();
            }
        });
        Ok(())
    }

    /// Returns the number of pushes since the last call.
    pub(crate) fn pushes(&self) -> usize {
        let seen = self.state(|state| std::mem::take(&mut state.seen));
        let pushes = seen.iter().filter(|(line, token)| {
            // Without a token, git only asks whether the server demands one.
            line.contains("service=git-receive-pack") && token.is_some()
        });
        pushes.count()
    }

    /// Returns the value of `endpoints.forge`.
    pub(crate) fn endpoint(&self) -> String {
        format!("{{github: {{url: \"http://{}\", token: {{env: FORGE_TOKEN}}}}}}", self.address)
    }
}

#[allow(dead_code, reason = "not every test that has this module needs all of it")]
impl State {
    /// Returns a forge without a repository and without faults.
    pub(crate) fn new() -> Self {
        Self {
            repository: None,
            rulesets: BTreeMap::new(),
            secrets: BTreeMap::new(),
            variables: BTreeMap::new(),
            keys: BTreeMap::new(),
            writes: Vec::new(),
            hides: 0,
            limits: 0,
            fails: 0,
            loses: None,
            rotates: false,
            gates_rules: false,
            hides_actors: false,
            hides_variables: false,
            scopes: Some("repo, workflow"),
            hides_repository: false,
            unseen: 0,
            redirects: None,
            git_refuses: None,
            lfs: None,
            next: "https://api.github.com".to_owned(),
            clone_host: None,
            lists: BTreeMap::new(),
            races: false,
            previously: Vec::new(),
            tokens: vec![TOKEN.to_owned()],
            apps: Apps::default(),
            default_branch: "main",
            follows_first_push: false,
            seen: Vec::new(),
            wrong: Vec::new(),
            secret_key: (SecretKey::generate(&mut OsRng), 1),
            clock: 0,
        }
    }

    fn now(&mut self) -> String {
        self.clock += 1;
        format!(
            "2026-01-01T{:02}:{:02}:{:02}Z",
            self.clock / 3600,
            self.clock / 60 % 60,
            self.clock % 60
        )
    }

    /// Returns the decrypted value of a secret.
    pub(crate) fn secret(&self, name: &str) -> Option<String> {
        let sealed = BASE64.decode(self.secrets.get(name)?.0.as_bytes()).ok()?;
        String::from_utf8(self.secret_key.0.unseal(&sealed).ok()?).ok()
    }

    pub(crate) fn answer(
        &mut self,
        request: &Request,
        openapi: &OpenApi,
        address: SocketAddr,
        folder: &std::path::Path,
    ) -> Answer {
        let plain = |status, body| (status, body, Vec::new());
        if let Some(rejection) = self.rejection(request) {
            return rejection;
        }
        if self.fails > 0 {
            self.fails -= 1;
            return plain(502, json!("<html>Unicorn</html>"));
        }
        if self.limits > 0 {
            self.limits -= 1;
            let body = json!({"message": "You have exceeded a secondary rate limit."});
            return (403, body, vec![("Retry-After", "1".to_owned())]);
        }
        if let Some((status, location)) = &self.redirects {
            return (*status, json!({"message": "Moved"}), vec![("Location", location.clone())]);
        }
        // The path is not in the description; GitHub's 301 responses point to it.
        if let Some(id) = request.path.strip_prefix("/repositories/") {
            let found = self
                .repository
                .as_ref()
                .filter(|found| id.parse() == Ok(found["id"].as_u64().unwrap_or_default()));
            let found = found.filter(|_| !self.hides_repository);
            return found.map_or_else(
                || plain(404, json!({"message": "Not Found"})),
                |found| plain(200, found.clone()),
            );
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
        if let Some(answer) =
            self.act_on_accounts(request, body, operation, openapi, address, folder)
        {
            return answer;
        }
        if self.hides > 0 && self.repository.is_some() && request.method == "GET" {
            self.hides -= 1;
            return missing();
        }
        if self.hides_repository {
            return missing();
        }
        let Some(repository) = &mut self.repository else { return missing() };
        let mut parts = request.path.split('/').skip(2);
        let (owner, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if repository["full_name"] != format!("{owner}/{name}") {
            if !self.previously.iter().any(|old| old == name) {
                return missing();
            }
            let url = format!("http://{address}/repositories/{}", repository["id"]);
            let body = json!({"message": "Moved Permanently", "url": url});
            return (301, body, vec![("Location", url)]);
        }
        if let Some(host) = &self.clone_host {
            repository["clone_url"] = format!("{host}/owner/{name}.git").into();
        }
        let archived = repository["archived"] == true;
        if archived && request.method != "GET" && operation.contains("{repo}/") {
            return plain(403, json!({"message": "Repository was archived so is read-only."}));
        }
        match operation {
            "GET /repos/{owner}/{repo}" => {
                if self.follows_first_push {
                    let heads = folder.join(format!("{owner}/{name}.git/refs/heads"));
                    let first = std::fs::read_dir(heads).ok().and_then(|mut all| all.next()?.ok());
                    if let Some(first) = first {
                        repository["default_branch"] = first.file_name().to_string_lossy().into();
                        self.follows_first_push = false;
                    }
                }
                let mut repository = repository.clone();
                if self.apps.installation {
                    repository["permissions"] =
                        json!({"admin": false, "push": false, "pull": false});
                }
                plain(200, repository)
            }
            "GET /repos/{owner}/{repo}/issues"
            | "GET /repos/{owner}/{repo}/pulls"
            | "GET /repos/{owner}/{repo}/releases" => {
                if last == "releases" && std::mem::take(&mut self.races) {
                    let heads = folder.join(format!("owner/{name}.git/refs/heads"));
                    let _ = std::fs::copy(heads.join("main"), heads.join("late"));
                }
                let items = self.lists.get(&*last).cloned().unwrap_or_default();
                page(request, &self.next, &items, |items| json!(items))
            }
            "PATCH /repos/{owner}/{repo}" | "POST /repos/{owner}/{repo}/transfer" => {
                *repository = overlay(repository, body);
                let owner = body["new_owner"].as_str().unwrap_or(owner);
                self.previously.extend(apps::moved(repository, owner, address, folder));
                plain(if request.method == "POST" { 202 } else { 200 }, repository.clone())
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
                let all = self.rulesets.values().map(|ruleset| {
                    let mut ruleset = ruleset.clone();
                    ruleset.as_object_mut().map(|fields| {
                        ["rules", "conditions", "bypass_actors"].map(|name| fields.remove(name))
                    });
                    ruleset
                });
                page(request, &self.next, &all.collect::<Vec<_>>(), |ruleset| json!(ruleset))
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
                    ruleset.as_object_mut().map(|fields| fields.remove("bypass_actors"));
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
                let total = self.secrets.len();
                let all = self.secrets.iter().map(|(name, (_, time))| json!({"name": name, "created_at": "2026-01-01T00:00:00Z", "updated_at": time}));
                page(
                    request,
                    &self.next,
                    &all.collect::<Vec<_>>(),
                    |items| json!({"total_count": total, "secrets": items}),
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
                if body["key_id"].as_str().and_then(|id| id.parse().ok()) != Some(self.secret_key.1)
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
            "GET /repos/{owner}/{repo}/actions/variables" if self.hides_variables => {
                plain(403, json!({"message": "Resource not accessible by personal access token"}))
            }
            "GET /repos/{owner}/{repo}/actions/variables" => {
                let total = self.variables.len();
                let all = self.variables.iter().map(|(name, value)| json!({"name": name, "value": value, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}));
                page(
                    request,
                    &self.next,
                    &all.collect::<Vec<_>>(),
                    |items| json!({"total_count": total, "variables": items}),
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
                page(request, &self.next, &self.keys.values().cloned().collect::<Vec<_>>(), |key| {
                    json!(key)
                })
            }
            "POST /repos/{owner}/{repo}/keys" => {
                if self.keys.values().any(|key| key["key"] == body["key"]) {
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
