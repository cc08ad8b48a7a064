//! A program in a pod whose whole output is known to have arrived.
//!
//! The API server loses the end of what a program writes just before it exits
//! (<https://github.com/kubernetes/kubernetes/issues/124571>; measured through a line of 3 MB/s:
//! once in two reads of 40 MB). So `volume-reader --framed` writes frames, then their total length,
//! and waits for an answer before it exits.
//!
//! **Invariant:** the end of a stream is told by its last frame, never by a connection that closes.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachedProcess;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::claim::Report;

/// How long nothing may arrive. A disk that spins up and a large folder that is sorted take seconds.
const STALL: Duration = Duration::from_secs(300);
/// How long the answer to the last frame may take to get through.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the rest of standard error may take: a connection that was cut has no end of it.
const COMPLAINT: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(250);
const RECEIVED: &[u8] = b"received\n";
/// Limits of what a pod may make us hold: the reader writes 64 KiB and a few names.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// How much of standard error is repeated.
const COMPLAINT_BYTES_MAX: u64 = 4000;

/// A program in a pod, read to its end.
pub(crate) struct Running {
    runtime: Rc<Runtime>,
    request: String,
    /// Ends the connection when it is dropped.
    process: AttachedProcess,
    /// How the program ended; finished without one when the connection was cut. The streams of
    /// kube do not tell: half of a `tokio::io::simplex` that is dropped is no end for the other.
    status: JoinHandle<Option<Status>>,
    input: Box<dyn AsyncWrite + Unpin>,
    output: Box<dyn AsyncRead + Unpin>,
    complaint: Option<JoinHandle<String>>,
    frame: Vec<u8>,
    at: usize,
    total: u64,
    report: Option<Report>,
}

impl Running {
    /// `None` if the API server gave no streams.
    pub(crate) fn new(
        runtime: Rc<Runtime>,
        request: String,
        mut process: AttachedProcess,
    ) -> Option<Self> {
        let (input, output) = (Box::new(process.stdin()?), Box::new(process.stdout()?));
        let complaint = process.stderr().map(|stream| {
            tokio::spawn(async move {
                let mut said = Vec::new();
                let mut stream = stream.take(COMPLAINT_BYTES_MAX);
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
            complaint,
            frame,
            at,
            total,
            report,
        })
    }

    /// The report that follows the last frame, and what the program wrote to standard error.
    pub(crate) fn finish(mut self) -> io::Result<(Report, String)> {
        while self.report.is_none() {
            io::copy(&mut self, &mut io::sink())?;
        }
        let report = self.report.take().unwrap_or_default();
        Ok((report, self.said()))
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
            let why = format!("{} answered with something else than frames", self.request);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(length, 0);
        self.exact(&mut frame)?;
        (self.frame, self.at) = (frame, 0);
        Ok(())
    }

    /// Reads that many bytes, as long as any arrive, and heeds a signal meanwhile.
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
                    let why = format!("{}: nothing for {} s", self.request, STALL.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
            }
        }
        Ok(())
    }

    /// Tells the program that all of it has arrived, so that it exits.
    fn answer(&mut self) {
        let Self { runtime, input, status, .. } = self;
        let farewell = async {
            input.write_all(RECEIVED).await?;
            input.flush().await?;
            let _ = status.await;
            io::Result::Ok(())
        };
        // The bytes are complete whether or not the answer gets there.
        let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, farewell).await });
    }

    /// Why the stream ended before its last frame.
    fn ended(&mut self) -> io::Error {
        let status = &mut self.status;
        let ended = self.runtime.block_on(async { tokio::time::timeout(FAREWELL, status).await });
        let ended = ended.ok().and_then(Result::ok).flatten();
        let how = ended.and_then(|status| status.message);
        let how = how.unwrap_or_else(|| "the connection was cut".to_owned());
        let said = self.said();
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("{}: {how}: {said}", self.request))
    }

    fn said(&mut self) -> String {
        let Some(complaint) = self.complaint.take() else { return String::new() };
        let said =
            self.runtime.block_on(async { tokio::time::timeout(COMPLAINT, complaint).await });
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
