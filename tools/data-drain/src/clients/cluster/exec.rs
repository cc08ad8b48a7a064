//! Runs a program in a pod and proves that its whole output arrived.
//!
//! The API server loses the end of what a program writes just before it exits
//! (<https://github.com/kubernetes/kubernetes/issues/124571>; measured through a line of 3 MB/s:
//! once in two reads of 40 MB). So `volume-reader --framed` writes frames, then their total length,
//! and waits for an acknowledgement before it exits.
//!
//! **Invariant:** only the last frame ends a stream, never a closed connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachedProcess;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::claim::Report;

/// Longest time without data. A disk that spins up or a large folder that is sorted takes seconds.
const STALL: Duration = Duration::from_secs(300);
/// Longest time for the acknowledgement of the last frame.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(5);
/// Longest time for the rest of standard error, which never ends on a broken connection.
const STDERR: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(250);
const RECEIVED: &[u8] = b"received\n";
/// Maximum size of a frame, so that a pod cannot exhaust our memory. The reader writes frames of 64 KiB
/// and a short report.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Maximum bytes of standard error in a message.
const STDERR_BYTES_MAX: u64 = 4000;

/// A running program in a pod.
pub(crate) struct Running {
    runtime: Arc<Runtime>,
    request: String,
    /// Ends the connection when it is dropped.
    process: AttachedProcess,
    /// Exit status of the program; `None` after the connection broke. The streams of kube do not show
    /// the end, because a dropped half of a `tokio::io::simplex` does not end the other half.
    status: JoinHandle<Option<Status>>,
    input: Box<dyn AsyncWrite + Unpin>,
    output: Box<dyn AsyncRead + Unpin>,
    stderr: Option<JoinHandle<String>>,
    frame: Vec<u8>,
    at: usize,
    total: u64,
    report: Option<Report>,
}

impl Running {
    /// Returns `None` if the API server gave no streams.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        request: String,
        mut process: AttachedProcess,
    ) -> Option<Self> {
        let (input, output) = (Box::new(process.stdin()?), Box::new(process.stdout()?));
        let stderr = process.stderr().map(|stream| {
            tokio::spawn(async move {
                let mut said = Vec::new();
                let mut stream = stream.take(STDERR_BYTES_MAX);
                let _ = stream.read_to_end(&mut said).await;
                let _ = tokio::io::copy(stream.get_mut(), &mut tokio::io::sink()).await;
                String::from_utf8_lossy(&said).trim().to_owned()
            })
        });
        let status = tokio::spawn(process.take_status()?);
        let (frame, at, total, report) = (Vec::new(), 0, 0, None);
        Some(Self {
            runtime,
            request,
            process,
            status,
            input,
            output,
            stderr,
            frame,
            at,
            total,
            report,
        })
    }

    /// Returns the report after the last frame, and the program's standard error.
    pub(crate) fn finish(mut self) -> io::Result<(Report, String)> {
        while self.report.is_none() {
            io::copy(&mut self, &mut io::sink())?;
        }
        let report = self.report.take().unwrap_or_default();
        Ok((report, self.stderr_text()))
    }

    fn next(&mut self) -> io::Result<()> {
        let length = self.number()?;
        if length > 0 {
            self.take_frame(length)?;
            self.total += self.frame.len() as u64;
            return Ok(());
        }
        let mut total = [0; 8];
        self.exact(&mut total)?;
        let total = u64::from_be_bytes(total);
        if total != self.total {
            let why = format!("{} of {total} bytes arrived", self.total);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        let length = self.number()?;
        self.take_frame(length)?;
        let report = std::mem::take(&mut self.frame);
        self.at = 0;
        let report = serde_json::from_slice(&report).map_err(io::Error::other)?;
        self.report = Some(report);
        self.answer();
        Ok(())
    }

    fn number(&mut self) -> io::Result<usize> {
        let mut number = [0; 4];
        self.exact(&mut number)?;
        Ok(usize::try_from(u32::from_be_bytes(number)).unwrap_or(usize::MAX))
    }

    fn take_frame(&mut self, length: usize) -> io::Result<()> {
        if length > FRAME_BYTES_MAX {
            let why = format!("{}: the output does not consist of frames", self.request);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(length, 0);
        self.exact(&mut frame)?;
        (self.frame, self.at) = (frame, 0);
        Ok(())
    }

    /// Fills `bytes`. Fails after [`STALL`] without data, and on a signal.
    fn exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        let mut since = Instant::now();
        while filled < bytes.len() {
            documents::check_interrupt().map_err(io::Error::other)?;
            let read = self.output.read(&mut bytes[filled..]);
            let read = self.runtime.block_on(async { tokio::time::timeout(TICK, read).await });
            match read {
                Ok(Ok(0)) => return Err(self.ended()),
                Ok(Ok(read)) => {
                    filled += read;
                    since = Instant::now();
                }
                Ok(Err(error)) => return Err(error),
                Err(_) if self.status.is_finished() => return Err(self.ended()),
                Err(_) if since.elapsed() < STALL => {}
                Err(_) => {
                    let why = format!("{}: no data for {} s", self.request, STALL.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
            }
        }
        Ok(())
    }

    /// Acknowledges the last frame, so that the program exits.
    fn answer(&mut self) {
        let Self { runtime, input, status, .. } = self;
        let acknowledgement = async {
            input.write_all(RECEIVED).await?;
            input.flush().await?;
            let _ = status.await;
            io::Result::Ok(())
        };
        // Ignore a failure, because the bytes are complete already.
        let _ = runtime
            .block_on(async { tokio::time::timeout(ACKNOWLEDGEMENT, acknowledgement).await });
    }

    /// Returns the reason why the stream ended before its last frame.
    fn ended(&mut self) -> io::Error {
        let status = &mut self.status;
        let ended =
            self.runtime.block_on(async { tokio::time::timeout(ACKNOWLEDGEMENT, status).await });
        let ended = ended.ok().and_then(Result::ok).flatten();
        let how = ended.and_then(|status| status.message);
        let how = how.unwrap_or_else(|| "the connection was cut".to_owned());
        let said = self.stderr_text();
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("{}: {how}: {said}", self.request))
    }

    fn stderr_text(&mut self) -> String {
        let Some(stderr) = self.stderr.take() else { return String::new() };
        let said = self.runtime.block_on(async { tokio::time::timeout(STDERR, stderr).await });
        said.ok().and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.abort();
    }
}

impl io::Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.frame.len() {
            if self.report.is_some() || buffer.is_empty() {
                return Ok(0);
            }
            self.next()?;
        }
        let length = buffer.len().min(self.frame.len() - self.at);
        buffer[..length].copy_from_slice(&self.frame[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
