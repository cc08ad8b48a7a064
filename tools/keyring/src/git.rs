//! The real `git`, and a token that it can use and nobody can see.
//!
//! **Invariant:** the token is in no argument, address, file or environment. It goes through a pipe
//! that git hands on to the credential helper below as descriptor 3, and to nothing else: no hook
//! runs. The helper is two lines of shell that speak git's credential protocol, so there is no
//! second program to find, and the pipe needs no name that others could open.

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::{Secret, Url};

/// How long git may take.
pub const GIT_TIME_MAX: Duration = Duration::from_secs(600);
/// How much of what git says is read.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// How much of it is repeated.
const MESSAGE_CHARACTERS_MAX: usize = 600;
/// How often git may ask for the token: once for each process that meets a 401.
const TOKEN_COPIES: usize = 4;

/// What git may know of our environment: no secret that was given to us is among it.
const ENVIRONMENT: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "XDG_CONFIG_HOME",
    "LANG",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// Reads two lines from the pipe. `read` takes byte by byte, so the next ones stay for the next
/// time that git asks; `printf` is the shell's own, so nothing is ever an argument.
const HELPER: &str = r#"!f() { test "$1" = get || exit 0; IFS= read -r u <&3 && IFS= read -r p <&3 && printf '%s\n%s\n' "$u" "$p"; }; f"#;

/// A repository, as git reaches it.
#[derive(Clone, Copy, Debug)]
pub struct GitOrigin<'a> {
    /// Where it is.
    pub url: &'a Url,
    /// What lets us in.
    pub token: &'a Secret,
}

/// How git ended.
#[derive(Debug)]
pub struct GitEnded {
    /// Whether well.
    pub success: bool,
    /// What it wrote.
    pub text: String,
    said: String,
}

impl GitEnded {
    /// What it said, in one line.
    #[must_use]
    pub fn message(&self) -> String {
        let lines = self.said.lines().map(|it| it.trim_start_matches("remote:").trim());
        let text: Vec<_> = lines.filter(|it| !it.is_empty()).collect();
        let text = text.join("; ").replace(char::is_control, " ");
        text.chars().take(MESSAGE_CHARACTERS_MAX).collect()
    }
}

/// Runs git in `folder`, with the way to `origin` if it needs one.
///
/// # Errors
///
/// It cannot be started; or, [`io::ErrorKind::TimedOut`], takes longer than [`GIT_TIME_MAX`].
pub fn git(
    arguments: &[&str],
    folder: &Path,
    origin: Option<&GitOrigin<'_>>,
) -> io::Result<GitEnded> {
    let mut child = spawn(arguments, folder, origin)?;
    let input = child.stdin.take();
    if let (Some(mut input), Some(origin)) = (input, origin) {
        // Well below what a pipe holds, so this never waits; git may end without reading it.
        let token = origin.token.text().map_err(io::Error::other)?;
        let once = Zeroizing::new(format!("username=x-access-token\npassword={token}\n"));
        let _ = input.write_all(Zeroizing::new(once.repeat(TOKEN_COPIES)).as_bytes());
    }
    let (output, said) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > GIT_TIME_MAX {
            let (_, _) = (child.kill(), child.wait());
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |it: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&it.join().unwrap_or_default()).trim().to_owned()
    };
    Ok(GitEnded { success: status.success(), text: text(output), said: text(said) })
}

fn spawn(arguments: &[&str], folder: &Path, origin: Option<&GitOrigin<'_>>) -> io::Result<Child> {
    let mut settings =
        vec!["core.hooksPath=/dev/null".to_owned(), "core.fsmonitor=false".to_owned()];
    if let Some(GitOrigin { url, .. }) = origin {
        settings.extend([
            "credential.helper=".to_owned(), // nobody else is asked, or told
            format!("credential.helper={HELPER}"),
            "core.askPass=".to_owned(),
            "http.followRedirects=false".to_owned(), // the token is for this host
            "http.lowSpeedLimit=1000".to_owned(),
            "http.lowSpeedTime=60".to_owned(),
            // The longest match wins: nobody's `insteadOf` sends it elsewhere.
            format!("url.{url}.insteadOf={url}"),
            format!("url.{url}.pushInsteadOf={url}"),
            "push.gpgSign=false".to_owned(),
            "push.followTags=false".to_owned(),
            "push.recurseSubmodules=no".to_owned(),
        ]);
    }
    let known = ENVIRONMENT.iter().filter_map(|it| Some((it, std::env::var_os(it)?)));
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 3<&0 </dev/null; exec git \"$@\"", "git"])
        .args(settings.iter().flat_map(|it| ["-c", it]))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(known)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0); // a signal from the terminal is for us: we finish the step
    command.spawn()
}

/// Reads in the background, so that git never waits for us.
fn reader(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut from, &mut std::io::sink());
        }
        bytes
    })
}
