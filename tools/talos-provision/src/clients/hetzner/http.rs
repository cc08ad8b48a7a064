//! Requests to the cloud's API: rate limit, errors and retries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use remote::{
    Cause, Limits, Outage, Retries, Settings, agent, is_untrusted, percent_encode, read,
    retry_after, run, sendable, until_reset, without_secrets,
};
use secrets::Secret;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Method, Request};

use crate::Error;
use crate::api_error::{ApiError, fields};

/// Timeout of one attempt.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// Limits of one call. A call waits for three minutes, because a run of half an hour must not fail
/// for an outage of two, and because the API's rate limit refills 60 requests in a minute
/// (<https://docs.hetzner.cloud/reference/cloud#rate-limiting>).
const LIMITS: Limits = Limits {
    call: Duration::from_secs(180),
    outage: Duration::from_secs(180),
    rate_limit: Duration::from_secs(180),
    first_pause: Duration::from_millis(200),
    pause_max: Duration::from_secs(5),
    attempts: u32::MAX,
};
/// Longest time for which the name of the host is looked up before the API has answered once: a wrong
/// name must not cost the whole time of a call. Five seconds are the time limit of one query of the
/// resolver (`timeout` in resolv.conf(5)).
const UNRESOLVED_MAX: Duration = Duration::from_secs(5);
/// Shortest token that is redacted from answers, in bytes. A shorter token could be part of
/// ordinary words.
const TOKEN_BYTES_MIN: usize = 16;
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub(crate) struct Http {
    agent: Agent,
    /// Base URL without a trailing slash.
    base: String,
    token: Secret,
    /// Set once the API has answered in this run.
    has_answered: AtomicBool,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Failure of a request that changes something.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The API answered with an error.
    Api(ApiError),
    /// The response was lost, so the write may have been applied: observe before deciding.
    Ambiguous(String),
    /// The run cannot continue.
    Fatal(Error),
}

impl From<CallError> for Error {
    fn from(trouble: CallError) -> Self {
        match trouble {
            CallError::Api(error) => Self::Api(error),
            CallError::Ambiguous(why) => Self::ResponseLost { why },
            CallError::Fatal(error) => error,
        }
    }
}

impl Http {
    pub(crate) fn new(base: &str, token: Secret) -> Result<Self, Error> {
        sendable(&token)?;
        let agent = agent(Settings {
            program: "talos-provision",
            is_plain: base.starts_with("http://"),
            response_max: ATTEMPT_MAX,
            attempt_max: ATTEMPT_MAX,
        })?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { agent, base, token, has_answered: AtomicBool::new(false) })
    }

    /// Sends a GET request, and retries temporary errors.
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Error> {
        let query: Vec<_> =
            query.iter().map(|(key, value)| format!("{key}={}", percent_encode(value))).collect();
        let path =
            if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
        self.call(&Method::GET, &path, None).map_err(Into::into)
    }

    /// Sends a request that changes something and that may be repeated.
    pub(crate) fn change(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        self.call(method, path, body)
    }

    /// Sends a request that creates something. It is not repeated once the resource may exist: see
    /// [`CallError::Ambiguous`].
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.call(&Method::POST, path, Some(body))
    }

    fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, CallError> {
        let outage = Outage::default();
        let mut retries = Retries::new(LIMITS, &outage);
        let (began, mut is_outage_told) = (Instant::now(), false);
        loop {
            documents::check_interrupt().map_err(|error| CallError::Fatal(error.into()))?;
            documents::detail("-", format_args!("{method} {path}"));
            let (why, cause) = match self.send(method, path, body, retries.left(ATTEMPT_MAX)) {
                Ok((status, _, text)) if status < 300 => {
                    return parse_json(&text).map_err(CallError::Fatal);
                }
                Ok((status, headers, text)) => {
                    let error = api_error(status, &headers, &text);
                    if !error.is_temporary() {
                        return Err(CallError::Api(error));
                    }
                    let why = format!("{} ({})", error.message, error.code);
                    if method == Method::POST && error.is_server_error() {
                        return Err(CallError::Ambiguous(why));
                    }
                    let is_limited = error.code == "rate_limit_exceeded";
                    let pause = is_limited.then(|| rate_limit_pause(&headers));
                    (why, pause.map_or(Cause::Outage, Cause::RateLimit))
                }
                Err(Silence::Untrusted(why)) => {
                    return Err(CallError::Fatal(Error::Untrusted { why }));
                }
                // Nothing was sent, so every method may be repeated.
                Err(Silence::Unresolved(why)) => {
                    let has_answered = self.has_answered.load(Ordering::Relaxed);
                    if !has_answered && began.elapsed() > UNRESOLVED_MAX {
                        let host = self.base.split('/').nth(2).unwrap_or_default().to_owned();
                        return Err(CallError::Fatal(Error::Unresolved { host, why }));
                    }
                    (why, Cause::Outage)
                }
                Err(Silence::Unknown(why)) if method == Method::POST => {
                    return Err(CallError::Ambiguous(why));
                }
                Err(Silence::Unknown(why)) => (why, Cause::Outage),
            };
            // A run that says nothing for a minute looks like a run that hangs.
            match &cause {
                Cause::RateLimit(pause) => {
                    let seconds = pause.as_secs().max(1);
                    let text =
                        format_args!("waiting {seconds} s for the cloud's rate limit: {why}");
                    documents::note("-", text);
                }
                Cause::Outage if !is_outage_told => {
                    is_outage_told = true;
                    documents::note(
                        "-",
                        format_args!("the cloud does not answer, trying again: {why}"),
                    );
                }
                Cause::Outage => documents::detail("-", &why),
            }
            if !retries.again(cause).map_err(|error| CallError::Fatal(error.into()))? {
                let what = "the cloud".to_owned();
                return Err(CallError::Fatal(Error::Unreachable { what, why }));
            }
        }
    }

    /// Sends a request once. Returns the status, the headers and the text of the response.
    fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        time_max: Duration,
    ) -> Result<(u16, HeaderMap, String), Silence> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let token = self.token.text().map_err(|error| Silence::unknown(&error))?;
        let request = request.header("Authorization", format!("Bearer {token}"));
        let sent = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                let request =
                    request.body(body.to_string()).map_err(|error| Silence::unknown(&error))?;
                run(&self.agent, request, time_max)
            }
            None => run(
                &self.agent,
                request.body(()).map_err(|error| Silence::unknown(&error))?,
                time_max,
            ),
        };
        let mut response = sent.map_err(Silence::from)?;
        self.has_answered.store(true, Ordering::Relaxed);
        let body =
            read(&mut response, ANSWER_BYTES_MAX).map_err(|error| Silence::unknown(&error))?;
        let body = body.ok_or_else(|| {
            Silence::unknown(&format_args!("the answer is larger than {ANSWER_BYTES_MAX} bytes"))
        })?;
        let mut text = String::from_utf8_lossy(&body).into_owned();
        // An error may repeat the request with its token, as error pages of proxies do.
        if response.status().as_u16() >= 300 && token.len() >= TOKEN_BYTES_MIN {
            text = without_secrets(&text, &[token]);
        }
        Ok((response.status().as_u16(), response.headers().clone(), text))
    }
}

/// Request without a response.
enum Silence {
    /// The certificate is not trusted, so that nothing was sent.
    Untrusted(String),
    /// The name of the host has no address, so that nothing was sent.
    Unresolved(String),
    /// The request may have arrived.
    Unknown(String),
}

impl Silence {
    fn unknown(why: &impl ToString) -> Self {
        Self::Unknown(why.to_string())
    }
}

impl From<ureq::Error> for Silence {
    fn from(error: ureq::Error) -> Self {
        if is_untrusted(&error) {
            Self::Untrusted(error.to_string())
        } else if is_unresolved(&error) {
            Self::Unresolved(error.to_string())
        } else {
            Self::unknown(&error)
        }
    }
}

/// Returns whether the name of the host could not be resolved. ureq passes the error of the standard library on,
/// which has no kind of its own (rust 1.9x, `std/src/sys/net/connection/socket.rs`: "failed to lookup address
/// information").
fn is_unresolved(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound | ureq::Error::Timeout(ureq::Timeout::Resolve) => true,
        ureq::Error::Io(source) => {
            source.to_string().starts_with("failed to lookup address information")
        }
        _ => false,
    }
}

fn parse_json(text: &str) -> Result<Value, Error> {
    if text.trim().is_empty() {
        return Ok(Value::Null); // the answer to DELETE has no body
    }
    let read = serde_json::from_str(text);
    read.map_err(|error| Error::InvalidResponse { what: "the cloud", source: error.into() })
}

fn api_error(status: u16, headers: &HeaderMap, text: &str) -> ApiError {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let field = |key: &str| body["error"][key].as_str().unwrap_or_default().to_owned();
    let (code, message) = (field("code"), field("message"));
    let named = |code: String| match status {
        _ if !code.is_empty() => code,
        429 => "rate_limit_exceeded".to_owned(),
        423 => "locked".to_owned(),
        _ => format!("status {status}"),
    };
    let correlation = headers.get("X-Correlation-Id").and_then(|value| value.to_str().ok());
    ApiError {
        status,
        code: named(code),
        message,
        fields: fields(&body["error"]["details"]),
        correlation: correlation.map(str::to_owned),
    }
}

/// Returns the pause after which the rate limit allows another request.
fn rate_limit_pause(headers: &HeaderMap) -> Duration {
    // `RateLimit-Reset` is the time at which the bucket is full again. The bucket refills evenly,
    // so a part of that time is enough.
    let full = until_reset(headers).unwrap_or_default().as_secs();
    let part = Duration::from_secs((full / 20).clamp(1, 60));
    retry_after(headers).unwrap_or(part)
}
