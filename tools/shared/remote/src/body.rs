//! Bodies of responses, each with a limit.

use std::io::{self, Read as _};

use ureq::Body;
use ureq::http::Response;

/// Largest beginning of an error response that is read, in bytes.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;

/// Returns the body of a response; `None` when it has more than `bytes_max` bytes.
///
/// # Errors
///
/// The connection failed before the end of the body.
pub fn read(response: &mut Response<Body>, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    response.body_mut().as_reader().take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

/// Returns the beginning of an error response; empty if the response cannot be read.
#[must_use]
pub fn beginning(response: &mut Response<Body>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reader = response.body_mut().as_reader();
    let _ = reader.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes); // a partial message is better than none
    bytes
}

/// Returns a header as text.
#[must_use]
pub fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}
