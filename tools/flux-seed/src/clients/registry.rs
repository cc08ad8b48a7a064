//! Registry client: resolves a tag to a digest, and reads manifests and blobs by digest.

use contract::Registry;
use data_encoding::BASE64;
use documents::Diagnostic as _;
use remote::registry::{self, Descriptor, Digest, Login, Lookup, Repository, default_user};

use crate::Error;
use crate::lifetime::short_lived;

/// Manifests are a few kilobytes. Registries reject larger ones than 4 MiB.
const MANIFEST_MAX_BYTES: u64 = 4 << 20;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Failed request.
#[derive(Debug)]
pub(crate) enum Failed {
    /// A signal ended the run.
    Interrupted(documents::Error),
    /// The content cannot be read.
    Unreadable {
        /// Cause, with the registry's own words.
        why: String,
        /// Whether a retry may help.
        temporary: bool,
    },
}

impl Failed {
    pub(crate) fn permanent(why: &impl ToString) -> Self {
        Self::Unreadable { why: why.to_string(), temporary: false }
    }

    /// Returns the error of this program, which `error` makes from the cause and from whether a retry may
    /// help.
    pub(crate) fn into_error(self, error: impl FnOnce(String, bool) -> Error) -> Error {
        match self {
            Self::Interrupted(interrupted) => interrupted.into(),
            Self::Unreadable { why, temporary } => error(why, temporary),
        }
    }
}

/// Reader of one registry.
pub(crate) struct Reader {
    registry: registry::Registry,
    /// Path in front of every repository; may be empty.
    path: String,
}

impl Reader {
    pub(crate) fn open(registry: &Registry) -> Result<Self, Failed> {
        let login = login(registry).map_err(|error| Failed::permanent(&error))?;
        let authorities = remote::authorities_of(registry.certificate_authority.as_deref());
        let authorities = authorities.map_err(|why| Failed::permanent(&why))?;
        let client = registry::Registry::trusting("flux-seed", &registry.url, login, &authorities);
        Ok(Self {
            registry: client.map_err(|error| Failed::permanent(&error))?,
            path: registry.url.path().to_owned(),
        })
    }

    fn repository(&self, name: &str) -> Repository {
        let parts = [self.path.as_str(), name].into_iter().filter(|part| !part.is_empty());
        self.registry.repository(&parts.collect::<Vec<_>>().join("/"), "pull")
    }

    /// Resolves `tag` of `repository` to the digest that it has now.
    pub(crate) fn digest(&self, repository: &str, tag: &str) -> Result<Digest, Failed> {
        Ok(lookup(&self.repository(repository), tag)?.digest)
    }

    /// Reads a manifest by its digest.
    pub(crate) fn manifest(&self, repository: &str, digest: &str) -> Result<Vec<u8>, Failed> {
        Ok(lookup(&self.repository(repository), digest)?.bytes)
    }

    /// Reads a blob of at most `bytes_max` bytes, and compares its digest and its size.
    pub(crate) fn blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        bytes_max: u64,
    ) -> Result<Vec<u8>, Failed> {
        let blob = self.repository(repository).described_blob(descriptor, bytes_max);
        blob.map_err(failed)?.ok_or_else(not_found)
    }
}

fn lookup(repository: &Repository, name: &str) -> Result<registry::Found, Failed> {
    match repository.manifest(name, ACCEPT, MANIFEST_MAX_BYTES).map_err(failed)? {
        Lookup::Found(found) => Ok(found),
        Lookup::Absent { .. } => Err(not_found()),
    }
}

fn not_found() -> Failed {
    Failed::permanent(&"not found in the registry")
}

/// Returns an error with its causes, and with the help for this cause.
fn failed(error: registry::Error) -> Failed {
    let temporary = error.is_transient();
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    if let registry::Error::Interrupted(interrupted) = error {
        return Failed::Interrupted(interrupted);
    }
    let Some(help) = error.help() else { return Failed::Unreadable { why, temporary } };
    Failed::Unreadable { why: format!("{why}; {help}"), temporary }
}

/// Returns the login for the registry. The `reader` token has precedence, because a cluster must not get
/// the token that can write.
fn login(registry: &Registry) -> Result<Option<Login>, secrets::Error> {
    let Some(token) = registry.reader.as_ref().or(registry.token.as_ref()) else {
        return Ok(None);
    };
    let token = token.resolve()?;
    let user = match &registry.user {
        Some(user) => user.clone(),
        // Registries such as GHCR ignore the user name but require that it is not empty.
        None => default_user(registry.url.host(), token.text()?).unwrap_or("token").to_owned(),
    };
    Ok(Some(Login { user, token }))
}

/// Returns the credentials that the cluster gets as Docker's `auth`: `user:token` in base64.
pub(crate) fn credentials(registry: &Registry) -> Result<Option<String>, Error> {
    let Some(Login { user, token }) = login(registry)? else { return Ok(None) };
    let (host, token) = (registry.url.host(), token.text()?);
    if let Some(token) = short_lived(host, &user, token) {
        return Err(Error::ExpiringToken { registry: host.to_owned(), token });
    }
    Ok(Some(BASE64.encode(format!("{user}:{token}").as_bytes())))
}

/// Whether the Project has a token for the registry, either `reader` or `token`.
pub(crate) fn has_credentials(registry: &Registry) -> bool {
    registry.reader.is_some() || registry.token.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

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
