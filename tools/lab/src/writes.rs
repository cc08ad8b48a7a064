//! How many writes each remote has seen, from what it says itself: the proof that a second run
//! changes nothing is a difference of two such counts.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files;
use crate::place::Place;
use crate::{cloud, forge, registry, store};

/// Requests that were made to change something, whether they were granted or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Writes {
    forge: u64,
    registry: u64,
    /// Since the lab was started; none while it does not answer.
    cloud: Option<u64>,
    store: u64,
    /// By people and programs outside: what the cluster does by itself is not counted.
    cluster: u64,
}

impl Writes {
    pub(crate) fn count(place: &Place) -> Result<Self, Error> {
        let mut cluster = 0;
        for log in audit_logs(&place.machines())? {
            cluster += count(&log, is_cluster_write)?;
        }
        Ok(Self {
            forge: count(&forge::access_log(place), is_forge_write)?,
            registry: count(&registry::access_log(place), is_http_write)?,
            cloud: cloud::writes(place),
            store: count(&store::access_log(place), is_store_write)?,
            cluster,
        })
    }
}

/// The API servers' records of who asked for what, with those that were set aside when full.
fn audit_logs(machines: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut logs = Vec::new();
    for machine in entries(machines)? {
        let files = if machine.is_dir() { entries(&machine)? } else { Vec::new() };
        logs.extend(files.into_iter().filter(|it| {
            let name = it.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("audit") && it.extension().is_some_and(|it| it == "log")
        }));
    }
    Ok(logs)
}

/// What is in `folder`; nothing, if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|it| it.path()).collect()),
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

/// The request in a line of the common log format: `… "POST /path HTTP/1.1" 201 …`.
fn request(line: &str) -> Option<(&str, &str)> {
    let request = line.split('"').nth(1)?;
    let (method, rest) = request.split_once(' ')?;
    Some((method, rest.split_once(' ').map_or(rest, |it| it.0)))
}

fn is_http_write(line: &str) -> bool {
    request(line).is_some_and(|(method, _)| !matches!(method, "GET" | "HEAD" | "OPTIONS"))
}

/// `… s3_PutObject key "PUT /bucket/key" …`
fn is_store_write(line: &str) -> bool {
    let writes = ["Put", "Post", "Delete", "Create", "Copy", "Upload", "Complete", "Abort"];
    writes.iter().any(|it| line.contains(&format!(" s3_{it}")))
}

/// Git asks for objects with a `POST`, and the forge's own hooks tell it what they see.
fn is_forge_write(line: &str) -> bool {
    let Some((_, path)) = request(line) else { return false };
    let path = path.split('?').next().unwrap_or(path);
    let no_write = path.ends_with("/git-upload-pack") || path.starts_with("/api/internal/");
    is_http_write(line) && !no_write
}

/// As much of an audit event as decides whether it is a write.
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
    // A rehearsal and a question are made with `POST`, too.
    let rehearses = event.request.contains("dryRun=All");
    let asks = matches!(
        event.object_ref.api_group.as_str(),
        "authentication.k8s.io" | "authorization.k8s.io"
    );
    // Kubernetes' own components, and the machine that brings them up.
    let inside = ["system:", "talos:"];
    let from_inside = inside.iter().any(|it| event.user.username.starts_with(it));
    event.stage == "ResponseComplete" && !reads && !rehearses && !asks && !from_inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_a_write_and_a_fetch_is_none() {
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
    fn an_upload_is_a_write_and_a_pull_is_none() {
        let line = |request: &str| {
            format!("127.0.0.1 - - [22/Nov/2026:23:40:00 +0000] \"{request}\" 202 0 \"\" \"x\"")
        };
        assert!(is_http_write(&line("PUT /v2/greeter/manifests/1 HTTP/1.1")));
        assert!(is_http_write(&line("POST /v2/greeter/blobs/uploads/ HTTP/1.1")));
        assert!(!is_http_write(&line("HEAD /v2/greeter/manifests/1 HTTP/1.1")));
        assert!(!is_http_write(&line("GET /v2/ HTTP/1.1")));
    }

    #[test]
    fn what_a_person_changes_in_the_cluster_is_a_write() {
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
