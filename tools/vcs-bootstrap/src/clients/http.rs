//! HTTP client of a forge: requests and retries. This is the only layer that waits and retries.
//!
//! A [`Service`] is shared by all documents of a project, so that the token is resolved once, and the
//! pause between two writes holds for all of them. A [`Client`] belongs to one document.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ::git::Url;
use ::remote::{
    Cause as Retry, Limits, Outage, Retries, Settings, agent, certificate_error, is_untrusted, run,
    sendable,
};
use data_encoding::BASE64;
use http::{Method, Request};
use secrets::Secret;
use serde_json::Value;
use ureq::Agent;

use crate::Error;
use crate::clients::answer::Answer;
use crate::clients::app::App;
use crate::error::Cause;
use crate::model::Refusal;

/// Time limit of one request.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// Largest response that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Time limit of one call, with all attempts and waits.
const CALL_MAX: Duration = Duration::from_secs(600);
/// Time after the creation of a repository during which GitHub may still answer 404 for it.
const PROPAGATION_MAX: Duration = Duration::from_secs(30);
/// Longest wait that a forge's rate limit may demand, in seconds.
const WAIT_SECONDS_MAX: u64 = 120;
/// Longest list, in pages.
const PAGES_MAX: usize = 100;

/// Media type of the API of Git LFS.
const LFS: &str = "application/vnd.git-lfs+json";

/// Function that finds the items of a list in a response.
pub(crate) type Items = fn(&Value) -> Option<&Vec<Value>>;

/// Credential for the API of a forge.
#[derive(Debug)]
pub(crate) enum Credential {
    /// Token of a person or of an installation.
    Token(Secret),
    /// App, whose key is exchanged for tokens of its installations.
    App(Box<App>),
}

/// Forge with its credential, shared by all documents of a project in one run.
pub(crate) struct Service {
    agent: Agent,
    /// URL of the forge's API.
    root: String,
    credential: Credential,
    /// Media type of responses; of requests, too, at an LFS server.
    accept: &'static str,
    /// Pause between two writes. GitHub recommends one second.
    pause: Duration,
    limits: Limits,
    /// Earliest time of the next write.
    next_write: Mutex<Instant>,
    /// Version of the forge's software, once it was asked.
    pub(crate) version: Mutex<Option<String>>,
}

/// One request.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) body: Option<&'a Value>,
    /// Name of the document, for messages.
    pub(crate) document: &'a str,
}

impl Service {
    /// Connects to the API at `root`, with `pause` between two writes.
    pub(crate) fn new(
        root: &Url,
        credential: Credential,
        pause: Duration,
        accept: &'static str,
    ) -> Result<Self, Error> {
        if let Credential::Token(token) = &credential {
            bearer(token)?;
        }
        let agent = agent(Settings {
            program: "vcs-bootstrap",
            is_plain: root.is_plain(),
            response_max: REQUEST_MAX,
            attempt_max: REQUEST_MAX,
        })?;
        // A forge on this machine needs no pauses between writes.
        let (pause, first_pause) = if root.is_plain() {
            (Duration::ZERO, Duration::from_millis(50))
        } else {
            (pause, Duration::from_secs(1))
        };
        let limits = Limits {
            call: CALL_MAX,
            rate_limit: CALL_MAX,
            first_pause,
            ..Limits::of_service(root.is_loopback())
        };
        let (root, next_write) = (root.to_string(), Mutex::new(Instant::now()));
        let version = Mutex::default();
        Ok(Self { agent, root, credential, accept, pause, limits, next_write, version })
    }

    /// Connects to the LFS server at `root`, with the token of git.
    /// <https://github.com/git-lfs/git-lfs/blob/v3.7.1/docs/api/batch.md>: both headers have the same media type.
    pub(crate) fn of_lfs(root: &Url, token: Secret) -> Result<Self, Error> {
        Self::new(root, Credential::Token(token), Duration::ZERO, LFS)
    }

    /// Returns a token for the repositories of `owner`.
    pub(crate) fn token(&self, owner: &str, document: &str) -> Result<Secret, Error> {
        match &self.credential {
            Credential::Token(token) => Ok(token.clone()),
            Credential::App(app) => app.token(owner, |method, path, body| {
                let call = Call { method, path, body, document };
                self.ask(call, || app.statement(), || false)
            }),
        }
    }

    /// Waits until the next write may be sent. All documents together send one write in each pause.
    fn pace(&self) -> Result<(), Error> {
        let wait = {
            let mut next = self.next_write.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let slot = now.max(*next);
            *next = slot + self.pause;
            slot.saturating_duration_since(now)
        };
        Ok(documents::pause(wait)?)
    }

    /// Sends a request, and repeats it while that may help. `is_new` tells whether a 404 may be about a
    /// repository that was created just now.
    pub(crate) fn ask(
        &self,
        call: Call<'_>,
        token: impl Fn() -> Result<Secret, Error>,
        is_new: impl Fn() -> bool,
    ) -> Result<Answer, Error> {
        let Call { method, path, document, .. } = call;
        let outage = Outage::default();
        let mut retries = Retries::new(self.limits, &outage);
        let again = |retries: &mut Retries<'_>, why: &str| -> Result<bool, Error> {
            let Some(wait) = retries.next_pause(Retry::Outage) else { return Ok(false) };
            let seconds = wait.as_secs_f64();
            let text = format_args!("{method} {path}: {why}: trying again in {seconds:.1} s");
            documents::note(document, text);
            documents::pause(wait)?;
            Ok(true)
        };
        let silence = |source: Cause| {
            let (method, path) = (method.to_string(), path.to_owned());
            if method == "POST" {
                Error::Ambiguous { method, path, source }
            } else {
                Error::Unreachable { method, path, source }
            }
        };
        loop {
            documents::detail(document, format_args!("{method} {path}"));
            let token = token()?;
            match self.send(call, &token, retries.left(REQUEST_MAX)) {
                Err(Failure::Untrusted(why)) => {
                    return Err(Error::Untrusted { forge: self.root.clone(), why });
                }
                Err(Failure::Invalid(error)) => return Err(error),
                Err(Failure::Silence(cause)) => {
                    if method == Method::POST || !again(&mut retries, &cause.to_string())? {
                        return Err(silence(cause));
                    }
                }
                Ok(Answer { wait_seconds: Some(seconds), .. }) => {
                    let demanded = Duration::from_secs(seconds);
                    let is_short = seconds <= WAIT_SECONDS_MAX;
                    let wait =
                        is_short.then(|| retries.next_pause(Retry::RateLimit(demanded))).flatten();
                    let wait = wait.ok_or(Error::Limited { seconds })?;
                    let text =
                        format_args!("rate limit of the forge: waiting {} s", wait.as_secs());
                    documents::note(document, text);
                    documents::pause(wait)?;
                }
                Ok(answer) if answer.status >= 500 => {
                    let why = format!("status {}", answer.status);
                    if method == Method::POST || !again(&mut retries, &why)? {
                        return Err(silence(why.into()));
                    }
                }
                Ok(answer) if answer.status == 404 && is_new() => {
                    if !again(&mut retries, "the new repository is not visible yet")? {
                        return Ok(answer);
                    }
                }
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// Sends a request once.
    fn send(&self, call: Call<'_>, token: &Secret, time_max: Duration) -> Result<Answer, Failure> {
        let Call { method, path, body, .. } = call;
        let token = bearer(token).map_err(Failure::Invalid)?;
        let is_lfs = self.accept == LFS;
        // LFS servers know the login of git.
        let basic =
            || format!("Basic {}", BASE64.encode(format!("x-access-token:{token}").as_bytes()));
        let authorization = if is_lfs { basic() } else { format!("Bearer {token}") };
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.root))
            .header("Accept", self.accept)
            .header("X-GitHub-Api-Version", "2022-11-28")
            .header("Authorization", authorization);
        let invalid = |error: http::Error| {
            let what = format!("a usable address: {error}");
            Failure::Invalid(Error::Garbled { path: path.to_owned(), what })
        };
        let response = match body {
            None => run(&self.agent, request.body(()).map_err(invalid)?, time_max),
            Some(body) => {
                let content = if is_lfs { LFS } else { "application/json" };
                let request = request.header("Content-Type", content);
                let request = request.body(body.to_string()).map_err(invalid)?;
                run(&self.agent, request, time_max)
            }
        };
        let mut response = response.map_err(Failure::new)?;
        let bytes = ::remote::read(&mut response, ANSWER_BYTES_MAX);
        let bytes = bytes.map_err(|error| Failure::Silence(error.into()))?;
        let bytes = bytes.ok_or_else(|| Failure::Silence("the response is too large".into()))?;
        Ok(Answer::read(method, path, response.status(), response.headers(), &bytes))
    }
}

/// Returns the token as text that a header can hold.
fn bearer(token: &Secret) -> Result<&str, Error> {
    sendable(token).map_err(|error| Error::TokenUnusable { why: error.to_string() })
}

/// Reason for the lack of a response.
enum Failure {
    /// The certificate of the forge is not trusted.
    Untrusted(String),
    /// The request cannot be sent, or cannot reach the forge.
    Invalid(Error),
    /// The forge did not answer completely.
    Silence(Cause),
}

impl Failure {
    fn new(error: ureq::Error) -> Self {
        let untrusted = is_untrusted(&error);
        if let ureq::Error::ConnectProxyFailed(why) = &error
            && why.contains("407")
        {
            return Self::Invalid(Error::ProxyLogin);
        }
        let cause: Cause = match error {
            ureq::Error::Io(source) => source.into(),
            error => error.into(),
        };
        match certificate_error(cause.as_ref()) {
            Some(why) => Self::Untrusted(why),
            None if untrusted => Self::Untrusted(cause.to_string()),
            None => Self::Silence(cause),
        }
    }
}

/// Connection of one document to its forge.
pub(crate) struct Client {
    pub(crate) service: Arc<Service>,
    /// Owner of the repository.
    owner: String,
    /// Name of the document, for messages.
    document: String,
    /// Time at which this run created the repository. GitHub answers 404 for some seconds
    /// afterwards.
    created: OnceLock<Instant>,
    /// Set once the forge has confirmed that this run deleted the repository.
    deleted: AtomicBool,
}

impl Client {
    pub(crate) fn new(service: Arc<Service>, owner: &str, document: &str) -> Self {
        let (owner, document) = (owner.to_owned(), document.to_owned());
        let (created, deleted) = (OnceLock::new(), AtomicBool::new(false));
        Self { service, owner, document, created, deleted }
    }

    /// Whether the credential is the key of an App.
    pub(crate) fn is_app(&self) -> bool {
        matches!(self.service.credential, Credential::App(_))
    }

    /// Returns a token for the API and for git. The token of an App is renewed when it is old.
    pub(crate) fn token(&self) -> Result<Secret, Error> {
        self.service.token(&self.owner, &self.document)
    }

    /// Records that the repository was just created, so that a 404 is retried for some seconds.
    pub(crate) fn has_created(&self) {
        self.created.get_or_init(Instant::now);
    }

    /// Records that the repository was deleted, so that a 404 proves its absence.
    pub(crate) fn has_deleted(&self) {
        self.deleted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_been_deleted(&self) -> bool {
        self.deleted.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer, Error> {
        self.ask(&Method::GET, path, None)
    }

    /// Sends a write. Fails unless the response has a status in `expected`.
    pub(crate) fn write(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        expected: &[u16],
    ) -> Result<Answer, Error> {
        self.service.pace()?;
        self.ask(method, path, body)?.expect(expected)
    }

    /// Returns every item of a list. `size` is the query parameter for the largest page.
    pub(crate) fn list(
        &self,
        path: &str,
        size: &str,
        items: Items,
    ) -> Result<Result<Vec<Value>, Refusal>, Error> {
        let mut all = Vec::new();
        for page in 1..=PAGES_MAX {
            let separator = if path.contains('?') { '&' } else { '?' };
            let answer = self.get(&format!("{path}{separator}{size}&page={page}"))?;
            if let Some(refusal) = answer.refusal() {
                return Ok(Err(refusal));
            }
            let answer = answer.expect(&[200])?;
            let found = items(&answer.body).ok_or_else(|| answer.lacks("a list"))?;
            all.extend(found.iter().cloned());
            let more = answer.more || answer.total.is_some_and(|total| all.len() < total);
            if !more || found.is_empty() {
                return Ok(Ok(all));
            }
        }
        Err(Error::Garbled { path: path.to_owned(), what: "an end".to_owned() })
    }

    fn ask(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
        let call = Call { method, path, body, document: &self.document };
        let is_new =
            || self.created.get().is_some_and(|created| created.elapsed() < PROPAGATION_MAX);
        let sent = RefCell::new(None::<Secret>);
        let token = || {
            let token = self.token()?;
            *sent.borrow_mut() = Some(token.clone());
            Ok::<_, Error>(token)
        };
        let answer = self.service.ask(call, token, is_new)?;
        if answer.status != 401 {
            return Ok(answer);
        }
        // The forge has rejected the request, so it can be repeated.
        if sent.take().is_some_and(|rejected| self.renews(&rejected)) {
            let answer = self.service.ask(call, || self.token(), is_new)?;
            if answer.status != 401 {
                return Ok(answer);
            }
        }
        Err(Error::Unauthorised)
    }

    /// Whether the forge will give another token instead of the `rejected` one, which is forgotten. A token of
    /// an installation may end early, for example when its permissions change.
    pub(crate) fn renews(&self, rejected: &Secret) -> bool {
        let Credential::App(app) = &self.service.credential else { return false };
        app.forget(&self.owner, rejected);
        true
    }
}
