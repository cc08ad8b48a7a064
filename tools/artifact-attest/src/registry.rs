//! An OCI registry. A reader and a writer, so that code that plans cannot write; and all the
//! quirks of registries.

use std::io::Read as _;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use keyring::Url;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ureq::http::{Method, StatusCode};

use crate::Error;
use crate::bundle::{self, Public};
use crate::http::{self, Body, Http, Login, header, kept, refused, shown};
use crate::oci::{Blob, Content, Descriptor, Digest, INDEX, MANIFEST};

/// Longest list of tags, in pages.
const PAGES_MAX: usize = 100;
/// Most referrers of one manifest that are looked at.
const REFERRERS_MAX: usize = 256;
/// How often a list of referrers is looked at until it shows what was written.
const LISTINGS_MAX: usize = 6;

#[derive(Debug)]
pub(crate) struct Reader(Http);

#[derive(Debug)]
pub(crate) struct Writer {
    http: Http,
    reader: Reader,
}

/// A manifest, as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

/// What refers to a manifest.
#[derive(Debug)]
pub(crate) struct Referrers {
    /// Whether the registry keeps this list, or whoever writes does.
    pub(crate) native: bool,
    pub(crate) entries: Vec<Value>,
}

/// A bundle that is signed by us.
#[derive(Debug)]
pub(crate) struct Signed {
    /// Of the manifest by which it refers to its subject.
    pub(crate) referrer: Digest,
    pub(crate) statement: Vec<u8>,
}

/// Whether a blob had to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Sent,
    There,
}

impl Reader {
    pub(crate) fn new(url: &Url, repository: &str, login: Option<Rc<Login>>) -> Self {
        Self(Http::new(url, repository, login, "pull"))
    }

    /// The manifest that a tag or a digest names, if there is one.
    pub(crate) fn manifest(&self, name: &str) -> Result<Option<Found>, Error> {
        let url = self.0.at(&format!("manifests/{name}"));
        let accept = format!("{MANIFEST}, {INDEX}");
        let mut answer = self.0.send(&Method::GET, &url, &accept, Body::None)?;
        match answer.status() {
            StatusCode::OK => {
                let bytes = kept(&mut answer, &url)?;
                let digest = Digest::of(&bytes);
                if name.starts_with("sha256:") && name != digest.as_str() {
                    return Err(Error::Corrupt { what: name.to_owned(), found: digest });
                }
                Ok(Some(Found { digest, bytes }))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(refused(&Method::GET, &url, status, &mut answer)),
        }
    }

    /// Whether a blob is there. That it is the one that it should be, only [`Self::check`] tells.
    pub(crate) fn has(&self, digest: &Digest) -> Result<bool, Error> {
        let url = self.0.at(&format!("blobs/{digest}"));
        let mut answer = self.0.send(&Method::HEAD, &url, "", Body::None)?;
        match answer.status() {
            status if status.is_success() || status.is_redirection() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(refused(&Method::HEAD, &url, status, &mut answer)),
        }
    }

    /// A blob that is small enough to be kept in memory, if it is there.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let url = self.0.at(&format!("blobs/{digest}"));
        let mut answer = self.0.download(&url)?;
        match answer.status() {
            StatusCode::OK => {
                let bytes = kept(&mut answer, &url)?;
                match Digest::of(&bytes) {
                    found if found == *digest => Ok(Some(bytes)),
                    found => Err(Error::Corrupt { what: digest.to_string(), found }),
                }
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(refused(&Method::GET, &url, status, &mut answer)),
        }
    }

    /// Reads a blob to its end, and compares what was read with what it should be.
    pub(crate) fn check(&self, descriptor: &Descriptor) -> Result<(), Error> {
        let url = self.0.at(&format!("blobs/{}", descriptor.digest));
        let mut answer = self.0.download(&url)?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            return Err(refused(&Method::GET, &url, status, &mut answer));
        }
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; 64 * 1024]);
        let mut reader = answer.body_mut().as_reader().take(descriptor.size + 1);
        loop {
            let read = reader
                .read(&mut chunk)
                .map_err(|source| Error::Unreachable { url: shown(&url), source: source.into() })?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
        }
        match Digest::from_sha256(&hash.finalize()) {
            found if found == descriptor.digest => Ok(()),
            found => Err(Error::Corrupt { what: descriptor.digest.to_string(), found }),
        }
    }

    /// What refers to `subject`, by the registry's own list or by the tag that stands for it. A
    /// registry that is busy has said nothing: that is an error, not an empty list.
    pub(crate) fn referrers(&self, subject: &Digest) -> Result<Referrers, Error> {
        let url = self.0.at(&format!("referrers/{subject}"));
        let mut answer = self.0.send(&Method::GET, &url, INDEX, Body::None)?;
        let kind = header(&answer, "content-type").unwrap_or_default();
        match answer.status() {
            StatusCode::OK if kind.split(';').next() == Some(INDEX) => {
                let bytes = kept(&mut answer, &url)?;
                Ok(Referrers { native: true, entries: entries(&bytes, &url)? })
            }
            // GHCR has been seen to answer 303 to a page of its site.
            StatusCode::OK
            | StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::SEE_OTHER => {
                let tag = subject.fallback_tag();
                let found = self.manifest(&tag)?;
                let entries =
                    found.map_or(Ok(Vec::new()), |it| entries(&it.bytes, &self.0.at(&tag)))?;
                Ok(Referrers { native: false, entries })
            }
            status => Err(refused(&Method::GET, &url, status, &mut answer)),
        }
    }

    /// Every statement about `subject` that one of `keys` signed. What an entry says of itself is not
    /// believed: registries and others write all kinds of types there.
    pub(crate) fn signed(&self, subject: &Digest, keys: &[&Public]) -> Result<Vec<Signed>, Error> {
        let mut signed = Vec::new();
        for referrer in digests(&self.referrers(subject)?.entries) {
            let Some(found) = self.manifest(referrer.as_str())? else { continue };
            let Some(layer) = bundle::layer(&found.bytes) else { continue };
            if layer.size > http::KEPT_BYTES_MAX {
                continue; // nothing of ours is that large
            }
            let Some(bundle) = self.blob(&layer.digest)? else { continue };
            if let Some(statement) = keys.iter().find_map(|it| it.open(&bundle, subject)) {
                signed.push(Signed { referrer, statement });
            }
        }
        Ok(signed)
    }

    /// What is listed as a referrer of `subject`, and is not there.
    pub(crate) fn dangling(&self, subject: &Digest) -> Result<Vec<Digest>, Error> {
        let mut dangling = digests(&self.referrers(subject)?.entries);
        let mut there = Vec::new();
        for it in &dangling {
            there.push(self.manifest(it.as_str())?.is_some());
        }
        let mut there = there.into_iter();
        dangling.retain(|_| !there.next().unwrap_or_default());
        Ok(dangling)
    }

    /// Every tag of the repository.
    pub(crate) fn tags(&self) -> Result<Vec<String>, Error> {
        let (mut tags, mut url) = (Vec::new(), self.0.at("tags/list?n=1000"));
        for _ in 0..PAGES_MAX {
            let mut answer = self.0.send(&Method::GET, &url, "", Body::None)?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(tags),
                status => return Err(refused(&Method::GET, &url, status, &mut answer)),
            }
            let next = header(&answer, "link");
            let list: Value = serde_json::from_slice(&kept(&mut answer, &url)?).unwrap_or_default();
            // Measured: null once the last has been deleted.
            match &list["tags"] {
                Value::Null if list["name"].is_string() => {}
                Value::Array(list) => {
                    tags.extend(list.iter().filter_map(|it| it.as_str().map(str::to_owned)));
                }
                _ => return Err(Error::Garbled { url: shown(&url), why: "no list of tags came" }),
            }
            let next =
                next.and_then(|it| Some(it.split_once('<')?.1.split_once('>')?.0.to_owned()));
            let Some(next) = next else { return Ok(tags) };
            let Some(query) = next.split_once('?') else { return Ok(tags) };
            url = self.0.at(&format!("tags/list?{}", query.1));
        }
        Err(Error::Garbled { url: shown(&url), why: "its list of tags has no end" })
    }
}

fn entries(index: &[u8], url: &str) -> Result<Vec<Value>, Error> {
    let index: Value = serde_json::from_slice(index).unwrap_or_default();
    match &index["manifests"] {
        Value::Array(entries) if entries.len() <= REFERRERS_MAX => Ok(entries.clone()),
        Value::Null if index["schemaVersion"] == 2 => Ok(Vec::new()),
        _ => Err(Error::Garbled { url: shown(url), why: "no list of referrers came" }),
    }
}

fn digests(entries: &[Value]) -> Vec<Digest> {
    let digest = |it: &Value| Digest::try_from(it["digest"].as_str()?.to_owned()).ok();
    entries.iter().filter_map(digest).collect()
}

impl Writer {
    pub(crate) fn new(url: &Url, repository: &str, login: Option<Rc<Login>>) -> Self {
        let http = Http::new(url, repository, login.clone(), "pull,push,delete");
        Self { http, reader: Reader::new(url, repository, login) }
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
            let status = answer.status();
            return Err(refused(&Method::POST, &begin, status, &mut answer));
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
            status => Err(refused(&Method::PUT, &to, status, &mut answer)),
        }
    }

    /// Puts a manifest there under a tag or its digest.
    pub(crate) fn put(&self, name: &str, kind: &str, manifest: &[u8]) -> Result<(), Error> {
        let url = self.http.at(&format!("manifests/{name}"));
        let mut answer = self.http.send(&Method::PUT, &url, "", Body::Bytes(manifest, kind))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(refused(&Method::PUT, &url, status, &mut answer)),
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
            if listed(&there.entries) {
                return Ok(());
            }
            if there.native {
                phase::uninterrupted()?;
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
            self.put(&tag, INDEX, &crate::bytes(&index))?;
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
            status => Err(refused(&Method::DELETE, &url, status, &mut answer)),
        }
    }
}
