//! Uploads of blobs, which continue after a connection that broke.
//!
//! ```text
//! POST ──► PUT with the whole blob ──► 201
//!              │ broke off
//!              ▼
//!          GET: `Range` of what arrived ──► PATCH with the rest ──► PUT without a body ──► 201
//!              │ no `Range`
//!              ▼
//!          begin again
//! ```
//!
//! One request for the whole blob is the form that every registry accepts. GHCR rejects a PATCH with
//! `Content-Range` above 4 MiB (oras-project/rust-oci-client#35), so that form only follows a failure.

use std::cell::RefCell;

use ::remote::registry::{Body, Error as ClientError, Problem, Repository, Request};
use ::remote::{Retries, header};
use ureq::http::{Method, StatusCode};

use crate::oci::{Blob, Content, Descriptor};

/// An upload that has begun, with the bytes that the registry has received.
#[derive(Clone, Debug)]
struct Session {
    location: String,
    received: u64,
}

/// Uploads `blob`, and retries within the limits of one call. `opened` is the URL of an upload that has just begun.
pub(crate) fn upload(
    repository: &Repository,
    blob: &Blob,
    opened: Option<String>,
) -> Result<(), ClientError> {
    let opened = RefCell::new(opened.map(|location| Session { location, received: 0 }));
    let session = RefCell::new(None);
    repository.again(|retries| {
        let known = session.take();
        let upload = Upload { repository, blob, retries };
        let begun = match known {
            None => opened.take().map_or_else(|| upload.begin(), Ok)?,
            // The response may be lost after the registry has stored the blob.
            Some(_) if repository.has(&blob.descriptor.digest)? => return Ok(()),
            Some(known) => match upload.resumed(known)? {
                Some(resumed) => resumed,
                None => upload.begin()?,
            },
        };
        session.replace(Some(begun.clone()));
        upload.finish(begun)
    })
}

struct Upload<'a> {
    repository: &'a Repository,
    blob: &'a Blob,
    retries: &'a Retries<'a>,
}

impl Upload<'_> {
    fn begin(&self) -> Result<Session, ClientError> {
        let begin = self.repository.at("blobs/uploads/");
        let request = Request::new(&Method::POST, &begin);
        let mut answer = self.repository.attempt(&request, self.retries)?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(self.repository.refused(&Method::POST, &begin, &mut answer));
        }
        Ok(Session { location: self.repository.location(&answer, &begin)?, received: 0 })
    }

    /// Asks how much of an upload has arrived; `None` if the registry cannot continue it.
    /// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-a-blob-in-chunks>
    fn resumed(&self, session: Session) -> Result<Option<Session>, ClientError> {
        let Session { location, .. } = session;
        let answer = self.repository.attempt(&Request::get(&location, ""), self.retries)?;
        if answer.status() != StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let range = header(&answer, "range").unwrap_or_default();
        let range = range.trim_start_matches("bytes=");
        let last = range.strip_prefix("0-").and_then(|last| last.parse::<u64>().ok());
        // `0-0` stands for nothing as well as for one byte, so one byte is no progress.
        let received = last.filter(|last| *last > 0).map(|last| last + 1);
        let received = received.filter(|received| *received <= self.blob.descriptor.size);
        let Some(received) = received else { return Ok(None) };
        let location = match header(&answer, "location") {
            None => location,
            Some(_) => self.repository.location(&answer, &location)?,
        };
        Ok(Some(Session { location, received }))
    }

    /// Sends what is missing.
    fn finish(&self, session: Session) -> Result<(), ClientError> {
        let Session { mut location, received } = session;
        let Descriptor { digest, size, .. } = &self.blob.descriptor;
        let mut body = self.body(received);
        if received > 0 {
            if received < *size {
                let request = Request::new(&Method::PATCH, &location).with(body);
                let request = request.ranged(received, size - 1);
                let mut answer = self.repository.attempt(&request, self.retries)?;
                if answer.status() != StatusCode::ACCEPTED {
                    return Err(self.repository.refused(&Method::PATCH, &location, &mut answer));
                }
                location = self.repository.location(&answer, &location)?;
            }
            body = Body::None;
        }
        let join = if location.contains('?') { '&' } else { '?' };
        let to = format!("{location}{join}digest={digest}");
        let request = Request::new(&Method::PUT, &to).with(body);
        let mut answer = self.repository.attempt(&request, self.retries)?;
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            // The specification demands 201. Registries that answer another success may have stored the blob.
            status if status.is_success() && self.repository.has(digest)? => Ok(()),
            status if status.is_success() => {
                Err(ClientError::invalid_response(&to, Problem::NotStored))
            }
            _ => Err(self.repository.refused(&Method::PUT, &to, &mut answer)),
        }
    }

    /// Returns the blob without its first bytes.
    fn body(&self, from: u64) -> Body<'_> {
        let size = self.blob.descriptor.size;
        match &self.blob.content {
            Content::File(file) => Body::File(file, from, size - from),
            Content::Bytes(bytes) => {
                let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
                Body::Bytes(&bytes[start..], "application/octet-stream")
            }
        }
    }
}
