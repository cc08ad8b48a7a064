//! Watches, which tell a wait that it is time to look again.
//!
//! An event only tells that something has changed. The caller then reads what it needs, so that a lost
//! watch can delay a reading but never falsify it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::client::Client;

/// Media type of events without `spec` and `status`. Every change of an object changes its
/// `resourceVersion`, so that no event is missing
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches>).
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Parameters of a watch that begins with the present objects. A bookmark with [`INITIAL_END`] follows
/// them, which proves that events arrive: a proxy that buffers would hold it back. Kubernetes enables this
/// since 1.34, and before only in 1.32
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists>). Another server rejects
/// the parameters or ignores them, and the watch never counts as live.
const PARAMETERS: &str = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
    &resourceVersionMatch=NotOlderThan&timeoutSeconds=290";
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Longest silence of a watch. The API server ends each one after `timeoutSeconds`.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// First pause before a watch that has ended is opened again; each further pause is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause before a watch is opened again.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Longest event in bytes. The API server accepts objects up to 3 MiB (`MaxRequestBodyBytes`).
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Watches of collections. They proceed only during [`Self::drive`] and other requests of their client.
#[derive(Debug)]
pub struct Watches {
    client: Client,
    by_path: BTreeMap<String, Watch>,
    changes: Arc<AtomicU64>,
    /// Number of changes that the caller has taken.
    taken: u64,
}

/// One watch, which ends when it is dropped.
#[derive(Debug)]
struct Watch {
    task: JoinHandle<()>,
    is_live: Arc<AtomicBool>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, by_path: BTreeMap::new(), changes: Arc::default(), taken: 0 }
    }

    /// Watches exactly these collections, each a path that may have a selector in its query. A watch that
    /// exists continues.
    pub fn set(&mut self, collections: &BTreeSet<String>) {
        self.by_path.retain(|path, _| collections.contains(path));
        for path in collections {
            if !self.by_path.contains_key(path) {
                let is_live = Arc::new(AtomicBool::new(false));
                let state = State { is_live: is_live.clone(), changes: self.changes.clone() };
                let follow = follow(self.client.clone(), path.clone(), state);
                let task = self.client.runtime().spawn(follow);
                self.by_path.insert(path.clone(), Watch { task, is_live });
            }
        }
    }

    /// Whether every watch is live, so that no change goes unnoticed.
    #[must_use]
    pub fn are_live(&self) -> bool {
        self.by_path.values().all(|watch| watch.is_live.load(Ordering::Relaxed))
    }

    /// Whether an object has changed, or a watch has become live, since [`Self::take`].
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.changes.load(Ordering::Relaxed) != self.taken
    }

    /// Forgets the changes so far, because the caller reads everything anew.
    pub fn take(&mut self) {
        self.taken = self.changes.load(Ordering::Relaxed);
    }

    /// Lets the watches proceed for `time`.
    pub fn drive(&self, time: Duration) {
        self.client.runtime().block_on(async { tokio::time::sleep(time).await });
    }
}

/// Signals of one watch.
struct State {
    is_live: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
}

impl State {
    fn change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens the watch of a collection again and again.
async fn follow(client: Client, path: String, state: State) {
    let mut pause = PAUSE_MIN;
    loop {
        let end = watch(&client, &path, &state).await;
        let was_live = state.is_live.swap(false, Ordering::Relaxed);
        // A regular end, for example the server's time limit, is no failure.
        pause = if was_live { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        documents::detail("-", format_args!("watch of {path} ended: {end}"));
        tokio::time::sleep(pause).await;
    }
}

/// Follows one watch until it ends, and returns the cause.
async fn watch(client: &Client, path: &str, state: &State) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}{PARAMETERS}");
    documents::detail("-", format_args!("GET {path}"));
    // Kubernetes 1.37 compresses each event on its own, of which kube decodes only the first
    // (https://github.com/tower-rs/tower-http/issues/737).
    let request = http::Request::get(&path).header("accept", METADATA);
    let request = request.header("accept-encoding", "identity").body(Body::empty());
    let Ok(request) = request else { return "its path is no URL".to_owned() };
    let answer = tokio::time::timeout(client.deadline(), client.http().send(request)).await;
    let mut body = match answer {
        Ok(Ok(answer)) if answer.status().is_success() => answer.into_body(),
        Ok(Ok(answer)) => return format!("HTTP status {}", answer.status().as_u16()),
        Ok(Err(error)) => return client.clean(&error.to_string()),
        Err(_) => return "no answer".to_owned(),
    };
    let mut text = Vec::new();
    loop {
        let frame = match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return client.clean(&error.to_string()),
            Ok(None) => return "the server closed it".to_owned(),
            Err(_) => return "silence".to_owned(),
        };
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data.as_ref()));
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if let Err(cause) = event(&line, state) {
                return cause;
            }
        }
        if text.len() > EVENT_BYTES_MAX {
            return "an event is too large".to_owned();
        }
    }
}

/// Takes one event. Returns the cause if the watch is over.
fn event(line: &[u8], state: &State) -> Result<(), String> {
    let Ok(event) = serde_json::from_slice::<Value>(line) else {
        return Err("an event is not JSON".to_owned());
    };
    match event["type"].as_str() {
        Some("BOOKMARK") => {
            if event["object"]["metadata"]["annotations"][INITIAL_END] == "true" {
                state.is_live.store(true, Ordering::Relaxed);
                state.change();
            }
        }
        Some("ADDED" | "MODIFIED" | "DELETED") => {
            if state.is_live.load(Ordering::Relaxed) {
                state.change();
            }
        }
        // For example 410, after too many changes for a slow reader.
        _ => return Err(format!("error {}", event["object"]["code"])),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
