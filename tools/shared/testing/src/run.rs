//! Runs of a program, and the documents that it writes.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::thread;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use serde_json::Value;

use crate::Test;

/// Returns the command of a program, with an empty environment.
#[must_use]
pub fn program(binary: &Path) -> Command {
    let mut program = Command::new(binary);
    program.env_clear();
    program
}

/// Returns the runtime with which Podman runs containers on this machine, and the options that this runtime needs: crun
/// rejects a host with both versions of cgroups, and runc needs a cgroup of its own in version 2.
#[must_use]
pub fn container_runtime() -> (&'static str, &'static str) {
    let is_unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if is_unified { ("crun", "--cgroups disabled") } else { ("runc", "") }
}

/// Returns `PATH`, with the folder of the lab's components in front, if `LAB_BIN` names one.
#[must_use]
pub fn path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let Some(lab) = env::var_os("LAB_BIN") else { return path };
    let all: Vec<_> = env::split_paths(&lab).chain(env::split_paths(&path)).collect();
    env::join_paths(all).unwrap_or(path)
}

/// Runs `command` with `input` as its standard input. A command that ends before it has read everything
/// is no error.
pub fn feed(command: &mut std::process::Command, input: &[u8]) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let input = input.to_owned();
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(&input); // the command may have closed its input
    });
    let output = child.wait_with_output()?;
    let _ = writer.join(); // a panic of the writer would lose no output
    Ok(output)
}

/// A program that has ended.
pub trait Ended {
    /// Returns the exit status and the output.
    fn ended(&self) -> &Output;
}

impl Ended for Output {
    fn ended(&self) -> &Output {
        self
    }
}

impl Ended for Assert {
    fn ended(&self) -> &Output {
        self.get_output()
    }
}

/// Returns standard error.
#[must_use]
pub fn stderr(run: &impl Ended) -> String {
    String::from_utf8_lossy(&run.ended().stderr).into_owned()
}

/// Returns the written documents, one per line.
pub fn documents(run: &impl Ended) -> Test<Vec<Value>> {
    let lines = run.ended().stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
}

/// Returns the status of the last written document.
pub fn status(run: &impl Ended) -> Test<Value> {
    Ok(documents(run)?.pop().ok_or("no document was written")?["status"].take())
}

/// Checks the exit status, and returns the written documents. `what` names the run.
pub fn expect(run: &impl Ended, code: i32, what: &str) -> Test<Vec<Value>> {
    let status = run.ended().status;
    if status.code() == Some(code) {
        return documents(run);
    }
    Err(format!("{what}: {status}, not {code}\n{}", stderr(run)).into())
}

/// Returns the reason of the first condition, which is Ready, of a document's `status`.
#[must_use]
pub fn reason(status: &Value) -> &str {
    status["conditions"][0]["reason"].as_str().unwrap_or_default()
}
