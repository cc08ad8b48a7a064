//! Questions to the lab's own services: plain HTTP, loopback, bounded.

use std::net::SocketAddr;
use std::time::Duration;

use ureq::Agent;

use crate::Error;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is read of an answer.
const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Asks for `path` at `address`. `authorization` is a header that no error shows.
pub(crate) fn get(
    address: SocketAddr,
    path: &str,
    authorization: Option<&str>,
) -> Result<Answer, Error> {
    let url = format!("http://{address}{path}");
    let agent = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
    // Nobody's proxy has any part in this, and nothing of the lab's leads elsewhere.
    let agent: Agent = agent.proxy(None).max_redirects(0).build().into();
    let mut request = agent.get(&url);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let unexpected =
        |error: ureq::Error| Error::Answer { url: url.clone(), answer: error.to_string() };
    let mut response = request.call().map_err(unexpected)?;
    let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string();
    Ok(Answer { status: response.status().as_u16(), body: body.map_err(unexpected)? })
}
