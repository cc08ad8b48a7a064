//! Runs `git`, and gives it a token that only the token's own origin can receive.
//!
//! **Invariant:** the token is in no argument, URL, file or environment variable. It passes through a
//! pipe, which git hands on as descriptor 3 to the credential helper of `process`. The helper is a
//! few lines of shell that speak git's credential protocol, so no second program has to be installed.
//! **Invariant:** the helper answers for one scheme, host and port. Every other host to which git
//! connects (a promisor, an LFS server, a proxy) gets no token.
//! **Invariant:** git with a token reads no configuration but ours: not that of the repository, the
//! user or the system, no `.netrc` and no cookies. So no `extraheader`, `insteadOf`, `proxy`,
//! `sslVerify`, `include` or `sshCommand` can redirect or replace the token.
//! **Invariant:** git-lfs is a child of git, so that all of this holds for git-lfs, too. An LFS server of another
//! host gets no token, except by the headers of the forge's own answer, which the caller checks.
//! **Invariant:** git without a token opens no connection, so it fetches no missing objects.

mod ended;
mod lfs;
mod local;
mod origin;
mod process;
mod push;
mod url;

pub use ended::Ended;
pub use lfs::{Storage, endpoint, has_lfs, push_objects};
pub use local::{is_partial, run, run_with_input};
pub use origin::Origin;
pub use process::TIME_MAX;
pub use push::push;
pub use url::Url;
