//! Runs the real `git`, and gives it a token that only the token's own origin can receive.
//!
//! **Invariant:** the token is in no argument, address, file or environment variable. It goes
//! through a pipe that git hands on to the credential helper below as descriptor 3. The helper is a
//! few lines of shell that speak git's credential protocol, so no second program must be found.
//! **Invariant:** the helper answers for one scheme, host and port. Every other host that git talks
//! to (a promisor, an LFS server, a proxy) gets nothing, because git asks the helper in vain.
//! **Invariant:** git with a token reads no configuration but ours: not the repository's, not the
//! user's, not the system's, no `.netrc` and no cookies. So no `extraheader`, `insteadOf`, `proxy`,
//! `sslVerify`, `include` or `sshCommand` can redirect or replace the token.
//! **Invariant:** git without a token opens no connection, so it fetches no missing objects.

use std::fs;
use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regex_lite::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::{Error, Forge, Secret, Url};

/// How long git may run without writing anything. Progress counts: a slow push is no failure.
pub const GIT_TIME_MAX: Duration = Duration::from_secs(600);
/// How long the children of git may keep its output open after git itself has ended.
const CHILDREN_TIME_MAX: Duration = Duration::from_secs(5);
/// How much of git's output is read; the rest is discarded.
const OUTPUT_BYTES_MAX: u64 = 256 << 20;
/// How much of git's messages is repeated in an error.
const MESSAGE_CHARACTERS_MAX: usize = 600;
/// How often git may ask for the token: once for each process that meets a 401.
const TOKEN_COPIES: usize = 4;

/// Variables that git needs anywhere. No variable that may hold one of our secrets is among them.
const EVERYWHERE: [&str; 6] =
    ["PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE", "GIT_SSL_CAINFO"];
/// Variables for local commands: a user's `safe.directory` is in the user's configuration.
const LOCAL: [&str; 4] = ["HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME"];
/// Variables for HTTPS. The proxy sees a tunnel, never a request. Plain HTTP is for this machine
/// alone (`Url`); a proxy would see its requests with the token, so none is used.
const PROXIES: [&str; 6] =
    ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

/// Answers `get` for the origin in `TOKEN_ORIGIN`, and for no other. `read` takes byte by byte, so
/// later lines stay in the pipe for the next time that git asks; `printf` is a built-in command, so
/// the token is never an argument.
const HELPER: &str = r#"!f() { test "$1" = get || exit 0; while IFS= read -r line && test -n "$line"; do case "$line" in protocol=*) scheme=${line#protocol=} ;; host=*) host=${line#host=} ;; esac; done; test "$scheme://$host" = "$TOKEN_ORIGIN" || exit 0; IFS= read -r user <&3 && IFS= read -r password <&3 && printf '%s\n%s\n' "$user" "$password"; }; f"#;

/// A repository, as git reaches it.
#[derive(Clone, Copy, Debug)]
pub struct GitOrigin<'a> {
    /// Its address.
    pub url: &'a Url,
    /// The token, for the scheme, host and port of `url` alone.
    pub token: &'a Secret,
}

/// How git ended.
#[derive(Debug)]
pub struct GitEnded {
    /// Whether its exit status was 0.
    pub success: bool,
    /// Its standard output, without white space at either end.
    pub text: String,
    /// Its standard error, whole.
    pub said: String,
}

impl GitEnded {
    /// Its messages in one line, cut to a length that people read. Progress is left out, and so are
    /// credentials in addresses (of a proxy).
    #[must_use]
    pub fn message(&self) -> String {
        let lines = self.said.split(['\n', '\r']);
        let lines = lines.map(|line| line.trim_start_matches("remote:").trim());
        let text: Vec<_> = lines.filter(|line| !line.is_empty() && !is_progress(line)).collect();
        let text = text.join("; ").replace(char::is_control, " ");
        let text = match Regex::new("://[^/@ ]*@") {
            Ok(credentials) => credentials.replace_all(&text, "://…@").into_owned(),
            Err(_) => text,
        };
        text.chars().take(MESSAGE_CHARACTERS_MAX).collect()
    }
}

/// Whether `line` is one of git's progress lines, for example
/// `Writing objects: 100% (3/3), 232 bytes | 232.00 KiB/s, done.`
fn is_progress(line: &str) -> bool {
    let counts = line.contains("% (") && line.contains("objects:")
        || line.contains("% (") && line.contains("deltas:");
    counts
        || line.starts_with("Enumerating objects:")
        || line.starts_with("Delta compression using")
        || line.starts_with("Total ") && line.contains("(delta ")
}

impl Forge {
    /// Whether git at `clone` is this forge, so that its token may be sent there. A forge names its
    /// clone address in an answer, and `data-drain` reads it from a status: neither decides where a
    /// token goes.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignOrigin`].
    pub fn owns(&self, clone: &Url) -> Result<(), Error> {
        let (api, git) = match self {
            Self::Gitea { url, .. } => (url, authority(url)),
            // GitHub's API is at api.github.com or api.SUBDOMAIN.ghe.com, and git is at the same
            // host without `api.`; GitHub Enterprise Server has both at one host.
            // https://docs.github.com/en/rest/using-the-rest-api/getting-started-with-the-rest-api
            Self::Github { url, .. } => {
                let authority = authority(url);
                let git = authority.strip_prefix("api.").map(str::to_owned);
                (url, git.unwrap_or(authority))
            }
        };
        if (api.is_plain(), git) == (clone.is_plain(), authority(clone)) {
            return Ok(());
        }
        Err(Error::ForeignOrigin { url: clone.clone(), forge: api.clone() })
    }
}

/// The host in lower case, with its port unless that is the scheme's default.
fn authority(url: &Url) -> String {
    let host = url.host().to_ascii_lowercase();
    let default = if url.is_plain() { ":80" } else { ":443" };
    host.strip_suffix(default).map_or(host.clone(), str::to_owned)
}

/// Runs git in `folder`. Without an `origin` it has no way to any network. With an `origin` it takes
/// `folder` for no repository, so that no repository's configuration applies.
///
/// # Errors
///
/// It cannot be started; or, [`io::ErrorKind::TimedOut`], writes nothing for [`GIT_TIME_MAX`]; or,
/// [`io::ErrorKind::InvalidInput`], the token cannot be sent.
pub fn git(
    arguments: &[&str],
    folder: &Path,
    origin: Option<&GitOrigin<'_>>,
) -> io::Result<GitEnded> {
    run(&Call { arguments, folder, origin, repository: None, input: &[] }, GIT_TIME_MAX)
}

/// Runs git in `folder` without a way to any network, with `input` as its standard input.
///
/// # Errors
///
/// As [`git`].
pub fn git_with_input(arguments: &[&str], folder: &Path, input: &[u8]) -> io::Result<GitEnded> {
    run(&Call { arguments, folder, origin: None, repository: None, input }, GIT_TIME_MAX)
}

/// Pushes `refspec` from the objects of the repository in `folder`, and returns what
/// `git push --porcelain` says. The push runs in an empty repository that borrows those objects, so
/// that the configuration and the hooks of the repository in `folder` do not apply.
///
/// # Errors
///
/// As [`git`]; or the objects are not found.
pub fn git_push(folder: &Path, origin: &GitOrigin<'_>, refspec: &str) -> io::Result<GitEnded> {
    let borrower = borrow_objects(folder)?;
    let arguments =
        ["push", "--porcelain", "--progress", "--no-verify", origin.url.as_str(), refspec];
    let repository = Some(borrower.path());
    let call = Call { arguments: &arguments, folder, origin: Some(origin), repository, input: &[] };
    run(&call, GIT_TIME_MAX)
}

/// Makes a bare repository whose objects are those of the repository in `folder`.
fn borrow_objects(folder: &Path) -> io::Result<TempDir> {
    let ask = |arguments: &[&str]| -> io::Result<String> {
        let answer = git(arguments, folder, None)?;
        if answer.success { Ok(answer.text) } else { Err(io::Error::other(answer.message())) }
    };
    let objects = ask(&["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
    let format = ask(&["rev-parse", "--show-object-format"])?;
    if objects.contains('\n') || objects.starts_with('"') {
        let message = "the path of the repository cannot be written to objects/info/alternates";
        return Err(io::Error::other(message));
    }
    let borrower = tempfile::Builder::new().prefix("holistic-push-").tempdir()?;
    let path = borrower.path();
    for below in ["objects/info", "objects/pack", "refs/heads"] {
        fs::create_dir_all(path.join(below))?;
    }
    fs::write(path.join("HEAD"), "ref: refs/heads/main\n")?;
    fs::write(path.join("objects/info/alternates"), objects + "\n")?;
    let version = if format == "sha1" { "0" } else { "1" };
    let extensions = match format.as_str() {
        "sha1" => String::new(),
        format => format!("[extensions]\n\tobjectFormat = {format}\n"),
    };
    let config =
        format!("[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n{extensions}");
    fs::write(path.join("config"), config)?;
    Ok(borrower)
}

/// One run of git.
struct Call<'a> {
    arguments: &'a [&'a str],
    folder: &'a Path,
    origin: Option<&'a GitOrigin<'a>>,
    /// The repository to use with an origin; otherwise git is told that there is none.
    repository: Option<&'a Path>,
    input: &'a [u8],
}

fn run(call: &Call<'_>, silence_max: Duration) -> io::Result<GitEnded> {
    let lines = call.origin.map_or(Ok(Zeroizing::default()), |origin| token_lines(origin.token))?;
    let mut child = spawn(call)?;
    let began = Instant::now();
    let heard = Arc::new(AtomicU64::new(0));
    let output = reader(child.stdout.take(), began, &heard);
    let said = reader(child.stderr.take(), began, &heard);
    if let Some(mut pipe) = child.stdin.take() {
        if call.origin.is_some() {
            // Well below what a pipe holds, so this never waits; git may end without reading it.
            let _ = pipe.write_all(lines.as_bytes());
        } else {
            let input = call.input.to_vec();
            thread::spawn(move || {
                let _ = pipe.write_all(&input); // git may end before it has read everything
            });
        }
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let silence =
            began.elapsed().saturating_sub(Duration::from_millis(heard.load(Ordering::Relaxed)));
        if silence > silence_max {
            kill(&child);
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let ended = Instant::now();
    while !(output.is_finished() && said.is_finished()) {
        if ended.elapsed() > CHILDREN_TIME_MAX {
            kill(&child); // a child of git still holds the pipes, and maybe the token
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let text = |bytes: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&bytes.join().unwrap_or_default()).trim().to_owned()
    };
    Ok(GitEnded { success: status.success(), text: text(output), said: text(said) })
}

/// What the helper reads: a user and the token, several times.
fn token_lines(token: &Secret) -> io::Result<Zeroizing<String>> {
    let wrong = |message: &str| io::Error::new(io::ErrorKind::InvalidInput, message.to_owned());
    let token = token.text().map_err(|_| wrong("the token is not UTF-8"))?;
    if token.contains(char::is_control) {
        // A line break would add lines of its own to git's credential protocol.
        return Err(wrong("the token contains a control character"));
    }
    let once = Zeroizing::new(format!("username=x-access-token\npassword={token}\n"));
    Ok(Zeroizing::new(once.repeat(TOKEN_COPIES)))
}

/// Kills git and everything that it has started: they are a process group of their own.
fn kill(child: &Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL); // it may have just ended
}

fn spawn(call: &Call<'_>) -> io::Result<Child> {
    let mut settings =
        vec![("core.hooksPath".to_owned(), "/dev/null"), ("core.fsmonitor".to_owned(), "false")];
    let mut command = Command::new("sh");
    // With a token, descriptor 3 is the pipe and standard input is empty.
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
        .env("GIT_NO_LAZY_FETCH", "1") // git 2.45; before that, no allowed protocol does the same
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0); // a signal from the terminal is for us: we finish the step
    if let Some(GitOrigin { url, .. }) = call.origin {
        let scheme = if url.is_plain() { "http" } else { "https" };
        let origin = format!("{scheme}://{}", url.host());
        settings.extend([
            ("credential.helper".to_owned(), ""), // an empty value removes all others
            (format!("credential.{origin}.helper"), HELPER),
            ("core.askPass".to_owned(), ""),
            ("http.followRedirects".to_owned(), "false"), // the token is for this host
            // A connection on which nothing moves ends. A server that is busy with what it got
            // sends a keep-alive packet every five seconds (receive.keepAlive).
            ("http.lowSpeedLimit".to_owned(), "1"),
            ("http.lowSpeedTime".to_owned(), "300"),
            ("push.gpgSign".to_owned(), "false"),
            ("push.followTags".to_owned(), "false"),
            ("push.recurseSubmodules".to_owned(), "no"),
        ]);
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
            command.envs(known(&PROXIES));
        }
    } else {
        command.envs(known(&LOCAL)).env("GIT_ALLOW_PROTOCOL", "none");
    }
    // Not `-c`: it splits at the first `=`, and an address may hold one.
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (index, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{index}"), key);
        command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    command.spawn()
}

/// Those of `names` that are set.
fn known<'a>(names: &'a [&str]) -> impl Iterator<Item = (&'a str, std::ffi::OsString)> {
    names.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

/// Reads in the background, so that git never waits for us; remembers in `heard` when the last byte
/// came, in milliseconds since `began`.
fn reader(
    from: Option<impl Read + Send + 'static>,
    began: Instant,
    heard: &Arc<AtomicU64>,
) -> JoinHandle<Vec<u8>> {
    let heard = heard.clone();
    thread::spawn(move || {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        let Some(mut from) = from else { return bytes };
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return bytes,
                Ok(read) => {
                    let now = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    heard.store(now, Ordering::Relaxed);
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

/// Whether the repository in `folder` is a partial clone, which may lack objects.
///
/// # Errors
///
/// As [`git`].
pub fn git_is_partial(folder: &Path) -> io::Result<bool> {
    let pattern = r"^(extensions\.partialclone|remote\..*\.promisor)$";
    git(&["config", "--get-regexp", pattern], folder, None).map(|answer| answer.success)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = ".";

    fn local<'a>(arguments: &'a [&'a str]) -> Call<'a> {
        Call { arguments, folder: Path::new(HERE), origin: None, repository: None, input: &[] }
    }

    // hazard: A git that is killed leaves children behind, which hold the token.
    // class: A limit ends one process of several.
    // members: a limit on the whole time, which a slow push of much data meets
    // now: the whole process group ends after ten minutes without progress
    #[test]
    fn a_silent_git_is_killed_with_everything_that_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let alias = format!("alias.x=!sleep 600 & echo $! >'{}'; wait", file.display());
        let arguments = ["-c", &alias, "x"];
        let error = run(&local(&arguments), Duration::from_millis(500)).expect_err("it is silent");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let child = fs::read_to_string(file).expect("the child's number");
        let state =
            || fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        let began = Instant::now();
        // What was killed stays a zombie until its new parent has collected it.
        while !(state().is_empty() || state().contains(") Z ")) {
            assert!(began.elapsed() < Duration::from_secs(10), "{}", state());
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_git_that_makes_progress_may_take_longer_than_the_limit() {
        let alias = "alias.x=!for i in 1 2 3 4 5 6 7 8; do echo $i >&2; sleep 0.2; done";
        let ended = run(&local(&["-c", alias, "x"]), Duration::from_secs(1));
        assert!(ended.expect("it ends").success);
    }

    #[test]
    fn the_helper_answers_for_its_own_origin_alone() {
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
            let output = child.wait_with_output().expect("it ends").stdout;
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

    #[test]
    fn a_forge_owns_its_own_origin_and_no_other() {
        let url = |text: &str| Url::try_from(text.to_owned()).expect("an address");
        let token: crate::Reference =
            serde_json::from_value(serde_json::json!({"env": "X"})).expect("a reference");
        let github = |text: &str| Forge::Github { url: url(text), token: token.clone() };
        let gitea = |text: &str| Forge::Gitea { url: url(text), token: token.clone() };
        for (forge, clone) in [
            (github("https://api.github.com"), "https://github.com/o/r.git"),
            (github("https://api.github.com"), "https://GitHub.com:443/o/r.git"),
            (github("https://api.acme.ghe.com"), "https://acme.ghe.com/o/r.git"),
            (github("https://git.acme.org/api/v3"), "https://git.acme.org/o/r.git"),
            (gitea("https://git.acme.org:3000/gitea"), "https://git.acme.org:3000/gitea/o/r.git"),
        ] {
            assert!(forge.owns(&url(clone)).is_ok(), "{clone}");
        }
        for (forge, clone) in [
            (github("https://api.github.com"), "https://github.com.evil.org/o/r.git"),
            (github("https://api.github.com"), "https://gist.github.com/o/r.git"),
            (github("https://api.github.com"), "https://github.com:8443/o/r.git"),
            (gitea("https://git.acme.org"), "https://git.acme.org:3000/o/r.git"),
            (gitea("https://api.acme.org"), "https://acme.org/o/r.git"),
            (gitea("https://127.0.0.1:3000"), "http://127.0.0.1:3000/o/r.git"),
        ] {
            assert!(forge.owns(&url(clone)).is_err(), "{clone}");
        }
    }

    #[test]
    fn a_message_leaves_out_progress_and_credentials() {
        let said = "Enumerating objects: 3, done.\nWriting objects:  33% (1/3)\rWriting objects: 100% (3/3), done.\n\
            remote: error: no\nfatal: unable to reach http://me:hunter2@proxy:3128/\n";
        let ended = GitEnded { success: false, text: String::new(), said: said.to_owned() };
        assert_eq!(ended.message(), "error: no; fatal: unable to reach http://…@proxy:3128/");
    }
}
