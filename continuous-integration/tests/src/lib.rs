//! Tests of the repository as a whole, in `tests/`: they start programs, and link none of them.

pub mod modules;

use std::path::{Path, PathBuf};

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder in which cargo puts the programs of the workspace, beside `deps`, where the running test
/// is. `cargo build --workspace --bins` builds them.
#[must_use]
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}
