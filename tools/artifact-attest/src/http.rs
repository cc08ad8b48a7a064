//! HTTP client of one registry, with retries, logins and redirects. Only this module opens sockets
//! to the registry.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek as _};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use ::git::Url;
use data_encoding::BASE64;
use secrets::Secret;
use serde_json::Value;
use ureq::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body as Answer, SendBody};

use crate::Error;
use crate::answer::{self, Problem, shown};
use crate::challenge::Challenge;
use crate::origin::{Origin, resolved};

/// Number of attempts of one request.
const TRIES_MAX: u32 = 4;
/// Wait in milliseconds before the second attempt, doubled before each further attempt.
const WAIT_MILLISECONDS: u64 = 250;
/// Longest `Retry-After` that is respected, in seconds.
const WAIT_SECONDS_MAX: u64 = 10;
/// Time limit in seconds until the response begins.
const ANSWER_SECONDS_MAX: u64 = 60;
/// Time limit of one transfer in seconds. Half an hour, because a layer may have gigabytes.
const TRANSFER_SECONDS_MAX: u64 = 1800;
/// Largest response that is held in memory, in bytes.
pub(crate) const KEPT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Largest error response that is read, in bytes.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// Number of redirects that one download may follow.
const REDIRECTS_MAX: usize = 3;

/// User name and token for a registry.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) token: Secret,
}

/// Body of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    None,
    Bytes(&'a [u8], &'a str),
    File(&'a File, u64),
}

/// Authentication state of this client at the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The registry has sent no challenge.
    Unasked,
    /// The registry sent a challenge, and this client has no login.
    Anonymous,
    /// The registry sent a challenge, and this client answered with its login.
    LoggedIn,
}

/// HTTP client of one repository in one registry.
pub(crate) struct Http {
    agent: Agent,
    url: Url,
    /// `None` for a URL without a host that a request can be sent to.
    origin: Option<Origin>,
    repository: String,
    actions: &'static str,
    login: Option<Rc<Login>>,
    authorization: RefCell<Option<String>>,
    standing: Cell<Standing>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("repository", &self.repository).finish_non_exhaustive()
    }
}

impl Http {
    /// Creates a client whose tokens permit `actions`, for example `pull` or `pull,push`.
    pub(crate) fn new(
        url: &Url,
        repository: &str,
        login: Option<Rc<Login>>,
        actions: &'static str,
    ) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects and credentials are checked here: every redirect passes `location`, and
            // every credential `once`.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))
            .timeout_global(Some(Duration::from_secs(TRANSFER_SECONDS_MAX)))
            .user_agent("artifact-attest");
        // Plain HTTP reaches this machine only, because a proxy would see the login. With https, a
        // proxy opens a tunnel (CONNECT) and sees the host's name only.
        let config = if url.is_plain() { config.proxy(None) } else { config };
        let agent = config.build().new_agent();
        Self {
            agent,
            url: url.clone(),
            origin: Origin::of_registry(url),
            repository: repository.to_owned(),
            actions,
            login,
            authorization: RefCell::default(),
            standing: Cell::new(Standing::Unasked),
        }
    }

    /// Returns the URL `/v2/<repository>/<path>` at the registry.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.site(), self.repository)
    }

    fn site(&self) -> String {
        let scheme = if self.url.is_plain() { "http" } else { "https" };
        format!("{scheme}://{}", self.url.host())
    }

    /// Returns the authentication state. Requests `GET /v2/` (the specification's own check) if no
    /// response has shown the state yet.
    pub(crate) fn standing(&self) -> Result<Standing, Error> {
        if self.standing.get() == Standing::Unasked {
            let url = format!("{}/v2/", self.site());
            self.send(&Method::GET, &url, "", Body::None)?;
        }
        Ok(self.standing.get())
    }

    /// Sends a request, and retries transient failures.
    pub(crate) fn send(
        &self,
        method: &Method,
        url: &str,
        accept: &str,
        body: Body<'_>,
    ) -> Result<Response<Answer>, Error> {
        again(|| self.attempt(method, url, accept, body))
    }

    /// Sends a request once. Rate limits (429) and server errors are errors; all other statuses are
    /// responses.
    pub(crate) fn attempt(
        &self,
        method: &Method,
        url: &str,
        accept: &str,
        body: Body<'_>,
    ) -> Result<Response<Answer>, Error> {
        documents::detail("-", format_args!("{method} {}", shown(url)));
        let mut answer = self.authorized(method, url, accept, body)?;
        self.not_now(&mut answer, url).map_or(Ok(answer), Err)
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
        if !self.is_registry(url) {
            return Err(problem(url, Problem::LoginElsewhere));
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges = challenges.filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> = challenges.flat_map(Challenge::read).collect();
        let authorization = self.answer_to(&challenges, url, answer)?;
        *self.authorization.borrow_mut() = authorization;
        let login = self.login.as_ref();
        self.standing.set(login.map_or(Standing::Anonymous, |_| Standing::LoggedIn));
        let answer = self.once(method, url, accept, body)?;
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(url, answer)),
            _ => Ok(answer),
        }
    }

    fn denied(&self, url: &str, mut answer: Response<Answer>) -> Error {
        let said = self.said(&mut answer);
        let status = answer.status().as_u16();
        Error::Denied { url: shown(url), status, anonymous: self.login.is_none(), said }
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
        if let Some(known) = known.as_ref().filter(|_| self.is_registry(url)) {
            request = request.header(AUTHORIZATION, known);
        }
        let unreachable = |source: ureq::Error| failed(url, source);
        let wrong = |_| problem(url, Problem::InvalidUrl);
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

    /// Whether `url` is at the registry's own origin. Other origins never receive a credential.
    fn is_registry(&self, url: &str) -> bool {
        self.origin.is_some() && Origin::of(url) == self.origin
    }

    /// Returns the `Authorization` header that answers the challenge: the login, or a token from
    /// the realm.
    fn answer_to(
        &self,
        challenges: &[Challenge],
        url: &str,
        answer: Response<Answer>,
    ) -> Result<Option<String>, Error> {
        let Some(bearer) = challenges.iter().find(|challenge| challenge.is("bearer")) else {
            return match self.basic()? {
                _ if !challenges.iter().any(|challenge| challenge.is("basic")) => {
                    Err(problem(url, Problem::UnknownChallenge))
                }
                Some(basic) => Ok(Some(basic)),
                None => Err(self.denied(url, answer)),
            };
        };
        let realm = bearer.get("realm").unwrap_or_default();
        self.allowed(realm)
            .map_err(|(realm, why)| problem(url, Problem::UnsafeRealm { realm, why }))?;
        let scope = format!("repository:{}:{}", self.repository, self.actions);
        let service = bearer.get("service").unwrap_or_default();
        let realm = realm.split('#').next().unwrap_or_default();
        let join = if realm.contains('?') { '&' } else { '?' };
        let from = format!("{realm}{join}service={}&scope={}", query(service), query(&scope));
        let mut request = Request::builder().uri(&from);
        if let Some(basic) = self.basic()? {
            request = request.header(AUTHORIZATION, basic);
        }
        let request = request.body(()).map_err(|_| problem(&from, Problem::InvalidUrl))?;
        let mut answer = self.agent.run(request).map_err(|source| failed(&from, source))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.denied(&from, answer));
            }
            _ => {
                let not_now = self.not_now(&mut answer, &from);
                return Err(
                    not_now.unwrap_or_else(|| self.refused(&Method::GET, &from, &mut answer))
                );
            }
        }
        let token: Value = serde_json::from_slice(&kept(&mut answer, &from)?).unwrap_or_default();
        let token = token["token"].as_str().or(token["access_token"].as_str());
        let is_usable =
            |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let token = token.filter(is_usable).ok_or_else(|| problem(&from, Problem::NoToken))?;
        Ok(Some(format!("Bearer {token}")))
    }

    fn basic(&self) -> Result<Option<String>, Error> {
        let basic = self.login.as_deref().map(|Login { user, token }| {
            let token = token.text().map_err(Error::from)?;
            Ok(format!("Basic {}", BASE64.encode(format!("{user}:{token}").as_bytes())))
        });
        basic.transpose()
    }

    /// Checks that this client may follow a registry's response to `url`. Otherwise returns the
    /// origin of `url` and the reason.
    fn allowed(&self, url: &str) -> Result<(), (String, &'static str)> {
        let Some(target) = Origin::of(url) else {
            return Err((String::new(), "no absolute URL of http or https"));
        };
        let why = match &self.origin {
            None => Some("the registry itself has no origin"),
            Some(registry) => registry.forbids(&target),
        };
        why.map_or(Ok(()), |why| Err((target.shown(), why)))
    }

    /// Sends a GET request and follows redirects.
    pub(crate) fn download(&self, url: &str, accept: &str) -> Result<Response<Answer>, Error> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(&Method::GET, &url, accept, Body::None)?;
            let is_elsewhere = matches!(answer.status().as_u16(), 301 | 302 | 307 | 308);
            if !is_elsewhere {
                return Ok(answer);
            }
            url = self.location(&answer, &url)?;
        }
        Err(problem(&url, Problem::RedirectLoop))
    }

    /// Returns the location that a response to a request for `url` redirects to.
    pub(crate) fn location(&self, answer: &Response<Answer>, url: &str) -> Result<String, Error> {
        let to = header(answer, LOCATION.as_str()).unwrap_or_default();
        if to.is_empty() {
            let why = "the answer has no Location";
            return Err(problem(url, Problem::UnsafeLocation { to, why }));
        }
        let to = resolved(url, &to);
        match self.allowed(&to) {
            Ok(()) => Ok(to.split('#').next().unwrap_or_default().to_owned()),
            Err((to, why)) => Err(problem(url, Problem::UnsafeLocation { to, why })),
        }
    }

    /// Returns the error for an unexpected response.
    pub(crate) fn refused(
        &self,
        method: &Method,
        url: &str,
        answer: &mut Response<Answer>,
    ) -> Error {
        let status = answer.status();
        let said = self.said(answer);
        let url = shown(url);
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let (status, anonymous) = (status.as_u16(), self.login.is_none());
            return Error::Denied { url, status, anonymous, said };
        }
        Error::Refused { method: method.to_string(), url, status: status.as_u16(), said }
    }

    /// Returns the registry's own message without this client's credentials.
    fn said(&self, answer: &mut Response<Answer>) -> String {
        answer::said(&message(answer), &self.secrets())
    }

    /// Returns every form in which a message may quote this client's login.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        let token = self.login.as_ref().and_then(|login| login.token.text().ok());
        secrets.extend(token.map(str::to_owned));
        for sent in [self.basic().ok().flatten(), self.authorization.borrow().clone()] {
            let value = sent.as_deref().and_then(|sent| sent.split_once(' '));
            secrets.extend(value.map(|(_, value)| value.to_owned()));
        }
        secrets
    }

    /// Returns an error if the response is a rate limit or a server error.
    fn not_now(&self, answer: &mut Response<Answer>, url: &str) -> Option<Error> {
        let status = answer.status();
        // 501 and 505 are permanent: the server lacks the feature.
        let is_busy = status == StatusCode::TOO_MANY_REQUESTS
            || (status.is_server_error() && ![501, 505].contains(&status.as_u16()));
        let asked = header(answer, RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
        let seconds = asked.unwrap_or(0).min(WAIT_SECONDS_MAX);
        is_busy.then(|| {
            let said = self.said(answer);
            Error::Busy { url: shown(url), status: status.as_u16(), seconds, said }
        })
    }
}

pub(crate) fn problem(url: &str, problem: Problem) -> Error {
    Error::InvalidResponse { url: shown(url), problem }
}

/// Classifies a failed request, so that only network failures are retried.
fn failed(url: &str, source: ureq::Error) -> Error {
    let url = shown(url);
    match source {
        // ureq reports certificate errors of rustls as I/O errors of this kind.
        ureq::Error::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            Error::Untrusted { url, source: source.into() }
        }
        ureq::Error::Tls(_) | ureq::Error::Pem(_) | ureq::Error::Rustls(_) => {
            Error::Untrusted { url, source: source.into() }
        }
        ureq::Error::RedirectFailed | ureq::Error::TooManyRedirects => {
            let why = "a request with a body was redirected";
            problem(&url, Problem::UnsafeLocation { to: String::new(), why })
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => problem(&url, Problem::InvalidUrl),
        source => Error::Unreachable { url, source: source.into() },
    }
}

fn query(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) => {
            text + &char::from(byte).to_string()
        }
        byte => text + &format!("%{byte:02X}"),
    })
}

pub(crate) fn header(answer: &Response<Answer>, name: &str) -> Option<String> {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Retries `attempt` with exponential back-off, at most `TRIES_MAX` times, while the error is
/// transient.
pub(crate) fn again<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for waited in 0..TRIES_MAX - 1 {
        let seconds = match attempt() {
            Err(Error::Unreachable { .. }) => 0,
            Err(Error::Busy { seconds, .. }) => seconds,
            end => return end,
        };
        for _ in 0..(WAIT_MILLISECONDS << waited).max(seconds * 1000) / 50 {
            documents::check_interrupt()?;
            thread::sleep(Duration::from_millis(50));
        }
    }
    attempt()
}

/// Returns the beginning of an error response; empty if the response cannot be read.
pub(crate) fn message(answer: &mut Response<Answer>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reader = answer.body_mut().as_reader();
    let _ = reader.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes); // a partial message is better than none
    bytes
}

/// Returns the content of a response that fits into memory.
pub(crate) fn kept(answer: &mut Response<Answer>, url: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut reader = answer.body_mut().as_reader().take(KEPT_BYTES_MAX + 1);
    reader
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Unreachable { url: shown(url), source: source.into() })?;
    if bytes.len() as u64 > KEPT_BYTES_MAX {
        return Err(problem(url, Problem::TooLarge { bytes_max: KEPT_BYTES_MAX }));
    }
    Ok(bytes)
}
