//! Logins: answers to a registry's challenge.
//!
//! **Invariant:** a login goes to the registry's own origin, and to the realm that the registry's own
//! challenge names, if [`super::origin`] allows that realm.

use data_encoding::BASE64;
use secrets::Secret;
use serde_json::Value;
use ureq::Body as ResponseBody;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use ureq::http::{self, Method, Response, StatusCode};
use zeroize::Zeroizing;

use super::challenge::Challenge;
use super::error::Error;
use super::problem::Problem;
use super::repository::{Repository, kept, lock};
use super::request::Request;
use crate::body::beginning;
use crate::encode::{percent_encode, percent_encode_except};
use crate::retries::Retries;

/// Largest response of a token service that is read, in bytes.
const TOKEN_BYTES_MAX: u64 = 1024 * 1024;

/// User name with which Docker's credential helpers mark an identity token
/// (<https://docs.docker.com/reference/cli/docker/login/#credential-helper-protocol>).
pub(super) const IDENTITY_TOKEN: &str = "<token>";

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

/// Returns the actions of a token in the order in which they are requested, while a token service rejects
/// them. Quay knows no `delete` and rejects the whole request with 400
/// (<https://github.com/quay/quay/blob/master/endpoints/v2/v2auth.py>, `SCOPE_REGEX`).
fn scopes(actions: &'static str) -> Vec<&'static str> {
    match actions.strip_suffix(",delete") {
        Some(without) => vec![actions, "*", without],
        None => vec![actions],
    }
}

/// Returns the user name for a token at a registry that checks the user name; `None` where any name will
/// do, or where only the user knows the name. `token` decides between the two names of Google.
///
/// - Amazon: <https://docs.aws.amazon.com/AmazonECR/latest/userguide/registry_auth.html>
/// - Azure: <https://learn.microsoft.com/azure/container-registry/container-registry-authentication>
/// - Google: <https://cloud.google.com/artifact-registry/docs/docker/authentication>
#[must_use]
pub fn default_user(host: &str, token: &str) -> Option<&'static str> {
    let host = host.to_ascii_lowercase();
    let ends = |end: &str| host.ends_with(end);
    if host == "public.ecr.aws" || host.contains(".dkr.ecr") {
        return Some("AWS");
    }
    if host == "gcr.io" || ends(".gcr.io") || ends("-docker.pkg.dev") {
        let is_key = token.trim_start().starts_with('{');
        return Some(if is_key { "_json_key" } else { "oauth2accesstoken" });
    }
    ends(".azurecr.io").then_some("00000000-0000-0000-0000-000000000000")
}

impl Repository {
    /// Sends a request. If the registry answers with a challenge, logs in and sends the request again.
    pub(super) fn authorized(
        &self,
        request: &Request<'_>,
        retries: &Retries<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let sent = lock(&self.0.authorization).clone();
        let mut response = self.once(request, sent.as_deref(), retries)?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        if !self.is_registry(request.url) {
            return Err(Error::invalid_response(request.url, Problem::LoginElsewhere));
        }
        // Parallel requests wait here, so that one of them logs in for all.
        let turn = lock(&self.0.turn);
        if *lock(&self.0.authorization) == sent {
            let is_anonymous = self.0.registry.login()?.is_none();
            let standing = if is_anonymous { Standing::Anonymous } else { Standing::LoggedIn };
            let fresh = self.answer_to(&mut response, request.url, retries)?;
            *lock(&self.0.authorization) = fresh;
            *lock(&self.0.standing) = standing;
        }
        // A connection is used again only after its response was read.
        let _ = beginning(&mut response);
        drop((turn, response));
        let fresh = lock(&self.0.authorization).clone();
        let mut response = self.once(request, fresh.as_deref(), retries)?;
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
        match self.0.registry.login()? {
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
        let realm = realm.split('#').next().unwrap_or_default();
        let service = bearer.get("service").unwrap_or_default();
        let mut rejected = None;
        for actions in scopes(self.0.actions) {
            let own = format!("repository:{}:{actions}", self.0.name);
            let scopes = [own.as_str(), self.0.also.as_str()];
            let scopes = scopes.into_iter().filter(|scope| !scope.is_empty());
            let (from, mut response) =
                self.ask(realm, service, &scopes.collect::<Vec<_>>(), retries)?;
            match response.status() {
                StatusCode::OK => return token_of(&mut response, &from),
                StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => {
                    // The first rejection is the one about the actions that this client needs.
                    rejected =
                        rejected.or_else(|| Some(self.refused(&Method::GET, &from, &mut response)));
                }
                _ => {
                    let busy = self.busy(&mut response, &from);
                    return Err(
                        busy.unwrap_or_else(|| self.refused(&Method::GET, &from, &mut response))
                    );
                }
            }
        }
        Err(rejected.unwrap_or_else(|| Error::invalid_response(url, Problem::NoToken)))
    }

    /// Sends one request for a token, and returns its URL with the response. An identity token is sent in
    /// the body of a POST, where a space separates the scopes
    /// (<https://distribution.github.io/distribution/spec/auth/oauth/>).
    fn ask(
        &self,
        realm: &str,
        service: &str,
        scopes: &[&str],
        retries: &Retries<'_>,
    ) -> Result<(String, Response<ResponseBody>), Error> {
        let service = percent_encode(service);
        let scopes: Vec<_> =
            scopes.iter().map(|scope| percent_encode_except(scope, ":/,*")).collect();
        let login = self.0.registry.login()?;
        if let Some(login) = login.filter(|login| login.user == IDENTITY_TOKEN) {
            let token = Zeroizing::new(percent_encode(login.token.text()?));
            let scope = scopes.join("%20");
            let body = Zeroizing::new(format!(
                "grant_type=refresh_token&client_id=holistic&service={service}&scope={scope}&refresh_token={}",
                token.as_str()
            ));
            let head = http::Request::builder().method(Method::POST).uri(realm);
            let head = head.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            let response = self.run(realm, head.body(body.as_bytes()), retries)?;
            return Ok((realm.to_owned(), response));
        }
        let join = if realm.contains('?') { '&' } else { '?' };
        let scope = scopes.join("&scope=");
        let from = format!("{realm}{join}service={service}&scope={scope}");
        let mut head = http::Request::builder().uri(&from);
        if let Some(login) = login {
            head = head.header(AUTHORIZATION, login.basic()?);
        }
        let response = self.run(&from, head.body(()), retries)?;
        Ok((from, response))
    }
}

/// Returns the header with the token in the response of a token service.
fn token_of(response: &mut Response<ResponseBody>, from: &str) -> Result<String, Error> {
    let body = kept(response, from, TOKEN_BYTES_MAX)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let token = body["token"].as_str().or(body["access_token"].as_str());
    let is_usable =
        |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    match token.filter(is_usable) {
        Some(token) => Ok(format!("Bearer {token}")),
        None => Err(Error::invalid_response(from, Problem::NoToken)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_that_check_the_user_get_their_own_name() {
        for (host, token, user) in [
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "x", Some("AWS")),
            ("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", "x", Some("AWS")),
            ("public.ecr.aws", "x", Some("AWS")),
            ("europe-west3-docker.pkg.dev", "ya29.x", Some("oauth2accesstoken")),
            ("eu.gcr.io", "{\"type\":\"service_account\"}", Some("_json_key")),
            ("me.azurecr.io", "eyJ", Some("00000000-0000-0000-0000-000000000000")),
            ("ghcr.io", "ghp_x", None),
            ("gcr.io.example.org", "x", None),
        ] {
            assert_eq!(default_user(host, token), user, "{host}");
        }
    }

    #[test]
    fn delete_is_replaced_where_a_token_service_rejects_it() {
        assert_eq!(scopes("pull"), ["pull"]);
        assert_eq!(scopes("pull,push"), ["pull,push"]);
        assert_eq!(scopes("pull,push,delete"), ["pull,push,delete", "*", "pull,push"]);
    }
}
