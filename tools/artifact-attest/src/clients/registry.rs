//! Reader of an OCI registry, with the quirks of registries. Nothing in this module writes.

pub(crate) mod writer;

use ::remote::registry::{
    Error as ClientError, Found, Lookup, Problem, Registry, Repository, Standing, error_code,
};
use ::remote::{header, shown};
use serde_json::Value;
use ureq::Body as Answer;
use ureq::http::{Method, Response, StatusCode};

use crate::Error;
use crate::bundle::{self, Public};
use crate::oci::{Descriptor, Digest, INDEX, MANIFEST};

/// Longest list of tags or referrers, in pages.
const PAGES_MAX: usize = 1000;
/// Largest manifest, bundle or list that is read, in bytes.
const KEPT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Error codes of a 404 that describe the contents of a repository, and so prove access to it.
/// `NAME_UNKNOWN` is absent because registries also send it for a repository that the login may not
/// see.
const LOOKED_INSIDE: [&str; 3] = ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"];

#[derive(Debug)]
pub(crate) struct Reader {
    repository: Repository,
    /// Whether a 404 of the whole repository is an error as long as this client's access to the
    /// repository is unproven.
    is_strict: bool,
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
    pub(crate) fn new(registry: &Registry, repository: &str) -> Self {
        Self { repository: registry.repository(repository, "pull"), is_strict: false }
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
        let accept = format!("{MANIFEST}, {INDEX}");
        match self.repository.manifest(name, &accept, KEPT_BYTES_MAX)? {
            Lookup::Found(found) => Ok(Some(found)),
            Lookup::Absent { url, code } => self.absent(&url, &code).map(|()| None),
        }
    }

    /// Whether a blob exists. Only [`Self::check`] verifies its content.
    pub(crate) fn has(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.repository.has(digest)?)
    }

    /// Returns a blob that fits into memory, if it exists.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.repository.blob(digest, KEPT_BYTES_MAX)?)
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
        let first = self.repository.at(&format!("referrers/{subject}"));
        let mut all = Referrers { native: true, entries: Vec::new(), is_readable: true };
        let mut url = first.clone();
        for page in 0..PAGES_MAX {
            documents::check_interrupt()?;
            let (mut answer, bytes) = self.repository.fetch(&url, INDEX, KEPT_BYTES_MAX)?;
            let kind = header(&answer, "content-type").unwrap_or_default();
            match answer.status() {
                StatusCode::OK if kind == INDEX => {
                    let next = next_page(&answer);
                    all.add(&bytes, &url)?;
                    let Some(query) = next else { return Ok(all) };
                    url = format!("{first}?{query}");
                }
                // Measured: GHCR answers 303 and redirects to a page of its website.
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
                        all.add(&found.bytes, &self.repository.at(&format!("manifests/{tag}")))?;
                    }
                    return Ok(all);
                }
                _ => return Err(self.repository.refused(&Method::GET, &url, &mut answer).into()),
            }
        }
        Err(invalid(&url, Problem::EndlessList { pages_max: PAGES_MAX }))
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
        let Referrers { mut entries, is_readable, .. } = self.referrers(subject)?;
        entries.sort_by_key(|entry| !bundle::is_likely_ours(entry));
        let mut signed: Vec<Signed> = Vec::new();
        for referrer in digests(&entries) {
            documents::check_interrupt()?;
            let is_found = |desired: &&[u8]| {
                signed.iter().any(|known| known.is_accepted && known.statement == **desired)
            };
            if !desired.is_empty() && desired.iter().all(is_found) {
                break;
            }
            let Some(found) = ignore_foreign_errors(self.manifest(referrer.as_str()))? else {
                continue;
            };
            let Some(layer) = bundle::layer(&found.bytes) else { continue };
            if layer.size > KEPT_BYTES_MAX {
                continue; // this program publishes no bundle that large
            }
            let Some(bundle) = ignore_foreign_errors(self.blob(&layer.digest))? else { continue };
            let Some(opened) = keys.iter().find_map(|key| key.open(&bundle, subject)) else {
                continue;
            };
            let is_whole = layer.size == bundle.len() as u64;
            let is_accepted = is_readable && is_whole && opened.is_accepted;
            signed.push(Signed { referrer, statement: opened.statement, is_accepted });
        }
        Ok(signed)
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
        let (mut tags, mut url) = (Vec::new(), self.repository.at("tags/list?n=1000"));
        for _ in 0..PAGES_MAX {
            documents::check_interrupt()?;
            let (mut answer, bytes) = self.repository.fetch(&url, "", KEPT_BYTES_MAX)?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    return self.absent(&url, &error_code(&mut answer)).map(|()| tags);
                }
                _ => return Err(self.repository.refused(&Method::GET, &url, &mut answer).into()),
            }
            let next = next_page(&answer);
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
            let Some(query) = next else { return Ok(tags) };
            url = self.repository.at(&format!("tags/list?{query}"));
        }
        Err(invalid(&url, Problem::EndlessList { pages_max: PAGES_MAX }))
    }
}

/// Whether `name` is a tag by the OCI distribution specification. Other text never becomes part of
/// a URL.
fn is_tag(name: &str) -> bool {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    name.len() <= 128
        && name.starts_with(is_word)
        && name.chars().all(|letter| is_word(letter) || matches!(letter, '.' | '-'))
}

/// Returns the query of the next page. The rest of a `Link` is ignored, so that no registry can
/// send this client, or its token, to another host or path.
fn next_page(answer: &Response<Answer>) -> Option<String> {
    let links = header(answer, "link")?;
    let next = links.split(',').find(|link| !link.contains("rel=") || link.contains("next"))?;
    let (target, _) = next.split_once('<')?.1.split_once('>')?;
    let query = target.split_once('?')?.1.split('#').next().unwrap_or_default();
    let is_plain = query.bytes().all(|byte| byte.is_ascii_graphic());
    (is_plain && !query.is_empty()).then(|| query.to_owned())
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
