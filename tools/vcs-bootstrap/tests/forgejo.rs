//! Tests against a double of Forgejo. It takes the fields and gives the statuses of Forgejo's own API
//! description (`forgejo-api.json`), and answers `null` where Forgejo does. `gitea.rs` tests the shared
//! behaviour against a real Gitea; behaviour of Forgejo beyond the description is not covered.

mod common;
#[path = "common/http.rs"]
mod http;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use common::{Sandbox, Test, ready, status};
use http::TOKEN;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use testing::http::{Request, Response, listen_to_requests};

const HOST: &str = "127.76.0.7";

const FULL: &str = "owner: owner, description: ours, history: {push: fastForward}, \
    rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}, statusChecks: [test]}}], \
    secrets: {phaseKeys: [artifact-attest]}, variables: {REGISTRY: ghcr.io/owner}, \
    deployKeys: [flux-seed]";

/// State of the double.
struct State {
    described: Value,
    version: &'static str,
    repository: Option<Value>,
    protections: BTreeMap<String, Value>,
    secrets: BTreeMap<String, Value>,
    variables: BTreeMap<String, Value>,
    keys: BTreeMap<u64, Value>,
    writes: usize,
    /// Requests that differ from the description.
    wrong: Vec<String>,
}

struct Forgejo {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _history: TempDir,
}

impl Forgejo {
    fn start(version: &'static str) -> Test<Self> {
        let history = tempfile::tempdir()?;
        let state = Arc::new(Mutex::new(State {
            described: serde_json::from_str(include_str!("forgejo-api.json"))?,
            version,
            repository: None,
            protections: BTreeMap::new(),
            secrets: BTreeMap::new(),
            variables: BTreeMap::new(),
            keys: BTreeMap::new(),
            writes: 0,
            wrong: Vec::new(),
        }));
        let (shared, folder) = (Arc::clone(&state), history.path().to_owned());
        let address = listen_to_requests((HOST, 0), move |request, stream| {
            if request.path.contains(".git/") {
                let tokens = [TOKEN.to_owned()];
                stream.write_all(&http::git(request, &folder, &tokens, None)?)?;
                return Ok(false);
            }
            let address = stream.local_addr()?;
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (status, body) = state.answer(request, address, &folder);
            let text = if body.is_null() { String::new() } else { body.to_string() };
            stream.write_all(&http::whole(&Response::new(status, text))?)?;
            Ok(false)
        })?;
        Ok(Self { address, state, _history: history })
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sandbox(&self) -> Test<Sandbox> {
        let address = self.address;
        let forge =
            format!("{{gitea: {{url: \"http://{address}\", token: {{env: FORGE_TOKEN}}}}}}");
        Sandbox::new(&forge, TOKEN)
    }
}

impl State {
    /// Returns the description's key of an operation, which has the fewest placeholders.
    fn operation(&self, method: &str, path: &str) -> Option<String> {
        let parts: Vec<_> = path.split('/').collect();
        let fits = |operation: &&String| {
            let (verb, template) = operation.split_once(' ').unwrap_or_default();
            let template: Vec<_> = template.split('/').collect();
            let same = |(a, b): (&&str, &&str)| a == b || a.starts_with('{');
            verb == method && template.len() == parts.len() && template.iter().zip(&parts).all(same)
        };
        let operations = self.described["operations"].as_object()?;
        operations
            .keys()
            .filter(fits)
            .min_by_key(|operation| operation.matches('{').count())
            .cloned()
    }

    fn answer(
        &mut self,
        request: &Request,
        address: SocketAddr,
        folder: &std::path::Path,
    ) -> (u16, Value) {
        let path = request.path.strip_prefix("/api/v1").unwrap_or_default();
        let Some(operation) = self.operation(&request.method, path) else {
            self.wrong.push(format!("no such operation: {} {path}", request.method));
            return (404, Value::Null);
        };
        let described = self.described["operations"][&operation].clone();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        for (name, value) in body.as_object().into_iter().flatten() {
            let kind = match value {
                Value::Bool(_) => "boolean",
                Value::Number(_) => "number",
                Value::Array(_) => "array",
                _ => "string",
            };
            if described["fields"][name] != kind {
                self.wrong.push(format!("{operation}: {name} is not described as {kind}"));
            }
        }
        self.writes += usize::from(request.method != "GET");
        let (status, body) = self.act(&operation, path, &body, address, folder);
        if !described["statuses"]
            .as_array()
            .is_some_and(|all| all.contains(&json!(status.to_string())))
        {
            self.wrong.push(format!("{operation} does not answer {status}"));
        }
        (status, body)
    }

    fn act(
        &mut self,
        operation: &str,
        path: &str,
        body: &Value,
        address: SocketAddr,
        folder: &std::path::Path,
    ) -> (u16, Value) {
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        let values = |all: &BTreeMap<String, Value>| json!(all.values().collect::<Vec<_>>());
        let (verb, template) = operation.split_once(' ').unwrap_or_default();
        let below = template.strip_prefix("/repos/{owner}/{repo}");
        match (verb, below.unwrap_or(template)) {
            ("GET", "/version") => return (200, json!({"version": self.version})),
            ("GET", "/user") => return (200, json!({"login": "owner", "is_admin": false})),
            ("POST", "/user/repos") => {
                let name = body["name"].as_str().unwrap_or_default();
                let made = Command::new("git")
                    .args(["init", "--quiet", "--bare", "--initial-branch=main"])
                    .arg(folder.join("owner").join(format!("{name}.git")))
                    .status();
                assert!(made.is_ok_and(|status| status.success()));
                let url = format!("http://{address}/owner/{name}");
                let mut repository = json!({
                    "id": 1, "full_name": format!("owner/{name}"), "archived": false,
                    "has_issues": true, "has_wiki": true, "has_projects": true, "website": "",
                    "topics": null, // services/convert/repository.go of Forgejo
                    "default_branch": "main", "empty": true, "permissions": {"admin": true},
                    "html_url": url, "clone_url": format!("{url}.git"),
                });
                merge(&mut repository, body);
                self.repository = Some(repository.clone());
                return (201, repository);
            }
            _ => {}
        }
        let name = path.split('/').nth(3).unwrap_or_default();
        let Some(repository) = self.repository.as_mut().filter(|found| found["name"] == name)
        else {
            return (404, json!({"message": "The target couldn't be found."}));
        };
        match (verb, below.unwrap_or_default()) {
            ("GET", "") => (200, repository.clone()),
            ("PATCH", "") => {
                merge(repository, body);
                (200, repository.clone())
            }
            ("PUT", "/topics") => {
                repository["topics"] = body["topics"].clone();
                (204, Value::Null)
            }
            ("GET", "/teams") => (405, json!({"message": "repo is not owned by an organization"})),
            ("GET", "/branch_protections") => (200, values(&self.protections)),
            ("POST", "/branch_protections") => {
                // Forgejo's default: administrators are exempt.
                let mut protection = defaults(&self.described["protection"]);
                merge(&mut protection, body);
                let name = body["rule_name"].as_str().unwrap_or_default().to_owned();
                self.protections.insert(name, protection.clone());
                (201, protection)
            }
            ("PATCH", _) => {
                let Some(protection) = self.protections.get_mut(&last) else {
                    return (404, Value::Null);
                };
                merge(protection, body);
                (200, protection.clone())
            }
            ("GET", "/actions/secrets") => (200, values(&self.secrets)),
            ("GET", "/actions/variables") => (200, values(&self.variables)),
            ("PUT", "/actions/secrets/{secretname}") => {
                self.secrets.insert(last.clone(), json!({"name": last}));
                (201, Value::Null)
            }
            ("POST" | "PUT", "/actions/variables/{variablename}") => {
                self.variables.insert(last.clone(), json!({"name": last, "data": body["value"]}));
                (204, Value::Null)
            }
            ("GET", "/keys") => (200, json!(self.keys.values().collect::<Vec<_>>())),
            ("POST", "/keys") => {
                let mut key = json!({"id": 5});
                merge(&mut key, body);
                self.keys.insert(5, key.clone());
                (201, key)
            }
            ("DELETE", below) => {
                if below.starts_with("/actions/secrets") {
                    self.secrets.remove(&last);
                } else if below.starts_with("/actions/variables") {
                    self.variables.remove(&last);
                } else if below.starts_with("/keys") {
                    self.keys.remove(&last.parse().unwrap_or_default());
                } else {
                    self.protections.remove(&last);
                }
                (204, Value::Null)
            }
            _ => (404, Value::Null),
        }
    }
}

/// Returns an object with an empty value for each described field.
fn defaults(fields: &Value) -> Value {
    let empty = |kind: &Value| match kind.as_str() {
        Some("boolean") => json!(false),
        Some("number") => json!(0),
        Some("array") => Value::Null, // Go's empty list
        _ => json!(""),
    };
    let fields = fields.as_object().into_iter().flatten();
    Value::Object(fields.map(|(name, kind)| (name.clone(), empty(kind))).collect::<Map<_, _>>())
}

/// Replaces fields of `all` with those of `some`.
fn merge(all: &mut Value, some: &Value) {
    for (name, value) in some.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
}

// hazard: A repository at Forgejo is never as declared, because fields of Gitea are missing.
// class: Two products with one API are taken for one product.
// members: `topics: null`, `apply_to_admins`, no `block_admin_merge_override`, no `enable_force_push`
// now: the version decides which fields are sent and read
#[test]
fn repository_at_forgejo_rests_and_is_archived() -> Test {
    let forgejo = Forgejo::start("15.0.1+gitea-1.22.0")?;
    let sandbox = forgejo.sandbox()?;
    for (bypass, applies) in [("none", true), ("administrators", false)] {
        sandbox.declare(
            "greeter",
            &FULL.replace("[test]}}", &format!("[test]}}, bypass: {bypass}}}")),
        )?;
        let applied = sandbox.run("apply").success();
        assert_eq!(ready(&status(&applied)?), ("True", "AsDeclared"));
        assert_eq!(
            forgejo.state(|state| state.protections["main"]["apply_to_admins"].clone()),
            applies
        );
        let writes = forgejo.state(|state| state.writes);
        let again = sandbox.run("apply").success();
        assert_eq!(again.get_output().stdout, applied.get_output().stdout);
        sandbox.run("plan --check").success();
        assert_eq!(forgejo.state(|state| state.writes), writes, "a second run writes nothing");
    }
    assert_eq!(forgejo.state(|state| state.variables["REGISTRY"]["data"].clone()), "ghcr.io/owner");
    sandbox.run("verify").success();
    sandbox.run("destroy").success();
    let archived = forgejo.state(|state| state.repository.clone().ok_or("a repository"))?;
    assert_eq!(archived["archived"], true);
    assert_eq!(forgejo.state(|state| (state.secrets.len(), state.keys.len())), (0, 0));
    assert_eq!(forgejo.state(|state| state.wrong.clone()), [""; 0]);
    Ok(())
}

#[test]
fn administrators_who_may_always_merge_at_an_old_gitea_are_reported() -> Test {
    let forgejo = Forgejo::start("1.22.6")?;
    let sandbox = forgejo.sandbox()?;
    sandbox.declare("greeter", FULL)?;
    let applied = status(&sandbox.run("apply").success())?;
    assert_eq!(applied["conditions"][1]["reason"], "UnsupportedByForge");
    let message = applied["conditions"][1]["message"].as_str().unwrap_or_default();
    assert!(message.contains("administrators may merge against it"), "{message}");
    sandbox.run("plan --check").success();
    Ok(())
}
