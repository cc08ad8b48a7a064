//! Responses of a forge.

use std::time::Duration;

use ::remote::{retry_after, until_reset};
use documents::Reason;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use crate::Error;
use crate::model::Refusal;

/// Longest message of a forge that is shown, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// Response of a forge.
#[derive(Clone, Debug)]
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
    pub(crate) total: Option<usize>,
    pub(crate) more: bool,
    pub(crate) wait_seconds: Option<u64>,
}

impl Answer {
    /// Reads a response with the `status`, `headers` and body `bytes`.
    pub(crate) fn read(
        method: &Method,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        bytes: &[u8],
    ) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let body = serde_json::from_slice(bytes).unwrap_or(Value::Null);
        Self {
            method: method.clone(),
            path: path.to_owned(),
            status: status.as_u16(),
            accepted: header("x-accepted-github-permissions").map(str::to_owned),
            scopes: header("x-oauth-scopes").map(str::to_owned),
            location: header("location").map(str::to_owned),
            total: header("x-total-count").and_then(|count| count.parse().ok()),
            more: header("link").is_some_and(|link| link.contains("rel=\"next\"")),
            wait_seconds: wait_seconds(status, headers, &body),
            body,
        }
    }

    /// Returns the response if its status is in `expected`, and an error otherwise.
    pub(crate) fn expect(self, expected: &[u16]) -> Result<Self, Error> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let (method, path, message) = (self.method.to_string(), self.path.clone(), self.message());
        Err(match self.status {
            301 | 307 | 308 => Error::Renamed { place: path, to: self.moved_name() },
            302 | 303 => Error::SignInPage { path },
            403 if message.contains("Upgrade to ") => Error::PlanGate { path, message },
            403 | 404 => Error::Forbidden { method, path, message, accepted: self.accepted },
            status => Error::Refused { method, path, status, message },
        })
    }

    /// Whether the response says that the repository has another name now.
    pub(crate) fn is_moved(&self) -> bool {
        [301, 307, 308].contains(&self.status)
    }

    /// Returns the number of a renamed repository from a redirect (GitHub).
    pub(crate) fn moved_number(&self) -> Option<u64> {
        let target = self.location.as_deref().or(self.body["url"].as_str())?;
        let (_, number) = target.split_once("/repositories/")?;
        number.split(['/', '?', '#']).next()?.parse().ok()
    }

    /// Returns the new name of a renamed repository, if the response has it. GitHub redirects to
    /// the number (`/repositories/7`), Gitea to the new path.
    pub(crate) fn moved_name(&self) -> Option<String> {
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
    pub(crate) fn refusal(&self) -> Option<Refusal> {
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
    pub(crate) fn message(&self) -> String {
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
