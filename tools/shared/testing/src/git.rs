//! Temporary Git repositories, and git's own server.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Test;
use crate::http::Request;
use crate::run::feed;

/// Configuration that keeps the developer's own settings out of a test.
const SETTINGS: [&str; 5] = [
    "user.name=test",
    "user.email=test@example.org",
    "commit.gpgSign=false",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
];

/// Time of every commit, so that the same contents give the same commit.
const DATE: &str = "2026-01-01T00:00:00Z";

/// Runs git in `folder` without the developer's configuration, and returns its standard output.
pub fn git(folder: &Path, arguments: &[&str]) -> Test<String> {
    let output = Command::new("git")
        .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_DATE", DATE)
        .env("GIT_COMMITTER_DATE", DATE)
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("git {}: {said}", arguments.join(" ")).into())
}

/// A Git repository in an existing folder.
pub struct Repository(PathBuf);

impl Repository {
    /// Creates an empty repository in `folder`.
    pub fn init(folder: PathBuf) -> Test<Self> {
        fs::create_dir_all(&folder)?;
        git(&folder, &["init", "--quiet", "--initial-branch=main"])?;
        Ok(Self(folder))
    }

    /// Returns the folder of the working tree.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and creates the folders above the file.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Test {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        Ok(fs::write(path, text)?)
    }

    /// Runs git in the working tree, and returns its standard output.
    pub fn git(&self, arguments: &[&str]) -> Test<String> {
        git(&self.0, arguments)
    }

    /// Commits what was added, or nothing, and returns the commit.
    pub fn commit(&self, message: &str) -> Test<String> {
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message])?;
        self.git(&["rev-parse", "HEAD"])
    }

    /// Adds and commits every change, or nothing, and returns the commit.
    pub fn commit_all(&self, message: &str) -> Test<String> {
        self.git(&["add", "--all"])?;
        self.commit(message)
    }
}

/// Answers a request with `git http-backend` on the repositories in `folder`. `path` is the part of the
/// request's path below that folder. Returns the status, and the rest of the response with its headers.
pub fn serve(request: &Request, path: &str, folder: &Path) -> io::Result<(String, Vec<u8>)> {
    let mut backend = Command::new("git");
    backend
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("REMOTE_USER", "owner")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", request.header("content-type"))
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", request.header("git-protocol"));
    let output = feed(&mut backend, &request.body)?.stdout;
    let status = output.strip_prefix(b"Status: ").and_then(|rest| rest.get(..3));
    let status = String::from_utf8_lossy(status.unwrap_or(b"200")).into_owned();
    Ok((status, output))
}
