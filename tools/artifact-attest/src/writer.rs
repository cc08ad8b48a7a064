//! Writes to an OCI registry. Only `apply` and `destroy` are given a [`Writer`].

use std::rc::Rc;
use std::thread;
use std::time::Duration;

use keyring::Url;
use serde_json::{Value, json};
use ureq::http::{Method, StatusCode};

use crate::Error;
use crate::answer::shown;
use crate::http::{self, Body, Http, Login};
use crate::oci::{Blob, Content, Descriptor, Digest, INDEX};
use crate::registry::{Reader, digests};

/// How often a list of referrers is looked at until it shows what was written.
const LISTINGS_MAX: usize = 6;

#[derive(Debug)]
pub(crate) struct Writer {
    http: Http,
    reader: Reader,
}

/// Whether a blob had to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Sent,
    There,
}

impl Writer {
    /// `actions` is what a token is asked for: `pull,push`, or with `delete`, which some
    /// registries do not know (quay.io answers 400 to it).
    pub(crate) fn new(
        url: &Url,
        repository: &str,
        login: Option<Rc<Login>>,
        actions: &'static str,
    ) -> Self {
        let http = Http::new(url, repository, login.clone(), actions);
        Self { http, reader: Reader::new(url, repository, login) }
    }

    /// Whether the registry lets this login write to the repository, and so see it: an upload is
    /// begun, and cancelled.
    pub(crate) fn may_write(&self) -> Result<bool, Error> {
        let begin = self.http.at("blobs/uploads/");
        let answer = match self.http.send(&Method::POST, &begin, "", Body::None) {
            Err(Error::Denied { .. }) => return Ok(false),
            answer => answer?,
        };
        if answer.status() != StatusCode::ACCEPTED {
            return Ok(false);
        }
        let upload = self.http.location(&answer, &begin)?;
        // An upload that cannot be cancelled expires.
        let _ = self.http.attempt(&Method::DELETE, &upload, "", Body::None);
        Ok(true)
    }

    /// Puts `blob` there, unless it is. An upload that is cut off is begun again.
    pub(crate) fn push(&self, blob: &Blob) -> Result<Pushed, Error> {
        if self.reader.has(&blob.descriptor.digest)? {
            return Ok(Pushed::There);
        }
        http::again(|| self.upload(blob)).map(|()| Pushed::Sent)
    }

    fn upload(&self, blob: &Blob) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = &blob.descriptor;
        let begin = self.http.at("blobs/uploads/");
        let mut answer = self.http.attempt(&Method::POST, &begin, "", Body::None)?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(self.http.refused(&Method::POST, &begin, &mut answer));
        }
        let to = self.http.location(&answer, &begin)?;
        let join = if to.contains('?') { '&' } else { '?' };
        let to = format!("{to}{join}digest={digest}");
        let body = match &blob.content {
            Content::Bytes(bytes) => Body::Bytes(bytes, "application/octet-stream"),
            Content::File(file) => Body::File(file, *size),
        };
        let mut answer = self.http.attempt(&Method::PUT, &to, "", body)?;
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(self.http.refused(&Method::PUT, &to, &mut answer)),
        }
    }

    /// Puts a manifest there under a tag or its digest.
    pub(crate) fn put(&self, name: &str, kind: &str, manifest: &[u8]) -> Result<(), Error> {
        let url = self.http.at(&format!("manifests/{name}"));
        let mut answer = self.http.send(&Method::PUT, &url, "", Body::Bytes(manifest, kind))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            _ => Err(self.http.refused(&Method::PUT, &url, &mut answer)),
        }
    }

    /// Makes `pushed` (descriptors, as an index has them) known as referrers of `subject`, and the
    /// `gone` no longer: by nothing at all, if the registry keeps that list by itself, or else by
    /// one write of the index that stands for it. Read, merge, write, read again: no registry
    /// that was measured compares before it swaps, so a writer that comes between may still undo
    /// this; whoever looks next sees it, and `apply` puts it right.
    pub(crate) fn list(
        &self,
        subject: &Digest,
        pushed: &[Value],
        gone: &[Digest],
    ) -> Result<(), Error> {
        let listed = |all: &[Value]| {
            let all = digests(all);
            digests(pushed).iter().all(|it| all.contains(it))
                && !gone.iter().any(|it| all.contains(it))
        };
        for _ in 0..LISTINGS_MAX {
            let there = self.reader.referrers(subject)?;
            if there.is_readable && listed(&there.entries) {
                return Ok(());
            }
            if there.native {
                documents::check_interrupt()?;
                thread::sleep(Duration::from_millis(500)); // some take a moment
                continue;
            }
            let mut entries = Vec::new();
            for entry in there.entries {
                let known = digests(std::slice::from_ref(&entry));
                let known =
                    known.first().filter(|it| !gone.contains(it) && !digests(pushed).contains(it));
                // An entry whose manifest has gone is dropped: registries refuse an index with one.
                if let Some(known) = known
                    && self.reader.manifest(known.as_str())?.is_some()
                {
                    entries.push(entry);
                }
            }
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

    /// Removes a manifest, if it is there.
    pub(crate) fn delete(&self, digest: &Digest) -> Result<(), Error> {
        self.remove(digest.as_str(), false)
    }

    /// Removes a tag that still names `digest`. Not all registries can, and some keep the tags of
    /// a manifest that has gone: so this comes before [`Self::delete`], never instead of it.
    pub(crate) fn delete_tag(&self, tag: &str, digest: &Digest) -> Result<(), Error> {
        match self.reader.manifest(tag)? {
            Some(found) if found.digest == *digest => self.remove(tag, true),
            _ => Ok(()),
        }
    }

    fn remove(&self, name: &str, is_tag: bool) -> Result<(), Error> {
        let url = self.http.at(&format!("manifests/{name}"));
        let mut answer = self.http.send(&Method::DELETE, &url, "", Body::None)?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Ok(()),
            // Measured: docker-registry 2.8 deletes by digest only, and says so like this.
            StatusCode::BAD_REQUEST if is_tag => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => Err(Error::DeletionOff { url: shown(&url) }),
            _ => Err(self.http.refused(&Method::DELETE, &url, &mut answer)),
        }
    }
}
