//! Registry client: resolves a tag to a digest, and reads manifests and blobs by digest.

use std::time::Duration;

use contract::Registry;
use data_encoding::{BASE64, HEXLOWER};
use http::StatusCode;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use ureq::{Agent, Body};

use crate::Error;

/// Manifests are a few kilobytes. Registries reject larger ones than 4 MiB.
const MANIFEST_MAX_BYTES: u64 = 4 << 20;
const TOKEN_MAX_BYTES: u64 = 64 << 10;
const RESPONSE_SECONDS: u64 = 20;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Resolves `tag` of `repository` to the digest that it has now.
pub(crate) fn digest(registry: &Registry, repository: &str, tag: &str) -> Result<String, Error> {
    let image = format!("{}/{repository}:{tag}", registry.url.rest());
    let credentials = credentials(registry)?;
    ask(registry, repository, tag, credentials.as_deref())
        .map_err(|(why, temporary)| Error::Image { image, why, temporary })
}

/// Returns the registry's credentials as Docker's `auth`: `user:token` in base64. The `reader` token
/// has precedence, because a cluster must not get the token that can write.
pub(crate) fn credentials(registry: &Registry) -> Result<Option<String>, secrets::Error> {
    let Some(token) = registry.reader.as_ref().or(registry.token.as_ref()) else {
        return Ok(None);
    };
    let token = token.resolve()?;
    // Registries such as GHCR ignore the user name but require that it is not empty.
    let user = registry.user.as_deref().unwrap_or("token");
    Ok(Some(BASE64.encode(format!("{user}:{}", token.text()?).as_bytes())))
}

/// Whether the Project has a token for the registry, either `reader` or `token`.
pub(crate) fn has_credentials(registry: &Registry) -> bool {
    registry.reader.is_some() || registry.token.is_some()
}

/// Cause of a failed request, and whether a retry may help.
pub(crate) type Failed = (String, bool);

fn ask(
    registry: &Registry,
    repository: &str,
    tag: &str,
    credentials: Option<&str>,
) -> Result<String, Failed> {
    let manifest = fetch(registry, repository, &format!("manifests/{tag}"), credentials)?;
    let manifest = read(manifest, MANIFEST_MAX_BYTES)?;
    Ok(format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(manifest))))
}

/// Reads a manifest or blob and verifies its digest. `what` is `manifests` or `blobs`.
pub(crate) fn by_digest(
    registry: &Registry,
    repository: &str,
    what: &str,
    digest: &str,
    limit: u64,
) -> Result<Vec<u8>, Failed> {
    let credentials = credentials(registry).map_err(|error| (error.to_string(), false))?;
    let path = format!("{what}/{digest}");
    let bytes = read(fetch(registry, repository, &path, credentials.as_deref())?, limit)?;
    if format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&bytes))) == digest {
        Ok(bytes)
    } else {
        Err((format!("the registry's response does not have the digest {digest}"), false))
    }
}

fn fetch(
    registry: &Registry,
    repository: &str,
    what: &str,
    credentials: Option<&str>,
) -> Result<http::Response<Body>, Failed> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(RESPONSE_SECONDS)));
    let config = if registry.url.is_plain() { config.proxy(None) } else { config };
    let agent = config.build().into();
    let scheme = if registry.url.is_plain() { "http" } else { "https" };
    let path = match (registry.url.path(), repository) {
        ("", repository) => repository.to_owned(),
        (path, "") => path.to_owned(),
        (path, repository) => format!("{path}/{repository}"),
    };
    let url = format!("{scheme}://{}/v2/{path}/{what}", registry.url.host());
    let basic = credentials.map(|auth| format!("Basic {auth}"));
    let mut response = get(&agent, &url, basic.as_deref())?;
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = response.headers().get("www-authenticate");
        let challenge = challenge.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let url_of_token = token_url(challenge)
            .filter(|url| url.starts_with("https://") || registry.url.is_plain())
            .ok_or(("it requires a login that this program does not support".to_owned(), false))?;
        if basic.is_some() && !is_of(registry.url.host(), &url_of_token) {
            let why = "its token service is on another host, and the password is not sent there";
            return Err((why.to_owned(), false));
        }
        let bearer = token(&agent, &url_of_token, basic.as_deref())?;
        response = get(&agent, &url, Some(&format!("Bearer {bearer}")))?;
    }
    match response.status().as_u16() {
        200 => Ok(response),
        404 => Err(("not found in the registry".to_owned(), false)),
        401 | 403 => Err(("the registry denies access".to_owned(), false)),
        status => Err((format!("the registry answers with status {status}"), true)),
    }
}

/// Whether a token service belongs to the registry, so that it may receive the registry's password.
/// Only Docker Hub has its token service on another host: <https://distribution.github.io/distribution/spec/auth/token/>.
fn is_of(registry: &str, url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host == registry || host == "auth.docker.io" && registry == "registry-1.docker.io"
}

fn get(
    agent: &Agent,
    url: &str,
    authorization: Option<&str>,
) -> Result<http::Response<Body>, Failed> {
    let request = agent.get(url).header("accept", ACCEPT);
    let request = match authorization {
        Some(value) => request.header("authorization", value),
        None => request,
    };
    request.call().map_err(|error| (error.to_string(), true))
}

fn read(mut response: http::Response<Body>, limit: u64) -> Result<Vec<u8>, Failed> {
    let body = response.body_mut().with_config().limit(limit).read_to_vec();
    body.map_err(|error| (error.to_string(), true))
}

fn token(agent: &Agent, url: &str, basic: Option<&str>) -> Result<String, Failed> {
    let response = get(agent, url, basic)?;
    let status = response.status();
    let answer: Value =
        serde_json::from_slice(&read(response, TOKEN_MAX_BYTES)?).unwrap_or_default();
    let token = answer["token"].as_str().or(answer["access_token"].as_str());
    token.map(str::to_owned).ok_or_else(|| {
        (
            format!("the registry's token service answers with status {status}"),
            status.is_server_error(),
        )
    })
}

/// Returns the URL of the token service in the challenge `Bearer realm="…",service="…",scope="…"`.
fn token_url(challenge: &str) -> Option<String> {
    let parameters = challenge.strip_prefix("Bearer ")?;
    let parameter = |name: &str| {
        let start = parameters.find(&format!("{name}=\""))? + name.len() + 2;
        let value = parameters.get(start..)?;
        value.find('"').and_then(|end| value.get(..end)).map(str::to_owned)
    };
    let (realm, service) = (parameter("realm")?, parameter("service").unwrap_or_default());
    let scope = parameter("scope").unwrap_or_default();
    Some(format!("{realm}?service={service}&scope={scope}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_sent_only_to_the_token_service_of_its_own_registry() {
        for (registry, url, is) in [
            ("ghcr.io", "https://ghcr.io/token?service=x", true),
            ("ghcr.io:443", "https://ghcr.io/token", false),
            ("registry-1.docker.io", "https://auth.docker.io/token", true),
            ("ghcr.io", "https://evil.example/token", false),
            ("ghcr.io", "https://ghcr.io.evil.example/token", false),
            ("ghcr.io", "https://ghcr.io@evil.example/token", false),
            ("ghcr.io", "https://auth.docker.io/token", false),
        ] {
            assert_eq!(is_of(registry, url), is, "{registry} {url}");
        }
    }

    #[test]
    fn token_url_is_read_from_a_bearer_challenge_alone() {
        let challenge = r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:fluxcd/source-controller:pull""#;
        let url =
            "https://ghcr.io/token?service=ghcr.io&scope=repository:fluxcd/source-controller:pull";
        assert_eq!(token_url(challenge).as_deref(), Some(url));
        assert_eq!(token_url("Basic realm=\"x\""), None);
        assert_eq!(token_url("Bearer realm=\"x"), None);
    }

    #[test]
    fn credentials_prefer_the_reader_token_when_the_project_declares_one() {
        let auth_of = |references: serde_json::Value| {
            let mut registry = references;
            registry["url"] = "https://ghcr.io/me".into();
            let registry: Registry = serde_json::from_value(registry).expect("right");
            let auth = credentials(&registry).expect("set")?;
            let auth = BASE64.decode(auth.as_bytes()).expect("base64");
            Some(String::from_utf8(auth).expect("text"))
        };
        let (token, reader) =
            (serde_json::json!({"env": "NOT_SET"}), serde_json::json!({"env": "CARGO_PKG_NAME"}));
        let both = auth_of(serde_json::json!({"token": token, "reader": reader}));
        assert_eq!(both.as_deref(), Some("token:flux-seed"));
        let one = auth_of(serde_json::json!({"user": "me", "token": reader}));
        assert_eq!(one.as_deref(), Some("me:flux-seed"));
        assert_eq!(auth_of(serde_json::json!({})), None);
    }
}
