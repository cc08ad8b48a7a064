//! Endpoints of a Project: the remotes and the credentials for them.

use std::collections::BTreeMap;

use git::Url;
use schemars::JsonSchema;
use secrets::{Reference, Secret};
use serde::Deserialize;
use serde_json::Value;

use crate::ContractError;
use crate::binary_cache::BinaryCache;

/// URLs of the remotes, and references to their credentials.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoints {
    /// Forge that hosts the repositories.
    pub forge: Option<Forge>,
    /// Registry to which artifacts are published.
    pub registry: Option<Registry>,
    /// Cloud that runs the machines.
    pub cloud: Option<Cloud>,
    /// Object store that keeps drained data.
    pub store: Option<Store>,
    /// Registry of the images of Flux's controllers, for example a mirror (default
    /// `https://ghcr.io/fluxcd`). The images have the digests of Flux's release. Only a registry on a
    /// loopback address, such as a lab's, may have others, which are resolved by their tag.
    pub flux: Option<Registry>,
    /// Settings of Nix builds on this machine.
    pub nix: Option<Nix>,
}

/// Forge that hosts repositories.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Forge {
    /// GitHub, GitHub Enterprise Cloud or GitHub Enterprise Server.
    Github {
        /// URL of the REST API, for example `https://api.github.com`.
        url: Url,
        /// Personal access token, or token of an app (<https://docs.github.com/en/rest/authentication>).
        token: Reference,
        /// GitHub App that vcs-bootstrap uses in place of `token`, so that no person's token is needed.
        /// The other programs use `token`, which then needs to read only.
        #[serde(default)]
        app: Option<App>,
    },
    /// Gitea or Forgejo. The programs ask the instance which of the two it is.
    Gitea {
        /// URL of the instance without `/api/v1`, for example `https://git.example.org`.
        url: Url,
        /// Access token of a user (<https://docs.gitea.com/development/api-usage>).
        token: Reference,
    },
}

/// GitHub App. Its key is exchanged for installation tokens, which are valid for one hour
/// (<https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/authenticating-as-a-github-app-installation>).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct App {
    /// Client ID of the App, or its number, for example `Iv23liAbCdEfGhIjKlMn`.
    pub client_id: String,
    /// Private key of the App in PEM, as GitHub generates it.
    pub key: Reference,
}

/// OCI registry that holds artifacts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Registry {
    /// URL including the namespace, for example `https://ghcr.io/zabronax`.
    pub url: Url,
    /// User to whom the token belongs, for registries that check the user: the Docker ID at Docker Hub, the
    /// robot's name at Quay and Harbor (default: `AWS` at Amazon's registries, `oauth2accesstoken` or
    /// `_json_key` at Google's, the empty GUID at Azure's, otherwise any name).
    pub user: Option<String>,
    /// Token that may push. Without a token, artifact-attest uses the login of `docker login`, `podman
    /// login` or a credential helper; without such a login, requests are anonymous.
    pub token: Option<Reference>,
    /// Token that may only pull, which the cluster receives (default: `token`).
    pub reader: Option<Reference>,
    /// Certificates in PEM of the private authorities that sign the registry's certificate. They are trusted
    /// beside the system's, by the programs on this machine and by Flux's source. Machines trust them if
    /// `registries` of the Cluster names them for the host.
    pub certificate_authority: Option<String>,
}

/// Cloud that runs machines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Cloud {
    /// Hetzner Cloud, described at <https://docs.hetzner.cloud>.
    Hetzner {
        /// URL of the API: `https://api.hetzner.cloud/v1`.
        url: Url,
        /// API token with the permission "Read & Write".
        token: Reference,
        /// API token with the permission "Read", which `plan` and `verify` use (default: `token`).
        #[serde(default)]
        reader: Option<Reference>,
    },
}

/// Object store that keeps drained data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Store {
    /// Object store with the S3 API.
    S3 {
        /// URL without the bucket, for example `https://fsn1.your-objectstorage.com`.
        url: Url,
        /// Region in the signature of requests, for example `fsn1`.
        region: String,
        /// Bucket that holds every pack and receipt.
        bucket: String,
        /// Credentials that may write: a map, or JSON text, with `accessKeyId` and `secretAccessKey`.
        credentials: Reference,
        /// Credentials that may only read, in the same format, which `plan` and `verify` use to check that
        /// the copies exist (default: `credentials`).
        #[serde(default)]
        reader: Option<Reference>,
    },
}

/// Settings of Nix builds on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Nix {
    /// Flake inputs to override, for example `nixpkgs: path:/srv/nixpkgs`.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// Binary cache to which the results of Artifacts with `build.cache: true` are copied.
    pub cache: Option<BinaryCache>,
}

/// Credentials that sign requests to an S3 store.
#[derive(Clone, Debug)]
pub struct S3Credentials {
    /// Access key ID, which is public.
    pub access_key_id: String,
    /// Secret access key, which signs requests.
    pub secret_access_key: Secret,
}

impl S3Credentials {
    /// Resolves `reference`, and parses `{"accessKeyId": …, "secretAccessKey": …}`.
    ///
    /// # Errors
    ///
    /// The reference cannot be resolved, or [`ContractError::NotCredentials`].
    pub fn resolve(reference: &Reference) -> Result<Self, secrets::Error> {
        let wrong = || ContractError::NotCredentials(reference.to_string());
        let secret = reference.resolve()?;
        let mut value: Value = serde_json::from_slice(secret.expose()).map_err(|_| wrong())?;
        let mut take = |name: &str| match value.get_mut(name).map(Value::take) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            _ => Err(wrong()),
        };
        let access_key_id = take("accessKeyId")?;
        let secret_access_key = Secret::new(take("secretAccessKey")?.into_bytes());
        Ok(Self { access_key_id, secret_access_key })
    }
}

impl Forge {
    /// Checks that the clone URL `clone` is at this forge, so that the token may be sent there. The URL
    /// comes from an answer of the forge or from a status, and neither may decide which host receives
    /// a token.
    ///
    /// # Errors
    ///
    /// [`ContractError::ForeignOrigin`] when scheme, host or port differ.
    pub fn owns(&self, clone: &Url) -> Result<(), secrets::Error> {
        let (api, git) = match self {
            Self::Gitea { url, .. } => (url, authority(url)),
            // GitHub's API is at api.github.com or api.SUBDOMAIN.ghe.com, and git is at the same
            // host without `api.`; GitHub Enterprise Server has both at one host.
            // https://docs.github.com/en/rest/using-the-rest-api/getting-started-with-the-rest-api
            Self::Github { url, .. } => {
                let authority = authority(url);
                let git = authority.strip_prefix("api.").map(str::to_owned);
                (url, git.unwrap_or(authority))
            }
        };
        if (api.is_plain(), git) == (clone.is_plain(), authority(clone)) {
            return Ok(());
        }
        let (url, forge) = (clone.clone(), api.clone());
        Err(ContractError::ForeignOrigin { url, forge }.into())
    }
}

/// Returns the host in lower case, with its port unless the port is the scheme's default.
fn authority(url: &Url) -> String {
    let host = url.host().to_ascii_lowercase();
    let default = if url.is_plain() { ":80" } else { ":443" };
    host.strip_suffix(default).map_or(host.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forge_owns_clone_urls_at_its_own_origin_only() {
        let url = |text: &str| Url::try_from(text.to_owned()).expect("an address");
        let token: Reference =
            serde_json::from_value(serde_json::json!({"env": "X"})).expect("a reference");
        let github = |text: &str| Forge::Github { url: url(text), token: token.clone(), app: None };
        let gitea = |text: &str| Forge::Gitea { url: url(text), token: token.clone() };
        for (forge, clone) in [
            (github("https://api.github.com"), "https://github.com/o/r.git"),
            (github("https://api.github.com"), "https://GitHub.com:443/o/r.git"),
            (github("https://api.acme.ghe.com"), "https://acme.ghe.com/o/r.git"),
            (github("https://git.acme.org/api/v3"), "https://git.acme.org/o/r.git"),
            (gitea("https://git.acme.org:3000/gitea"), "https://git.acme.org:3000/gitea/o/r.git"),
        ] {
            assert!(forge.owns(&url(clone)).is_ok(), "{clone}");
        }
        for (forge, clone) in [
            (github("https://api.github.com"), "https://github.com.evil.org/o/r.git"),
            (github("https://api.github.com"), "https://gist.github.com/o/r.git"),
            (github("https://api.github.com"), "https://github.com:8443/o/r.git"),
            (gitea("https://git.acme.org"), "https://git.acme.org:3000/o/r.git"),
            (gitea("https://api.acme.org"), "https://acme.org/o/r.git"),
            (gitea("https://127.0.0.1:3000"), "http://127.0.0.1:3000/o/r.git"),
        ] {
            assert!(forge.owns(&url(clone)).is_err(), "{clone}");
        }
    }
}
