//! Client of the object store. Everything specific to S3 stays in this folder.
//!
//! **Invariant:** objects are never overwritten and never deleted.
//! **Invariant:** after a lost response, the object in the store is read before any decision.
//! **Invariant:** a slow connection is not an error. Time limits grow with the size of the upload and
//! restart at each byte that is sent or received.

mod upload;

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls;
use bytes::Bytes;
use contract::{Project, S3Credentials};
use data_encoding::BASE64;
use documents::WritePermit;
use git::Url;
use md5::Md5;
use secrets::Reference;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use upload::Upload;

use crate::Error;

/// Returns the store that the Project declares.
pub(crate) fn declared(project: &Project) -> Result<&contract::Store, Error> {
    project.endpoints.store.as_ref().ok_or(Error::NoEndpoint("store"))
}

/// Limits of time and of attempts.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Maximum attempts of one request.
    attempts: u32,
    /// Longest wait before the second attempt. The wait doubles with each attempt.
    backoff: Duration,
    /// Longest time to open a connection.
    connect: Duration,
    /// Longest wait for a response, and for the next bytes of a response.
    answer: Duration,
    /// Lowest rate of a working connection, in bytes per second. The client's `read_timeout` is not used,
    /// because it starts with the request, so that an upload of 64 MiB below 9 Mbit/s never succeeded
    /// (`aws_smithy_types::timeout::TimeoutConfigBuilder::read_timeout`, 1.3).
    upload_bytes_per_second: u64,
}

/// The limits outside of tests. 32 KiB/s is 256 kbit/s.
const LIMITS: Limits = Limits {
    attempts: 8,
    backoff: Duration::from_secs(1),
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(60),
    upload_bytes_per_second: 32 * 1024,
};

/// Bytes of an upload that Linux may buffer for a slow connection: the default maximum of `tcp_wmem`
/// (<https://docs.kernel.org/networking/ip-sysctl.html>).
const SEND_BUFFER_BYTES: u64 = 4 << 20;
/// Interval of the check for a signal during a request.
const TICK: Duration = Duration::from_millis(200);

/// Metadata of an object by name, without the prefix `x-amz-meta-`.
pub(crate) type Metadata = BTreeMap<String, String>;

/// Read access to the store.
pub(crate) struct Reader {
    client: Client,
    runtime: Runtime,
    bucket: String,
    url: String,
    limits: Limits,
}

/// Write access to the store. Includes read access to check written objects.
pub(crate) struct Writer(Reader);

/// Size and metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredObject {
    pub(crate) bytes: u64,
    pub(crate) metadata: Metadata,
}

impl Limits {
    /// Returns the longest time of one attempt to upload `bytes`, with the connection.
    fn upload(&self, bytes: u64) -> Duration {
        self.connect + self.answer + self.line(bytes)
    }

    /// Returns the longest time without progress in an upload of `bytes`. The kernel may still send what it
    /// has buffered.
    fn silence(&self, bytes: u64) -> Duration {
        self.answer + self.line(bytes.min(SEND_BUFFER_BYTES))
    }

    /// Returns the time to send `bytes` on the slowest working connection.
    fn line(&self, bytes: u64) -> Duration {
        Duration::from_millis(bytes * 1000 / self.upload_bytes_per_second)
    }
}

impl Reader {
    /// Connects to `store` with the credentials `reader`, otherwise with the writer's credentials.
    pub(crate) fn open(store: &contract::Store) -> Result<Self, Error> {
        let contract::Store::S3 { credentials, reader, .. } = store;
        Self::with(store, reader.as_ref().unwrap_or(credentials), LIMITS)
    }

    fn with(
        store: &contract::Store,
        credentials: &Reference,
        limits: Limits,
    ) -> Result<Self, Error> {
        let contract::Store::S3 { url, region, bucket, .. } = store;
        let S3Credentials { access_key_id, secret_access_key } =
            S3Credentials::resolve(credentials)?;
        let secret = secret_access_key.text()?;
        let credentials = Credentials::new(access_key_id, secret, None, None, "data-drain");
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .tls_context(trusted(url)?)
            .build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(limits.connect);
        let timeouts = timeouts.operation_attempt_timeout(limits.answer);
        // Uploads have their own limit, see `Writer::put`.
        let stalls = StalledStreamProtectionConfig::enabled().upload_enabled(false);
        let stalls = stalls.grace_period(limits.answer).build();
        let retries = RetryConfig::standard().with_max_attempts(limits.attempts);
        let retries = retries.with_initial_backoff(limits.backoff);
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .endpoint_url(url.as_str())
            .region(Region::new(region.clone()))
            .credentials_provider(credentials)
            .force_path_style(true)
            .retry_config(retries)
            .retry_classifier(CertificateErrors)
            .timeout_config(timeouts.build())
            .stalled_stream_protection(stalls)
            // Ceph rejects the checksums that newer clients add. Receipts have SHA-256 digests instead.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::Machine)?;
        let url = url.to_string();
        let client = Client::from_conf(config);
        Ok(Self { client, runtime, bucket: bucket.clone(), url, limits })
    }

    /// Returns size and metadata of the object at `key`, or `None` if it does not exist.
    pub(crate) fn head(&self, key: &str) -> Result<Option<StoredObject>, Error> {
        documents::detail("-", format_args!("HEAD {key}"));
        let request = self.client.head_object().bucket(&self.bucket).key(key);
        match self.runtime.block_on(interruptible(request.send()))? {
            Ok(answer) => Ok(Some(found(&answer))),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.failed("look at", key, &error)),
        }
    }

    /// Fetches the object at `key`, of at most `bytes_max` bytes. Returns `None` if it does not exist.
    pub(crate) fn get(&self, key: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::new();
        let found = self.read(key, |chunk| {
            if (bytes.len() + chunk.len()) as u64 > bytes_max {
                return Err(Error::Tampered {
                    object: key.to_owned(),
                    why: format!("it is larger than {bytes_max} bytes"),
                });
            }
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(found.then_some(bytes))
    }

    /// Lists the keys that begin with `prefix`.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        documents::detail("-", format_args!("LIST {prefix}"));
        let mut pages = request.into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = self.runtime.block_on(interruptible(pages.next()))? {
            let page = page.map_err(|error| self.failed("list", prefix, &error))?;
            keys.extend(
                page.contents().iter().filter_map(|object| object.key()).map(str::to_owned),
            );
        }
        Ok(keys)
    }

    /// Fetches the object at `key` and returns its SHA-256 and its size.
    pub(crate) fn sha256(&self, key: &str) -> Result<Option<(String, u64)>, Error> {
        let (mut sha256, mut bytes) = (Sha256::new(), 0);
        let found = self.read(key, |chunk| {
            sha256.update(chunk);
            bytes += chunk.len() as u64;
            Ok(())
        })?;
        let sha256 = data_encoding::HEXLOWER.encode(&sha256.finalize());
        Ok(found.then_some((sha256, bytes)))
    }

    /// Fetches the object at `key` in chunks and returns whether it exists. A truncated body is continued at
    /// the byte where it ended.
    fn read(
        &self,
        key: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let (mut at, mut etag, mut attempt) = (0_u64, None::<String>, 1);
        loop {
            documents::detail("-", format_args!("GET {key}"));
            let mut request = self.client.get_object().bucket(&self.bucket).key(key);
            if at > 0 {
                // `If-Match`, because the object may have been replaced since the first request.
                request = request.range(format!("bytes={at}-")).set_if_match(etag.clone());
            }
            let cut = self.runtime.block_on(async {
                let answer = match interruptible(request.send()).await? {
                    Ok(answer) => answer,
                    Err(error) if at == 0 && status(&error) == Some(404) => return Ok(None),
                    Err(error) => return Err(self.failed("fetch", key, &error)),
                };
                if at > 0 && !answer.content_range().is_some_and(|range| begins(range, at)) {
                    let why = format!("cut at byte {at}, and the store does not go on from there");
                    return Err(self.unreachable("fetch", key, why));
                }
                etag = etag.take().or_else(|| answer.e_tag().map(str::to_owned));
                let mut body = answer.body;
                loop {
                    let next = interruptible(tokio::time::timeout(self.limits.answer, body.next()))
                        .await?;
                    match next {
                        Ok(None) => return Ok(Some(None)),
                        Ok(Some(Ok(chunk))) => {
                            at += chunk.len() as u64;
                            attempt = 1;
                            each(&chunk)?;
                        }
                        Ok(Some(Err(error))) => {
                            return Ok(Some(Some(self.lost("fetch", key, &error))));
                        }
                        Err(error) => return Ok(Some(Some(self.lost("fetch", key, &error)))),
                    }
                }
            })?;
            match cut {
                None => return Ok(false),
                Some(None) => return Ok(true),
                Some(Some(error))
                    if attempt >= self.limits.attempts || (at > 0 && etag.is_none()) =>
                {
                    return Err(error);
                }
                Some(Some(error)) => {
                    attempt += 1;
                    documents::detail(key, format_args!("continued at byte {at}: {error}"));
                }
            }
        }
    }

    fn failed<E>(&self, what: &str, key: &str, error: &SdkError<E>) -> Error
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        let request = format!("{what} {}/{key}", self.bucket);
        let code = error.code().unwrap_or_default();
        match status(error) {
            Some(401 | 403) => Error::Forbidden {
                who: self.url.clone(),
                request,
                message: format!("{code} {}", error.message().unwrap_or_default()),
            },
            Some(status @ 400..500) if status != 408 && status != 429 && status != 409 => {
                let message = format!("{status} {code} {}", error.message().unwrap_or_default());
                Error::Rejected { who: self.url.clone(), request, message }
            }
            _ => match remote::certificate_error(error) {
                Some(why) => Error::Untrusted { who: self.url.clone(), why },
                None => self.lost(what, key, error),
            },
        }
    }

    fn lost(&self, what: &str, key: &str, error: &dyn std::error::Error) -> Error {
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            why = format!("{why}: {error}");
            cause = error.source();
        }
        self.unreachable(what, key, why)
    }

    fn unreachable(&self, what: &str, key: &str, why: String) -> Error {
        let request = format!("{what} {}/{key}", self.bucket);
        Error::Unreachable { who: self.url.clone(), request, why }
    }
}

/// Ends the repetitions of the S3 client after an error about the certificate, which it counts as a failed
/// connection.
#[derive(Debug)]
struct CertificateErrors;

impl ClassifyRetry for CertificateErrors {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err);
        match error.and_then(|error| error.as_connector_error()) {
            Some(error) if remote::certificate_error(error).is_some() => {
                RetryAction::RetryForbidden
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "certificate errors"
    }
}

/// Returns the authorities that the client trusts: those of every other client.
fn trusted(url: &Url) -> Result<tls::TlsContext, Error> {
    let mut store = tls::TrustStore::empty();
    if !url.is_plain() {
        store.add_pem_certificate(remote::roots_as_pem()?);
    }
    let context = tls::TlsContext::builder().with_trust_store(store).build();
    context.map_err(|error| Error::Machine(std::io::Error::other(error)))
}

impl Writer {
    pub(crate) fn open(store: &contract::Store, _: &WritePermit) -> Result<Self, Error> {
        let contract::Store::S3 { credentials, .. } = store;
        Reader::with(store, credentials, LIMITS).map(Self)
    }

    /// Creates the object `key`. Returns `false` if an object of that name exists.
    ///
    /// An upload without progress is sent again. The caller decides whether an existing object has the
    /// right content.
    pub(crate) fn create(
        &self,
        key: &str,
        bytes: Vec<u8>,
        metadata: &Metadata,
    ) -> Result<bool, Error> {
        let body = Bytes::from(bytes);
        let mut attempt = 1;
        let error = loop {
            match self.put(key, &body, metadata) {
                Err(error @ Error::Stalled { .. }) if attempt < self.0.limits.attempts => {
                    attempt += 1;
                    documents::detail(key, format_args!("sent again: {error}"));
                }
                Err(error) => break error,
                done => return done,
            }
        };
        if let Error::Stream(_) = error {
            return Err(error); // a signal has come
        }
        // The object may have arrived although the response was lost. A store with Object Lock may then
        // reject the next attempt: with 403 (measured: versitygw 1.8.0 without versions) or with 400 (MinIO's
        // `ErrObjectLocked`).
        let there = self.0.head(key);
        documents::check_interrupt()?;
        if matches!(there, Ok(Some(_))) { Ok(false) } else { Err(error) }
    }

    /// Creates the object `key` as [`Self::create`] does, with only the retries of the S3 client.
    fn put(&self, key: &str, body: &Bytes, metadata: &Metadata) -> Result<bool, Error> {
        let Reader { client, runtime, bucket, limits, url } = &self.0;
        let bytes = body.len();
        documents::detail("-", format_args!("PUT {key}"));
        let mut request = client.put_object().bucket(bucket).key(key).if_none_match("*");
        for (name, value) in metadata {
            request = request.metadata(name, value);
        }
        // A bucket with Object Lock and a default retention requires a checksum
        // (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>). Every store
        // supports MD5.
        request = request.content_md5(BASE64.encode(&Md5::digest(body)));
        let timeouts = TimeoutConfig::builder().connect_timeout(limits.connect);
        let timeouts = timeouts.operation_attempt_timeout(limits.upload(bytes as u64)).build();
        let config = aws_sdk_s3::config::Builder::new().timeout_config(timeouts);
        let upload = Upload::new(body.clone());
        let request = request.body(ByteStream::from(body.clone())).customize();
        let request = request.config_override(config).interceptor(upload.clone());
        let silence = limits.silence(bytes as u64);
        let check = || {
            let progress = upload.progress();
            if progress.silence() < silence {
                return Ok(());
            }
            let request = format!("write {bucket}/{key}");
            let (who, seconds, taken) = (url.clone(), silence.as_secs(), progress.taken);
            Err(Error::Stalled { who, request, seconds, taken, bytes })
        };
        match runtime.block_on(checking(request.send(), check))? {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(412) => Ok(false),
            Err(error) => Err(self.0.failed("write", key, &error)),
        }
    }

    /// Returns size and metadata of the object at `key`, or `None` if it does not exist.
    pub(crate) fn head(&self, key: &str) -> Result<Option<StoredObject>, Error> {
        self.0.head(key)
    }

    /// Fetches the object at `key` and returns its SHA-256 and its size.
    pub(crate) fn sha256(&self, key: &str) -> Result<Option<(String, u64)>, Error> {
        self.0.sha256(key)
    }

    /// Fetches the object at `key`, of at most `bytes_max` bytes.
    pub(crate) fn get(&self, key: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        self.0.get(key, bytes_max)
    }
}

/// Waits for a response or a signal. An interrupted write may have arrived, and the next run checks that.
fn interruptible<T>(answer: impl Future<Output = T>) -> impl Future<Output = Result<T, Error>> {
    checking(answer, || Ok(()))
}

/// Waits as [`interruptible`] does, and fails when `check` fails.
async fn checking<T>(
    answer: impl Future<Output = T>,
    check: impl Fn() -> Result<(), Error>,
) -> Result<T, Error> {
    let mut answer = pin!(answer);
    loop {
        if let Ok(answer) = tokio::time::timeout(TICK, &mut answer).await {
            return Ok(answer);
        }
        documents::check_interrupt()?;
        check()?;
    }
}

/// Whether a `Content-Range` begins at the byte `at`: `bytes 100-199/200`.
fn begins(range: &str, at: u64) -> bool {
    let from = range.strip_prefix("bytes ").and_then(|range| range.split_once('-'));
    from.is_some_and(|(from, _)| from.parse() == Ok(at))
}

fn found(answer: &HeadObjectOutput) -> StoredObject {
    let metadata = answer.metadata().into_iter().flatten();
    StoredObject {
        bytes: answer.content_length().and_then(|length| length.try_into().ok()).unwrap_or(0),
        metadata: metadata.map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

#[cfg(test)]
mod tests;
