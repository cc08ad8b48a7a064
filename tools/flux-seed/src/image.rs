//! Which image is that? Asks a registry for a tag, and computes the digest of what it answers.

use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use http::StatusCode;
use keyring::Registry;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use ureq::{Agent, Body};

use crate::Error;

/// Manifests are a few kilobytes; registries refuse those above 4 MiB.
const MANIFEST_MAX_BYTES: u64 = 4 << 20;
const TOKEN_MAX_BYTES: u64 = 64 << 10;
const ANSWER_SECONDS: u64 = 20;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// The digest of what `tag` of `repository` is in `registry` now.
pub(crate) fn digest(registry: &Registry, repository: &str, tag: &str) -> Result<String, Error> {
    let image = format!("{}/{repository}:{tag}", registry.url.rest());
    let credentials = credentials(registry)?;
    ask(registry, repository, tag, credentials.as_deref())
        .map_err(|(why, temporary)| Error::Image { image, why, temporary })
}

/// `user:token` in base64, if the registry has one for those who read, or at all; what Docker calls
/// `auth`.
pub(crate) fn credentials(registry: &Registry) -> Result<Option<String>, keyring::Error> {
    let Some(token) = registry.reader.as_ref().or(registry.token.as_ref()) else {
        return Ok(None);
    };
    let token = token.resolve()?;
    // Those that take a token alone, such as GHCR, ignore the name, and want one.
    let user = registry.user.as_deref().unwrap_or("token");
    Ok(Some(BASE64.encode(format!("{user}:{}", token.text()?).as_bytes())))
}

/// Whether the registry has a token for those who read, or at all.
pub(crate) fn has_credentials(registry: &Registry) -> bool {
    registry.reader.is_some() || registry.token.is_some()
}

/// Why a request failed, and whether a retry may help.
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

/// The bytes of a manifest or a blob that have this digest; `what` is `manifests` or `blobs`.
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
        Err((format!("the registry answers with other bytes than {digest}"), false))
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
        .timeout_global(Some(Duration::from_secs(ANSWER_SECONDS)));
    let config = if registry.url.is_plain() { config.proxy(None) } else { config };
    let agent = config.build().into();
    let scheme = if registry.url.is_plain() { "http" } else { "https" };
    let path = match (registry.url.path(), repository) {
        ("", repository) => repository.to_owned(),
        (path, "") => path.to_owned(),
        (path, repository) => format!("{path}/{repository}"),
    };
    let url = format!("{scheme}://{}/v2/{path}/{what}", registry.url.host());
    let basic = credentials.map(|it| format!("Basic {it}"));
    let mut response = get(&agent, &url, basic.as_deref())?;
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = response.headers().get("www-authenticate");
        let challenge = challenge.and_then(|it| it.to_str().ok()).unwrap_or_default();
        let url_of_token = token_url(challenge)
            .filter(|it| it.starts_with("https://") || registry.url.is_plain())
            .ok_or(("it wants a password".to_owned(), false))?;
        if basic.is_some() && !is_of(registry.url.host(), &url_of_token) {
            let why = "its token service is another host, which does not get our password";
            return Err((why.to_owned(), false));
        }
        let bearer = token(&agent, &url_of_token, basic.as_deref())?;
        response = get(&agent, &url, Some(&format!("Bearer {bearer}")))?;
    }
    match response.status().as_u16() {
        200 => Ok(response),
        404 => Err(("the registry does not have it".to_owned(), false)),
        401 | 403 => Err(("the registry does not let us see it".to_owned(), false)),
        status => Err((format!("the registry answers with status {status}"), true)),
    }
}

/// Whether a token service belongs to the registry, so that it may see the registry's password. Docker
/// Hub alone has them apart: <https://distribution.github.io/distribution/spec/auth/token/>.
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
        Some(it) => request.header("authorization", it),
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

/// Where the challenge `Bearer realm="…",service="…",scope="…"` sends us.
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
    fn only_the_token_service_of_the_registry_itself_sees_its_password() {
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
    fn a_challenge_says_where_a_token_is_to_be_had() {
        let challenge = r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:fluxcd/source-controller:pull""#;
        let url =
            "https://ghcr.io/token?service=ghcr.io&scope=repository:fluxcd/source-controller:pull";
        assert_eq!(token_url(challenge).as_deref(), Some(url));
        assert_eq!(token_url("Basic realm=\"x\""), None);
        assert_eq!(token_url("Bearer realm=\"x"), None);
    }

    #[test]
    fn a_cluster_is_given_what_only_reads_where_that_is_declared() {
        let of = |references: serde_json::Value| {
            let mut registry = references;
            registry["url"] = "https://ghcr.io/me".into();
            let registry: Registry = serde_json::from_value(registry).expect("right");
            let auth = credentials(&registry).expect("set")?;
            let auth = BASE64.decode(auth.as_bytes()).expect("base64");
            Some(String::from_utf8(auth).expect("text"))
        };
        let (token, reader) =
            (serde_json::json!({"env": "NOT_SET"}), serde_json::json!({"env": "CARGO_PKG_NAME"}));
        let both = of(serde_json::json!({"token": token, "reader": reader}));
        assert_eq!(both.as_deref(), Some("token:flux-seed"));
        let one = of(serde_json::json!({"user": "me", "token": reader}));
        assert_eq!(one.as_deref(), Some("me:flux-seed"));
        assert_eq!(of(serde_json::json!({})), None);
    }
}
