//! Reads an OCI registry, with the quirks of registries. Nothing here can write.

use std::io::Read as _;
use std::rc::Rc;

use keyring::Url;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use ureq::Body as Answer;
use ureq::http::{Method, Response, StatusCode};

use crate::Error;
use crate::answer::{self, Problem, shown};
use crate::bundle::{self, Public};
use crate::http::{self, Body, Http, Login, Standing, header, kept, problem};
use crate::oci::{Descriptor, Digest, INDEX, MANIFEST};

/// Longest list of tags or referrers, in pages.
const PAGES_MAX: usize = 1000;
/// Codes of a 404 that are about the contents of a repository: the registry has let this client
/// look into it. `NAME_UNKNOWN` is not among them: registries say so as well of a repository that
/// the login may not see.
const LOOKED_INSIDE: [&str; 3] = ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"];

#[derive(Debug)]
pub(crate) struct Reader {
    http: Http,
    /// Whether a 404 for the whole repository counts as its absence only when it is proven that
    /// this client would see the repository.
    is_strict: bool,
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
    /// Whether the registry keeps this list (OCI 1.1), or each writer does, under a tag.
    pub(crate) native: bool,
    pub(crate) entries: Vec<Value>,
    /// Whether cosign and Flux can read the list: one entry without a valid digest, and their
    /// library (go-containerregistry 0.21) drops all of them.
    pub(crate) is_readable: bool,
}

/// A bundle that one of our keys signed.
#[derive(Debug)]
pub(crate) struct Signed {
    /// Of the manifest by which the bundle refers to its subject.
    pub(crate) referrer: Digest,
    pub(crate) statement: Vec<u8>,
    /// Whether cosign and Flux accept the bundle as it is published. One that they reject is ours
    /// to remove, and proves nothing.
    pub(crate) is_accepted: bool,
}

impl Reader {
    pub(crate) fn new(url: &Url, repository: &str, login: Option<Rc<Login>>) -> Self {
        Self { http: Http::new(url, repository, login, "pull"), is_strict: false }
    }

    /// The same, for claims of absence: see [`Error::Invisible`].
    pub(crate) fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }

    /// Whether the registry lets this client look into the repository: whether it lists its tags.
    /// Harbor answers `NOT_FOUND` to whatever is missing, so that the code alone does not tell.
    fn is_visible(&self) -> Result<bool, Error> {
        let answer = self.http.download(&self.http.at("tags/list?n=1"), "");
        match answer {
            Err(Error::Denied { .. } | Error::InvalidResponse { .. }) => Ok(false),
            answer => Ok(answer?.status() == StatusCode::OK),
        }
    }

    /// Lets a 404 stand for absence, when it proves that.
    fn absent(&self, url: &str, answer: &mut Response<Answer>) -> Result<(), Error> {
        let code = answer::code(&http::message(answer));
        if LOOKED_INSIDE.contains(&code.as_str()) || self.is_visible()? {
            return Ok(());
        }
        match self.http.standing()? {
            Standing::Unasked => Ok(()), // everybody sees everything
            Standing::LoggedIn if !self.is_strict => Ok(()), // what is written will tell
            standing => Err(Error::Invisible {
                url: shown(url),
                anonymous: standing == Standing::Anonymous,
            }),
        }
    }

    /// The manifest that a tag or a digest names, if there is one.
    pub(crate) fn manifest(&self, name: &str) -> Result<Option<Found>, Error> {
        let url = self.http.at(&format!("manifests/{name}"));
        let accept = format!("{MANIFEST}, {INDEX}");
        let mut answer = self.http.download(&url, &accept)?;
        match answer.status() {
            StatusCode::OK => {
                let bytes = kept(&mut answer, &url)?;
                let digest = Digest::of(&bytes);
                if name.starts_with("sha256:") && name != digest.as_str() {
                    return Err(Error::Corrupt { what: name.to_owned(), found: digest });
                }
                Ok(Some(Found { digest, bytes }))
            }
            StatusCode::NOT_FOUND => self.absent(&url, &mut answer).map(|()| None),
            _ => Err(self.http.refused(&Method::GET, &url, &mut answer)),
        }
    }

    /// Whether a blob is there. That it is the one that it should be, only [`Self::check`] tells.
    pub(crate) fn has(&self, digest: &Digest) -> Result<bool, Error> {
        let url = self.http.at(&format!("blobs/{digest}"));
        let mut answer = self.http.send(&Method::HEAD, &url, "", Body::None)?;
        match answer.status() {
            status if status.is_success() || status.is_redirection() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false), // at worst it is sent again
            _ => Err(self.http.refused(&Method::HEAD, &url, &mut answer)),
        }
    }

    /// A blob that is small enough to be kept in memory, if it is there.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let url = self.http.at(&format!("blobs/{digest}"));
        let mut answer = self.http.download(&url, "")?;
        match answer.status() {
            StatusCode::OK => {
                let bytes = kept(&mut answer, &url)?;
                match Digest::of(&bytes) {
                    found if found == *digest => Ok(Some(bytes)),
                    found => Err(Error::Corrupt { what: digest.to_string(), found }),
                }
            }
            StatusCode::NOT_FOUND => Ok(None), // its manifest was there
            _ => Err(self.http.refused(&Method::GET, &url, &mut answer)),
        }
    }

    /// Reads a blob to its end, and compares what was read with what it should be.
    pub(crate) fn check(&self, descriptor: &Descriptor) -> Result<(), Error> {
        let url = self.http.at(&format!("blobs/{}", descriptor.digest));
        let mut answer = self.http.download(&url, "")?;
        if answer.status() != StatusCode::OK {
            return Err(self.http.refused(&Method::GET, &url, &mut answer));
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

    /// What refers to `subject`, by the registry's own list or by the tag that stands for it: the
    /// same way as go-containerregistry, with which cosign and Flux look. A registry that is busy
    /// has said nothing: that is an error, not an empty list.
    pub(crate) fn referrers(&self, subject: &Digest) -> Result<Referrers, Error> {
        let first = self.http.at(&format!("referrers/{subject}"));
        let mut all = Referrers { native: true, entries: Vec::new(), is_readable: true };
        let mut url = first.clone();
        for page in 0..PAGES_MAX {
            documents::check_interrupt()?;
            let mut answer = self.http.download(&url, INDEX)?;
            let kind = header(&answer, "content-type").unwrap_or_default();
            match answer.status() {
                StatusCode::OK if kind == INDEX => {
                    let next = next_page(&answer);
                    all.add(&kept(&mut answer, &url)?, &url)?;
                    let Some(query) = next else { return Ok(all) };
                    url = format!("{first}?{query}");
                }
                // GHCR has been seen to answer 303 to a page of its site.
                StatusCode::OK
                | StatusCode::BAD_REQUEST
                | StatusCode::NOT_FOUND
                | StatusCode::NOT_ACCEPTABLE
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::SEE_OTHER
                    if page == 0 =>
                {
                    let tag = subject.fallback_tag();
                    all.native = false;
                    if let Some(found) = self.manifest(&tag)? {
                        all.add(&found.bytes, &self.http.at(&format!("manifests/{tag}")))?;
                    }
                    return Ok(all);
                }
                _ => return Err(self.http.refused(&Method::GET, &url, &mut answer)),
            }
        }
        Err(problem(&url, Problem::EndlessList { pages_max: PAGES_MAX }))
    }

    /// The statements about `subject` that one of `keys` signed: all of them, or, as soon as
    /// cosign and Flux accept each of `wanted`, no more. What an entry of the list says of itself
    /// only decides which is read first: registries and other programs write all kinds of types
    /// there.
    pub(crate) fn signed(
        &self,
        subject: &Digest,
        keys: &[&Public],
        wanted: &[&[u8]],
    ) -> Result<Vec<Signed>, Error> {
        let Referrers { mut entries, is_readable, .. } = self.referrers(subject)?;
        entries.sort_by_key(|entry| !bundle::is_likely_ours(entry));
        let mut signed: Vec<Signed> = Vec::new();
        for referrer in digests(&entries) {
            documents::check_interrupt()?;
            let is_found = |wanted: &&[u8]| {
                signed.iter().any(|known| known.is_accepted && known.statement == **wanted)
            };
            if !wanted.is_empty() && wanted.iter().all(is_found) {
                break;
            }
            let Some(found) = strangers_own(self.manifest(referrer.as_str()))? else { continue };
            let Some(layer) = bundle::layer(&found.bytes) else { continue };
            if layer.size > http::KEPT_BYTES_MAX {
                continue; // nothing of ours is that large
            }
            let Some(bundle) = strangers_own(self.blob(&layer.digest))? else { continue };
            let Some(opened) = keys.iter().find_map(|key| key.open(&bundle, subject)) else {
                continue;
            };
            let is_whole = layer.size == bundle.len() as u64;
            let is_accepted = is_readable && is_whole && opened.is_accepted;
            signed.push(Signed { referrer, statement: opened.statement, is_accepted });
        }
        Ok(signed)
    }

    /// What is listed as a referrer of `subject`, and is not there.
    pub(crate) fn dangling(&self, subject: &Digest) -> Result<Vec<Digest>, Error> {
        let mut dangling = Vec::new();
        for digest in digests(&self.referrers(subject)?.entries) {
            if strangers_own(self.manifest(digest.as_str()).map(|found| Some(found.is_some())))?
                == Some(false)
            {
                dangling.push(digest);
            }
        }
        Ok(dangling)
    }

    /// Whether a writer's own list of referrers of `subject` has entries of our kinds only, and
    /// none of them is there.
    pub(crate) fn lists_nothing(&self, subject: &Digest) -> Result<bool, Error> {
        let Referrers { native, entries, .. } = self.referrers(subject)?;
        let are_likely_ours = !entries.is_empty() && entries.iter().all(bundle::is_likely_ours);
        Ok(!native && are_likely_ours && self.dangling(subject)?.len() == entries.len())
    }

    /// Every tag of the repository.
    pub(crate) fn tags(&self) -> Result<Vec<String>, Error> {
        let (mut tags, mut url) = (Vec::new(), self.http.at("tags/list?n=1000"));
        for _ in 0..PAGES_MAX {
            documents::check_interrupt()?;
            let mut answer = self.http.download(&url, "")?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return self.absent(&url, &mut answer).map(|()| tags),
                _ => return Err(self.http.refused(&Method::GET, &url, &mut answer)),
            }
            let next = next_page(&answer);
            let list: Value = serde_json::from_slice(&kept(&mut answer, &url)?).unwrap_or_default();
            // Measured: null once the last has been deleted.
            match &list["tags"] {
                Value::Null if list["name"].is_string() => {}
                Value::Array(list) => {
                    let names = list.iter().filter_map(Value::as_str);
                    tags.extend(names.filter(|name| is_tag(name)).map(str::to_owned));
                }
                _ => return Err(problem(&url, Problem::NotOci { expected: "a list of tags" })),
            }
            let Some(query) = next else { return Ok(tags) };
            url = self.http.at(&format!("tags/list?{query}"));
        }
        Err(problem(&url, Problem::EndlessList { pages_max: PAGES_MAX }))
    }
}

/// A tag by the OCI distribution specification. No other text becomes part of a URL.
fn is_tag(name: &str) -> bool {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    name.len() <= 128
        && name.starts_with(is_word)
        && name.chars().all(|letter| is_word(letter) || matches!(letter, '.' | '-'))
}

/// The query of the next page. Only that is taken from a `Link`: the rest of the address is ours,
/// so that no registry sends this client, or its token, to another host or another path.
fn next_page(answer: &Response<Answer>) -> Option<String> {
    let links = header(answer, "link")?;
    let next = links.split(',').find(|link| !link.contains("rel=") || link.contains("next"))?;
    let (target, _) = next.split_once('<')?.1.split_once('>')?;
    let query = target.split_once('?')?.1.split('#').next().unwrap_or_default();
    let is_plain = query.bytes().all(|byte| byte.is_ascii_graphic());
    (is_plain && !query.is_empty()).then(|| query.to_owned())
}

/// What is wrong with one referrer that anybody may have written is no reason to fail: it is none
/// of ours. Whatever the registry fails to say remains an error.
fn strangers_own<T>(read: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match read {
        Err(
            Error::Corrupt { .. }
            | Error::InvalidResponse { problem: Problem::TooLarge { .. }, .. },
        ) => Ok(None),
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
            // A writer's own list is written anew.
            _ if !self.native => {
                self.is_readable = false;
                Ok(())
            }
            _ => Err(problem(url, Problem::NotOci { expected: "a list of referrers" })),
        }
    }
}

pub(crate) fn digests(entries: &[Value]) -> Vec<Digest> {
    let digest = |entry: &Value| Digest::try_from(entry["digest"].as_str()?.to_owned()).ok();
    entries.iter().filter_map(digest).collect()
}
