//! Settings of the emulated cloud.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Tokens, addresses and the file of one emulated project.
#[derive(Clone, Debug)]
pub struct Settings {
    /// First two bytes of every public address: machines get `N.1.x` to `N.199.x`, load balancers `N.200.x`.
    pub network: [u8; 2],
    /// Token with the permission "Read & Write".
    pub token: String,
    /// Token with the permission "Read", if the emulated project has one.
    pub read_token: Option<String>,
    /// File that holds the state; created when it does not exist.
    pub state: PathBuf,
    /// Address of the API, which `GET /_lab` returns. [`crate::Cloud::serve`] listens on its own listener.
    pub address: SocketAddr,
}

/// Speed and rate limit of the emulated cloud.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Calls that a project may make per hour, which is also the largest burst (default 3600, as documented:
    /// <https://docs.hetzner.cloud/reference/cloud#rate-limiting>).
    pub calls_per_hour: u32,
    /// Duration of an action, beside the time that the machine takes (default 10 ms).
    pub action: Duration,
    /// Real time that stands for one second of a health check's interval (default 20 ms).
    pub second: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            calls_per_hour: 3600,
            action: Duration::from_millis(10),
            second: Duration::from_millis(20),
        }
    }
}
