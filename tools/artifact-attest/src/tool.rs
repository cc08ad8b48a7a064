//! Runs the child programs `git` and `nix`.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::process::{Command, Stdio};
use std::thread;

use crate::Error;

/// Largest standard output that is read, in bytes.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Number of the last lines of standard error that an error message shows.
const LINES_KEPT: usize = 20;
/// Longest such line, in characters.
const LINE_MAX: usize = 400;

/// Environment variables that a child process inherits: the user's settings of Nix and Git, proxies, and the
/// credentials of binary caches in S3. Keys and tokens of these programs are not among them.
const PASSED_ON: [&str; 41] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "NIX_CONF_DIR",
    "NIX_CONFIG",
    "NIX_REMOTE",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "NIX_STORE_DIR",
    "NIX_STATE_DIR",
    "NIX_LOG_DIR",
    "NIX_USER_CONF_FILES",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_SSHOPTS",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "SSH_AUTH_SOCK",
    "LOGNAME",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Shell script that becomes `"$@"`, and kills it when standard input closes before a line arrives.
///
/// Reason: a killed program cannot stop its children, and an orphaned build would block the next
/// build of the same derivation.
const TIED: &str = r#"exec 3<&0
(read -r ended <&3 || kill "$$") >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-"#;

/// Result of a finished program.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status; `None` if a signal ended the program.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    /// Last lines of standard error.
    pub(crate) said: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// Runs `program` to its end. Its standard error is shown with `--verbose`.
pub(crate) fn run<A: AsRef<OsStr>>(
    document: &str,
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<Ended, Error> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    end_of(document, program, command, &[], b"")
}

/// Like [`run`], with additional environment variables and standard input.
pub(crate) fn run_with<A: AsRef<OsStr>>(
    document: &str,
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
    variables: &[(&str, &OsStr)],
    input: &[u8],
) -> Result<Ended, Error> {
    let mut command = Command::new(program);
    command.args(arguments);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    end_of(document, program, command, variables, input)
}

/// Like [`run`], for long builds: the child ends with this program, even if this program is killed.
pub(crate) fn run_tied<A: AsRef<OsStr>>(
    document: &str,
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<Ended, Error> {
    let mut command = Command::new("sh");
    command.args(["-c", TIED, "sh", program]).args(arguments).stdin(Stdio::piped());
    end_of(document, program, command, &[], b"")
}

fn end_of(
    document: &str,
    program: &'static str,
    mut command: Command,
    variables: &[(&str, &OsStr)],
    input: &[u8],
) -> Result<Ended, Error> {
    let failed = |source| Error::Tool { program, source };
    let passed = PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut child = command
        .env_clear()
        .envs(passed)
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (mut tie, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // Write the input in a thread of its own, because the child may block on its output meanwhile.
    let feeder = tie.take_if(|_| !input.is_empty()).map(|mut to| {
        let input = input.to_owned();
        thread::spawn(move || to.write_all(&input)) // fails if the child ends early
    });
    let document = document.to_owned();
    let listener = err.map(|err| thread::spawn(move || listen(&document, err)));
    let mut stdout = Vec::new();
    if let Some(out) = out {
        out.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut stdout).map_err(failed)?;
    }
    if stdout.len() as u64 > OUTPUT_BYTES_MAX {
        let _ = child.kill(); // fails if the child has already ended
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let status = child.wait().map_err(failed)?;
    let _ = tie.map(|mut input| input.write_all(b"ended\n")); // fails if the script was killed
    let _ = feeder.map(thread::JoinHandle::join);
    let said = listener.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok(Ended { code: status.code(), stdout, said })
}

fn listen(document: &str, err: impl Read) -> String {
    let mut last = VecDeque::new();
    let mut lines = BufReader::new(err);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Cut endless lines but continue to read, so that the child never blocks on a full pipe.
        match (&mut lines).take(64 * 1024).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text: String = String::from_utf8_lossy(&line)
            .chars()
            .filter(|letter| !letter.is_control() || *letter == '\t')
            .take(LINE_MAX)
            .collect();
        if text.trim().is_empty() {
            continue;
        }
        documents::detail(document, &text);
        last.push_back(text);
        if last.len() > LINES_KEPT {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}
