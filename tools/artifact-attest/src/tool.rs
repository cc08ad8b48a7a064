//! Runs the child programs `git` and `nix`.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

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

/// Shell script that becomes `"$@"`, and ends its process group when standard input closes before a line arrives.
///
/// Reason: a killed program cannot stop its children, and an orphaned build would block the next
/// build of the same derivation.
const TIED: &str = r#"exec 3<&0
(read -r ended <&3 || kill -s TERM -- "-$$") >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-"#;

/// Time for a program to end after SIGTERM; then its process group is killed. Nix first ends its builders.
const GRACE: Duration = Duration::from_secs(10);
/// Longest time for which children may keep the output open after their program has ended.
const CHILDREN_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest pause between two looks at a running program, and so the delay of an interruption.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Result of a finished program.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status; `None` if a signal ended the program.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    /// Last lines of standard error.
    pub(crate) said: String,
    /// Whether the program was ended because it exceeded its time limit.
    pub(crate) is_late: bool,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// Runs `program` to its end, with additional environment variables and standard input. Its standard error is shown
/// with `--verbose`.
///
/// An interruption of this program ends `program` with everything that it has started, and is an error.
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
    end_of(document, program, command, variables, input, None)
}

/// Like [`run_with`], for programs that run long: `program` also ends when this program is killed, and at `limit`.
pub(crate) fn run_tied<A: AsRef<OsStr>>(
    document: &str,
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
    variables: &[(&str, &OsStr)],
    limit: Option<Duration>,
) -> Result<Ended, Error> {
    // The shell would report a missing program with an exit status.
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()) {
        return Err(Error::Tool { program, source: io::ErrorKind::NotFound.into() });
    }
    let mut command = Command::new("sh");
    command.args(["-c", TIED, "sh", program]).args(arguments).stdin(Stdio::piped());
    end_of(document, program, command, variables, b"", limit)
}

fn end_of(
    document: &str,
    program: &'static str,
    mut command: Command,
    variables: &[(&str, &OsStr)],
    input: &[u8],
    limit: Option<Duration>,
) -> Result<Ended, Error> {
    documents::check_interrupt()?;
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
        .process_group(0) // its children can be ended with it, and Ctrl-C reaches this program first
        .spawn()
        .map_err(failed)?;
    let (mut tie, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // Write the input in a thread of its own, because the child may block on its output meanwhile.
    if let Some(mut to) = tie.take_if(|_| !input.is_empty()) {
        let input = input.to_owned();
        thread::spawn(move || to.write_all(&input)); // fails if the child ends early
    }
    let name = document.to_owned();
    let said = in_thread(move || err.map(|err| listen(&name, err)).unwrap_or_default());
    let output = in_thread(move || {
        let mut stdout = Vec::new();
        let read = out.map(|out| out.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut stdout));
        read.transpose().map(|_| stdout)
    });
    let group = Pid::from_child(&child);
    let start = Instant::now();
    let (mut stdout, mut stopped, mut is_late) = (None, None, false);
    let mut pause = Duration::from_millis(1);
    let is_too_large = |stdout: &Option<io::Result<Vec<u8>>>| matches!(stdout, Some(Ok(stdout)) if stdout.len() as u64 > OUTPUT_BYTES_MAX);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        is_late |= limit.is_some_and(|limit| start.elapsed() > limit);
        let must_stop = is_late || is_too_large(&stdout) || documents::is_interrupted();
        match stopped {
            None if must_stop => {
                signal(group, Signal::TERM);
                stopped = Some(Instant::now());
            }
            Some(since) if since.elapsed() > GRACE => signal(group, Signal::KILL),
            _ => {}
        }
        // A program closes its output just before it ends.
        if stdout.is_some() {
            thread::sleep(pause);
        } else if let Ok(read) = output.recv_timeout(pause) {
            (stdout, pause) = (Some(read), Duration::from_millis(1));
            continue;
        }
        pause = PAUSE_MAX.min(pause * 2);
    };
    let _ = tie.map(|mut input| input.write_all(b"ended\n")); // fails if the script was killed
    if stopped.is_some() {
        signal(group, Signal::KILL); // children that ignore SIGTERM
    }
    if stopped.is_some() && !is_late {
        documents::check_interrupt()?;
    }
    let stdout = stdout.or_else(|| rest(&output, group));
    if is_too_large(&stdout) {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let stdout = stdout.transpose().map_err(failed)?.unwrap_or_default();
    let said = rest(&said, group).unwrap_or_default();
    Ok(Ended { code: status.code(), stdout, said, is_late })
}

/// Sends a signal to a program and everything that it has started.
fn signal(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal); // fails if the group has just ended
}

/// Runs `work` in a thread of its own, and returns where its result arrives.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work())); // fails if the receiver is gone
    receiver
}

/// Returns what a program has written. Children that keep its output open are ended.
fn rest<T>(written: &Receiver<T>, group: Pid) -> Option<T> {
    let in_time = written.recv_timeout(CHILDREN_TIME_MAX);
    let late = |_| {
        signal(group, Signal::KILL);
        written.recv_timeout(CHILDREN_TIME_MAX)
    };
    in_time.or_else(late).ok()
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Runs a shell script to its end, or to `limit`.
    fn script(text: &str, limit: Duration) -> Result<Ended, Error> {
        run_tied("a", "sh", ["-c", text], &[], Some(limit))
    }

    #[test]
    fn output_and_exit_status_of_a_program_are_returned() -> Result<(), Error> {
        let ended = script("echo out; echo message >&2; exit 3", Duration::from_secs(60))?;
        let (code, said) = (ended.code, ended.said.as_str());
        assert_eq!(
            (code, ended.text().as_str(), said, ended.is_late),
            (Some(3), "out", "message", false)
        );
        let ended = run_with("a", "cat", ["-"], &[], b"input")?;
        assert_eq!(ended.stdout, b"input");
        Ok(())
    }

    #[test]
    fn a_program_that_is_not_installed_is_an_error_of_its_own() {
        let missing = run_tied("a", "no-such-program", [""; 0], &[], None);
        assert!(matches!(missing, Err(Error::Tool { program: "no-such-program", .. })));
    }

    /// Neither a child in the background that keeps the output open, nor one that ignores SIGTERM survives.
    #[test]
    fn a_time_limit_ends_a_program_with_everything_that_it_has_started() -> Result<(), Error> {
        let text = "(trap '' TERM; exec sleep 300) & echo $!; sleep 300 & echo $!; wait";
        let ended = script(text, Duration::from_millis(200))?;
        assert!(ended.is_late && ended.code != Some(0));
        let children: Vec<_> = ended.text().lines().map(str::to_owned).collect();
        assert_eq!(children.len(), 2);
        for child in children {
            let state = || fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            let has_ended = || state().is_empty() || state().contains(") Z ");
            let start = Instant::now();
            while !has_ended() && start.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(5));
            }
            assert!(has_ended(), "{}", state());
        }
        Ok(())
    }
}
