//! Binary cache of Nix, to which artifact-attest copies build results.

use git::Url;
use schemars::JsonSchema;
use secrets::Reference;
use serde::{Deserialize, Serialize};

/// Binary cache for the results of builds. The key `artifact-attest/cache` signs each store path, so that
/// machines which trust its public key (`artifact-attest derive` prints it) need no second build.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BinaryCache {
    /// URL of the cache as `nix copy --to` takes it: `s3://BUCKET?endpoint=HOST&region=REGION`, or
    /// `file:///FOLDER`. Nix compresses with `compression=zstd` unless the URL names another method.
    pub url: CacheUrl,
    /// Credentials that may write to the bucket: a map, or JSON text, with `accessKeyId` and
    /// `secretAccessKey` (default: those that Nix finds, for example in `AWS_ACCESS_KEY_ID`).
    pub credentials: Option<Reference>,
    /// Credentials that may only read, in the same format, which `plan` and `verify` use (default:
    /// `credentials`).
    pub reader: Option<Reference>,
}

/// URL of a binary cache in a bucket (`s3://`) or in a folder of this machine (`file:///`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^(s3://[a-z0-9]|file:///)[^\\s\"#]*$"))]
pub struct CacheUrl(String);

impl CacheUrl {
    /// Returns the URL as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the URL with one more parameter, unless it has the parameter already.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        if self.parameter(name).is_some() {
            return self.clone();
        }
        let separator = if self.0.contains('?') { '&' } else { '?' };
        Self(format!("{}{separator}{name}={value}", self.0))
    }

    /// Whether the cache is on this machine: a folder, or a bucket of a server on a loopback address.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.0.starts_with("file:///") || self.endpoint().is_some_and(|url| url.is_loopback())
    }

    /// Returns the URL of the bucket's server. Without `endpoint`, it is Amazon's.
    fn endpoint(&self) -> Option<Url> {
        let host = self.parameter("endpoint")?;
        let host = host.split_once("://").map_or(host, |(_, host)| host);
        Url::try_from(format!("https://{host}")).ok()
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let (_, parameters) = self.0.split_once('?')?;
        let mut pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}

impl TryFrom<String> for CacheUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_allowed =
            |letter: char| letter.is_ascii_graphic() && !['#', '\\', '"'].contains(&letter);
        let place = text.split('?').next().unwrap_or_default();
        let is_bucket = place.strip_prefix("s3://").is_some_and(|bucket| {
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            (3..=63).contains(&bucket.len())
                && bucket.bytes().next().is_some_and(is_word)
                && bucket.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
        });
        let is_folder = place.strip_prefix("file:///").is_some_and(|folder| !folder.is_empty());
        if !(is_bucket || is_folder) || !text.chars().all(is_allowed) {
            return Err(
                "not a binary cache: write s3://BUCKET?endpoint=HOST&region=REGION, or file:///FOLDER"
                    .to_owned(),
            );
        }
        let url = Self(text);
        if url.parameter("secret-key").is_some() || url.parameter("secret-keys").is_some() {
            return Err("the signing key derives from the root: leave `secret-key` out".to_owned());
        }
        if url.parameter("scheme") == Some("http") && !url.is_local() {
            return Err("`scheme=http` is for an `endpoint` on this machine only".to_owned());
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<CacheUrl, String> {
        CacheUrl::try_from(text.to_owned())
    }

    #[test]
    fn a_bucket_or_a_folder_is_accepted_and_nothing_else() {
        for text in [
            "s3://holistic-cache",
            "s3://holistic-cache?endpoint=fsn1.your-objectstorage.com&region=fsn1",
            "s3://cache?endpoint=127.0.0.1:7070&scheme=http",
            "file:///srv/cache",
            "file:///srv/cache?compression=none",
        ] {
            assert_eq!(url(text).as_ref().map(CacheUrl::as_str), Ok(text));
        }
        for text in [
            "https://cache.example.org",
            "s3://",
            "s3://ab",
            "s3://Capital",
            "file://relative",
            "file:///",
            "file:///a b",
            "s3://cache?endpoint=x\"y",
            "s3://cache?secret-key=/srv/key",
            "s3://cache?endpoint=storage.example.org&scheme=http",
            "s3://cache?scheme=http",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_and_a_loopback_endpoint_are_on_this_machine() {
        for (text, is_local) in [
            ("file:///srv/cache", true),
            ("s3://cache?endpoint=127.0.0.1:7070", true),
            ("s3://cache?region=eu&endpoint=http://localhost:7070", true),
            ("s3://cache", false),
            ("s3://cache?endpoint=fsn1.your-objectstorage.com", false),
            ("s3://cache?profile=127.0.0.1", false),
        ] {
            assert_eq!(url(text).map(|url| url.is_local()), Ok(is_local), "{text}");
        }
    }

    #[test]
    fn a_parameter_is_added_once_and_the_written_one_wins() -> Result<(), String> {
        let plain = url("s3://cache")?.with("compression", "zstd");
        assert_eq!(plain.as_str(), "s3://cache?compression=zstd");
        assert_eq!(plain.with("a", "b").as_str(), "s3://cache?compression=zstd&a=b");
        assert_eq!(
            url("s3://cache?compression=xz")?.with("compression", "zstd").as_str(),
            "s3://cache?compression=xz"
        );
        Ok(())
    }
}
