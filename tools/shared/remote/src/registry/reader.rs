//! Reads manifests and blobs, and compares every digest.

use std::io::Read as _;

use sha2::{Digest as _, Sha256};
use ureq::http::{Method, StatusCode};

use super::digest::{Descriptor, Digest};
use super::error::Error;
use super::problem::Problem;
use super::repository::Repository;
use super::request::Request;
use super::said::error_code;

/// Manifest with the digest of its bytes.
#[derive(Clone, Debug)]
pub struct Found {
    /// Digest of `bytes`.
    pub digest: Digest,
    /// The manifest as the registry stores it.
    pub bytes: Vec<u8>,
}

/// Result of a search for a manifest.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The manifest exists.
    Found(Found),
    /// The registry answered 404, which may also hide the repository.
    Absent {
        /// URL of the request.
        url: String,
        /// Code of the registry's error, for example `NAME_UNKNOWN`.
        code: String,
    },
}

impl Repository {
    /// Returns the manifest of a tag or a digest, of one of the media types of `accept`. So a tag is
    /// resolved to its digest.
    ///
    /// # Errors
    ///
    /// See [`Self::fetch`]; and [`Error::Corrupt`] when the content does not have the digest `name`.
    pub fn manifest(&self, name: &str, accept: &str, bytes_max: u64) -> Result<Lookup, Error> {
        let url = self.at(&format!("manifests/{name}"));
        let (mut response, bytes) = self.fetch(&url, accept, bytes_max)?;
        match response.status() {
            StatusCode::OK => {
                let digest = Digest::of(&bytes);
                if name.starts_with("sha256:") && name != digest.as_str() {
                    return Err(Error::Corrupt { what: name.to_owned(), found: digest });
                }
                Ok(Lookup::Found(Found { digest, bytes }))
            }
            StatusCode::NOT_FOUND => {
                let code = error_code(&mut response);
                Ok(Lookup::Absent { url, code })
            }
            _ => Err(self.refused(&Method::GET, &url, &mut response)),
        }
    }

    /// Whether a blob exists. Only [`Self::check`] verifies its content.
    ///
    /// # Errors
    ///
    /// See [`Self::send`].
    pub fn has(&self, digest: &Digest) -> Result<bool, Error> {
        let url = self.at(&format!("blobs/{digest}"));
        let mut response = self.send(&Request::new(&Method::HEAD, &url))?;
        match response.status() {
            status if status.is_success() || status.is_redirection() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false), // a hidden blob is at worst uploaded again
            _ => Err(self.refused(&Method::HEAD, &url, &mut response)),
        }
    }

    /// Returns a blob of at most `bytes_max` bytes, if it exists.
    ///
    /// # Errors
    ///
    /// See [`Self::fetch`]; and [`Error::Corrupt`] when the content does not have the digest.
    pub fn blob(&self, digest: &Digest, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        let url = self.at(&format!("blobs/{digest}"));
        let (mut response, bytes) = self.fetch(&url, "", bytes_max)?;
        match response.status() {
            StatusCode::OK => match Digest::of(&bytes) {
                found if found == *digest => Ok(Some(bytes)),
                found => Err(Error::Corrupt { what: digest.to_string(), found }),
            },
            StatusCode::NOT_FOUND => Ok(None), // its manifest was visible, so the blob is absent
            _ => Err(self.refused(&Method::GET, &url, &mut response)),
        }
    }

    /// Returns the blob that a manifest describes, of at most `bytes_max` bytes, if it exists.
    ///
    /// # Errors
    ///
    /// See [`Self::blob`]; [`Problem::TooLarge`] without a request when the manifest declares more bytes;
    /// [`Problem::WrongSize`].
    pub fn described_blob(
        &self,
        descriptor: &Descriptor,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Descriptor { digest, size: declared, .. } = descriptor;
        let invalid =
            |problem| Err(Error::invalid_response(&self.at(&format!("blobs/{digest}")), problem));
        if *declared > bytes_max {
            return invalid(Problem::TooLarge { bytes_max });
        }
        match self.blob(digest, bytes_max)? {
            Some(bytes) if bytes.len() as u64 != *declared => {
                let found = bytes.len() as u64;
                invalid(Problem::WrongSize { declared: *declared, found })
            }
            blob => Ok(blob),
        }
    }

    /// Reads a blob to its end, and compares its digest.
    ///
    /// # Errors
    ///
    /// See [`Self::download`]; and [`Error::Corrupt`].
    pub fn check(&self, descriptor: &Descriptor) -> Result<(), Error> {
        let url = self.at(&format!("blobs/{}", descriptor.digest));
        let mut response = self.download(&url, "")?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(&Method::GET, &url, &mut response));
        }
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; 64 * 1024]);
        let mut reader = response.body_mut().as_reader().take(descriptor.size + 1);
        loop {
            let read =
                reader.read(&mut chunk).map_err(|source| Error::unreachable(&url, source))?;
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
}
