//! Writer for an OCI registry.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::remote::registry::{Body, Error as ClientError, Mount, Problem, Repository, Request};
use ::remote::shown;
use documents::WritePermit;
use serde_json::{Value, json};
use ureq::http::{Method, StatusCode};

use crate::Error;
use crate::bundle::{Public, Signing};
use crate::clients::registry::upload::upload;
use crate::clients::registry::{Reader, Referrers, digests};
use crate::legacy::{self, Signatures};
use crate::oci::{Blob, Digest, IMAGE_CONFIG, INDEX, MANIFEST};
use crate::parallel::{self, Job};

/// Pause before a list that a registry maintains is read again, because some registries update it late.
const LISTING_PAUSE: Duration = Duration::from_millis(500);
/// Number of times that a list of referrers is read until it shows the new entries.
const LISTINGS_MAX: usize = 6;

/// Size up to which a blob is sent without asking for it first, in bytes. The question takes a round trip,
/// in which this many bytes pass at 10 Mbit/s and 50 ms.
const UNASKED_BYTES_MAX: u64 = 64 * 1024;

/// Actions of a token that uploads.
pub(crate) const PUSH: &str = "pull,push";
/// Actions of a token that uploads and deletes, for `destroy` alone.
pub(crate) const DELETE: &str = "pull,push,delete";

#[derive(Debug)]
pub(crate) struct Writer {
    repository: Repository,
    reader: Reader,
    /// Clients that may also read another repository, by its name; `None` after a refusal.
    mounting: Mutex<BTreeMap<String, Option<Repository>>>,
}

/// Outcome of pushing a blob: sent, or already at the registry, which may have had it in another repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Sent,
    There,
}

/// Whether the registry lets this login write to the repository, and so see it.
///
/// Starts an upload and cancels it, so the repository's content stays the same. That is why an
/// observation may call this without a [`WritePermit`].
pub(crate) fn may_write(repository: &Repository) -> Result<bool, Error> {
    let begin = repository.at("blobs/uploads/");
    let answer = match repository.send(&Request::new(&Method::POST, &begin)) {
        Err(ClientError::Denied { .. }) => return Ok(false),
        answer => answer?,
    };
    // 202 opens an upload session:
    // https://github.com/opencontainers/distribution-spec/blob/main/spec.md#post-then-put
    if answer.status() != StatusCode::ACCEPTED {
        return Ok(false);
    }
    let upload = repository.location(&answer, &begin)?;
    // A failure is ignored, because the registry times out a session that is not cancelled:
    // https://github.com/opencontainers/distribution-spec/blob/main/spec.md#cancel-a-blob-upload
    let _ = repository.send(&Request::new(&Method::DELETE, &upload));
    Ok(true)
}

/// Whether a list shows `pushed` and none of `gone`.
fn is_listed(list: &Referrers, pushed: &[Value], gone: &[Digest]) -> bool {
    let all = digests(&list.entries);
    list.is_readable
        && digests(pushed).iter().all(|digest| all.contains(digest))
        && !gone.iter().any(|digest| all.contains(digest))
}

impl Writer {
    /// Creates a writer whose tokens permit the actions of `reader`'s repository.
    pub(crate) fn new(reader: Reader, repository: &Repository, _: &WritePermit) -> Self {
        Self { repository: repository.clone(), reader, mounting: Mutex::default() }
    }

    /// Uploads `blob` unless the repository has it, or can mount it from another one of this run. A small blob is sent
    /// in any case.
    pub(crate) fn push(&self, blob: &Blob) -> Result<Pushed, Error> {
        let digest = &blob.descriptor.digest;
        if blob.descriptor.size <= UNASKED_BYTES_MAX {
            upload(&self.repository, blob, None)?;
            return Ok(Pushed::Sent);
        }
        let mut pushed = Pushed::There;
        if !self.reader.has(digest)? {
            match self.mount(digest)? {
                Mount::Mounted => {}
                Mount::Begun(location) => {
                    upload(&self.repository, blob, Some(location))?;
                    pushed = Pushed::Sent;
                }
                Mount::Refused => {
                    upload(&self.repository, blob, None)?;
                    pushed = Pushed::Sent;
                }
            }
        }
        self.repository.record_blob(digest);
        Ok(pushed)
    }

    /// Mounts a blob from another repository of this run. A repository from which the registry mounts nothing is not
    /// asked again.
    fn mount(&self, digest: &Digest) -> Result<Mount, Error> {
        let Some(from) = self.repository.holder(digest) else { return Ok(Mount::Refused) };
        let known = || self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        let client = known()
            .entry(from.clone())
            .or_insert_with(|| Some(self.repository.also_pulling(&from)))
            .clone();
        let Some(client) = client else { return Ok(Mount::Refused) };
        let answer = client.mount(digest, &from)?;
        if answer == Mount::Refused {
            known().insert(from, None);
        }
        Ok(answer)
    }

    /// Uploads a manifest under a tag or its digest.
    pub(crate) fn put(&self, name: &str, kind: &str, manifest: &[u8]) -> Result<(), Error> {
        let url = self.repository.at(&format!("manifests/{name}"));
        let request = Request::new(&Method::PUT, &url).with(Body::Bytes(manifest, kind));
        let mut answer = self.repository.send(&request)?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            _ => Err(self.repository.refused(&Method::PUT, &url, &mut answer).into()),
        }
    }

    /// Returns the list of referrers under the fallback tag, if this run has seen that the registry has no
    /// list of its own.
    pub(crate) fn known_list(&self, subject: &Digest) -> Result<Option<Referrers>, Error> {
        self.reader.lacks_referrers().then(|| self.reader.fallback(subject)).transpose()
    }

    /// Adds `pushed` (descriptors of an index) to the list of referrers of `subject`, and removes
    /// `gone`. `known` is the list, if it was read just before.
    ///
    /// A registry with the referrers API maintains that list itself. If its list does not show what was
    /// pushed, or without the API, this writes the index under the fallback tag.
    pub(crate) fn list(
        &self,
        subject: &Digest,
        pushed: &[Value],
        gone: &[Digest],
        known: Option<Referrers>,
    ) -> Result<(), Error> {
        let mut known = known;
        for _ in 0..LISTINGS_MAX {
            let there = match known.take() {
                Some(known) => known,
                None => self.reader.referrers(subject)?,
            };
            if !there.native {
                return self.list_under_tag(subject, pushed, gone, Some(there));
            }
            if is_listed(&there, pushed, gone) {
                // The list of an earlier run may remain under the tag.
                let is_removal = !gone.is_empty();
                return if is_removal {
                    self.list_under_tag(subject, &[], gone, None)
                } else {
                    Ok(())
                };
            }
            documents::pause(LISTING_PAUSE)?;
        }
        if pushed.is_empty() {
            return Err(Error::Unlisted { subject: subject.to_string() });
        }
        documents::detail(
            "-",
            "the registry's own list lacks what was pushed: writing the fallback tag",
        );
        self.list_under_tag(subject, pushed, gone, None)
    }

    /// Writes the list under the fallback tag: read, merge, write, read again. No measured registry compares
    /// before it swaps, so a concurrent writer may still undo this write. The next observation
    /// shows that, and `apply` repairs it.
    fn list_under_tag(
        &self,
        subject: &Digest,
        pushed: &[Value],
        gone: &[Digest],
        known: Option<Referrers>,
    ) -> Result<(), Error> {
        let mut known = known;
        for _ in 0..LISTINGS_MAX {
            let there = match known.take() {
                Some(known) => known,
                None => self.reader.fallback(subject)?,
            };
            if is_listed(&there, pushed, gone) {
                return Ok(());
            }
            let is_kept =
                |digest: &Digest| !gone.contains(digest) && !digests(pushed).contains(digest);
            let kept = there
                .entries
                .into_iter()
                .filter(|entry| digests(std::slice::from_ref(entry)).first().is_some_and(is_kept));
            let kept: Vec<_> = kept.collect();
            // Drop an entry whose manifest is missing, because registries reject an index with one.
            let jobs = digests(&kept).into_iter().map(|digest| -> Job<'_, bool> {
                Box::new(move || Ok(self.reader.manifest(digest.as_str())?.is_some()))
            });
            let are_there = parallel::all(jobs.collect())?;
            let entries = kept.into_iter().zip(are_there).filter(|(_, is_there)| *is_there);
            let mut entries: Vec<_> = entries.map(|(entry, _)| entry).collect();
            entries.extend_from_slice(pushed);
            let tag = subject.fallback_tag();
            if entries.is_empty() {
                let Some(found) = self.reader.manifest(&tag)? else { return Ok(()) };
                self.delete_tag(&tag, &found.digest)?;
                return self.delete(&found.digest);
            }
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
            self.put(&tag, INDEX, &crate::json::bytes(&index))?;
        }
        Err(Error::Unlisted { subject: subject.to_string() })
    }

    /// Reads the signatures of `subject` in the older form, adds that of `payload`, and uploads their
    /// configuration. Signatures of others stay. Returns the manifest for [`Self::put_signatures`]; `None` if
    /// the signature is there.
    pub(crate) fn prepare_signatures(
        &self,
        subject: &Digest,
        payload: &[u8],
        signing: &Signing,
    ) -> Result<Option<Vec<u8>>, Error> {
        let tag = legacy::tag(subject);
        let mut signatures = match self.reader.manifest(&tag)? {
            None => Signatures::default(),
            Some(found) => Signatures::read(&found.bytes).ok_or_else(|| {
                let expected = "a manifest of signatures, and is not overwritten";
                let url = self.repository.at(&format!("manifests/{tag}"));
                ClientError::invalid_response(&url, Problem::NotOci { expected })
            })?,
        };
        if signatures.has(payload, &[&signing.public]) {
            return Ok(None);
        }
        signatures.add(payload, signing);
        let (config, manifest) = signatures.bytes();
        self.push(&Blob::new(IMAGE_CONFIG, config))?;
        Ok(Some(manifest))
    }

    /// Uploads the manifest of signatures, whose blobs are there, under the tag that older verifiers read.
    pub(crate) fn put_signatures(&self, subject: &Digest, manifest: &[u8]) -> Result<(), Error> {
        self.put(&legacy::tag(subject), MANIFEST, manifest)
    }

    /// Removes the signatures of `payload` by `keys`, and the tag when no other signature is left.
    pub(crate) fn unsign(
        &self,
        subject: &Digest,
        payload: &[u8],
        keys: &[&Public],
    ) -> Result<(), Error> {
        let Some(mut signatures) = self.reader.signatures(subject)? else { return Ok(()) };
        if !signatures.has(payload, keys) {
            return Ok(());
        }
        signatures.remove(payload, keys);
        if !signatures.is_empty() {
            let (config, manifest) = signatures.bytes();
            self.push(&Blob::new(IMAGE_CONFIG, config))?;
            return self.put_signatures(subject, &manifest);
        }
        let tag = legacy::tag(subject);
        let Some(found) = self.reader.manifest(&tag)? else { return Ok(()) };
        self.delete_tag(&tag, &found.digest)?;
        self.delete(&found.digest)
    }

    /// Removes a manifest, if it exists.
    pub(crate) fn delete(&self, digest: &Digest) -> Result<(), Error> {
        self.remove(digest.as_str(), false)
    }

    /// Removes a tag that still names `digest`. Must come before [`Self::delete`] because some
    /// registries keep the tags of a deleted manifest. Other registries cannot delete tags, which
    /// is no error.
    pub(crate) fn delete_tag(&self, tag: &str, digest: &Digest) -> Result<(), Error> {
        match self.reader.manifest(tag)? {
            Some(found) if found.digest == *digest => self.remove(tag, true),
            _ => Ok(()),
        }
    }

    fn remove(&self, name: &str, is_tag: bool) -> Result<(), Error> {
        let url = self.repository.at(&format!("manifests/{name}"));
        let mut answer = self.repository.send(&Request::new(&Method::DELETE, &url))?;
        match answer.status() {
            // The specification demands 202 after a deletion, and lists 404, 400 and 405 as failures:
            // https://github.com/opencontainers/distribution-spec/blob/main/spec.md#deleting-manifests
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Ok(()),
            // Measured: docker-registry 2.8 deletes by digest only, and answers 400 to a tag.
            StatusCode::BAD_REQUEST if is_tag => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => Err(Error::DeletionOff { url: shown(&url) }),
            _ => Err(self.repository.refused(&Method::DELETE, &url, &mut answer).into()),
        }
    }
}
