//! A GitHub with many repositories, which measures how they are asked for: one mock for each repository.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testing::http::{Request, Response, listen_to_requests};

use crate::common::Test;
use crate::mock::github::State;
use crate::mock::http::{self, TOKEN};
use crate::mock::openapi::OpenApi;

/// Loopback address that only these tests use.
const HOST: &str = "127.76.0.10";

/// Longest wait for the repositories that must be asked for at the same time.
const MEETING_MAX: Duration = Duration::from_secs(30);

/// One request, from its arrival to its answer.
#[allow(dead_code, reason = "not every test that has this module needs all of it")]
pub(crate) struct Asked {
    /// Name of the repository; empty for an account.
    pub(crate) repository: String,
    /// Method and path.
    pub(crate) line: String,
    begin: Instant,
    end: Instant,
}

/// Answers to requests that the mock does not know, from the repositories. Status and body.
pub(crate) type Beyond = fn(&Request, &[Value]) -> Option<(u16, Value)>;

#[derive(Default)]
struct Shared {
    states: BTreeMap<String, State>,
    asked: Vec<Asked>,
    /// Time for which every answer is held back, so that requests at the same time overlap.
    delay: Duration,
    /// Number of repositories that must be asked for at the same time, and those that wait.
    meeting: Option<(usize, BTreeSet<String>)>,
    /// Whether a meeting took place.
    met: bool,
}

pub(crate) struct Fleet {
    pub(crate) address: SocketAddr,
    shared: Arc<(Mutex<Shared>, Condvar)>,
    _history: TempDir,
}

#[allow(dead_code, reason = "not every test that has this module needs all of it")]
impl Fleet {
    pub(crate) fn start() -> Test<Self> {
        Self::start_with(|_, _| None)
    }

    /// Starts a forge that asks `beyond` for its answer first.
    pub(crate) fn start_with(beyond: Beyond) -> Test<Self> {
        let history = tempfile::tempdir()?;
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let (state, folder) = (Arc::clone(&shared), history.path().to_owned());
        let openapi = OpenApi::read()?;
        let address = listen_to_requests((HOST, 0), move |request, stream| {
            let begin = Instant::now();
            let repository = repository_of(request);
            let (shared, changed) = &*state;
            meet(shared, changed, &repository);
            std::thread::sleep(lock(shared).delay);
            let bytes = if request.path.contains(".git/") {
                http::git(request, &folder, &[TOKEN.to_owned()], None)?
            } else {
                let address = stream.local_addr()?;
                let mut shared = lock(shared);
                let all = shared.states.values().filter_map(|state| state.repository.clone());
                let all = all.collect::<Vec<_>>();
                let (status, body, headers) = if let Some((status, body)) = beyond(request, &all) {
                    (status, body, Vec::new())
                } else {
                    let states = &mut shared.states;
                    let mock = states.entry(repository.clone()).or_insert_with(State::new);
                    mock.answer(request, &openapi, address, &folder)
                };
                let text = if body.is_null() { String::new() } else { body.to_string() };
                let response = Response::new(status, text);
                let headers = headers.into_iter();
                http::whole(&headers.fold(response, |all, (name, value)| all.with(name, value)))?
            };
            let line = format!("{} {}", request.method, request.path);
            lock(shared).asked.push(Asked { repository, line, begin, end: Instant::now() });
            stream.write_all(&bytes)?;
            Ok(false)
        })?;
        Ok(Self { address, shared, _history: history })
    }

    /// Returns the value of `endpoints.forge`.
    pub(crate) fn endpoint(&self) -> String {
        format!("{{github: {{url: \"http://{}\", token: {{env: FORGE_TOKEN}}}}}}", self.address)
    }

    /// Holds back every answer from now on.
    pub(crate) fn set_delay(&self, delay: Duration) {
        lock(&self.shared.0).delay = delay;
    }

    /// Holds back the next requests until `count` repositories have one.
    pub(crate) fn expect_meeting(&self, count: usize) {
        let mut shared = lock(&self.shared.0);
        (shared.meeting, shared.met) = (Some((count, BTreeSet::new())), false);
    }

    /// Whether the repositories of the last meeting were asked for at the same time.
    pub(crate) fn have_met(&self) -> bool {
        lock(&self.shared.0).met
    }

    /// Returns the requests since the last call.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut lock(&self.shared.0).asked)
    }

    /// Returns the variables of each repository, with the ownership record.
    pub(crate) fn variables(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let shared = lock(&self.shared.0);
        let exists = shared.states.iter().filter(|(_, state)| state.repository.is_some());
        exists.map(|(name, state)| (name.clone(), state.variables.clone())).collect()
    }

    /// Returns the requests that differ from GitHub's description.
    pub(crate) fn differences(&self) -> Vec<String> {
        lock(&self.shared.0).states.values().flat_map(|state| state.wrong.clone()).collect()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the name of the repository that a request is about.
fn repository_of(request: &Request) -> String {
    if request.path == "/user/repos" && request.method == "POST" {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        return body["name"].as_str().unwrap_or_default().to_owned();
    }
    let path = request.path.strip_prefix("/repos").unwrap_or(&request.path);
    let name = path.strip_prefix("/owner/").and_then(|rest| rest.split('/').next());
    name.map_or(String::new(), |name| name.trim_end_matches(".git").to_owned())
}

/// Waits until enough repositories are asked for at the same time, if that is expected.
fn meet(shared: &Mutex<Shared>, changed: &Condvar, repository: &str) {
    let mut shared = lock(shared);
    let Some((count, waiting)) = &mut shared.meeting else { return };
    waiting.insert(repository.to_owned());
    if waiting.len() >= *count {
        (shared.meeting, shared.met) = (None, true);
        changed.notify_all();
        return;
    }
    let is_open = |shared: &mut Shared| shared.meeting.is_some();
    let waited = changed.wait_timeout_while(shared, MEETING_MAX, is_open);
    let (mut shared, waited) = waited.unwrap_or_else(PoisonError::into_inner);
    if waited.timed_out() {
        shared.meeting = None;
        changed.notify_all();
    }
}

/// Returns the length of the longest chain of requests of which each begins after the answer to the one
/// before it. Requests at the same time count once.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn depth(asked: &[Asked]) -> usize {
    let mut by_end: Vec<_> = asked.iter().collect();
    by_end.sort_by_key(|asked| asked.end);
    let (mut length, mut last): (usize, Option<Instant>) = (0, None);
    for asked in by_end {
        if last.is_none_or(|last| asked.begin >= last) {
            (length, last) = (length + 1, Some(asked.end));
        }
    }
    length
}
