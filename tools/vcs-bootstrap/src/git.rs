//! The history: the real `git`, on the repository in the current directory.
//!
//! **Invariant:** the token is in no argument, address, file or environment. It goes through a pipe
//! that git hands on to the credential helper below as descriptor 3, and to nothing else: no hook
//! runs. The helper is two lines of shell that speak git's credential protocol, so there is no
//! second program to find, and the pipe needs no name that others could open.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use keyring::{Secret, Url};
use zeroize::Zeroizing;

use crate::Error;
use crate::model::Head;

/// How long git may take.
const TIME_MAX: Duration = Duration::from_secs(600);
/// How much of what git says is read.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
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

/// The forge's repository, as git reaches it.
pub(crate) struct Origin<'a> {
    pub(crate) url: &'a Url,
    pub(crate) token: &'a Secret,
}

/// The commit of `branch` here.
pub(crate) fn commit(branch: &str) -> Result<String, Error> {
    let missing = |what: String, help: &str| Error::NoHistory { what, help: help.to_owned() };
    let inside = run(&["rev-parse", "--is-shallow-repository"], None)?;
    match inside.text.as_str() {
        "false" => {}
        "true" => {
            let what = "this is a shallow clone: what came before is not here to be pushed";
            let help = "`git fetch --unshallow`; with actions/checkout, `fetch-depth: 0`";
            return Err(missing(what.to_owned(), help));
        }
        _ => {
            let what = format!("there is no Git repository here: {}", inside.message());
            return Err(missing(what, "run this at the root of the repository, or `git init`"));
        }
    }
    let revision = format!("refs/heads/{branch}^{{commit}}");
    let found = run(&["rev-parse", "--verify", "--quiet", &revision], None)?;
    if found.success {
        return Ok(found.text);
    }
    let head = run(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], None)?;
    if !head.success {
        let what = format!("this Git repository has no commit on {branch} yet");
        return Err(missing(what, "commit something first"));
    }
    let on = run(&["symbolic-ref", "--quiet", "--short", "HEAD"], None)?;
    let at = if on.success { format!("on {}", on.text) } else { "detached".to_owned() };
    let what = format!("there is no branch {branch} here; HEAD is {at} at {}", head.text);
    let help = format!("`git branch {branch}` makes one of it, or declare another branch");
    Err(Error::NoHistory { what, help })
}

/// Where `branch` of the forge stands, seen from `commit` here.
pub(crate) fn head(origin: &Origin<'_>, branch: &str, commit: &str) -> Result<Head, Error> {
    let Some(there) = remote(origin, branch)? else { return Ok(Head::Absent) };
    if there == commit {
        return Ok(Head::Same);
    }
    let here = run(&["cat-file", "-e", &format!("{there}^{{commit}}")], None)?;
    let is_ancestor = |of: &str, old: &str| {
        run(&["merge-base", "--is-ancestor", old, of], None).map(|it| it.success)
    };
    Ok(if !here.success {
        Head::Elsewhere(there)
    } else if is_ancestor(commit, &there)? {
        Head::Behind(there)
    } else if is_ancestor(&there, commit)? {
        Head::Ahead(there)
    } else {
        Head::Elsewhere(there)
    })
}

/// The commit of `branch` at the forge, if it has it.
pub(crate) fn remote(origin: &Origin<'_>, branch: &str) -> Result<Option<String>, Error> {
    let reference = format!("refs/heads/{branch}");
    let listed = run(&["ls-remote", "--quiet", origin.url.as_str(), &reference], Some(origin))?;
    if !listed.success {
        return Err(listed.failed("ls-remote"));
    }
    let found = listed.text.lines().filter_map(|it| it.split_once('\t'));
    Ok(found.filter(|it| it.1 == reference).map(|it| it.0.to_owned()).next())
}

/// Moves `branch` of the forge to `commit`; never back, never aside.
pub(crate) fn push(origin: &Origin<'_>, branch: &str, commit: &str) -> Result<(), Error> {
    let refspec = format!("{commit}:refs/heads/{branch}");
    let arguments = ["push", "--quiet", "--no-verify", origin.url.as_str(), &refspec];
    let pushed = run(&arguments, Some(origin))?;
    if pushed.success {
        return Ok(());
    }
    let message = pushed.message();
    let refused = ["GH013", "protected branch", "pre-receive hook declined", "[rejected]"];
    if refused.iter().any(|it| message.contains(it)) {
        return Err(Error::PushRefused { branch: branch.to_owned(), message });
    }
    Err(pushed.failed("push"))
}

/// How git ended.
struct Ended {
    success: bool,
    text: String,
    said: String,
}

impl Ended {
    /// What it said, in one line.
    fn message(&self) -> String {
        let lines = self.said.lines().map(|it| it.trim_start_matches("remote:").trim());
        let text: Vec<_> = lines.filter(|it| !it.is_empty()).collect();
        let text = text.join("; ").replace(char::is_control, " ");
        text.chars().take(MESSAGE_CHARACTERS_MAX).collect()
    }

    fn failed(&self, command: &str) -> Error {
        Error::GitFailed { command: command.to_owned(), message: self.message() }
    }
}

/// Runs git, with the way to `origin` if it needs one.
fn run(arguments: &[&str], origin: Option<&Origin<'_>>) -> Result<Ended, Error> {
    let mut child = spawn(arguments, origin)?;
    let input = child.stdin.take();
    if let (Some(mut input), Some(origin)) = (input, origin) {
        // Well below what a pipe holds, so this never waits; git may end without reading it.
        let token = origin.token.text()?;
        let once = Zeroizing::new(format!("username=x-access-token\npassword={token}\n"));
        let _ = input.write_all(Zeroizing::new(once.repeat(TOKEN_COPIES)).as_bytes());
    }
    let (output, said) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::NoGit)? {
            break status;
        }
        if began.elapsed() > TIME_MAX {
            let (_, _) = (child.kill(), child.wait());
            let command = arguments.first().copied().unwrap_or_default().to_owned();
            return Err(Error::GitSlow { command, seconds: TIME_MAX.as_secs() });
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |it: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&it.join().unwrap_or_default()).trim().to_owned()
    };
    Ok(Ended { success: status.success(), text: text(output), said: text(said) })
}

fn spawn(arguments: &[&str], origin: Option<&Origin<'_>>) -> Result<Child, Error> {
    let mut settings =
        vec!["core.hooksPath=/dev/null".to_owned(), "core.fsmonitor=false".to_owned()];
    if let Some(Origin { url, .. }) = origin {
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
        .env_clear()
        .envs(known)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0); // a signal from the terminal is for us: we finish the step
    command.spawn().map_err(Error::NoGit)
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
