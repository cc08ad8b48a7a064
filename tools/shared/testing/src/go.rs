//! Programs in Go that hold a vendor's own code, with which a test compares ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds the Go module in the folder `source` as a program in `folder`, and returns the program's path.
/// Go fetches the vendor's modules.
///
/// # Panics
///
/// Go is not installed or cannot build the program.
#[must_use]
pub fn build(source: impl AsRef<Path>, folder: &Path) -> PathBuf {
    let source = source.as_ref();
    let program = folder.join(source.file_name().unwrap_or(source.as_os_str()));
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(".").current_dir(source).stdin(Stdio::null());
    let output = go.output().unwrap_or_else(|error| panic!("go does not start: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}
