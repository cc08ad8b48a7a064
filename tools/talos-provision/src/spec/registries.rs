//! Registries from which machines pull images: mirrors, credentials and TLS.

use std::collections::BTreeMap;

use contract::checked_text;
use schemars::JsonSchema;
use secrets::Reference;
use serde::Deserialize;

/// Registries from which every machine pulls images, in the terms of Talos's documents
/// `RegistryMirrorConfig`, `RegistryAuthConfig` and `RegistryTLSConfig`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Registries {
    /// Mirrors by the name of their registry: the first part of an image's name, for example `docker.io`.
    /// `*` stands for every registry without a mirror of its own. A running machine uses a changed mirror
    /// for the next image.
    pub mirrors: BTreeMap<RegistryName, RegistryMirror>,
    /// Credentials and TLS by the endpoint that is asked: a registry or a mirror, for example `ghcr.io` or
    /// `mirror.example.org:5000`.
    pub config: BTreeMap<RegistryEndpoint, RegistryConfig>,
}

/// Mirror of a registry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryMirror {
    /// Endpoints in the order in which they are asked, for example `https://mirror.example.org:5000`.
    pub endpoints: Vec<MirrorUrl>,
    /// Whether the paths of the endpoints are used as they are, without `/v2` at their end (default false).
    #[serde(default)]
    pub override_path: bool,
    /// Whether the registry itself is not asked when no endpoint has the image (default false).
    #[serde(default)]
    pub skip_fallback: bool,
}

/// Credentials and TLS of an endpoint.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RegistryConfig {
    /// Credentials, which every pod of the cluster can use. When they change, machines restart one after
    /// the other, because containerd reads credentials only when it starts.
    pub auth: Option<RegistryAuth>,
    /// TLS of the endpoint.
    pub tls: Option<RegistryTls>,
}

/// Credentials of an endpoint: `username` with `password`, or `auth`, or `identityToken`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RegistryAuth {
    /// User name, for example `robot`.
    pub username: Option<String>,
    /// Password or token of the user.
    pub password: Option<Reference>,
    /// The base64 text of user, colon and password, as the file `config.json` of Docker has it.
    pub auth: Option<Reference>,
    /// Token with which the registry's token service issues tokens for pulls.
    pub identity_token: Option<Reference>,
}

impl RegistryAuth {
    /// Returns whether the fields are one of the three forms.
    pub(crate) fn is_complete(&self) -> bool {
        let Self { username, password, auth, identity_token } = self;
        matches!(
            (username.as_deref(), password, auth, identity_token),
            (Some(user), Some(_), None, None) if !user.is_empty()
        ) || matches!(
            (username, password, auth, identity_token),
            (None, None, Some(_), None) | (None, None, None, Some(_))
        )
    }
}

/// TLS of an endpoint. A running machine uses a change for the next image.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RegistryTls {
    /// Certificates of authorities in PEM, which are trusted beside those of the system.
    pub ca: Option<Pem>,
    /// Whether the certificate of the endpoint is not verified (default false).
    pub insecure_skip_verify: bool,
}

checked_text! {
    /// Name of a registry, for example `docker.io`, or `*`.
    RegistryName,
    is_name,
    "neither `*` nor a host with an optional port, for example `docker.io`"
}
checked_text! {
    /// Host of an endpoint with an optional port, for example `mirror.example.org:5000`.
    RegistryEndpoint,
    is_host,
    "not a host with an optional port, for example `mirror.example.org:5000`"
}
checked_text! {
    /// URL of a mirror, for example `https://mirror.example.org:5000`.
    MirrorUrl,
    is_mirror,
    "not a URL such as `https://mirror.example.org:5000`, without user, query and fragment"
}
checked_text! {
    /// Certificates in PEM.
    Pem,
    is_pem,
    "not a certificate in PEM"
}

fn is_name(text: &str) -> bool {
    text == "*" || is_host(text)
}

fn is_host(text: &str) -> bool {
    let is_allowed = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter)
    };
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_labels = !host.is_empty()
        && host.chars().all(is_allowed)
        && host.split('.').all(|label| !label.is_empty() && !label.starts_with('-'));
    let is_port =
        |port: &str| !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_labels && port.is_none_or(is_port)
}

fn is_mirror(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        let is_plain = |letter: char| letter.is_ascii_graphic() && !"@?#\"\\".contains(letter);
        is_host(host) && rest.chars().all(is_plain)
    })
}

fn is_pem(text: &str) -> bool {
    let begins = text.matches("-----BEGIN CERTIFICATE-----").count();
    let is_line = |line: &str| line.is_ascii() && !line.contains("PRIVATE KEY");
    begins > 0
        && begins == text.matches("-----END CERTIFICATE-----").count()
        && text.lines().all(is_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_by_host_and_port() {
        for text in ["docker.io", "127.0.0.1:5000", "a-b.example.org:443", "localhost"] {
            assert!(is_host(text) && is_name(text), "{text}");
        }
        for text in ["", "https://ghcr.io", "ghcr.io/zab", "a..b", "Host", "a:0", "a:70000", "a:b"]
        {
            assert!(!is_host(text) && !is_name(text), "{text}");
        }
        assert!(is_name("*") && !is_host("*"));
    }

    #[test]
    fn mirrors_are_urls_without_credentials() {
        for text in ["https://mirror.example.org", "http://127.0.0.1:5000/v2/proxy"] {
            assert!(is_mirror(text), "{text}");
        }
        for text in
            ["mirror.example.org", "ftp://a", "https://user:word@a", "https://a?b", "https://"]
        {
            assert!(!is_mirror(text), "{text}");
        }
    }

    #[test]
    fn credentials_have_exactly_one_form() {
        let auth = |text: &str| serde_saphyr::from_str::<RegistryAuth>(text).expect("fields");
        for text in
            ["{username: a, password: {env: T}}", "{auth: {file: t}}", "{identityToken: {env: T}}"]
        {
            assert!(auth(text).is_complete(), "{text}");
        }
        for text in [
            "{}",
            "{username: a}",
            "{username: '', password: {env: T}}",
            "{password: {env: T}}",
            "{username: a, auth: {env: T}}",
            "{auth: {env: T}, identityToken: {env: T}}",
        ] {
            assert!(!auth(text).is_complete(), "{text}");
        }
    }

    #[test]
    fn only_whole_certificates_are_accepted_as_an_authority() {
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert!(is_pem(certificate) && is_pem(&certificate.repeat(2)));
        for text in
            ["", "MIIB", "-----BEGIN CERTIFICATE-----\nMIIB", "-----BEGIN PRIVATE KEY-----\n"]
        {
            assert!(!is_pem(text), "{text}");
        }
    }
}
