//! An OCI registry in this process, and a sandbox with a repository whose documents publish to it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError};

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
pub(crate) use testing::Test;
pub(crate) use testing::Test as Result;
use testing::documents::STRANGER;
pub(crate) use testing::documents::{ROOT as KEY, stream as text};
use testing::git::Repository;
pub(crate) use testing::git::git;
pub(crate) use testing::http::{Request, Response as Answer, Server};
pub(crate) use testing::run::documents as written;
use testing::run::{expect, path};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Starts a server on a free port.
pub(crate) fn serve(
    handler: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
) -> io::Result<Server> {
    Server::start("127.0.0.1:0", handler)
}

/// Returns an error as registries write it.
pub(crate) fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({"errors": [{"code": code, "message": message}]});
    Answer::new(status, body.to_string())
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

    /// Returns every tag, and every manifest except superseded lists of referrers and signatures. No tag names
    /// those, so a registry's garbage collection deletes them.
    pub(crate) fn named(&self, repository: &str) -> Vec<String> {
        self.with(|all| {
            let manifests = all.manifests.iter().filter(|((known, _), _)| known == repository);
            let is_superseded = |kind: &str, body: &[u8]| {
                kind == INDEX || String::from_utf8_lossy(body).contains("simplesigning")
            };
            let named = manifests.filter(|((_, name), (kind, body))| {
                !name.contains(':') || !is_superseded(kind, body)
            });
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
        let path = request.path.clone();
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
                    None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
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
                None => error(404, "BLOB_UNKNOWN", "blob unknown"),
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
                    return error(404, "NAME_UNKNOWN", "repository name not known to registry");
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
    repository: Repository,
    pub(crate) registry: String,
}

impl Sandbox {
    /// Creates a sandbox that publishes to the registry at `address`.
    pub(crate) fn new(address: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let repository = Repository::init(folder.path().join("clone"))?;
        let sandbox = Self { folder, repository, registry: format!("http://{address}") };
        fs::create_dir(sandbox.home())?;
        sandbox.write("a/map.yaml", "kind: ConfigMap\ndata: {of: a}\n")?;
        sandbox.write("b/map.yaml", "kind: ConfigMap\ndata: {of: b}\n")?;
        sandbox.commit("everything")?;
        Ok(sandbox)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn clone(&self) -> PathBuf {
        self.repository.path().to_owned()
    }

    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Test {
        self.repository.write(name, text)
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String> {
        self.repository.git(arguments)
    }

    pub(crate) fn commit(&self, message: &str) -> Test {
        self.repository.commit_all(message).map(drop)
    }

    /// Returns the Project document, with `more` added to its registry.
    pub(crate) fn project(&self, more: &str) -> String {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Project\nmetadata: {{name: test}}\nspec:\n  root: {{env: NEVER_ASKED}}\n  recipients: [{{name: a, age: {STRANGER}}}]\n  endpoints: {{registry: {{url: '{}/test'{more}}}}}\n",
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
        Ok(self.command(line, input, variables)?.output()?)
    }

    /// Returns the command of [`Self::run`].
    pub(crate) fn command(
        &self,
        line: &str,
        input: &str,
        variables: &[(&str, &str)],
    ) -> Result<Command> {
        let file = self.outside("input");
        fs::write(&file, input)?;
        let mut command = Command::new(cargo_bin!("artifact-attest"));
        command
            .args(line.split(' '))
            .arg(file)
            .current_dir(self.clone())
            .env_clear()
            .env("PATH", path())
            .env("TMPDIR", env::temp_dir())
            .env("HOME", self.home())
            .env("ARTIFACT_ATTEST_KEY", KEY)
            .env("PASSWORD", "sesame")
            .envs(variables.iter().copied());
        Ok(command)
    }

    /// Runs `artifact-attest`, checks the exit status, and returns the written documents.
    pub(crate) fn expect(&self, code: i32, line: &str, input: &str) -> Result<Vec<Value>> {
        expect(&self.run(line, input, &[])?, code, line)
    }
}

pub(crate) fn reason(document: &Value) -> &str {
    document["status"]["conditions"][0]["reason"].as_str().unwrap_or_default()
}

pub(crate) fn published(document: &Value) -> Result<&str> {
    document["status"]["observed"]["digest"].as_str().ok_or_else(|| "no digest".into())
}
