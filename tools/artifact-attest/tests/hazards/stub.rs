//! An OCI registry in this process, and a sandbox with a repository whose documents publish to it.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;
pub(crate) type Test = Result<()>;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Root key of the tests: 32 bytes in base64.
pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A request that a server received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path with its query, as in the request line.
    pub(crate) target: String,
    /// Headers, with names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn authorization(&self) -> &str {
        self.headers.get("authorization").map_or("", String::as_str)
    }
}

/// Response of a server.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": message}]});
        Self::new(status, body.to_string())
    }
}

type Handler = Box<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

/// An HTTP server that records its requests. It listens until the test process ends.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    handler: Arc<Mutex<Handler>>,
}

impl Server {
    /// Starts a server. Where `handler` returns `None`, the server closes the connection.
    pub(crate) fn start(
        handler: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let handler: Handler = Box::new(handler);
        let server = Self {
            address: listener.local_addr()?.to_string(),
            seen: Arc::default(),
            handler: Arc::new(Mutex::new(handler)),
        };
        let shared = server.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = shared.clone();
                thread::spawn(move || server.serve(client)); // the client may have closed the connection
            }
        });
        Ok(server)
    }

    /// Replaces the handler for all later requests.
    pub(crate) fn answer(
        &self,
        handler: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) {
        *self.handler.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(handler);
    }

    /// Returns the requests since the last call, and forgets them.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let request = read(&mut client)?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let answer = self.handler.lock().unwrap_or_else(PoisonError::into_inner)(&request);
        let Some(Answer { status, headers, body }) = answer else { return Ok(()) };
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
        }
        head.extend(["Content-Length: ", &body.len().to_string(), "\r\n\r\n"]);
        client.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            client.write_all(&body)?;
        }
        Ok(())
    }
}

fn read(client: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let mut chunk = [0; 4096];
        match client.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length =
        headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0_usize);
    let mut rest = vec![0; length.saturating_sub(body.len())];
    client.read_exact(&mut rest)?;
    body.append(&mut rest);
    Ok(Request { method, target, headers, body })
}

/// Contents of a registry: media types and bytes, by repository and name.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

/// An OCI registry in memory, without the referrers API.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry(Arc<Mutex<Contents>>);

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)))
}

impl Registry {
    pub(crate) fn with<T>(&self, what: impl FnOnce(&mut Contents) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns every tag and digest of a repository.
    pub(crate) fn names(&self, repository: &str) -> Vec<String> {
        self.with(|all| {
            let keys = all.manifests.keys().filter(|(known, _)| known == repository);
            keys.map(|(_, name)| name.clone()).collect()
        })
    }

    /// Returns every tag, and every manifest except superseded lists of referrers. No tag names
    /// those, so a registry's garbage collection deletes them.
    pub(crate) fn named(&self, repository: &str) -> Vec<String> {
        self.with(|all| {
            let manifests = all.manifests.iter().filter(|((known, _), _)| known == repository);
            let named =
                manifests.filter(|((_, name), (kind, _))| !name.contains(':') || kind != INDEX);
            named.map(|((_, name), _)| name.clone()).collect()
        })
    }

    /// Returns the digests of the referrers of `subject`, from the list under the fallback tag.
    pub(crate) fn listed(&self, repository: &str, subject: &str) -> Vec<String> {
        let tag = subject.replace(':', "-");
        let list = self.with(|all| all.manifests.get(&(repository.to_owned(), tag)).cloned());
        let list: Value = serde_json::from_slice(&list.unwrap_or_default().1).unwrap_or_default();
        let entries = list["manifests"].as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|entry| entry["digest"].as_str().map(str::to_owned)).collect()
    }

    pub(crate) fn put(&self, repository: &str, name: &str, kind: &str, body: &[u8]) -> String {
        let digest = digest(body);
        self.with(|all| {
            for name in [name, &digest] {
                let key = (repository.to_owned(), name.to_owned());
                all.manifests.insert(key, (kind.to_owned(), body.to_vec()));
            }
        });
        digest
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let path = request.path().to_owned();
        let Some(rest) = path.strip_prefix("/v2/") else { return Answer::new(404, "") };
        if rest.is_empty() {
            return Answer::new(200, "{}");
        }
        for part in ["/manifests/", "/blobs/uploads/", "/blobs/", "/tags/", "/referrers/"] {
            if let Some((repository, name)) = rest.split_once(part) {
                return self.about(request, repository, part, name);
            }
        }
        Answer::new(404, "")
    }

    fn about(&self, request: &Request, repository: &str, part: &str, name: &str) -> Answer {
        let key = (repository.to_owned(), name.to_owned());
        match (request.method.as_str(), part) {
            ("GET" | "HEAD", "/manifests/") => {
                match self.with(|all| all.manifests.get(&key).cloned()) {
                    Some((kind, body)) => Answer::new(200, body).with("Content-Type", kind),
                    None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
                }
            }
            ("PUT", "/manifests/") => {
                let kind = request.headers.get("content-type").cloned().unwrap_or_default();
                let digest = self.put(repository, name, &kind, &request.body);
                Answer::new(201, "").with("Docker-Content-Digest", digest)
            }
            ("DELETE", "/manifests/") => {
                let found = self.with(|all| {
                    let found = all.manifests.remove(&key);
                    if let Some((_, body)) = found.as_ref().filter(|_| name.starts_with("sha256:"))
                    {
                        // Deleting a manifest deletes its tags.
                        all.manifests
                            .retain(|(known, _), (_, other)| known != repository || other != body);
                    }
                    found
                });
                Answer::new(if found.is_some() { 202 } else { 404 }, "")
            }
            ("GET" | "HEAD", "/blobs/") => match self.with(|all| all.blobs.get(name).cloned()) {
                Some(body) => Answer::new(200, body),
                None => Answer::error(404, "BLOB_UNKNOWN", "blob unknown"),
            },
            ("POST", "/blobs/uploads/") => Answer::new(202, "")
                .with("Location", format!("/v2/{repository}/blobs/uploads/1?state=x")),
            ("PUT", "/blobs/uploads/") => {
                self.with(|all| all.blobs.insert(digest(&request.body), request.body.clone()));
                Answer::new(201, "")
            }
            ("DELETE", "/blobs/uploads/") => Answer::new(204, ""),
            ("GET", "/tags/") => {
                let tags: Vec<_> =
                    self.names(repository).into_iter().filter(|name| !name.contains(':')).collect();
                if tags.is_empty() && self.names(repository).is_empty() {
                    return Answer::error(
                        404,
                        "NAME_UNKNOWN",
                        "repository name not known to registry",
                    );
                }
                Answer::new(200, json!({"name": repository, "tags": tags}).to_string())
            }
            _ => Answer::new(404, ""),
        }
    }
}

/// A repository with two folders of manifests, and a home folder without configuration.
pub(crate) struct Sandbox {
    folder: TempDir,
    pub(crate) registry: String,
}

impl Sandbox {
    /// Creates a sandbox that publishes to the registry at `address`.
    pub(crate) fn new(address: &str) -> Result<Self> {
        let sandbox = Self { folder: tempfile::tempdir()?, registry: format!("http://{address}") };
        fs::create_dir(sandbox.home())?;
        fs::create_dir(sandbox.clone())?;
        sandbox.write("a/map.yaml", "kind: ConfigMap\ndata: {of: a}\n")?;
        sandbox.write("b/map.yaml", "kind: ConfigMap\ndata: {of: b}\n")?;
        sandbox.git(&["init", "-q", "-b", "main"])?;
        sandbox.commit("everything")?;
        Ok(sandbox)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn clone(&self) -> PathBuf {
        self.folder.path().join("clone")
    }

    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Test {
        let path = self.clone().join(name);
        fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        fs::write(path, text)?;
        Ok(())
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String> {
        git(&self.clone(), arguments)
    }

    pub(crate) fn commit(&self, message: &str) -> Test {
        self.git(&["add", "-A"])?;
        self.git(&["commit", "-q", "--allow-empty", "-m", message])?;
        Ok(())
    }

    /// Returns the Project document, with `more` added to its registry.
    pub(crate) fn project(&self, more: &str) -> String {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Project\nmetadata: {{name: test}}\nspec:\n  root: {{env: NEVER_ASKED}}\n  recipients: [{{name: a, age: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p}}]\n  endpoints: {{registry: {{url: '{}/test'{more}}}}}\n",
            self.registry
        )
    }

    /// Returns the Artifact document `name` for the folder `path`.
    #[allow(clippy::unused_self, reason = "called beside `project`, which needs `self`")]
    pub(crate) fn artifact(&self, name: &str, path: &str, repository: &str) -> String {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\nspec:\n  project: test\n  source: https://example.org/test/test\n  sourceCheck: skip\n  manifests: {{path: ./{path}, repository: {repository}}}\n"
        )
    }

    /// Returns a Project and one Artifact, published without a login.
    pub(crate) fn one(&self) -> String {
        self.project("") + &self.artifact("a", "a", "shared")
    }

    /// Runs `artifact-attest` on `input` in the clone, with `variables` instead of the developer's
    /// environment.
    pub(crate) fn run(
        &self,
        line: &str,
        input: &str,
        variables: &[(&str, &str)],
    ) -> Result<Output> {
        let file = self.outside("input");
        fs::write(&file, input)?;
        let mut command = Command::new(cargo_bin!("artifact-attest"));
        command
            .args(line.split(' '))
            .arg(file)
            .current_dir(self.clone())
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("TMPDIR", env::temp_dir())
            .env("HOME", self.home())
            .env("ARTIFACT_ATTEST_KEY", KEY)
            .env("PASSWORD", "sesame")
            .envs(variables.iter().copied());
        Ok(command.output()?)
    }

    /// Runs `artifact-attest`, checks the exit status, and returns the written documents.
    pub(crate) fn expect(&self, code: i32, line: &str, input: &str) -> Result<Vec<Value>> {
        let output = self.run(line, input, &[])?;
        if output.status.code() != Some(code) {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{line}: {}, not {code}\n{said}", output.status).into());
        }
        written(&output)
    }
}

/// Returns the documents that a run wrote.
pub(crate) fn written(output: &Output) -> Result<Vec<Value>> {
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(serde_json::from_slice).collect::<std::result::Result<_, _>>()?)
}

pub(crate) fn text(documents: &[Value]) -> String {
    documents.iter().fold(String::new(), |text, document| text + &document.to_string() + "\n")
}

pub(crate) fn reason(document: &Value) -> &str {
    document["status"]["conditions"][0]["reason"].as_str().unwrap_or_default()
}

pub(crate) fn published(document: &Value) -> Result<&str> {
    document["status"]["observed"]["digest"].as_str().ok_or_else(|| "no digest".into())
}

pub(crate) fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
    }
    Err(format!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
}
