//! How one talks to a forge at all: one request, its answer, and when to ask again.
//!
//! octocrab sends the requests, at both forges: its raw calls give status, headers and body back as
//! they came. Its own retry repeats a POST, and its own errors lose headers and the status of what
//! is not JSON, so both are left out; this is the one layer that waits and asks again.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use keyring::{Secret, Url};
use octocrab::Octocrab;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::Error;
use crate::error::Cause;
use crate::model::Refusal;

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// How much an answer may hold.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// How often a request is sent.
const ATTEMPTS_MAX: u32 = 5;
/// For how long a repository that we have created may be there for some and not for others.
const NEWBORN_MAX: Duration = Duration::from_secs(30);
/// How long we wait where a forge asks us to.
const WAIT_SECONDS_MAX: u64 = 120;
/// How many pages a list may have.
const PAGES_MAX: usize = 100;
/// How much of what a forge says is repeated.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// Finds the items of a list in an answer.
pub(crate) type Items = fn(&Value) -> Option<&Vec<Value>>;

/// A connection to one forge.
pub(crate) struct Client {
    runtime: Runtime,
    octocrab: Octocrab,
    /// Between two writes: GitHub asks for a second.
    pause: Duration,
    /// Before a request is sent again; twice as long each time.
    backoff: Duration,
    written: Cell<Option<Instant>>,
    /// When we have created a repository: for some seconds, GitHub answers 404 below it.
    created: Cell<Option<Instant>>,
    /// Whether the forge has confirmed that it deleted the repository for us.
    deleted: Cell<bool>,
}

/// What a forge answered.
#[derive(Debug)]
pub(crate) struct Answer {
    method: Method,
    path: String,
    pub(crate) status: u16,
    pub(crate) body: Value,
    /// The permissions that would have done, where the forge tells.
    accepted: Option<String>,
    /// The scopes of a classic token, where the forge tells.
    pub(crate) scopes: Option<String>,
    /// Where a redirect points.
    location: Option<String>,
    total: Option<usize>,
    more: bool,
    wait_seconds: Option<u64>,
}

impl Client {
    /// `root` is that of the API; `pause` is between two writes.
    pub(crate) fn new(root: &Url, token: &Secret, pause: Duration) -> Result<Self, Error> {
        let unreachable = |source: Cause| Error::Unreachable {
            method: "connect".to_owned(),
            path: root.to_string(),
            source,
        };
        let text = sendable(token)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unreachable(error.into()))?;
        let entered = runtime.enter();
        let octocrab = Octocrab::builder()
            .base_uri(root.as_str())
            .and_then(|builder| builder.personal_token(text).build())
            .map_err(|error| unreachable(error.into()))?;
        drop(entered);
        // What is on this machine is either there at once or not at all.
        let (pause, backoff) = if root.is_plain() {
            (Duration::ZERO, Duration::from_millis(50))
        } else {
            (pause, Duration::from_secs(1))
        };
        let (written, created) = (Cell::new(None), Cell::new(None));
        let deleted = Cell::new(false);
        Ok(Self { runtime, octocrab, pause, backoff, written, created, deleted })
    }

    /// For some seconds from here on, a 404 may only mean "not yet".
    pub(crate) fn has_created(&self) {
        self.created.set(Some(Instant::now()));
    }

    /// From here on, a 404 means that the repository is gone.
    pub(crate) fn has_deleted(&self) {
        self.deleted.set(true);
    }

    pub(crate) fn has_been_deleted(&self) -> bool {
        self.deleted.get()
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer, Error> {
        self.ask(&Method::GET, path, None)
    }

    /// A write: what it should answer is in `expected`.
    pub(crate) fn write(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        expected: &[u16],
    ) -> Result<Answer, Error> {
        if let Some(written) = self.written.get() {
            wait(self.pause.saturating_sub(written.elapsed()))?;
        }
        let answer = self.ask(method, path, body);
        self.written.set(Some(Instant::now()));
        answer?.expect(expected)
    }

    /// Every item of a list. `size` is the query that asks for
    /// the largest page.
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
        let mut attempt = 0;
        loop {
            documents::detail("-", format_args!("{method} {path}"));
            let sent = self.runtime.block_on(self.send(method, path, body));
            attempt += 1;
            let last = attempt == ATTEMPTS_MAX;
            let newborn = self.created.get().is_some_and(|it| it.elapsed() < NEWBORN_MAX);
            let backoff = self.backoff * (1 << (attempt - 1));
            let silence = |source: Cause| {
                let (method, path) = (method.to_string(), path.to_owned());
                if method == "POST" {
                    Error::Ambiguous { method, path, source }
                } else {
                    Error::Unreachable { method, path, source }
                }
            };
            match sent {
                Err(cause) if last || method == Method::POST => return Err(silence(cause)),
                Err(_) => wait(backoff)?,
                Ok(answer) if answer.wait_seconds.is_some() => {
                    let seconds = answer.wait_seconds.unwrap_or_default().max(1 << attempt);
                    if last || seconds > WAIT_SECONDS_MAX {
                        return Err(Error::Limited { seconds });
                    }
                    documents::note("-", format_args!("the forge asks to wait for {seconds} s"));
                    wait(Duration::from_secs(seconds))?;
                }
                Ok(answer) if answer.status >= 500 => {
                    if last || method == Method::POST {
                        return Err(silence(format!("status {}", answer.status).into()));
                    }
                    wait(backoff)?;
                }
                Ok(answer) if answer.status == 401 => return Err(Error::Unauthorised),
                Ok(answer) if answer.status == 404 && newborn && !last => {
                    wait(backoff)?;
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
    ) -> Result<Answer, Cause> {
        let exchange = async {
            let request = Request::builder().method(method.clone()).uri(path);
            let request = self.octocrab.build_request(request, body)?;
            let (head, body) = self.octocrab.execute(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, Cause>((head, body))
        };
        let exchange = tokio::time::timeout(REQUEST_MAX, exchange).await;
        let (head, body) = exchange.unwrap_or_else(|late| Err(late.into()))?;
        let header = |name| head.headers.get(name).and_then(|it| it.to_str().ok());
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Answer {
            method: method.clone(),
            path: path.to_owned(),
            status: head.status.as_u16(),
            accepted: header("x-accepted-github-permissions").map(str::to_owned),
            scopes: header("x-oauth-scopes").map(str::to_owned),
            location: header("location").map(str::to_owned),
            total: header("x-total-count").and_then(|it| it.parse().ok()),
            more: header("link").is_some_and(|it| it.contains("rel=\"next\"")),
            wait_seconds: wait_seconds(head.status, header, &body),
            body,
        })
    }
}

/// The token, if it can stand in a header. octocrab panics at any other, and a line break would add
/// a header of its own.
fn sendable(token: &Secret) -> Result<&str, Error> {
    let unusable = |why: &str| Error::TokenUnusable { why: why.to_owned() };
    let text = token.text().map_err(|_| unusable("the token is not UTF-8"))?;
    if text.is_empty() {
        return Err(unusable("the token is empty"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable(
            "the token contains a space, a line break or a character beyond ASCII",
        ));
    }
    Ok(text)
}

/// How long a forge that limits us wants us to wait, by GitHub's rules. Proxies before a Gitea send
/// `Retry-After`, too.
fn wait_seconds<'a>(
    status: StatusCode,
    header: impl Fn(&'static str) -> Option<&'a str>,
    body: &Value,
) -> Option<u64> {
    if status != StatusCode::FORBIDDEN && status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let number = |name| header(name).and_then(|it| it.parse::<u64>().ok());
    if let Some(seconds) = number("retry-after") {
        return Some(seconds);
    }
    if number("x-ratelimit-remaining") == Some(0) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        return Some(number("x-ratelimit-reset").unwrap_or(now + 60).saturating_sub(now) + 1);
    }
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_lowercase();
    let said = text("message") + &text("documentation_url");
    let secondary = ["secondary rate limit", "secondary-rate-limits", "abuse detection"];
    let limited = secondary.iter().any(|it| said.contains(it));
    (limited || status == StatusCode::TOO_MANY_REQUESTS).then_some(60)
}

/// Waits, unless somebody asks the program to end.
pub(crate) fn wait(duration: Duration) -> Result<(), Error> {
    let until = Instant::now() + duration;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|it| !it.is_zero()) {
        documents::check_interrupt()?;
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    Ok(())
}

impl Answer {
    /// The answer, if its status is one of `expected`.
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

    /// The forge's number for a renamed repository, where a redirect tells it (GitHub).
    pub(crate) fn moved_number(&self) -> Option<u64> {
        let target = self.location.as_deref().or(self.body["url"].as_str())?;
        let (_, number) = target.split_once("/repositories/")?;
        number.split(['/', '?', '#']).next()?.parse().ok()
    }

    /// Where a renamed repository is now, as far as the answer tells: GitHub names its number
    /// (`/repositories/7`), Gitea its new path.
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

    /// Why this part of a repository that we can see may not be read, if it may not.
    fn refusal(&self) -> Option<Refusal> {
        if ![403, 404].contains(&self.status) {
            return None;
        }
        let (path, message) = (self.path.split('?').next().unwrap_or_default(), self.message());
        let gated = message.contains("Upgrade to ");
        let accepted = self.accepted.as_ref().map_or(String::new(), |it| format!(": {it}"));
        Some(Refusal {
            reason: if gated { "PlanGate" } else { "PermissionMissing" },
            what: format!("{path} may not be read (status {}): {message}", self.status),
            help: if gated {
                "upgrade the owner's plan, make the repository public, or do not declare it"
                    .to_owned()
            } else {
                format!("give the token the permission to read it{accepted}")
            },
        })
    }

    /// What the forge said, or at least which status means it.
    fn message(&self) -> String {
        if self.method != Method::GET && self.path.contains("/actions/secrets/") {
            return "(what it said is left out: a secret was in the request)".to_owned();
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
