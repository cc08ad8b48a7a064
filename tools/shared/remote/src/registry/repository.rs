//! HTTP client of one repository in a registry, with retries, logins and redirects. Only this module
//! and [`super::login`] send requests to a registry.

use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use documents::Diagnostic as _;
use git::Url;
use ureq::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION,
};
use ureq::http::{self, Method, Response, StatusCode};
use ureq::{Agent, AsSendBody, Body as ResponseBody, SendBody};

use super::docker;
use super::error::Error;
use super::flow::Flow;
use super::login::{Login, Standing};
use super::origin::{Origin, resolved};
use super::problem::Problem;
use super::request::{Body, Request};
use super::said::said;
use crate::RootsError;
use crate::agent::{Settings, agent_trusting, run};
use crate::body::{beginning, header, read};
use crate::demanded::demanded_pause;
use crate::redact::shown;
use crate::retries::{Cause, Limits, Outage, Retries};

/// Time limit until a response begins.
const RESPONSE_MAX: Duration = Duration::from_secs(60);
/// Time limit of one transfer. Half an hour, because a layer may have gigabytes.
const TRANSFER_MAX: Duration = Duration::from_secs(1800);
/// Longest time for which rate limits may delay one call. Registries demand up to a minute: GitHub's
/// secondary limits ask for "at least one minute"
/// (<https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>).
const RATE_LIMIT_MAX: Duration = Duration::from_secs(120);
/// Number of redirects that one download may follow.
const REDIRECTS_MAX: usize = 3;
/// Names of Docker Hub in references, whose API is at another host
/// (<https://github.com/distribution/reference/blob/main/normalize.go>).
pub(super) const DOCKER_HUB: [&str; 2] = ["docker.io", "index.docker.io"];
pub(super) const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// A registry, and the login for it. Copies share one connection pool, one login and one outage.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

pub(super) struct Inner {
    pub(super) agent: Agent,
    pub(super) url: Url,
    /// `None` for a URL without a host that a request can be sent to.
    origin: Option<Origin>,
    pub(super) login: OnceLock<Option<Login>>,
    limits: Limits,
    outage: Outage,
    flow: Flow,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("url", &self.0.url).finish_non_exhaustive()
    }
}

impl Registry {
    /// Creates a client of the registry at `url`. `program` becomes the `User-Agent`.
    ///
    /// # Errors
    ///
    /// [`RootsError`], see [`crate::roots`].
    pub fn new(program: &'static str, url: &Url, login: Option<Login>) -> Result<Self, RootsError> {
        Self::trusting(program, url, login, &[])
    }

    /// Creates a client like [`Self::new`], which trusts the `authorities` (certificates in DER) beside the
    /// system's.
    ///
    /// # Errors
    ///
    /// [`RootsError`], see [`crate::roots`].
    pub fn trusting(
        program: &'static str,
        url: &Url,
        login: Option<Login>,
        authorities: &[Vec<u8>],
    ) -> Result<Self, RootsError> {
        Self::with(program, url, OnceLock::from(login), authorities)
    }

    /// Creates a client like [`Self::trusting`]. Without a `login`, the client uses the one in Docker's
    /// configuration, which it reads when the registry asks for a login.
    ///
    /// # Errors
    ///
    /// [`RootsError`], see [`crate::roots`].
    pub fn of_user(
        program: &'static str,
        url: &Url,
        login: Option<Login>,
        authorities: &[Vec<u8>],
    ) -> Result<Self, RootsError> {
        let login = login.map_or_else(OnceLock::new, |login| OnceLock::from(Some(login)));
        Self::with(program, url, login, authorities)
    }

    fn with(
        program: &'static str,
        url: &Url,
        login: OnceLock<Option<Login>>,
        authorities: &[Vec<u8>],
    ) -> Result<Self, RootsError> {
        let settings = Settings {
            program,
            is_plain: url.is_plain(),
            response_max: RESPONSE_MAX,
            attempt_max: TRANSFER_MAX,
        };
        let limits = Limits {
            call: TRANSFER_MAX,
            rate_limit: RATE_LIMIT_MAX,
            ..Limits::of_service(url.is_loopback())
        };
        Ok(Self(Arc::new(Inner {
            agent: agent_trusting(settings, authorities)?,
            url: url.clone(),
            origin: Origin::of(&site(url)),
            login,
            limits,
            outage: Outage::default(),
            flow: Flow::default(),
        })))
    }

    /// Returns a client of one repository, whose tokens permit `actions`, for example `pull` or
    /// `pull,push`.
    #[must_use]
    pub fn repository(&self, name: &str, actions: &'static str) -> Repository {
        Repository(Arc::new(State {
            registry: self.0.clone(),
            name: name.to_owned(),
            actions,
            also: String::new(),
            authorization: Mutex::default(),
            turn: Mutex::default(),
            standing: Mutex::new(Standing::Unasked),
        }))
    }
}

impl Inner {
    /// Returns the login, which may come from Docker's configuration.
    pub(super) fn login(&self) -> Result<Option<&Login>, Error> {
        if let Some(known) = self.login.get() {
            return Ok(known.as_ref());
        }
        let login = docker::login(self.url.host(), self.url.path())?;
        Ok(self.login.get_or_init(|| login).as_ref())
    }
}

/// Returns scheme and host of the registry's API.
pub(super) fn site(url: &Url) -> String {
    let scheme = if url.is_plain() { "http" } else { "https" };
    let host = if DOCKER_HUB.contains(&url.host()) { DOCKER_HUB_API } else { url.host() };
    format!("{scheme}://{host}")
}

/// HTTP client of one repository in one registry. Copies share the token.
#[derive(Clone)]
pub struct Repository(pub(super) Arc<State>);

pub(super) struct State {
    pub(super) registry: Arc<Inner>,
    pub(super) name: String,
    pub(super) actions: &'static str,
    /// Scope of another repository that tokens must permit; empty if there is none.
    pub(super) also: String,
    pub(super) authorization: Mutex<Option<String>>,
    /// Held while one of several parallel requests logs in.
    pub(super) turn: Mutex<()>,
    pub(super) standing: Mutex<Standing>,
}

/// Locks a value that a panicking thread cannot leave half changed.
pub(super) fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Repository {
    /// Returns the URL `/v2/<repository>/<path>` at the registry.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", site(&self.0.registry.url), self.0.name)
    }

    /// Returns the authentication state. Requests `GET /v2/` (the specification's own check) if no
    /// response has shown the state yet.
    ///
    /// # Errors
    ///
    /// See [`Self::send`].
    pub fn standing(&self) -> Result<Standing, Error> {
        if *lock(&self.0.standing) == Standing::Unasked {
            let url = format!("{}/v2/", site(&self.0.registry.url));
            self.send(&Request::get(&url, ""))?;
        }
        Ok(*lock(&self.0.standing))
    }

    /// Sends a request, and retries transient failures.
    ///
    /// # Errors
    ///
    /// See [`Self::attempt`].
    pub fn send(&self, request: &Request<'_>) -> Result<Response<ResponseBody>, Error> {
        self.again(|retries| self.attempt(request, retries))
    }

    /// Sends a request once, within the time that `retries` have left. All statuses are responses, except
    /// rate limits, server errors and denials.
    ///
    /// # Errors
    ///
    /// [`Error`], for which [`Error::is_transient`] tells whether another attempt may succeed.
    pub fn attempt(
        &self,
        request: &Request<'_>,
        retries: &Retries<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let Inner { flow, outage, .. } = &*self.0.registry;
        flow.wait()?;
        let _turn = flow.turn();
        documents::detail("-", format_args!("{} {}", request.method, shown(request.url)));
        let mut response = self.authorized(request, retries)?;
        if let Some(busy) = self.busy(&mut response, request.url) {
            return Err(busy);
        }
        outage.end();
        Ok(response)
    }

    /// Calls `attempt` until it succeeds or fails permanently, within the limits of one call.
    ///
    /// # Errors
    ///
    /// The error of the last attempt, or [`Error::Interrupted`].
    pub fn again<T>(
        &self,
        mut attempt: impl FnMut(&Retries<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Inner { limits, outage, flow, .. } = &*self.0.registry;
        let mut retries = Retries::new(*limits, outage);
        loop {
            let end = attempt(&retries);
            let cause = match &end {
                Err(Error::Busy { seconds: seconds @ 1.., .. }) => {
                    Cause::RateLimit(Duration::from_secs(*seconds))
                }
                Err(error) if error.is_transient() => Cause::Outage,
                _ => return end,
            };
            let Some(time) = retries.next_pause(cause) else { return end };
            documents::detail("-", format_args!("again in {:.1} s", time.as_secs_f64()));
            match cause {
                Cause::RateLimit(_) => flow.demand_pause(time), // the next attempt waits
                Cause::Outage => documents::pause(time)?,
            }
        }
    }

    /// Sends a request without a retry of its own, with the `authorization` that an earlier challenge
    /// asked for. A login or a token goes to the registry's own origin alone.
    pub(super) fn once(
        &self,
        request: &Request<'_>,
        authorization: Option<&str>,
        retries: &Retries<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let Request { method, url, accept, body, range } = *request;
        let mut head = http::Request::builder().method(method).uri(url);
        if !accept.is_empty() {
            head = head.header(ACCEPT, accept);
        }
        if let Some(known) = authorization.filter(|_| self.is_registry(url)) {
            head = head.header(AUTHORIZATION, known);
        }
        if let Some((first, last)) = range {
            head = head.header(CONTENT_RANGE, format!("{first}-{last}"));
        }
        match body {
            Body::None if matches!(*method, Method::POST | Method::PUT) => {
                self.run(url, head.header(CONTENT_LENGTH, 0).body(SendBody::none()), retries)
            }
            Body::None => self.run(url, head.body(()), retries),
            Body::Bytes(bytes, kind) => {
                self.run(url, head.header(CONTENT_TYPE, kind).body(bytes), retries)
            }
            Body::File(mut file, from, size) => {
                let start = file.seek(SeekFrom::Start(from));
                start.map_err(|source| Error::unreachable(url, source))?;
                let head = head
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, size);
                self.run(url, head.body(SendBody::from_reader(&mut file.take(size))), retries)
            }
        }
    }

    /// Sends a request as it is.
    pub(super) fn run<S: AsSendBody>(
        &self,
        url: &str,
        request: http::Result<http::Request<S>>,
        retries: &Retries<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let request = request.map_err(|_| Error::invalid_response(url, Problem::InvalidUrl))?;
        let sent = run(&self.0.registry.agent, request, retries.left(TRANSFER_MAX));
        sent.map_err(|source| Error::of_request(url, source))
    }

    /// Whether `url` is at the registry's own origin. Other origins never receive a credential.
    pub(super) fn is_registry(&self, url: &str) -> bool {
        let origin = &self.0.registry.origin;
        origin.is_some() && Origin::of(url) == *origin
    }

    /// Checks that this client may follow a registry's response to `url`. Otherwise returns the
    /// origin of `url` and the reason.
    pub(super) fn allowed(&self, url: &str) -> Result<(), (String, &'static str)> {
        let Some(target) = Origin::of(url) else {
            return Err((String::new(), "no absolute URL of http or https"));
        };
        let why = match &self.0.registry.origin {
            None => Some("the registry itself has no origin"),
            Some(registry) => registry.forbids(&target),
        };
        why.map_or(Ok(()), |why| Err((target.shown(), why)))
    }

    /// Sends a GET request and follows redirects.
    ///
    /// # Errors
    ///
    /// See [`Self::attempt`]; and [`Problem::UnsafeLocation`] or [`Problem::RedirectLoop`].
    pub fn download(&self, url: &str, accept: &str) -> Result<Response<ResponseBody>, Error> {
        self.again(|retries| self.follow(url, accept, retries))
    }

    /// Sends a GET request, follows redirects, and reads the body if the status is 200. A body that breaks
    /// off is requested again.
    ///
    /// # Errors
    ///
    /// See [`Self::download`]; and [`Problem::TooLarge`] for more than `bytes_max` bytes.
    pub fn fetch(
        &self,
        url: &str,
        accept: &str,
        bytes_max: u64,
    ) -> Result<(Response<ResponseBody>, Vec<u8>), Error> {
        self.again(|retries| {
            let mut response = self.follow(url, accept, retries)?;
            if response.status() != StatusCode::OK {
                return Ok((response, Vec::new()));
            }
            let bytes = kept(&mut response, url, bytes_max)?;
            Ok((response, bytes))
        })
    }

    fn follow(
        &self,
        url: &str,
        accept: &str,
        retries: &Retries<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.attempt(&Request::get(&url, accept), retries)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
                return Ok(response);
            }
            url = self.location(&response, &url)?;
        }
        Err(Error::invalid_response(&url, Problem::RedirectLoop))
    }

    /// Returns the location that a response to a request for `url` redirects to.
    ///
    /// # Errors
    ///
    /// [`Problem::UnsafeLocation`].
    pub fn location(&self, response: &Response<ResponseBody>, url: &str) -> Result<String, Error> {
        let to = header(response, LOCATION.as_str()).unwrap_or_default();
        if to.is_empty() {
            let why = "the answer has no Location";
            return Err(Error::invalid_response(url, Problem::UnsafeLocation { to, why }));
        }
        let to = resolved(url, &to);
        match self.allowed(&to) {
            Ok(()) => Ok(to.split('#').next().unwrap_or_default().to_owned()),
            Err((to, why)) => {
                Err(Error::invalid_response(url, Problem::UnsafeLocation { to, why }))
            }
        }
    }

    /// Returns the error for an unexpected response.
    #[must_use]
    pub fn refused(
        &self,
        method: &Method,
        url: &str,
        response: &mut Response<ResponseBody>,
    ) -> Error {
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return self.denied(url, response);
        }
        let (said, url) = (self.said(response), shown(url));
        Error::Refused { method: method.to_string(), url, status: status.as_u16(), said }
    }

    pub(super) fn denied(&self, url: &str, response: &mut Response<ResponseBody>) -> Error {
        let (status, said) = (response.status().as_u16(), self.said(response));
        let anonymous = !matches!(self.0.registry.login.get(), Some(Some(_)));
        Error::Denied { url: shown(url), status, anonymous, said }
    }

    /// Returns the registry's own message without this client's credentials.
    fn said(&self, response: &mut Response<ResponseBody>) -> String {
        let is_text = header(response, CONTENT_TYPE.as_str())
            .is_some_and(|kind| kind.starts_with("text/plain"));
        said(&beginning(response), is_text, &self.secrets())
    }

    /// Returns every form in which a message may quote this client's login.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        let login = self.0.registry.login.get().and_then(Option::as_ref);
        secrets.extend(login.and_then(|login| login.token.text().ok()).map(str::to_owned));
        let basic = login.and_then(|login| login.basic().ok());
        for sent in [basic, lock(&self.0.authorization).clone()] {
            let value = sent.as_deref().and_then(|sent| sent.split_once(' '));
            secrets.extend(value.map(|(_, value)| value.to_owned()));
        }
        secrets
    }

    /// Returns an error if the response is a rate limit or a server error.
    pub(super) fn busy(&self, response: &mut Response<ResponseBody>, url: &str) -> Option<Error> {
        let status = response.status();
        // 501 and 505 are permanent: the server lacks the feature.
        let is_busy = status == StatusCode::TOO_MANY_REQUESTS
            || (status.is_server_error() && ![501, 505].contains(&status.as_u16()));
        if !is_busy {
            return None;
        }
        let seconds = demanded_pause(response.headers()).map_or(0, |pause| pause.as_secs());
        let said = self.said(response);
        Some(Error::Busy { url: shown(url), status: status.as_u16(), seconds, said })
    }
}

/// Returns the content of a response, of at most `bytes_max` bytes.
pub(super) fn kept(
    response: &mut Response<ResponseBody>,
    url: &str,
    bytes_max: u64,
) -> Result<Vec<u8>, Error> {
    let bytes = read(response, bytes_max).map_err(|source| Error::unreachable(url, source))?;
    bytes.ok_or_else(|| Error::invalid_response(url, Problem::TooLarge { bytes_max }))
}
