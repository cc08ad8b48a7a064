//! The process of git: its environment, its configuration, its time limit and its credential helper.

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use secrets::Secret;
use zeroize::Zeroizing;

use crate::{Ended, Origin};

/// Longest run of git without output. Progress is output, so a slow push does not fail.
pub const TIME_MAX: Duration = Duration::from_secs(600);
/// Longest time for which children of git may keep the output open after git has ended.
const CHILDREN_TIME_MAX: Duration = Duration::from_secs(5);
/// Most bytes of output that are kept; the rest is read and discarded.
const OUTPUT_BYTES_MAX: u64 = 256 << 20;
/// Copies of the token in the pipe: each process of git that receives a 401 asks for one.
const TOKEN_COPIES: usize = 4;

/// Variables that every run of git needs. None of them may hold a secret.
const EVERYWHERE: [&str; 6] =
    ["PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE", "GIT_SSL_CAINFO"];
/// Variables for local runs: `safe.directory` is in the configuration of the user.
const LOCAL: [&str; 4] = ["HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME"];
/// Variables for HTTPS, where a proxy sees a tunnel and no request. Plain HTTP, which [`crate::Url`] allows
/// on this machine only, uses no proxy, because the proxy would see requests with the token.
const PROXIES: [&str; 6] =
    ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

/// Credential helper that answers `get` for the origin in `TOKEN_ORIGIN` only. `read` of the shell reads
/// byte by byte, so the next lines stay in the pipe for the next process of git. `printf` is a
/// built-in command, so the token is not an argument.
const HELPER: &str = r#"!f() { test "$1" = get || exit 0; while IFS= read -r line && test -n "$line"; do case "$line" in protocol=*) scheme=${line#protocol=} ;; host=*) host=${line#host=} ;; esac; done; test "$scheme://$host" = "$TOKEN_ORIGIN" || exit 0; IFS= read -r user <&3 && IFS= read -r password <&3 && printf '%s\n%s\n' "$user" "$password"; }; f"#;

/// One run of git.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) arguments: &'a [&'a str],
    pub(crate) folder: &'a Path,
    pub(crate) origin: Option<&'a Origin<'a>>,
    /// Repository to use with an origin; `None` makes git use no repository.
    pub(crate) repository: Option<&'a Path>,
    pub(crate) input: &'a [u8],
    /// Further configuration, for example `("lfs.locksVerify", "false")`.
    pub(crate) settings: &'a [(&'a str, &'a str)],
    /// Whether git has to end early. Asked every few milliseconds.
    pub(crate) stop: Option<&'a dyn Fn() -> bool>,
}

impl<'a> Call<'a> {
    /// Returns a run without an origin, further configuration and input.
    pub(crate) fn local(arguments: &'a [&'a str], folder: &'a Path) -> Self {
        let (origin, repository, stop) = (None, None, None);
        Self { arguments, folder, origin, repository, input: &[], settings: &[], stop }
    }
}

/// Runs git, and kills it with all its children when it writes nothing for `silence_max`.
pub(crate) fn call(call: &Call<'_>, silence_max: Duration) -> io::Result<Ended> {
    let lines = call.origin.map_or(Ok(Zeroizing::default()), |origin| token_lines(origin.token))?;
    let mut child = spawn(call)?;
    let start = Instant::now();
    let last_byte = Arc::new(AtomicU64::new(0));
    let output = reader(child.stdout.take(), start, &last_byte);
    let messages = reader(child.stderr.take(), start, &last_byte);
    if let Some(mut pipe) = child.stdin.take() {
        if call.origin.is_some() {
            // The lines fit into the buffer of a pipe, so this write does not block; git may end
            // without reading them.
            let _ = pipe.write_all(lines.as_bytes());
        } else {
            let input = call.input.to_vec();
            thread::spawn(move || {
                let _ = pipe.write_all(&input); // git may end before it has read all of its input
            });
        }
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let silence = start
            .elapsed()
            .saturating_sub(Duration::from_millis(last_byte.load(Ordering::Relaxed)));
        let is_stopped = call.stop.is_some_and(|stop| stop());
        if is_stopped || silence > silence_max {
            kill(&child);
            child.wait()?;
            let kind =
                if is_stopped { io::ErrorKind::Interrupted } else { io::ErrorKind::TimedOut };
            return Err(kind.into());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let ended = Instant::now();
    while !(output.is_finished() && messages.is_finished()) {
        if ended.elapsed() > CHILDREN_TIME_MAX {
            kill(&child); // a child of git still holds the pipes, and may hold the token
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let text = |bytes: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&bytes.join().unwrap_or_default()).trim().to_owned()
    };
    Ok(Ended { success: status.success(), text: text(output), said: text(messages) })
}

/// Returns the lines that the helper reads: a user and the token, [`TOKEN_COPIES`] times.
fn token_lines(token: &Secret) -> io::Result<Zeroizing<String>> {
    let wrong = |message: &str| io::Error::new(io::ErrorKind::InvalidInput, message.to_owned());
    let token = token.text().map_err(|_| wrong("the token is not UTF-8"))?;
    if token.contains(char::is_control) {
        // A line break would add lines to git's credential protocol.
        return Err(wrong("the token contains a control character"));
    }
    let copy = Zeroizing::new(format!("username=x-access-token\npassword={token}\n"));
    Ok(Zeroizing::new(copy.repeat(TOKEN_COPIES)))
}

/// Kills the process group of git, which includes every process that git has started.
fn kill(child: &Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL); // the group may have just ended
}

fn spawn(call: &Call<'_>) -> io::Result<Child> {
    let mut settings =
        vec![("core.hooksPath".to_owned(), "/dev/null"), ("core.fsmonitor".to_owned(), "false")];
    let mut command = Command::new("sh");
    // With a token, descriptor 3 is the pipe, and standard input is empty.
    let script = match call.origin {
        Some(_) => "exec 3<&0 </dev/null; exec git \"$@\"",
        None => "exec git \"$@\"",
    };
    command
        .args(["-c", script, "git"])
        .args(call.arguments)
        .current_dir(call.folder)
        .env_clear()
        .envs(known(&EVERYWHERE))
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1") // since git 2.45; GIT_ALLOW_PROTOCOL=none has the same effect in older versions
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0); // Ctrl-C reaches this program only, which finishes the step first
    if let Some(Origin { url, .. }) = call.origin {
        let scheme = if url.is_plain() { "http" } else { "https" };
        let origin = format!("{scheme}://{}", url.host());
        settings.extend([
            ("credential.helper".to_owned(), ""), // an empty value removes all other helpers
            (format!("credential.{origin}.helper"), HELPER),
            ("core.askPass".to_owned(), ""),
            ("http.followRedirects".to_owned(), "false"), // a redirect could send the token to another host
            // A connection without traffic ends after 300 seconds. A server that processes a push
            // sends a keep-alive packet every five seconds (receive.keepAlive of git-config).
            ("http.lowSpeedLimit".to_owned(), "1"),
            ("http.lowSpeedTime".to_owned(), "300"),
            ("push.gpgSign".to_owned(), "false"),
            ("push.followTags".to_owned(), "false"),
            ("push.recurseSubmodules".to_owned(), "no"),
        ]);
        settings.extend(call.settings.iter().map(|(key, value)| ((*key).to_owned(), *value)));
        let nothing = Path::new("/dev/null");
        command
            .env("TOKEN_ORIGIN", origin)
            .env("GIT_ALLOW_PROTOCOL", scheme)
            .env("GIT_DIR", call.repository.unwrap_or(nothing))
            .env("HOME", nothing) // no .gitconfig, .netrc, .git-credentials
            .env("GIT_CONFIG_GLOBAL", nothing)
            .env("GIT_CONFIG_SYSTEM", nothing)
            .env("GIT_CONFIG_NOSYSTEM", "1");
        if !url.is_plain() {
            command.envs(known(&PROXIES)).envs(authorities());
        }
    } else {
        command.envs(known(&LOCAL)).env("GIT_ALLOW_PROTOCOL", "none");
    }
    // The variables replace `-c`, which splits at the first `=`, because a URL may contain `=`.
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (index, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{index}"), key);
        command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    command.spawn()
}

/// Returns git's own variables for the certificate authorities of `SSL_CERT_FILE` and `SSL_CERT_DIR`. A
/// git whose curl was built with `GnuTLS`, as in Debian, does not read those two (measured: git 2.39).
fn authorities() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let of_git = [("GIT_SSL_CAINFO", "SSL_CERT_FILE"), ("GIT_SSL_CAPATH", "SSL_CERT_DIR")];
    let value = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let unset = of_git.into_iter().filter(move |(name, _)| value(name).is_none());
    unset.filter_map(move |(name, general)| Some((name, value(general)?)))
}

/// Returns the variables of `names` that are set, with their values.
fn known<'a>(names: &'a [&str]) -> impl Iterator<Item = (&'a str, std::ffi::OsString)> {
    names.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

/// Reads `from` in the background, so that a full pipe does not block git. Stores the time of the last
/// byte in `last_byte`, in milliseconds since `start`.
fn reader(
    from: Option<impl Read + Send + 'static>,
    start: Instant,
    last_byte: &Arc<AtomicU64>,
) -> JoinHandle<Vec<u8>> {
    let last_byte = last_byte.clone();
    thread::spawn(move || {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        let Some(mut from) = from else { return bytes };
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return bytes,
                Ok(read) => {
                    let now = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                    last_byte.store(now, Ordering::Relaxed);
                    if (bytes.len() as u64) < OUTPUT_BYTES_MAX {
                        bytes.extend(&chunk[..read]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return bytes,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn local<'a>(arguments: &'a [&'a str]) -> Call<'a> {
        Call::local(arguments, Path::new("."))
    }

    /// Asserts that the process with the PID in `file` ends.
    fn assert_ends(file: &Path) {
        let child = fs::read_to_string(file).expect("the PID of the child");
        let state =
            || fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        let start = Instant::now();
        // A killed process stays a zombie until its new parent has waited for it.
        while !(state().is_empty() || state().contains(") Z ")) {
            assert!(start.elapsed() < Duration::from_secs(10), "{}", state());
            thread::sleep(Duration::from_millis(10));
        }
    }

    // hazard: A killed git leaves children running, which hold the token.
    // class: A limit ends one process of several.
    // members: a limit on the total time, which a slow push of large data exceeds
    // now: the whole process group is killed after ten minutes without output
    #[test]
    fn a_silent_git_is_killed_with_everything_that_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let alias = format!("alias.x=!sleep 600 & echo $! >'{}'; wait", file.display());
        let arguments = ["-c", &alias, "x"];
        let error = call(&local(&arguments), Duration::from_millis(500)).expect_err("no output");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_ends(&file);
    }

    #[test]
    fn a_stopped_git_is_killed_with_everything_that_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let alias = format!("alias.x=!sleep 600 & echo $! >'{}'; wait", file.display());
        let arguments = ["-c", &alias, "x"];
        let stop = || fs::read_to_string(&file).is_ok_and(|pid| pid.ends_with('\n'));
        let run = Call { stop: Some(&stop), ..local(&arguments) };
        let error = call(&run, TIME_MAX).expect_err("it is stopped");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert_ends(&file);
    }

    #[test]
    fn a_git_that_writes_progress_may_run_longer_than_the_limit() {
        let alias = "alias.x=!for i in 1 2 3 4 5 6 7 8; do echo $i >&2; sleep 0.2; done";
        let ended = call(&local(&["-c", alias, "x"]), Duration::from_secs(1));
        assert!(ended.expect("git ends").success);
    }

    #[test]
    fn the_credential_helper_answers_for_its_own_origin_only() {
        let ask = |verb: &str, question: &str| {
            let script = format!("{} {verb}", &HELPER[1..]);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec 3<<'X'\nusername=u\npassword=p\nX\n{script}")]);
            command.env("TOKEN_ORIGIN", "https://forge.example:8443");
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().expect("sh runs");
            let mut input = child.stdin.take().expect("a pipe");
            let _ = input.write_all(question.as_bytes());
            drop(input);
            let output = child.wait_with_output().expect("sh ends").stdout;
            String::from_utf8(output).expect("text")
        };
        let ours = "protocol=https\nhost=forge.example:8443\n";
        assert_eq!(ask("get", ours), "username=u\npassword=p\n");
        assert_eq!(ask("get", &format!("{ours}path=owner/x.git\n\n")), "username=u\npassword=p\n");
        for other in [
            "protocol=http\nhost=forge.example:8443\n",
            "protocol=https\nhost=forge.example\n",
            "protocol=https\nhost=forge.example:8443.evil.example\n",
            "protocol=https\nhost=evil.example\npath=https://forge.example:8443\n",
            "protocol=https\nhost=forge.example:8443\nhost=proxy.example:3128\n",
            "host=forge.example:8443\n",
            "",
        ] {
            assert_eq!(ask("get", other), "", "{other}");
        }
        assert_eq!(ask("store", ours) + &ask("erase", ours), "");
    }
}
