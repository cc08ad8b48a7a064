//! Repositories at a remote, each with the token for its origin.

use secrets::Secret;

use crate::Url;

/// Repository at a remote.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// URL of the repository, for example `https://github.com/zabronax/holistic.git`.
    pub url: &'a Url,
    /// Token for the scheme, host and port of `url` alone.
    pub token: &'a Secret,
}
