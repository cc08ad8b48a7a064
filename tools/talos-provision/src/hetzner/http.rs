//! Requests to the cloud's API: rate limit, errors and retries.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use secrets::Secret;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Method, Request, Response};

use crate::Error;
use crate::api_error::ApiError;

/// Timeout of one request, in seconds.
const CALL_SECONDS_MAX: u64 = 30;
/// Longest time for which one request is retried, in seconds.
const RETRY_SECONDS_MAX: u64 = 180;
/// Shortest token that is redacted from answers, in bytes. A shorter token could be part of
/// ordinary words.
const TOKEN_BYTES_MIN: usize = 16;
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longest pause between two attempts, in milliseconds.
const PAUSE_MILLISECONDS_MAX: u64 = 5_000;

pub(crate) struct Http {
    agent: Agent,
    /// Base URL without a trailing slash.
    base: String,
    token: Secret,
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
    pub(crate) fn new(base: &str, token: Secret) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(CALL_SECONDS_MAX)))
            .build();
        Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), token }
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
        let began = Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            documents::check_interrupt().map_err(|error| CallError::Fatal(error.into()))?;
            documents::detail("-", format_args!("{method} {path}"));
            let (why, wait) = match self.send(method, path, body) {
                Ok((status, headers, text)) if status < 300 => {
                    let _ = headers;
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
                    let limited = error.code == "rate_limit_exceeded";
                    (why, if limited { rate_limit_pause(&headers).max(pause) } else { pause })
                }
                Err(why) if method == Method::POST => return Err(CallError::Ambiguous(why)),
                Err(why) => (why, pause),
            };
            if began.elapsed() + wait > Duration::from_secs(RETRY_SECONDS_MAX) {
                let what = "the cloud".to_owned();
                return Err(CallError::Fatal(Error::Unreachable { what, why }));
            }
            documents::detail("-", format_args!("{why}: again in {:.1} s", wait.as_secs_f64()));
            interruptible_sleep(wait).map_err(CallError::Fatal)?;
            pause = (pause * 2).min(Duration::from_millis(PAUSE_MILLISECONDS_MAX));
        }
    }

    fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, HeaderMap, String), String> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let token = self.token.text().map_err(|error| error.to_string())?;
        let request = request.header("Authorization", format!("Bearer {token}"));
        let sent = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                let request = request.body(body.to_string()).map_err(|error| error.to_string())?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(()).map_err(|error| error.to_string())?),
        };
        let mut response: Response<_> = sent.map_err(|error| error.to_string())?;
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let mut text = text.map_err(|error| error.to_string())?;
        // An error may repeat the request with its token, as error pages of proxies do.
        if response.status().as_u16() >= 300 && token.len() >= TOKEN_BYTES_MIN {
            text = text.replace(token, "[…]");
        }
        Ok((response.status().as_u16(), response.headers().clone(), text))
    }
}

/// Sleeps, and fails as soon as the run is interrupted.
pub(crate) fn interruptible_sleep(time: Duration) -> Result<(), Error> {
    let until = Instant::now() + time;
    loop {
        documents::check_interrupt()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
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
    ApiError { status, code: named(code), message, correlation: correlation.map(str::to_owned) }
}

/// Returns the pause after which the rate limit allows another request.
fn rate_limit_pause(headers: &HeaderMap) -> Duration {
    let reset =
        headers.get("RateLimit-Reset").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // `RateLimit-Reset` is the time at which the bucket is full again. The bucket refills evenly,
    // so a part of that time is enough.
    let full = reset.unwrap_or_default().saturating_sub(now);
    Duration::from_secs((full / 20).clamp(1, 60))
}

/// Percent-encodes `text` for a query.
fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
