//! HTTP as registries speak it: tokens, redirects, and trying again within limits.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek as _};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use keyring::{Secret, Url};
use serde_json::Value;
use ureq::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body as Answer, SendBody};

use crate::Error;

/// How often one request is tried.
const TRIES_MAX: u32 = 4;
/// Wait before the second try, doubled before each that follows.
const WAIT_MILLISECONDS: u64 = 250;
/// Longest wait that a registry can ask for.
const WAIT_SECONDS_MAX: u64 = 10;
/// How long a registry may take to begin its answer.
const ANSWER_SECONDS_MAX: u64 = 60;
/// How long one transfer may take.
const TRANSFER_SECONDS_MAX: u64 = 1800;
/// Longest answer that is kept in memory, in bytes.
pub(crate) const KEPT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How often a download may be sent elsewhere.
const REDIRECTS_MAX: usize = 3;

/// Who asks.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) token: Secret,
}

/// What goes with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    None,
    Bytes(&'a [u8], &'a str),
    File(&'a File, u64),
}

/// One repository of one registry.
pub(crate) struct Http {
    agent: Agent,
    url: Url,
    repository: String,
    actions: &'static str,
    login: Option<Rc<Login>>,
    authorization: RefCell<Option<String>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("repository", &self.repository).finish_non_exhaustive()
    }
}

impl Http {
    /// `actions` is what a token is asked for: `pull`, or more.
    pub(crate) fn new(
        url: &Url,
        repository: &str,
        login: Option<Rc<Login>>,
        actions: &'static str,
    ) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))
            .timeout_global(Some(Duration::from_secs(TRANSFER_SECONDS_MAX)))
            .user_agent("artifact-attest");
        let config = if url.is_plain() { config.proxy(None) } else { config };
        let agent = config.build().new_agent();
        let (url, repository) = (url.clone(), repository.to_owned());
        Self { agent, url, repository, actions, login, authorization: RefCell::default() }
    }

    /// `/v2/<repository>/<path>` of the registry.
    pub(crate) fn at(&self, path: &str) -> String {
        let scheme = if self.url.is_plain() { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}/{path}", self.url.host(), self.repository)
    }

    /// Sends a request, and tries again while that may help.
    pub(crate) fn send(
        &self,
        method: &Method,
        url: &str,
        accept: &str,
        body: Body<'_>,
    ) -> Result<Response<Answer>, Error> {
        again(|| self.attempt(method, url, accept, body))
    }

    /// Sends a request once. Any answer but "too many" and "not now" is one.
    pub(crate) fn attempt(
        &self,
        method: &Method,
        url: &str,
        accept: &str,
        body: Body<'_>,
    ) -> Result<Response<Answer>, Error> {
        phase::detail("-", format_args!("{method} {}", shown(url)));
        let answer = self.authorized(method, url, accept, body)?;
        not_now(&answer, url).map_or(Ok(answer), Err)
    }

    fn authorized(
        &self,
        method: &Method,
        url: &str,
        accept: &str,
        body: Body<'_>,
    ) -> Result<Response<Answer>, Error> {
        let answer = self.once(method, url, accept, body)?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let challenge = header(&answer, WWW_AUTHENTICATE.as_str()).unwrap_or_default();
        let authorization = self.answer_to(&challenge, url)?;
        *self.authorization.borrow_mut() = Some(authorization);
        let answer = self.once(method, url, accept, body)?;
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(url)),
            _ => Ok(answer),
        }
    }

    fn denied(&self, url: &str) -> Error {
        Error::Denied { url: shown(url), anonymous: self.login.is_none() }
    }

    fn once(
        &self,
        method: &Method,
        url: &str,
        accept: &str,
        body: Body<'_>,
    ) -> Result<Response<Answer>, Error> {
        let mut request = Request::builder().method(method).uri(url);
        if !accept.is_empty() {
            request = request.header(ACCEPT, accept);
        }
        let known = self.authorization.borrow();
        if let Some(known) = known.as_ref().filter(|_| self.is_here(url)) {
            request = request.header(AUTHORIZATION, known);
        }
        let unreachable =
            |source: ureq::Error| Error::Unreachable { url: shown(url), source: source.into() };
        let wrong = |_| Error::Garbled { url: shown(url), why: "its address is none" };
        match body {
            Body::None if matches!(*method, Method::POST | Method::PUT) => {
                let request =
                    request.header(CONTENT_LENGTH, 0).body(SendBody::none()).map_err(wrong)?;
                self.agent.run(request).map_err(unreachable)
            }
            Body::None => self.agent.run(request.body(()).map_err(wrong)?).map_err(unreachable),
            Body::Bytes(bytes, kind) => {
                let request = request.header(CONTENT_TYPE, kind).body(bytes).map_err(wrong)?;
                self.agent.run(request).map_err(unreachable)
            }
            Body::File(file, size) => {
                let mut file = file;
                file.rewind().map_err(|source| Error::Unreachable {
                    url: shown(url),
                    source: source.into(),
                })?;
                let request = request
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, size)
                    .body(SendBody::from_reader(&mut file))
                    .map_err(wrong)?;
                self.agent.run(request).map_err(unreachable)
            }
        }
    }

    /// Whether `url` is the registry itself: nobody else is told who we are.
    fn is_here(&self, url: &str) -> bool {
        let scheme = if self.url.is_plain() { "http" } else { "https" };
        let rest = url.strip_prefix(scheme).and_then(|it| it.strip_prefix("://"));
        rest.is_some_and(|it| it.split(['/', '?']).next() == Some(self.url.host()))
    }

    /// What to say to `challenge`: who we are, or a token that somebody else gives for that.
    fn answer_to(&self, challenge: &str, url: &str) -> Result<String, Error> {
        let basic = self.login.as_deref().map(|Login { user, token }| {
            let token = token.text().map_err(Error::from)?;
            Ok::<_, Error>(format!("Basic {}", BASE64.encode(format!("{user}:{token}").as_bytes())))
        });
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.unwrap_or_else(|| Err(self.denied(url)));
        }
        let asked = |name: &str| {
            let quoted = rest.split(&format!("{name}=\"")).nth(1)?;
            Some(quoted.split('"').next().unwrap_or_default().to_owned())
        };
        let realm =
            asked("realm").filter(|it| scheme.eq_ignore_ascii_case("bearer") && is_safe(it));
        let realm = realm.ok_or_else(|| Error::Garbled {
            url: shown(url),
            why: "it asks for a login in a way that this version does not know",
        })?;
        let scope = format!("repository:{}:{}", self.repository, self.actions);
        let service = asked("service").unwrap_or_default();
        let join = if realm.contains('?') { '&' } else { '?' };
        let from = format!("{realm}{join}service={}&scope={}", query(&service), query(&scope));
        let mut request = Request::builder().uri(&from);
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic?);
        }
        let request = request
            .body(())
            .map_err(|_| Error::Garbled { url: shown(&from), why: "no address" })?;
        let mut answer = self
            .agent
            .run(request)
            .map_err(|source| Error::Unreachable { url: shown(&from), source: source.into() })?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied(&from)),
            status => {
                let not_now = not_now(&answer, &from);
                return Err(
                    not_now.unwrap_or_else(|| refused(&Method::GET, &from, status, &mut answer))
                );
            }
        }
        let token: Value = serde_json::from_slice(&kept(&mut answer, &from)?).unwrap_or_default();
        let token = token["token"].as_str().or(token["access_token"].as_str());
        let token = token.filter(|it| it.bytes().all(|it| it.is_ascii_graphic()));
        let token =
            token.ok_or_else(|| Error::Garbled { url: shown(&from), why: "no token came" })?;
        Ok(format!("Bearer {token}"))
    }

    /// GETs `url`, wherever the registry says that it is.
    pub(crate) fn download(&self, url: &str) -> Result<Response<Answer>, Error> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(&Method::GET, &url, "", Body::None)?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            url = self.location(&answer, &url)?;
        }
        Err(Error::Garbled { url: shown(&url), why: "it sends us in circles" })
    }

    /// Where an answer says to go on.
    pub(crate) fn location(&self, answer: &Response<Answer>, url: &str) -> Result<String, Error> {
        let to = header(answer, LOCATION.as_str()).unwrap_or_default();
        let scheme = if self.url.is_plain() { "http" } else { "https" };
        let to =
            if to.starts_with('/') { format!("{scheme}://{}{to}", self.url.host()) } else { to };
        if is_safe(&to) {
            Ok(to)
        } else {
            Err(Error::Garbled { url: shown(url), why: "it does not say where to go on" })
        }
    }
}

/// `https`, or this machine.
fn is_safe(url: &str) -> bool {
    let address = url.split(['?', '#']).next().unwrap_or_default();
    Url::try_from(address.to_owned()).is_ok()
}

/// Without its query, which may hold a token.
pub(crate) fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn query(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| match byte {
        it if it.is_ascii_alphanumeric() || b"-._~:/".contains(&it) => {
            text + &char::from(it).to_string()
        }
        it => text + &format!("%{it:02X}"),
    })
}

pub(crate) fn header(answer: &Response<Answer>, name: &str) -> Option<String> {
    answer.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
}

/// Does something until it works, or trying again cannot help, or it has been tried enough.
pub(crate) fn again<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for waited in 0..TRIES_MAX - 1 {
        let seconds = match attempt() {
            Err(Error::Unreachable { .. }) => 0,
            Err(Error::Busy { seconds, .. }) => seconds,
            end => return end,
        };
        for _ in 0..(WAIT_MILLISECONDS << waited).max(seconds * 1000) / 50 {
            phase::uninterrupted()?;
            thread::sleep(Duration::from_millis(50));
        }
    }
    attempt()
}

/// What the answer is, if it is that we should come again.
fn not_now(answer: &Response<Answer>, url: &str) -> Option<Error> {
    let status = answer.status();
    let again = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
    let asked = header(answer, RETRY_AFTER.as_str()).and_then(|it| it.parse().ok());
    let seconds = asked.unwrap_or(0).min(WAIT_SECONDS_MAX);
    again.then(|| Error::Busy { url: shown(url), status: status.as_u16(), seconds })
}

/// An answer that is not the one that was hoped for.
pub(crate) fn refused(
    method: &Method,
    url: &str,
    status: StatusCode,
    answer: &mut Response<Answer>,
) -> Error {
    let url = shown(url);
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Error::Denied { url, anonymous: false };
    }
    let said: Value = answer
        .body_mut()
        .with_config()
        .limit(64 * 1024)
        .read_to_vec()
        .ok()
        .and_then(|it| serde_json::from_slice(&it).ok())
        .unwrap_or_default();
    let said = said["errors"][0]["code"].as_str().unwrap_or_default();
    let said = said.chars().filter(char::is_ascii_graphic).take(80).collect();
    Error::Refused { method: method.to_string(), url, status: status.as_u16(), said }
}

/// The bytes of an answer that is kept in memory.
pub(crate) fn kept(answer: &mut Response<Answer>, url: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut reader = answer.body_mut().as_reader().take(KEPT_BYTES_MAX + 1);
    reader
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Unreachable { url: shown(url), source: source.into() })?;
    if bytes.len() as u64 > KEPT_BYTES_MAX {
        return Err(Error::Garbled { url: shown(url), why: "it is larger than anything of ours" });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_registry_itself_is_told_who_we_are() {
        let url = Url::try_from("https://registry.example/a".to_owned()).expect("an address");
        let http = Http::new(&url, "a/b", None, "pull");
        assert!(http.is_here("https://registry.example/v2/a/b/blobs/x"));
        for other in [
            "https://registry.example.evil/v2/",
            "http://registry.example/v2/",
            "https://registry.example:444/v2/",
            "https://evil/?https://registry.example/",
        ] {
            assert!(!http.is_here(other), "{other}");
        }
    }

    #[test]
    fn a_query_is_never_shown() {
        assert_eq!(shown("https://a/b?_state=secret"), "https://a/b");
    }

    #[test]
    fn nobody_is_asked_for_a_token_over_plain_http_but_this_machine() {
        assert!(is_safe("https://auth.example/token?x=1"));
        assert!(is_safe("http://127.0.0.1:5001/token"));
        assert!(!is_safe("http://auth.example/token"));
        assert!(!is_safe("file:///etc/passwd"));
    }
}
