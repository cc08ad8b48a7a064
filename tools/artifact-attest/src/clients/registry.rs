//! Reader of an OCI registry, with the quirks of registries. Nothing in this module writes.

mod pages;
pub(crate) mod upload;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};

use ::remote::registry::{
    Error as ClientError, Found, Lookup, Problem, Repository, Request, Standing, error_code,
};
use ::remote::{header, shown};
use documents::{parallel_map, parallel_map_limited};
use serde_json::Value;
use ureq::http::{Method, StatusCode};

use crate::Error;
use crate::bundle::{self, Public};
use crate::clients::registry::pages::{PAGES_MAX, Pages};
use crate::legacy::{self, Signatures};
use crate::object_cache::ObjectCache;
use crate::oci::{Descriptor, Digest, INDEX, MANIFEST};
use crate::spec::is_tag;

/// Actions of a token that reads.
pub(crate) const PULL: &str = "pull";
/// Number of requests that are sent at the same time, as by crane (`--jobs`).
pub(crate) const PARALLEL_MAX: usize = 4;
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
}

/// List of the manifests that refer to one subject.
#[derive(Debug)]
pub(crate) struct Referrers {
    /// Whether the registry maintains the list (OCI 1.1). Otherwise each writer updates it under a
    /// tag.
    pub(crate) native: bool,
    pub(crate) entries: Vec<Value>,
    /// Whether cosign and Flux can read the list. Their library (go-containerregistry 0.21) drops
    /// the whole list if one entry has an invalid digest.
    pub(crate) is_readable: bool,
}

/// A bundle that one of our keys signed.
#[derive(Debug)]
pub(crate) struct Signed {
    /// Digest of the manifest that attaches the bundle to its subject.
    pub(crate) referrer: Digest,
    pub(crate) statement: Vec<u8>,
    /// Whether cosign and Flux accept the published bundle. A rejected bundle proves nothing, and
    /// `destroy` may remove it.
    pub(crate) is_accepted: bool,
}

impl Reader {
    pub(crate) fn new(repository: &Repository) -> Self {
        let repository = repository.clone();
        Self { repository, is_strict: false, is_lenient: false, cache: None }
    }

    /// Returns a reader for a login that may write: see [`Self::is_lenient`].
    pub(crate) fn lenient(self) -> Self {
        Self { is_lenient: true, ..self }
    }

    /// Returns a reader that takes objects by digest from `cache`.
    pub(crate) fn cached(self, cache: &ObjectCache) -> Self {
        Self { cache: Some(cache.clone()), ..self }
    }

    /// Returns a reader that asks the registry for everything.
    pub(crate) fn uncached(self) -> Self {
        Self { cache: None, ..self }
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
        self.cache.as_ref()?.get(digest)
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
        if LOOKED_INSIDE.contains(&code) || self.is_visible()? {
            return Ok(());
        }
        match self.repository.standing()? {
            Standing::Unasked => Ok(()), // a registry without logins hides nothing
            Standing::LoggedIn if !self.is_strict => Ok(()), // a hidden repository will deny the writes
            standing => Err(Error::Invisible {
                url: shown(url),
                anonymous: standing == Standing::Anonymous,
            }),
        }
    }

    /// Returns the manifest of a tag or a digest, if it exists.
    pub(crate) fn manifest(&self, name: &str) -> Result<Option<Found>, Error> {
        let known = match Digest::try_from(name.to_owned()) {
            Ok(digest) => Some(digest),
            Err(_) if self.cache.is_some() => self.head(name)?,
            Err(_) => None,
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
            Some(digest) => Ok(Some(digest)),
            // Without a digest, or with an error, the body tells more.
            None => Ok(self.manifest(tag)?.map(|found| found.digest)),
        }
    }

    /// Returns the digest that the header of a response to HEAD names; `None` where only the body of a GET
    /// tells more, such as the registry's message about an error.
    fn head(&self, tag: &str) -> Result<Option<Digest>, Error> {
        let url = self.repository.at(&format!("manifests/{tag}"));
        let accept = format!("{MANIFEST}, {INDEX}");
        let request = Request { method: &Method::HEAD, ..Request::get(&url, &accept) };
        let answer = match self.repository.send(&request) {
            Err(ClientError::Denied { .. }) => return Ok(None),
            answer => answer?,
        };
        let is_found = answer.status() == StatusCode::OK;
        let digest = header(&answer, "docker-content-digest").filter(|_| is_found);
        Ok(digest.and_then(|digest| Digest::try_from(digest).ok()))
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

    /// Returns the referrers of `subject` from the referrers API, or else from the fallback tag.
    ///
    /// Follows go-containerregistry, which cosign and Flux use. A rate limit or a server error is
    /// an error, not an empty list.
    pub(crate) fn referrers(&self, subject: &Digest) -> Result<Referrers, Error> {
        let mut all = Referrers { native: true, entries: Vec::new(), is_readable: true };
        let mut url = self.repository.at(&format!("referrers/{subject}"));
        let mut pages = Pages::default();
        while pages.is_next(&url, all.entries.len()) {
            documents::check_interrupt()?;
            let is_first = pages.seen.len() == 1;
            let page = self.repository.fetch(&url, INDEX, KEPT_BYTES_MAX).map(Some);
            let Some((mut answer, bytes)) = self.unless_denied(page, None)? else {
                return self.fallback(subject);
            };
            let kind = header(&answer, "content-type").unwrap_or_default();
            match answer.status() {
                StatusCode::OK if kind == INDEX => {
                    all.add(&bytes, &url)?;
                    let mut known = BTreeSet::new();
                    all.entries.retain(|entry| known.insert(entry.to_string()));
                    let Some(next) = self.repository.next_page(&answer) else { return Ok(all) };
                    url = next;
                }
                // Measured: GHCR answers 303 and redirects to a page of its website.
                StatusCode::OK
                | StatusCode::BAD_REQUEST
                | StatusCode::NOT_FOUND
                | StatusCode::NOT_ACCEPTABLE
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::SEE_OTHER
                    if is_first =>
                {
                    return self.fallback(subject);
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.is_lenient => {
                    return self.fallback(subject);
                }
                _ => return Err(self.repository.refused(&Method::GET, &url, &mut answer).into()),
            }
        }
        Err(invalid(&url, Problem::EndlessList { pages_max: PAGES_MAX }))
    }

    /// Returns the referrers of `subject` from the list under the fallback tag, which writers maintain.
    pub(crate) fn fallback(&self, subject: &Digest) -> Result<Referrers, Error> {
        let mut all = Referrers { native: false, entries: Vec::new(), is_readable: true };
        let tag = subject.fallback_tag();
        if let Some(found) = self.manifest(&tag)? {
            all.add(&found.bytes, &self.repository.at(&format!("manifests/{tag}")))?;
        }
        Ok(all)
    }

    /// Returns the statements about `subject` that one of `keys` signed. Stops early once cosign
    /// and Flux accept each of `desired`.
    ///
    /// The type in an entry of the list only decides the reading order because registries and other
    /// programs write arbitrary types there.
    pub(crate) fn signed(
        &self,
        subject: &Digest,
        keys: &[&Public],
        desired: &[&[u8]],
    ) -> Result<Vec<Signed>, Error> {
        let listed = self.referrers(subject)?;
        let native = listed.native;
        let mut signed = self.signed_in(listed, subject, keys, desired)?;
        // A registry may have the API and not list what writers push. They then maintain the list, too.
        if native && !is_complete(&signed, desired) {
            let more = self.signed_in(self.fallback(subject)?, subject, keys, desired)?;
            let is_new = |more: &Signed| signed.iter().all(|one| one.referrer != more.referrer);
            let more: Vec<_> = more.into_iter().filter(is_new).collect();
            signed.extend(more);
        }
        Ok(signed)
    }

    fn signed_in(
        &self,
        listed: Referrers,
        subject: &Digest,
        keys: &[&Public],
        desired: &[&[u8]],
    ) -> Result<Vec<Signed>, Error> {
        let Referrers { mut entries, is_readable, .. } = listed;
        entries.sort_by_key(|entry| !bundle::is_likely_ours(entry));
        let mut signed: Vec<Signed> = Vec::new();
        for referrers in digests(&entries).chunks(PARALLEL_MAX) {
            documents::check_interrupt()?;
            if is_complete(&signed, desired) {
                break;
            }
            let open = |referrer| self.open(referrer, subject, keys, is_readable);
            for opened in parallel_map(referrers.iter(), open) {
                signed.extend(opened?);
            }
        }
        Ok(signed)
    }

    /// Returns the statement of one referrer, if one of `keys` signed it.
    fn open(
        &self,
        referrer: &Digest,
        subject: &Digest,
        keys: &[&Public],
        is_readable: bool,
    ) -> Result<Option<Signed>, Error> {
        let Some(found) = ignore_foreign_errors(self.manifest(referrer.as_str()))? else {
            return Ok(None);
        };
        // This program publishes no bundle above the limit.
        let layer = bundle::layer(&found.bytes).filter(|layer| layer.size <= KEPT_BYTES_MAX);
        let Some(layer) = layer else { return Ok(None) };
        let Some(bundle) = ignore_foreign_errors(self.blob(&layer.digest))? else {
            return Ok(None);
        };
        let Some(opened) = keys.iter().find_map(|key| key.open(&bundle, subject)) else {
            return Ok(None);
        };
        let is_whole = layer.size == bundle.len() as u64;
        let is_accepted = is_readable && is_whole && opened.is_accepted;
        Ok(Some(Signed { referrer: referrer.clone(), statement: opened.statement, is_accepted }))
    }

    /// Returns the listed referrers of `subject` whose manifest is missing.
    pub(crate) fn dangling(&self, subject: &Digest) -> Result<Vec<Digest>, Error> {
        let mut dangling = Vec::new();
        for digest in digests(&self.referrers(subject)?.entries) {
            if ignore_foreign_errors(
                self.manifest(digest.as_str()).map(|found| Some(found.is_some())),
            )? == Some(false)
            {
                dangling.push(digest);
            }
        }
        Ok(dangling)
    }

    /// Whether a list that writers maintain has only entries of our kinds, all of whose manifests
    /// are missing.
    pub(crate) fn lists_nothing(&self, subject: &Digest) -> Result<bool, Error> {
        let Referrers { native, entries, .. } = self.referrers(subject)?;
        let are_likely_ours = !entries.is_empty() && entries.iter().all(bundle::is_likely_ours);
        Ok(!native && are_likely_ours && self.dangling(subject)?.len() == entries.len())
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

/// Whether cosign and Flux accept each of `desired`.
fn is_complete(signed: &[Signed], desired: &[&[u8]]) -> bool {
    !desired.is_empty()
        && desired.iter().all(|desired| {
            signed.iter().any(|known| known.is_accepted && known.statement == **desired)
        })
}

/// Ignores a defect of a single referrer because anyone may have written it. Errors of the registry
/// remain errors.
fn ignore_foreign_errors<T>(read: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match read {
        Err(Error::Registry(
            ClientError::Corrupt { .. }
            | ClientError::InvalidResponse { problem: Problem::TooLarge { .. }, .. },
        )) => Ok(None),
        read => read,
    }
}

impl Referrers {
    fn add(&mut self, index: &[u8], url: &str) -> Result<(), Error> {
        let index: Value = serde_json::from_slice(index).unwrap_or_default();
        match &index["manifests"] {
            Value::Array(entries) => {
                let is_valid = |entry: &Value| {
                    entry["size"].is_u64()
                        && entry["mediaType"].is_string()
                        && !digests(std::slice::from_ref(entry)).is_empty()
                };
                self.is_readable &= entries.iter().all(is_valid);
                self.entries.extend(entries.iter().filter(|entry| is_valid(entry)).cloned());
                Ok(())
            }
            Value::Null if index["schemaVersion"] == 2 => Ok(()),
            // An unreadable list that writers maintain is replaced by the next write.
            _ if !self.native => {
                self.is_readable = false;
                Ok(())
            }
            _ => Err(invalid(url, Problem::NotOci { expected: "a list of referrers" })),
        }
    }
}

fn invalid(url: &str, problem: Problem) -> Error {
    ClientError::invalid_response(url, problem).into()
}

pub(crate) fn digests(entries: &[Value]) -> Vec<Digest> {
    let digest = |entry: &Value| Digest::try_from(entry["digest"].as_str()?.to_owned()).ok();
    entries.iter().filter_map(digest).collect()
}
