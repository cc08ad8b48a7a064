//! Counts the writes that each service has received, from the service's own log. The difference of
//! two counts proves whether a second run changes anything.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files;
use crate::paths::LabPaths;
use crate::{cloud, forge, registry, store};

/// Number of requests that tried to change something, with or without success, for each service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Writes {
    forge: u64,
    registry: u64,
    /// Writes since the lab was started, or `None` while the cloud does not answer.
    cloud: Option<u64>,
    store: u64,
    /// Writes by users and programs outside the cluster. Kubernetes' own components are not counted.
    cluster: u64,
}

impl Writes {
    pub(crate) fn count(paths: &LabPaths) -> Result<Self, Error> {
        let mut cluster = 0;
        for log in audit_logs(&paths.machines())? {
            cluster += count(&log, is_cluster_write)?;
        }
        Ok(Self {
            forge: count(&forge::access_log(paths), is_forge_write)?,
            registry: count(&registry::access_log(paths), is_http_write)?,
            cloud: cloud::writes(paths),
            store: count(&store::access_log(paths), is_store_write)?,
            cluster,
        })
    }
}

/// Returns the audit logs of the API servers, including the rotated ones.
fn audit_logs(machines: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut logs = Vec::new();
    for machine in entries(machines)? {
        let files = if machine.is_dir() { entries(&machine)? } else { Vec::new() };
        logs.extend(files.into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("audit") && path.extension().is_some_and(|ext| ext == "log")
        }));
    }
    Ok(logs)
}

/// Returns the entries of `folder`, or an empty list if the folder does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(files::cannot("read", folder)(error)),
    }
}

fn count(log: &Path, is_write: impl Fn(&str) -> bool) -> Result<u64, Error> {
    let file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(files::cannot("read", log)(error)),
    };
    let mut writes = 0;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(files::cannot("read", log))?;
        writes += u64::from(is_write(&String::from_utf8_lossy(&line)));
    }
    Ok(writes)
}

/// Returns method and path of a line in the common log format: `… "POST /path HTTP/1.1" 201 …`.
fn request(line: &str) -> Option<(&str, &str)> {
    let request = line.split('"').nth(1)?;
    let (method, rest) = request.split_once(' ')?;
    Some((method, rest.split_once(' ').map_or(rest, |(path, _)| path)))
}

fn is_http_write(line: &str) -> bool {
    request(line).is_some_and(|(method, _)| !matches!(method, "GET" | "HEAD" | "OPTIONS"))
}

/// Returns whether a line of versitygw's log is a write: `… s3_PutObject key "PUT /bucket/key" …`.
fn is_store_write(line: &str) -> bool {
    let writes = ["Put", "Post", "Delete", "Create", "Copy", "Upload", "Complete", "Abort"];
    writes.iter().any(|action| line.contains(&format!(" s3_{action}")))
}

/// Returns whether a line of Gitea's log is a write. Two kinds of `POST` are not: Git fetches objects
/// with `git-upload-pack`, and Gitea's own hooks call `/api/internal/`.
fn is_forge_write(line: &str) -> bool {
    let Some((_, path)) = request(line) else { return false };
    let path = path.split('?').next().unwrap_or(path);
    let no_write = path.ends_with("/git-upload-pack") || path.starts_with("/api/internal/");
    is_http_write(line) && !no_write
}

/// The fields of an audit event that decide whether the event is a write
/// (<https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/>).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request: String,
    user: User,
    #[serde(default)]
    object_ref: Object,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    #[serde(default)]
    api_group: String,
}

fn is_cluster_write(line: &str) -> bool {
    let Ok(event) = serde_json::from_str::<Event>(line) else { return false };
    let reads = matches!(event.verb.as_str(), "get" | "list" | "watch");
    // A dry run and a review of permissions are `POST` requests as well.
    let is_dry_run = event.request.contains("dryRun=All");
    let is_review = matches!(
        event.object_ref.api_group.as_str(),
        "authentication.k8s.io" | "authorization.k8s.io"
    );
    // Kubernetes' own components, and the emulated machine that starts them.
    let inside = ["system:", "talos:"];
    let from_inside = inside.iter().any(|prefix| event.user.username.starts_with(prefix));
    event.stage == "ResponseComplete" && !reads && !is_dry_run && !is_review && !from_inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_push_counts_as_a_write_and_a_fetch_does_not() {
        let line = |request: &str| {
            format!(
                "127.0.0.1 - zabronax [22/Nov/2026:23:40:00 +0000] \"{request}\" 200 41 \"\" \"git/2.39.5\""
            )
        };
        for (request, write) in [
            ("POST /zabronax/holistic.git/git-receive-pack HTTP/1.1", true),
            ("POST /zabronax/holistic.git/git-upload-pack HTTP/1.1", false),
            ("GET /zabronax/holistic.git/info/refs?service=git-receive-pack HTTP/1.1", false),
            ("PATCH /api/v1/repos/zabronax/holistic HTTP/1.1", true),
            ("DELETE /api/v1/repos/zabronax/holistic HTTP/1.1", true),
            ("POST /api/internal/hook/post-receive/zabronax/holistic HTTP/1.1", false),
            ("HEAD / HTTP/1.1", false),
        ] {
            assert_eq!(is_forge_write(&line(request)), write, "{request}");
        }
        assert!(!is_forge_write("2026/11/22 23:40:00 routers/init.go:1 [I] PING DATABASE sqlite3"));
    }

    #[test]
    fn a_registry_upload_counts_as_a_write_and_a_pull_does_not() {
        let line = |request: &str| {
            format!("127.0.0.1 - - [22/Nov/2026:23:40:00 +0000] \"{request}\" 202 0 \"\" \"x\"")
        };
        assert!(is_http_write(&line("PUT /v2/greeter/manifests/1 HTTP/1.1")));
        assert!(is_http_write(&line("POST /v2/greeter/blobs/uploads/ HTTP/1.1")));
        assert!(!is_http_write(&line("HEAD /v2/greeter/manifests/1 HTTP/1.1")));
        assert!(!is_http_write(&line("GET /v2/ HTTP/1.1")));
    }

    #[test]
    fn only_a_change_by_a_user_counts_as_a_write_of_the_cluster() {
        let event = |user: &str, verb: &str, rest: &str| {
            format!(
                r#"{{"stage":"ResponseComplete","verb":"{verb}","user":{{"username":"{user}"}},"requestURI":"/apis/x{rest}","objectRef":{{"resource":"x","apiGroup":"apps"}}}}"#
            )
        };
        assert!(is_cluster_write(&event("admin", "patch", "?fieldManager=flux-seed")));
        assert!(!is_cluster_write(&event("admin", "patch", "?dryRun=All&fieldManager=flux-seed")));
        assert!(!is_cluster_write(&event("admin", "watch", "")));
        assert!(!is_cluster_write(&event("system:node:control-1", "update", "")));
        assert!(!is_cluster_write(&event("talos:admin", "patch", "")));
        assert!(!is_cluster_write(
            &event("admin", "create", "").replace("apps", "authorization.k8s.io")
        ));
        assert!(!is_cluster_write(
            &event("admin", "patch", "").replace("ResponseComplete", "RequestReceived")
        ));
    }
}
