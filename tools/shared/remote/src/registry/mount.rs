//! Blobs that another repository of the same registry has, which the registry can mount instead of receiving them again
//! (<https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#mounting-a-blob-from-another-repository>).
//!
//! A registry may answer anything but 201, and the blob is then uploaded: Amazon ECR and GitLab open an upload (202)
//! unless mounting is enabled, and docker-registry rejects a token that may not pull from the other repository.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ureq::http::{Method, StatusCode};

use super::digest::Digest;
use super::error::Error;
use super::repository::{Repository, State, lock, site};
use super::request::Request;

/// Repositories that have a blob, by registry with login, and by digest. Each document has a client of its own, so the
/// knowledge of a run is kept here.
static HOLDERS: Mutex<BTreeMap<(String, Digest), BTreeMap<Digest, String>>> =
    Mutex::new(BTreeMap::new());

/// Response to a request to mount a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// The repository has the blob.
    Mounted,
    /// The registry has opened an upload at this URL instead.
    Begun(String),
    /// The registry does not mount from that repository. The blob can still be uploaded.
    Refused,
}

impl Repository {
    /// Returns the registry, and the digest of the login in use, which only this process sees.
    fn account(&self) -> (String, Digest) {
        let login = self.0.registry.login.get().and_then(Option::as_ref);
        let basic = login.and_then(|login| login.basic().ok()).unwrap_or_default();
        (site(&self.0.registry.url), Digest::of(basic.as_bytes()))
    }

    /// Records that this repository has a blob.
    pub fn record_blob(&self, digest: &Digest) {
        let mut holders = lock(&HOLDERS);
        let of_login = holders.entry(self.account()).or_default();
        of_login.entry(digest.clone()).or_insert_with(|| self.0.name.clone());
    }

    /// Returns another repository that has a blob, and that the same login has used in this run.
    #[must_use]
    pub fn holder(&self, digest: &Digest) -> Option<String> {
        let holders = lock(&HOLDERS);
        let name = holders.get(&self.account())?.get(digest)?;
        (*name != self.0.name).then(|| name.clone())
    }

    /// Returns a client of the same repository, whose tokens also permit reads of the repository `from`.
    #[must_use]
    pub fn also_pulling(&self, from: &str) -> Self {
        Self(Arc::new(State {
            registry: Arc::clone(&self.0.registry),
            name: self.0.name.clone(),
            actions: self.0.actions,
            also: format!("repository:{from}:pull"),
            // A registry without tokens needs no second challenge.
            authorization: Mutex::new(lock(&self.0.authorization).clone()),
            turn: Mutex::default(),
            standing: Mutex::new(*lock(&self.0.standing)),
        }))
    }

    /// Requests once to mount a blob from the repository `from`, for a client of [`Self::also_pulling`]. Every failure
    /// is a refusal, because an upload does not need the right to read the other repository.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn mount(&self, digest: &Digest, from: &str) -> Result<Mount, Error> {
        let begin = self.at("blobs/uploads/");
        let url = format!("{begin}?mount={digest}&from={from}");
        let request = Request::new(&Method::POST, &url);
        let response = self.again(|retries| match self.attempt(&request, retries) {
            Err(error @ Error::Interrupted(_)) => Err(error),
            response => Ok(response),
        });
        let Ok(response) = response? else { return Ok(Mount::Refused) };
        Ok(match response.status() {
            StatusCode::CREATED => Mount::Mounted,
            StatusCode::ACCEPTED => {
                self.location(&response, &begin).map_or(Mount::Refused, Mount::Begun)
            }
            _ => Mount::Refused,
        })
    }
}
