//! Lists of referrers, and the signed statements in them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use ::remote::header;
use ::remote::registry::{Error as ClientError, Problem, error_code};
use documents::parallel_map;
use serde_json::Value;
use ureq::http::{Method, StatusCode};

use super::pages::{PAGES_MAX, Pages};
use super::{KEPT_BYTES_MAX, PARALLEL_MAX, Reader, invalid};
use crate::Error;
use crate::bundle::{self, Public};
use crate::oci::{Digest, INDEX};

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
    /// Returns the referrers of `subject` from the referrers API, or else from the fallback tag.
    ///
    /// Follows go-containerregistry, which cosign and Flux use. A rate limit or a server error is
    /// an error, not an empty list.
    pub(crate) fn referrers(&self, subject: &Digest) -> Result<Referrers, Error> {
        if self.lacks_referrers() {
            return self.fallback(subject);
        }
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
                    // A registry with the API may answer with an error of its own while the repository is
                    // absent. Without the API, nothing of the registry answers.
                    let code = error_code(&mut answer);
                    if code.is_empty() {
                        self.known.lacks_referrers.store(true, Relaxed);
                    }
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

    /// Whether this run has seen that the registry has no referrers API.
    pub(crate) fn lacks_referrers(&self) -> bool {
        self.known.lacks_referrers.load(Relaxed)
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

pub(crate) fn digests(entries: &[Value]) -> Vec<Digest> {
    let digest = |entry: &Value| Digest::try_from(entry["digest"].as_str()?.to_owned()).ok();
    entries.iter().filter_map(digest).collect()
}
