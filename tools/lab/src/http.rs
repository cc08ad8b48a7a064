//! Sends requests to the lab's own services: plain HTTP on loopback, with limits.

use std::net::SocketAddr;
use std::time::Duration;

use ureq::Agent;

use crate::Error;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest body of an answer, in bytes.
const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// Status and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends `GET path` to `address`. Errors never show the header `authorization`.
pub(crate) fn get(
    address: SocketAddr,
    path: &str,
    authorization: Option<&str>,
) -> Result<Answer, Error> {
    let url = format!("http://{address}{path}");
    let agent = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
    // A proxy of the environment cannot reach loopback, and the lab's services never redirect.
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
