//! Reader of an OCI registry, with the quirks of registries. Nothing in this module writes.

mod pages;
mod referrers;
pub(crate) mod upload;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use ::remote::registry::PARALLEL_MAX;
use ::remote::registry::{
    Error as ClientError, Found, Lookup, Problem, Repository, Request, Standing, error_code,
};
use ::remote::{header, shown};
use documents::parallel_map_limited;
use serde_json::Value;
use ureq::http::{Method, StatusCode};

use crate::Error;
use crate::clients::registry::pages::{PAGES_MAX, Pages};
pub(crate) use crate::clients::registry::referrers::{Referrers, Signed, digests};
use crate::legacy::{self, Signatures};
use crate::object_cache::ObjectCache;
use crate::oci::{Descriptor, Digest, INDEX, MANIFEST};
use crate::spec::is_tag;

/// Actions of a token that reads.
pub(crate) const PULL: &str = "pull";
/// Largest manifest, bundle or list that is read, in bytes.
const KEPT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Error codes of a 404 that describe the contents of a repository, and so prove access to it.
/// `NAME_UNKNOWN` is absent because registries also send it for a repository that the login may not
/// see.
const LOOKED_INSIDE: [&str; 3] = ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"];

#[derive(Clone, Debug)]
pub(crate) struct Reader {
    repository: Repository,
    /// Whether a 404 of the whole repository is an error as long as this client's access to the
    /// repository is unproven.
    is_strict: bool,
    /// Whether a denied read counts as absence, because the login may write. Registries deny reads of a
    /// repository that does not exist (Docker Hub: distribution/distribution#1291), or of an absent tag
    /// (Artifactory: google/go-containerregistry#1691).
    is_lenient: bool,
    /// Objects that the registry has returned before; `None` to ask for everything.
    cache: Option<ObjectCache>,
    /// Whether objects are only put into the cache, and never taken from there.
    is_refreshing: bool,
    known: Arc<Known>,
}

/// Properties of a registry that its responses have shown in this run.
#[derive(Debug, Default)]
pub(crate) struct Known {
    sight: Mutex<Sight>,
    /// Set once a response has shown that the registry has no referrers API.
    lacks_referrers: AtomicBool,
}

/// Knowledge whether this client sees the repository, if it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sight {
    #[default]
    Unknown,
    /// The repository is absent, or hidden from this login.
    AbsentOrHidden,
    Proven,
}

/// Response to HEAD for a manifest.
enum Head {
    Named(Digest),
    Absent,
    /// Only the body of a GET tells more, such as the registry's message about an error.
    Unclear,
}

impl Reader {
    pub(crate) fn new(repository: &Repository, known: &Arc<Known>) -> Self {
        Self {
            repository: repository.clone(),
            is_strict: false,
            is_lenient: false,
            cache: None,
            is_refreshing: false,
            known: Arc::clone(known),
        }
    }

    /// Returns a reader for a login that may write: see [`Self::is_lenient`].
    pub(crate) fn lenient(self) -> Self {
        Self { is_lenient: true, ..self }
    }

    /// Returns a reader that takes objects by digest from `cache`.
    pub(crate) fn cached(self, cache: &ObjectCache) -> Self {
        Self { cache: Some(cache.clone()), ..self }
    }

    /// Returns a reader that asks the registry for everything, and puts the objects into the cache.
    pub(crate) fn refreshing(self) -> Self {
        Self { is_refreshing: true, ..self }
    }

    /// Whether the manifest and all of its blobs were in the repository within the last day.
    pub(crate) fn is_known_whole(&self, manifest: &Digest, tag: &str) -> bool {
        self.cached_object(&Digest::of(&whole(manifest, tag))).is_some()
    }

    /// Records that the manifest and all of its blobs are in the repository.
    pub(crate) fn keep_whole(&self, manifest: &Digest, tag: &str) {
        let whole = whole(manifest, tag);
        self.keep(&Digest::of(&whole), &whole);
    }

    fn cached_object(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.cache.as_ref().filter(|_| !self.is_refreshing)?.get(digest)
    }

    fn keep(&self, digest: &Digest, bytes: &[u8]) {
        if let Some(cache) = &self.cache {
            cache.put(digest, bytes);
        }
    }

    /// Turns a denied read into `absent` if this reader is lenient.
    fn unless_denied<T>(&self, read: Result<T, ClientError>, absent: T) -> Result<T, ClientError> {
        match read {
            Err(ClientError::Denied { .. }) if self.is_lenient => Ok(absent),
            read => read,
        }
    }

    /// Returns a reader that requires proof of absence: see [`Error::Invisible`].
    pub(crate) fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }

    /// Whether the registry lets this client list the repository's tags. The code of a 404 is not
    /// enough because Harbor answers `NOT_FOUND` for every missing object.
    fn is_visible(&self) -> Result<bool, Error> {
        let answer = self.repository.download(&self.repository.at("tags/list?n=1"), "");
        match answer {
            Err(ClientError::Denied { .. } | ClientError::InvalidResponse { .. }) => Ok(false),
            answer => Ok(answer?.status() == StatusCode::OK),
        }
    }

    /// Accepts a 404 as absence if the registry has shown that this client may see the repository.
    fn absent(&self, url: &str, code: &str) -> Result<(), Error> {
        // Parallel requests wait here, so that one of them asks for all.
        let mut sight = self.known.sight.lock().unwrap_or_else(PoisonError::into_inner);
        match *sight {
            Sight::Proven => return Ok(()),
            Sight::AbsentOrHidden if !self.is_strict => return Ok(()),
            Sight::Unknown | Sight::AbsentOrHidden => {}
        }
        if LOOKED_INSIDE.contains(&code) || self.is_visible()? {
            *sight = Sight::Proven;
            return Ok(());
        }
        match self.repository.standing()? {
            Standing::Unasked => *sight = Sight::Proven, // a registry without logins hides nothing
            // A hidden repository will deny the writes.
            Standing::LoggedIn if !self.is_strict => *sight = Sight::AbsentOrHidden,
            standing => {
                let anonymous = standing == Standing::Anonymous;
                return Err(Error::Invisible { url: shown(url), anonymous });
            }
        }
        Ok(())
    }

    fn sees_inside(&self) -> bool {
        *self.known.sight.lock().unwrap_or_else(PoisonError::into_inner) == Sight::Proven
    }

    /// Returns the manifest of a tag or a digest, if it exists.
    pub(crate) fn manifest(&self, name: &str) -> Result<Option<Found>, Error> {
        let digest = Digest::try_from(name.to_owned()).ok();
        let known = match &digest {
            Some(digest) => Some(digest.clone()),
            // Without the object in the cache, a GET would follow the HEAD.
            None if self.cached_object(&Digest::of(&seen(name))).is_some() => {
                match self.head(name)? {
                    Head::Named(digest) => Some(digest),
                    Head::Absent | Head::Unclear => None,
                }
            }
            None => None,
        };
        if let Some(digest) = known
            && let Some(bytes) = self.cached_object(&digest)
        {
            return Ok(Some(Found { digest, bytes }));
        }
        let accept = format!("{MANIFEST}, {INDEX}");
        let found = self.repository.manifest(name, &accept, KEPT_BYTES_MAX).map(Some);
        match self.unless_denied(found, None)? {
            None => Ok(None),
            Some(Lookup::Found(found)) => {
                self.keep(&found.digest, &found.bytes);
                if digest.is_none() {
                    self.keep(&Digest::of(&seen(name)), &seen(name));
                }
                Ok(Some(found))
            }
            Some(Lookup::Absent { url, code }) => self.absent(&url, &code).map(|()| None),
        }
    }

    /// Returns the digests that `tags` name, without the tags that do not exist.
    pub(crate) fn resolve(&self, tags: &[String]) -> Result<BTreeMap<String, Digest>, Error> {
        let resolved = parallel_map_limited(PARALLEL_MAX, tags, |tag| self.digest(tag));
        let named = tags.iter().zip(resolved);
        let named = named.filter_map(|(tag, digest)| Some((tag.clone(), digest.transpose()?)));
        named.map(|(tag, digest)| Ok((tag, digest?))).collect()
    }

    /// Returns the digest that a tag names. Asks with HEAD, because Docker Hub counts every GET of a
    /// manifest as a pull (<https://docs.docker.com/docker-hub/usage/pulls/>).
    pub(crate) fn digest(&self, tag: &str) -> Result<Option<Digest>, Error> {
        match self.head(tag)? {
            Head::Named(digest) => Ok(Some(digest)),
            Head::Absent if self.sees_inside() => Ok(None),
            Head::Absent | Head::Unclear => Ok(self.manifest(tag)?.map(|found| found.digest)),
        }
    }

    fn head(&self, tag: &str) -> Result<Head, Error> {
        let url = self.repository.at(&format!("manifests/{tag}"));
        let accept = format!("{MANIFEST}, {INDEX}");
        let request = Request { method: &Method::HEAD, ..Request::get(&url, &accept) };
        let answer = match self.repository.send(&request) {
            Err(ClientError::Denied { .. }) => return Ok(Head::Unclear),
            answer => answer?,
        };
        let digest = match answer.status() {
            StatusCode::NOT_FOUND => return Ok(Head::Absent),
            StatusCode::OK => header(&answer, "docker-content-digest"),
            _ => None,
        };
        let digest = digest.and_then(|digest| Digest::try_from(digest).ok());
        Ok(digest.map_or(Head::Unclear, Head::Named))
    }

    /// Returns the signatures of `subject` in the older form; `None` if there are none.
    pub(crate) fn signatures(&self, subject: &Digest) -> Result<Option<Signatures>, Error> {
        let found = self.manifest(&legacy::tag(subject))?;
        Ok(found.and_then(|found| Signatures::read(&found.bytes)))
    }

    /// Whether a blob exists. Only [`Self::check`] verifies its content.
    pub(crate) fn has(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.unless_denied(self.repository.has(digest), false)?)
    }

    /// Returns a blob that fits into memory, if it exists.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        if let Some(bytes) = self.cached_object(digest) {
            return Ok(Some(bytes));
        }
        let blob = self.unless_denied(self.repository.blob(digest, KEPT_BYTES_MAX), None)?;
        if let Some(bytes) = &blob {
            self.keep(digest, bytes);
        }
        Ok(blob)
    }

    /// Reads a blob to its end, and compares its digest.
    pub(crate) fn check(&self, descriptor: &Descriptor) -> Result<(), Error> {
        Ok(self.repository.check(descriptor)?)
    }

    /// Returns every tag of the repository.
    pub(crate) fn tags(&self) -> Result<Vec<String>, Error> {
        let (mut tags, mut url) = (BTreeSet::new(), self.repository.at("tags/list?n=1000"));
        let mut pages = Pages::default();
        while pages.is_next(&url, tags.len()) {
            documents::check_interrupt()?;
            let page = self.repository.fetch(&url, "", KEPT_BYTES_MAX).map(Some);
            let Some((mut answer, bytes)) = self.unless_denied(page, None)? else {
                return Ok(Vec::from_iter(tags));
            };
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    let code = error_code(&mut answer);
                    return self.absent(&url, &code).map(|()| Vec::from_iter(tags));
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.is_lenient => {
                    return Ok(Vec::from_iter(tags));
                }
                _ => return Err(self.repository.refused(&Method::GET, &url, &mut answer).into()),
            }
            let list: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            // Measured: docker-registry answers null once the last tag has been deleted.
            match &list["tags"] {
                Value::Null if list["name"].is_string() => {}
                Value::Array(list) => {
                    let names = list.iter().filter_map(Value::as_str);
                    tags.extend(names.filter(|name| is_tag(name)).map(str::to_owned));
                }
                _ => return Err(invalid(&url, Problem::NotOci { expected: "a list of tags" })),
            }
            let Some(next) = self.repository.next_page(&answer) else {
                return Ok(Vec::from_iter(tags));
            };
            url = next;
        }
        Err(invalid(&url, Problem::EndlessList { pages_max: PAGES_MAX }))
    }
}

/// Returns the record in the cache about a manifest with all of its blobs. `tag` stands for the source and
/// the configuration.
fn whole(manifest: &Digest, tag: &str) -> Vec<u8> {
    format!("{manifest} is whole as {tag}").into_bytes()
}

/// Returns the record in the cache about a tag that existed.
fn seen(tag: &str) -> Vec<u8> {
    format!("{tag} was there").into_bytes()
}

fn invalid(url: &str, problem: Problem) -> Error {
    ClientError::invalid_response(url, problem).into()
}
