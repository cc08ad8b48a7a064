//! Logins: answers to a registry's challenge.
//!
//! **Invariant:** a login goes to the registry's own origin, and to the realm that the registry's own
//! challenge names, if [`super::origin`] allows that realm.

use data_encoding::BASE64;
use secrets::Secret;
use serde_json::Value;
use ureq::Body as ResponseBody;
use ureq::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use ureq::http::{self, Method, Response, StatusCode};

use super::challenge::Challenge;
use super::error::Error;
use super::problem::Problem;
use super::repository::{Repository, Request, kept};
use crate::encode::{percent_encode, percent_encode_except};
use crate::retries::Retries;

/// Largest response of a token service that is read, in bytes.
const TOKEN_BYTES_MAX: u64 = 1024 * 1024;

/// User name and token for a registry.
#[derive(Debug)]
pub struct Login {
    /// User name, which most registries ignore.
    pub user: String,
    /// Token or password.
    pub token: Secret,
}

impl Login {
    /// Returns the value of `Authorization` for the scheme `Basic`.
    pub(super) fn basic(&self) -> Result<String, Error> {
        let pair = format!("{}:{}", self.user, self.token.text()?);
        Ok(format!("Basic {}", BASE64.encode(pair.as_bytes())))
    }
}

/// Authentication state of a client at the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The registry has sent no challenge.
    Unasked,
    /// The registry sent a challenge, and this client has no login.
    Anonymous,
    /// The registry sent a challenge, and this client answered with its login.
    LoggedIn,
}

impl Repository {
    /// Sends a request. If the registry answers with a challenge, logs in and sends the request again.
    pub(super) fn authorized(
        &self,
        request: &Request<'_>,
        retries: &Retries<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let mut response = self.once(request, retries)?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        if !self.is_registry(request.url) {
            return Err(Error::invalid_response(request.url, Problem::LoginElsewhere));
        }
        let authorization = self.answer_to(&mut response, request.url, retries)?;
        drop(response);
        *self.authorization.borrow_mut() = authorization;
        let login = self.registry.login.as_ref();
        self.standing.set(login.map_or(Standing::Anonymous, |_| Standing::LoggedIn));
        let mut response = self.once(request, retries)?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.denied(request.url, &mut response))
            }
            _ => Ok(response),
        }
    }

    /// Returns the `Authorization` header that answers the challenge in `response`: the login, or a token
    /// from the realm.
    fn answer_to(
        &self,
        response: &mut Response<ResponseBody>,
        url: &str,
        retries: &Retries<'_>,
    ) -> Result<Option<String>, Error> {
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges = challenges.filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> = challenges.flat_map(Challenge::read).collect();
        if let Some(bearer) = challenges.iter().find(|challenge| challenge.is("bearer")) {
            return self.token(bearer, url, retries).map(Some);
        }
        if !challenges.iter().any(|challenge| challenge.is("basic")) {
            return Err(Error::invalid_response(url, Problem::UnknownChallenge));
        }
        match &self.registry.login {
            Some(login) => login.basic().map(Some),
            None => Err(self.denied(url, response)),
        }
    }

    /// Requests a token at the realm of the challenge `bearer`
    /// (<https://distribution.github.io/distribution/spec/auth/token/>). The scope is that of this
    /// client, because a challenge may lack one.
    fn token(&self, bearer: &Challenge, url: &str, retries: &Retries<'_>) -> Result<String, Error> {
        let realm = bearer.get("realm").unwrap_or_default();
        self.allowed(realm).map_err(|(realm, why)| {
            Error::invalid_response(url, Problem::UnsafeRealm { realm, why })
        })?;
        let scope = format!("repository:{}:{}", self.name, self.actions);
        let (service, scope) = (
            percent_encode(bearer.get("service").unwrap_or_default()),
            percent_encode_except(&scope, ":/"),
        );
        let realm = realm.split('#').next().unwrap_or_default();
        let join = if realm.contains('?') { '&' } else { '?' };
        let from = format!("{realm}{join}service={service}&scope={scope}");
        let mut head = http::Request::builder().uri(&from);
        if let Some(login) = &self.registry.login {
            head = head.header(AUTHORIZATION, login.basic()?);
        }
        let mut response = self.run(&from, head.body(()), retries)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.denied(&from, &mut response));
            }
            _ => {
                let busy = self.busy(&mut response, &from);
                return Err(
                    busy.unwrap_or_else(|| self.refused(&Method::GET, &from, &mut response))
                );
            }
        }
        let body = kept(&mut response, &from, TOKEN_BYTES_MAX)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = body["token"].as_str().or(body["access_token"].as_str());
        let is_usable =
            |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        match token.filter(is_usable) {
            Some(token) => Ok(format!("Bearer {token}")),
            None => Err(Error::invalid_response(&from, Problem::NoToken)),
        }
    }
}
