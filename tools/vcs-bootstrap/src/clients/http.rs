//! HTTP client of a forge: requests, responses and retries.
//!
//! octocrab sends the requests to both forges because its raw calls return status, headers and body
//! unchanged. Its own retry repeats POST requests and is disabled, so this is the only layer that waits
//! and retries (decision 20).

use std::cell::Cell;
use std::time::{Duration, Instant};

use ::git::Url;
use ::remote::{
    Cause as Retry, Limits, Outage, Retries, certificate_error, retry_after, sendable, until_reset,
};
use documents::Reason;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use octocrab::Octocrab;
use secrets::Secret;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::Error;
use crate::error::Cause;
use crate::model::Refusal;

/// Time limit of one request.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// Largest response that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Time limit of one call, with all attempts and waits.
const CALL_MAX: Duration = Duration::from_secs(600);
/// Time after the creation of a repository during which GitHub may still answer 404 for it.
const PROPAGATION_MAX: Duration = Duration::from_secs(30);
/// Longest wait that a forge's rate limit may demand, in seconds.
const WAIT_SECONDS_MAX: u64 = 120;
/// Longest list, in pages.
const PAGES_MAX: usize = 100;
/// Longest message of a forge that is shown, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// Function that finds the items of a list in a response.
pub(crate) type Items = fn(&Value) -> Option<&Vec<Value>>;

/// Connection to one forge.
pub(crate) struct Client {
    runtime: Runtime,
    octocrab: Octocrab,
    /// URL of the forge's API.
    root: String,
    /// Pause between two writes. GitHub recommends one second.
    pause: Duration,
    limits: Limits,
    written: Cell<Option<Instant>>,
    /// Time at which this run created the repository. GitHub answers 404 for some seconds
    /// afterwards.
    created: Cell<Option<Instant>>,
    /// Whether the forge has confirmed that this run deleted the repository.
    deleted: Cell<bool>,
}

/// Response of a forge.
#[derive(Debug)]
pub(crate) struct Answer {
    method: Method,
    path: String,
    pub(crate) status: u16,
    pub(crate) body: Value,
    /// Permissions that the request needs, if the forge names them.
    accepted: Option<String>,
    /// Scopes of a classic token, if the forge names them.
    pub(crate) scopes: Option<String>,
    /// Target of a redirect.
    location: Option<String>,
    total: Option<usize>,
    more: bool,
    wait_seconds: Option<u64>,
}

impl Client {
    /// Connects to the API at `root`, with `pause` between two writes.
    pub(crate) fn new(root: &Url, token: &Secret, pause: Duration) -> Result<Self, Error> {
        let unreachable = |source: Cause| Error::Unreachable {
            method: "connect".to_owned(),
            path: root.to_string(),
            source,
        };
        let text =
            sendable(token).map_err(|error| Error::TokenUnusable { why: error.to_string() })?;
        if !root.is_plain() {
            // octocrab reads the same authorities, and does not say which variable is wrong.
            ::remote::roots()?;
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unreachable(error.into()))?;
        let entered = runtime.enter();
        let octocrab = Octocrab::builder()
            .base_uri(root.as_str())
            .and_then(|builder| builder.personal_token(text).build())
            .map_err(|error| unreachable(error.into()))?;
        drop(entered);
        // A forge on this machine needs no pauses between writes.
        let (pause, first_pause) = if root.is_plain() {
            (Duration::ZERO, Duration::from_millis(50))
        } else {
            (pause, Duration::from_secs(1))
        };
        let rate_limit = CALL_MAX;
        let limits = Limits {
            call: CALL_MAX,
            rate_limit,
            first_pause,
            ..Limits::of_service(root.is_loopback())
        };
        let (written, created) = (Cell::new(None), Cell::new(None));
        let deleted = Cell::new(false);
        let root = root.to_string();
        Ok(Self { runtime, octocrab, root, pause, limits, written, created, deleted })
    }

    /// Records that the repository was just created, so that a 404 is retried for some seconds.
    pub(crate) fn has_created(&self) {
        self.created.set(Some(Instant::now()));
    }

    /// Records that the repository was deleted, so that a 404 proves its absence.
    pub(crate) fn has_deleted(&self) {
        self.deleted.set(true);
    }

    pub(crate) fn has_been_deleted(&self) -> bool {
        self.deleted.get()
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
        if let Some(written) = self.written.get() {
            documents::pause(self.pause.saturating_sub(written.elapsed()))?;
        }
        let answer = self.ask(method, path, body);
        self.written.set(Some(Instant::now()));
        answer?.expect(expected)
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
        let outage = Outage::default();
        let mut retries = Retries::new(self.limits, &outage);
        loop {
            documents::detail("-", format_args!("{method} {path}"));
            let time_max = retries.left(REQUEST_MAX);
            let sent = self.runtime.block_on(self.send(method, path, body, time_max));
            let just_created =
                self.created.get().is_some_and(|created| created.elapsed() < PROPAGATION_MAX);
            let silence = |source: Cause| {
                let (method, path) = (method.to_string(), path.to_owned());
                if method == "POST" {
                    Error::Ambiguous { method, path, source }
                } else {
                    Error::Unreachable { method, path, source }
                }
            };
            match sent {
                Err(cause) => {
                    if let Some(why) = certificate_error(cause.as_ref()) {
                        return Err(Error::Untrusted { forge: self.root.clone(), why });
                    }
                    if method == Method::POST || !retries.again(Retry::Outage)? {
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
                    documents::note("-", text);
                    documents::pause(wait)?;
                }
                Ok(answer) if answer.status >= 500 => {
                    if method == Method::POST || !retries.again(Retry::Outage)? {
                        return Err(silence(format!("status {}", answer.status).into()));
                    }
                }
                Ok(answer) if answer.status == 401 => return Err(Error::Unauthorised),
                Ok(answer) if answer.status == 404 && just_created => {
                    if !retries.again(Retry::Outage)? {
                        return Ok(answer);
                    }
                }
                Ok(answer) => return Ok(answer),
            }
        }
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        time_max: Duration,
    ) -> Result<Answer, Cause> {
        let exchange = async {
            let request = Request::builder().method(method.clone()).uri(path);
            let request = self.octocrab.build_request(request, body)?;
            let (head, body) = self.octocrab.execute(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, Cause>((head, body))
        };
        let exchange = tokio::time::timeout(time_max, exchange).await;
        let (head, body) = exchange.unwrap_or_else(|late| Err(late.into()))?;
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Answer {
            method: method.clone(),
            path: path.to_owned(),
            status: head.status.as_u16(),
            accepted: header("x-accepted-github-permissions").map(str::to_owned),
            scopes: header("x-oauth-scopes").map(str::to_owned),
            location: header("location").map(str::to_owned),
            total: header("x-total-count").and_then(|count| count.parse().ok()),
            more: header("link").is_some_and(|link| link.contains("rel=\"next\"")),
            wait_seconds: wait_seconds(head.status, &head.headers, &body),
            body,
        })
    }
}

/// Returns the wait in seconds that a rate limit demands, by GitHub's rules
/// (<https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#handle-rate-limit-errors-appropriately>).
/// Proxies in front of Gitea also send `Retry-After`.
fn wait_seconds(status: StatusCode, headers: &HeaderMap, body: &Value) -> Option<u64> {
    if status != StatusCode::FORBIDDEN && status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    if let Some(pause) = retry_after(headers) {
        return Some(pause.as_secs());
    }
    // GitHub sends the reset with every response, so it counts only when no request is left.
    if headers.get("x-ratelimit-remaining").is_some_and(|left| left.as_bytes() == b"0") {
        let reset = until_reset(headers).unwrap_or(Duration::from_secs(60));
        return Some(reset.as_secs() + 1);
    }
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_lowercase();
    let said = text("message") + &text("documentation_url");
    let secondary = ["secondary rate limit", "secondary-rate-limits", "abuse detection"];
    let limited = secondary.iter().any(|phrase| said.contains(phrase));
    (limited || status == StatusCode::TOO_MANY_REQUESTS).then_some(60)
}

impl Answer {
    /// Returns the response if its status is in `expected`, and an error otherwise.
    pub(crate) fn expect(self, expected: &[u16]) -> Result<Self, Error> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let (method, path, message) = (self.method.to_string(), self.path.clone(), self.message());
        Err(match self.status {
            301 | 307 | 308 => Error::Renamed { place: path, to: self.moved_to() },
            302 | 303 => Error::SignInPage { path },
            403 if message.contains("Upgrade to ") => Error::PlanGate { path, message },
            403 | 404 => Error::Forbidden { method, path, message, accepted: self.accepted },
            status => Error::Refused { method, path, status, message },
        })
    }

    /// Returns the number of a renamed repository from a redirect (GitHub).
    pub(crate) fn moved_number(&self) -> Option<u64> {
        let target = self.location.as_deref().or(self.body["url"].as_str())?;
        let (_, number) = target.split_once("/repositories/")?;
        number.split(['/', '?', '#']).next()?.parse().ok()
    }

    /// Returns the new name of a renamed repository, if the response has it. GitHub redirects to
    /// the number (`/repositories/7`), Gitea to the new path.
    fn moved_to(&self) -> Option<String> {
        let target = self.location.as_deref().or(self.body["url"].as_str())?;
        let (_, rest) = target.split_once("/repos/").or(target.split_once("/repositories/"))?;
        let rest = rest.split(['?', '#']).next()?;
        let mut parts = rest.split('/');
        let name = match (parts.next()?, parts.next()) {
            (owner, Some(name)) if !owner.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{owner}/{name}")
            }
            (id, _) => format!("the repository with number {id}"),
        };
        Some(name.chars().filter(|char| !char.is_control()).take(200).collect())
    }

    /// Returns the reason why this part of a visible repository may not be read, if so.
    fn refusal(&self) -> Option<Refusal> {
        if ![403, 404].contains(&self.status) {
            return None;
        }
        let (path, message) = (self.path.split('?').next().unwrap_or_default(), self.message());
        let gated = message.contains("Upgrade to ");
        let accepted =
            self.accepted.as_ref().map_or(String::new(), |accepted| format!(": {accepted}"));
        Some(Refusal {
            reason: if gated { Reason::PlanGate } else { Reason::Forbidden },
            what: format!("{path} may not be read (status {}): {message}", self.status),
            help: if gated {
                "upgrade the owner's plan, make the repository public, or remove the feature from the document"
                    .to_owned()
            } else {
                format!("give the token the permission to read this path{accepted}")
            },
        })
    }

    /// Returns the forge's own message, without control characters.
    fn message(&self) -> String {
        if self.method != Method::GET && self.path.contains("/actions/secrets/") {
            return "(message omitted because the request contained a secret)".to_owned();
        }
        let mut message = self.body["message"].as_str().unwrap_or("no reason given").to_owned();
        for error in self.body["errors"].as_array().into_iter().flatten() {
            let text = |name: &str| error[name].as_str().unwrap_or_default();
            let plain = error.as_str().unwrap_or_default();
            let parts = [plain, text("field"), text("code"), text("message")];
            message = format!("{message}; {}", parts.join(" ").trim());
        }
        message.replace(char::is_control, " ").chars().take(MESSAGE_CHARACTERS_MAX).collect()
    }

    pub(crate) fn lacks(&self, what: &str) -> Error {
        Error::Garbled { path: self.path.clone(), what: what.to_owned() }
    }
}
