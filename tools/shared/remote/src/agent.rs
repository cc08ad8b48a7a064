//! The HTTP client of every program, which follows no redirect by itself.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, Body};

use crate::roots::{RootsError, roots};

/// Time limit of a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Number of idle connections that are kept for the next request: the most requests of one client that are
/// under way at the same time (flux-seed, `IN_FLIGHT_MAX`). With ureq's own 3, parallel requests would
/// connect again and again, which costs a round trip, and two more for TLS.
const IDLE_MAX: usize = 16;

/// Settings of a client.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Name of the program, for `User-Agent`.
    pub program: &'static str,
    /// Whether the service is reached by plain HTTP, which is allowed on this machine only.
    pub is_plain: bool,
    /// Time limit of one attempt until its response begins.
    pub response_max: Duration,
    /// Time limit of one attempt with the whole transfer.
    pub attempt_max: Duration,
}

/// Creates a client. Every status is a response, and a redirect is one, too: the caller decides who may
/// receive a request next.
///
/// # Errors
///
/// [`RootsError`], see [`roots`]. A plain client trusts no authority instead, because builds of Nix set
/// `SSL_CERT_FILE` to a missing file (`/no-cert-file.crt`, nixpkgs `pkgs/stdenv/generic/setup.sh`).
pub fn agent(settings: Settings) -> Result<Agent, RootsError> {
    agent_trusting(settings, &[])
}

/// Creates a client like [`agent`], which trusts the authorities of `more` (certificates in DER), too.
///
/// # Errors
///
/// See [`agent`].
pub fn agent_trusting(settings: Settings, more: &[Vec<u8>]) -> Result<Agent, RootsError> {
    let roots = if settings.is_plain { roots().unwrap_or_default() } else { roots()? };
    let roots: Vec<_> = roots.iter().chain(more).map(|der| Certificate::from_der(der)).collect();
    // The certificates live in the agent, so that they are copied once.
    let roots: Vec<_> = roots.iter().map(Certificate::to_owned).collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(roots))).build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_MAX))
        .timeout_recv_response(Some(settings.response_max))
        .timeout_global(Some(settings.attempt_max))
        .max_idle_connections(IDLE_MAX)
        .max_idle_connections_per_host(IDLE_MAX)
        .user_agent(settings.program)
        .tls_config(tls);
    // Plain HTTP reaches this machine only, and uses no proxy, because a proxy would see the login. With
    // https, a proxy opens a tunnel (CONNECT) and sees the host's name only.
    let config = if settings.is_plain { config.proxy(None) } else { config };
    Ok(config.build().new_agent())
}

/// Sends a request, and limits this attempt to `time_max`.
///
/// # Errors
///
/// The errors of ureq. A status is no error.
pub fn run<S: AsSendBody>(
    agent: &Agent,
    request: Request<S>,
    time_max: Duration,
) -> Result<Response<Body>, ureq::Error> {
    let limit = agent.config().timeouts().global.unwrap_or(Duration::MAX);
    // ureq parses all authorities anew for each connection of a request with a setting of its own (3.5.2,
    // `get_cached_config`), so that the first attempts use the setting of the agent.
    if limit.saturating_sub(time_max) < Duration::from_secs(1) {
        return agent.run(request);
    }
    let request = agent.configure_request(request).timeout_global(Some(time_max)).build();
    agent.run(request)
}

/// Whether an error is about the server's certificate. Another attempt would fail alike.
#[must_use]
pub fn is_untrusted(error: &ureq::Error) -> bool {
    match error {
        // ureq reports certificate errors of rustls as I/O errors of this kind.
        ureq::Error::Io(source) => source.kind() == std::io::ErrorKind::InvalidData,
        ureq::Error::Tls(_) | ureq::Error::Pem(_) | ureq::Error::Rustls(_) => true,
        _ => false,
    }
}

/// Returns the message of rustls about the server's certificate, if that is among the causes of `error`.
/// Another attempt would fail alike.
///
/// The clients of HTTP nest the error in I/O errors, which do not name the inner error as their source.
#[must_use]
pub fn certificate_error(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(error @ rustls::Error::InvalidCertificate(_)) => return Some(error.to_string()),
        Some(_) => return None,
        None => {}
    }
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match wrapped {
        Some(inner) => certificate_error(inner),
        None => error.source().and_then(certificate_error),
    }
}

/// Help for a certificate that is not trusted.
pub const UNTRUSTED_HELP: &str = "add the certificate's authority to the system's list, or name a file of PEM certificates in SSL_CERT_FILE; \
     check the clock of this machine if the authority is known";
