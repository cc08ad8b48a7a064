//! Body of an upload in parts, so that its progress is visible.
//!
//! The S3 client passes an in-memory body to its connection in one piece, so that a slow connection looks
//! dead. Its protection against stalled uploads does not help: it has no limit between the last byte and
//! the response, and none for bytes in the kernel's buffer
//! (`aws_smithy_runtime::client::http::body::minimum_throughput`, 1.10).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Size of one part, which takes two seconds on the slowest working connection.
const PART_BYTES: usize = 64 * 1024;

/// An upload. Its body replaces the client's body after the request is signed.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    body: Bytes,
    progress: Arc<Mutex<Progress>>,
}

/// The progress of one attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Bytes that the connection has taken.
    pub(super) taken: usize,
    last: Instant,
}

impl Progress {
    /// The time since the connection has taken anything.
    pub(super) fn silence(&self) -> Duration {
        self.last.elapsed()
    }
}

impl Upload {
    pub(super) fn new(body: Bytes) -> Self {
        let progress = Progress { taken: 0, last: Instant::now() };
        Self { body, progress: Arc::new(Mutex::new(progress)) }
    }

    pub(super) fn progress(&self) -> Progress {
        *locked(&self.progress)
    }
}

impl Intercept for Upload {
    fn name(&self) -> &'static str {
        "Upload"
    }

    /// Called for each attempt, after the whole body was signed.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *locked(&self.progress) = Progress { taken: 0, last: Instant::now() };
        let parts = Parts { left: self.body.clone(), progress: self.progress.clone() };
        *context.request_mut().body_mut() = SdkBody::from_body_1_x(parts);
        Ok(())
    }
}

/// Unsent rest of a body.
struct Parts {
    left: Bytes,
    progress: Arc<Mutex<Progress>>,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.left.len().min(PART_BYTES);
        if bytes == 0 {
            return Poll::Ready(None);
        }
        let part = self.left.split_to(bytes);
        let mut progress = locked(&self.progress);
        *progress = Progress { taken: progress.taken + bytes, last: Instant::now() };
        drop(progress);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

fn locked(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}
