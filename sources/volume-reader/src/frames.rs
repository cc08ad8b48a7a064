//! Writes standard output in frames, for a connection that may lose the end of the output.
//!
//! A container runtime closes the streams of `exec` when the process exits, and discards data that is
//! still in transit (<https://github.com/kubernetes/kubernetes/issues/124571>). Therefore the reader
//! sends the total length and does not exit before the other side confirms that it has all data.

use std::io::{self, Read, Write};

/// Confirmation by the other side after the last frame.
const RECEIVED: &[u8] = b"received\n";
const FRAME_BYTES: usize = 64 * 1024;

/// Writes frames: a length of four bytes, most significant first, then that many bytes. A length of
/// zero ends them; after it come the number of all bytes (eight), and a report with its own length
/// (four).
pub struct Frames<W: Write> {
    out: W,
    frame: Vec<u8>,
    total: u64,
}

impl<W: Write> Frames<W> {
    /// Creates frames that are written to `out`.
    pub fn new(out: W) -> Self {
        Self { out, frame: Vec::with_capacity(FRAME_BYTES), total: 0 }
    }

    /// Writes the last frame and `report`, and waits for the confirmation on `answer`.
    ///
    /// # Errors
    ///
    /// An error if `out` cannot be written or the other side does not confirm.
    pub fn end(mut self, report: &str, answer: impl Read) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(&0_u32.to_be_bytes())?;
        self.out.write_all(&self.total.to_be_bytes())?;
        let length = u32::try_from(report.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(report.as_bytes())?;
        self.out.flush()?;
        let mut said = Vec::new();
        answer.take(RECEIVED.len() as u64).read_to_end(&mut said)?;
        if said == RECEIVED {
            return Ok(());
        }
        Err(io::Error::other("the connection ended before the end was acknowledged"))
    }
}

impl<W: Write> Write for Frames<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = FRAME_BYTES - self.frame.len();
        let now = bytes.len().min(room);
        self.frame.extend_from_slice(&bytes[..now]);
        if self.frame.len() == FRAME_BYTES {
            self.flush()?;
        }
        Ok(now)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.frame.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&self.frame)?;
        self.total += self.frame.len() as u64;
        self.frame.clear();
        self.out.flush()
    }
}
