//! Causes of a failed `nix-store --realise`, with their help.

use std::fmt;

/// Cause of a failure of Nix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A builder failed.
    Builder,
    /// A download has another hash than the flake says.
    HashMismatch,
    /// A download failed at the network, or its server did.
    Download,
    /// A binary cache or a remote builder did not answer.
    Network,
    /// No machine builds for the system, or has a feature that the build needs.
    System,
    /// The kernel denies the namespaces of the sandbox.
    Sandbox,
    /// The daemon does not run, or denies this user.
    Daemon,
    /// This user may not write to the store.
    Access,
    /// The group of build users does not exist.
    BuildUsers,
    /// The disk is full.
    Space,
    /// A signal ended Nix.
    Killed,
    /// Anything else.
    Other,
}

impl Cause {
    /// Whether a retry may help without any change.
    pub(crate) fn is_temporary(self) -> bool {
        matches!(self, Self::Download | Self::Network | Self::Killed)
    }

    /// Returns the help for a failure of the derivation at `path`.
    pub(crate) fn help(self, path: &str) -> String {
        let help = match self {
            Self::Builder => return format!("run `nix log {path}` for the whole log"),
            Self::HashMismatch => {
                "find out why the download has changed; if the change is right, write the new hash into the flake, and commit the change"
            }
            Self::Download | Self::Network => "run the same command again when the network works",
            Self::System => {
                "build on a machine of that system, or add one to `builders` in nix.conf (emulation: `extra-platforms`)"
            }
            Self::Sandbox => {
                "allow user namespaces (`sysctl kernel.unprivileged_userns_clone=1`, `user.max_user_namespaces`; in a container: `--privileged`, or `security.nesting`), or use a machine with the daemon of Nix; `sandbox = false` works too, and the provenance records that"
            }
            Self::Daemon => {
                "start the daemon (`systemctl start nix-daemon.socket`), and add this user to `allowed-users` in its nix.conf"
            }
            Self::Access => {
                "use the daemon of Nix (`NIX_REMOTE=daemon`), or run as the owner of the store"
            }
            Self::BuildUsers => {
                "create the group of build users, or set `build-users-group =` in nix.conf for a store of a single user"
            }
            Self::Space => "free space (`nix-collect-garbage`), then run the same command again",
            Self::Killed => {
                "a signal ended Nix (often because the machine ran out of memory): run the same command again"
            }
            Self::Other => {
                return format!(
                    "run `nix-store --realise {path}` to see the same error, and correct its cause"
                );
            }
        };
        help.to_owned()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Builder => "the builder failed",
            Self::HashMismatch => "a download has another hash than the flake says",
            Self::Download => "a download failed",
            Self::Network => "a binary cache or a remote builder does not answer",
            Self::System => "no machine has the system or the features that the build needs",
            Self::Sandbox => "the kernel denies the namespaces of the sandbox",
            Self::Daemon => "the daemon of Nix does not answer, or denies this user",
            Self::Access => "this user may not write to the store",
            Self::BuildUsers => "the group of build users does not exist",
            Self::Space => "the disk is full",
            Self::Killed => "a signal ended Nix",
            Self::Other => "Nix failed",
        })
    }
}

/// Result of `nix-store --realise` that is not a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The second build differs.
    Differs,
    TimedOut,
    Cause(Cause),
}

/// Nix's own messages: how they begin, and what they contain. All failures before a builder runs have exit status 1,
/// and Nix 2.30 and newer count a missing system among the failed builds, so the words are the only difference.
///
/// Sources: Nix 2.8 to 2.34, `src/libstore` (`build/`, `daemon.cc`, `lock.cc`, `ssh.cc`, `store-api.cc`) and
/// `src/libutil/unix-domain-socket.cc`.
const MESSAGES: [(&str, &str, Cause); 26] = [
    ("a '", "is required to build", Cause::System),
    ("Reason: ", "required system or feature not available", Cause::System),
    ("Reason: ", "platform mismatch", Cause::System), // measured with 2.34
    ("Reason: ", "system features", Cause::System),
    ("this system does not support", "kernel namespaces", Cause::Sandbox),
    ("cannot perform a sandboxed build", "", Cause::Sandbox),
    ("setting up a private mount namespace", "", Cause::Sandbox),
    ("cloning builder process", "", Cause::Sandbox),
    ("unable to start build process", "", Cause::Sandbox),
    // Steps of the sandbox's set-up, which a container without privileges denies in part (`runChild` in
    // `src/libstore/build/local-derivation-goal.cc` of 2.8, and https://github.com/NixOS/nix/issues/11810 with 2.24).
    ("cannot set ", DENIED, Cause::Sandbox), // host name, domain name, flags of the loopback interface
    ("unable to make ", DENIED, Cause::Sandbox),
    ("unable to bind mount ", DENIED, Cause::Sandbox),
    ("bind mount from ", DENIED, Cause::Sandbox),
    ("mounting ", DENIED, Cause::Sandbox),
    ("unsharing ", DENIED, Cause::Sandbox),
    ("cannot pivot ", DENIED, Cause::Sandbox),
    ("cannot change root directory ", DENIED, Cause::Sandbox),
    ("cannot connect to socket at", "", Cause::Daemon),
    ("cannot connect to daemon at", "", Cause::Daemon),
    ("cannot open connection to remote store 'daemon'", "", Cause::Daemon),
    ("", "is not allowed to connect to the Nix daemon", Cause::Daemon),
    ("the group '", "build-users-group", Cause::BuildUsers),
    ("the build users group '", "", Cause::BuildUsers),
    ("some substitutes for the outputs of derivation", "", Cause::Network),
    ("failed to start SSH connection to", "", Cause::Network),
    ("cannot open connection to remote store", "", Cause::Network),
];
/// Text of the kernel for a missing privilege.
const DENIED: &str = ": Operation not permitted";
/// Texts of the kernel at the end of Nix's messages about files.
const ERRORS: [(&str, Cause); 3] = [
    ("No space left on device", Cause::Space),
    ("Permission denied", Cause::Access),
    ("Read-only file system", Cause::Access),
];

/// Exit statuses of curl for failures of the network (<https://curl.se/docs/manpage.html>): a name that does not
/// resolve, no connection, a connection that broke off, and a time limit.
const CURL_NETWORK: [&str; 12] =
    ["5", "6", "7", "16", "18", "28", "35", "52", "55", "56", "92", "95"];

impl Failure {
    /// Classifies an exit status and Nix's messages; `None` for success. `is_fixed` tells whether a derivation fixes
    /// its output, and so is a download.
    ///
    /// The status is 96 plus one bit for each kind of failure, of which several may occur (Nix,
    /// `Worker::failingExitStatus`; measured with 2.8 and 2.34: 100, 101, 102, 104).
    pub(crate) fn of(code: i32, said: &str, is_fixed: impl Fn(&str) -> bool) -> Option<Self> {
        match code {
            0 => None,
            96..=111 if code & 8 != 0 => Some(Self::Differs),
            96..=111 if code & 1 != 0 => Some(Self::TimedOut),
            96..=111 if code & 2 != 0 => Some(Self::Cause(Cause::HashMismatch)),
            // Measured with 2.8: Nix counts every failed download as transient, with status 1 instead of 100.
            _ => {
                let last = of_last_error(said);
                let system = last.filter(|cause| *cause == Cause::System);
                let cause = system.or_else(|| of_download(said, is_fixed)).or(last);
                let is_build = (96..=111).contains(&code);
                let unknown = if is_build { Cause::Builder } else { Cause::Other };
                Some(Self::Cause(cause.unwrap_or(unknown)))
            }
        }
    }
}

/// Returns the lines of Nix's last error. The text of builders stands before it, or behind `> ` inside of it.
fn last_error(said: &str) -> Vec<&str> {
    let lines: Vec<_> = said.lines().collect();
    let start = lines.iter().rposition(|line| line.starts_with("error:"));
    // Only the last lines of a long message are kept, so its beginning may be missing.
    let own = lines[start.unwrap_or_default()..].iter();
    own.map(|line| line.trim_start().trim_start_matches("error:").trim_start()).collect()
}

/// Returns the cause that Nix's last error names, if it is known.
fn of_last_error(said: &str) -> Option<Cause> {
    last_error(said).into_iter().find_map(|line| {
        if is_network_error(line) {
            return Some(Cause::Network);
        }
        let is_known = |(start, part, _): &&(&str, &str, Cause)| {
            line.starts_with(start) && line.contains(part)
        };
        let message = MESSAGES.iter().find(is_known).map(|(_, _, cause)| *cause);
        message
            .or_else(|| ERRORS.iter().find(|(end, _)| line.ends_with(end)).map(|(_, cause)| *cause))
    })
}

/// Returns the cause if a failed derivation is a download.
fn of_download(said: &str, is_fixed: impl Fn(&str) -> bool) -> Option<Cause> {
    let mut failed = said.lines().filter_map(|line| {
        let line = line.strip_prefix("error: ")?;
        let start =
            ["builder for '", "Cannot build '"].iter().find_map(|start| line.strip_prefix(start));
        start?.split('\'').next()
    });
    if !failed.any(is_fixed) {
        return None;
    }
    let mut lines = said.lines().map(|line| line.trim_start().trim_start_matches("> "));
    Some(if lines.any(is_network_line) { Cause::Download } else { Cause::Builder })
}

/// Whether a download of `builtin:fetchurl`, curl or Git reports a failure of the network.
fn is_network_line(line: &str) -> bool {
    if let Some(rest) = line.strip_prefix("curl: (") {
        let (code, text) = rest.split_once(')').unwrap_or((rest, ""));
        return CURL_NETWORK.contains(&code) || (code == "22" && is_server_error(text));
    }
    if line.starts_with("fatal: unable to access '") {
        return ["Could not resolve host", "Failed to connect", "timed out", "Connection refused"]
            .iter()
            .any(|cause| line.contains(cause));
    }
    is_network_error(line.trim_start_matches("error: "))
}

/// Whether a message of Nix about a download reports a failure of the network or of the server.
fn is_network_error(message: &str) -> bool {
    let Some(rest) = message.strip_prefix("unable to download '") else { return false };
    !rest.contains("HTTP error") || rest.contains("HTTP error 5") || rest.contains("HTTP error 429")
}

/// Whether curl's text of an HTTP error names a status that may pass.
fn is_server_error(text: &str) -> bool {
    let status = text.rsplit("error: ").next().unwrap_or_default().trim();
    status.starts_with('5') || status.starts_with("429")
}

/// Whether an evaluation failed at the network. Reads Nix's last error alone, because a flake may print anything, and
/// all failed evaluations have the same exit status.
pub(crate) fn is_network(said: &str) -> bool {
    last_error(said).iter().any(|line| is_network_error(line))
}

/// Help for a binary cache that Nix cannot use.
pub(crate) const BINARY_CACHE_HELP: &str = "check `endpoints.nix.cache` of the Project: the URL, and credentials that may read and write; a Nix that is built without S3, or without AWS support, cannot use a bucket with credentials, as those of Debian";
/// Help for a result in the store that is not the published one.
pub(crate) const OTHER_RESULT_HELP: &str = "the image was published from another machine's build: remove the result from the store (`nix-store --delete`), so that it is built again, or publish a new commit";

/// Whether the client of S3 in Nix did not reach the server. It has the numbers of curl's errors: 6 no such host, 7
/// no connection, 28 time limit (<https://curl.se/libcurl/c/libcurl-errors.html>).
pub(crate) fn is_network_of_s3(said: &str) -> bool {
    ["curlCode: 6,", "curlCode: 7,", "curlCode: 28,"].iter().any(|code| said.contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_of_nix_is_classified() {
        for (code, failure) in [
            (0, None),
            (1, Some(Failure::Cause(Cause::Other))),
            (100, Some(Failure::Cause(Cause::Builder))),
            (101, Some(Failure::TimedOut)),
            (102, Some(Failure::Cause(Cause::HashMismatch))),
            (103, Some(Failure::TimedOut)),
            (104, Some(Failure::Differs)),
            (108, Some(Failure::Differs)),
            (126, Some(Failure::Cause(Cause::Other))),
        ] {
            assert_eq!(Failure::of(code, "", |_| false), failure, "{code}");
        }
    }

    /// Messages of Nix 2.8 and 2.34. Only the last error counts, and no text of a builder does.
    #[test]
    fn a_failure_of_nix_is_classified_by_its_own_last_error() {
        let builder = "error: cannot connect to socket at '/x': refused\nsome substitutes for the outputs of derivation\n";
        for (code, said, cause) in [
            (
                1,
                "error: a 'aarch64-linux' with features {} is required to build '/s/x.drv', but I am a 'x86_64-linux' with features {kvm}",
                Cause::System,
            ),
            (
                100,
                "error: Cannot build '/s/x.drv'.\n       Reason: required system or feature not available\n       Required system: 'aarch64-linux' with features {}",
                Cause::System,
            ),
            (
                100,
                "error: Cannot build '/s/x.drv'.\n       Reason: platform mismatch\n       Required system: 'aarch64-linux'",
                Cause::System,
            ),
            (
                1,
                "error: this system does not support the kernel namespaces that are required for sandboxing; use '--no-sandbox' to disable sandboxing",
                Cause::Sandbox,
            ),
            (
                1,
                "error: cloning builder process: Operation not permitted\nerror: unable to start build process",
                Cause::Sandbox,
            ),
            // Measured with 2.8 in a container of Podman without `--privileged`.
            (
                1,
                "this derivation will be built:\n  /s/x.drv\nerror: cannot set host name: Operation not permitted\n(use '--show-trace' to show detailed location information)",
                Cause::Sandbox,
            ),
            (
                1,
                "error:\n       … while setting up the build environment\n\n       error: mounting /proc: Operation not permitted",
                Cause::Sandbox,
            ),
            (
                1,
                "error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Permission denied",
                Cause::Daemon,
            ),
            (1, "error: user 'a' is not allowed to connect to the Nix daemon", Cause::Daemon),
            (
                1,
                "error: the group 'nixbld' specified in 'build-users-group' does not exist",
                Cause::BuildUsers,
            ),
            (
                1,
                "error: opening lock file '/nix/var/nix/db/big-lock': Permission denied",
                Cause::Access,
            ),
            (
                1,
                "error: creating directory '/nix/store/.links': Read-only file system",
                Cause::Access,
            ),
            (1, "error: writing to file: No space left on device", Cause::Space),
            (
                1,
                "error: some substitutes for the outputs of derivation '/s/x.drv' failed (usually happens due to networking issues); try '--fallback' to build derivation from source ",
                Cause::Network,
            ),
            (
                1,
                "error:\n       … while querying\n       error: unable to download 'https://cache.e.org/x.narinfo': Couldn't resolve host name (6)",
                Cause::Network,
            ),
            (
                1,
                "error: unable to download 'https://cache.e.org/x.narinfo': HTTP error 401",
                Cause::Other,
            ),
            (1, &format!("{builder}error: a"), Cause::Other),
            (
                100,
                &format!(
                    "{builder}error: Cannot build '/s/x.drv'.\n       Reason: builder failed.\n       > error: cannot connect to socket at '/x'"
                ),
                Cause::Builder,
            ),
        ] {
            assert_eq!(Failure::of(code, said, |_| false), Some(Failure::Cause(cause)), "{said}");
        }
    }

    #[test]
    fn a_failed_download_is_temporary_only_if_the_network_failed() {
        let old = "error: builder for '/s/src.drv' failed with exit code 1\nerror: 1 dependencies of derivation '/s/x.drv' failed to build";
        let new = "error: Cannot build '/s/src.drv'.\n       Reason: builder failed with exit code 1.\n       Last 10 log lines:\n       > ";
        for (line, is_temporary) in [
            ("curl: (6) Could not resolve host: e.org", true),
            ("curl: (28) Operation timed out", true),
            ("curl: (22) The requested URL returned error: 503", true),
            ("curl: (22) The requested URL returned error: 429 Too Many", true),
            ("curl: (22) The requested URL returned error: 404", false),
            ("curl: (60) SSL certificate problem", false),
            ("error: unable to download 'https://e.org/a': HTTP error 502", true),
            ("error: unable to download 'https://e.org/a': HTTP error 404", false),
            ("fatal: unable to access 'https://e.org/a/': Could not resolve host: e.org", true),
            (
                "fatal: unable to access 'https://e.org/a/': The requested URL returned error: 403",
                false,
            ),
            ("timed out, try again", false),
        ] {
            for said in [format!("{line}\n{old}"), format!("{new}{line}")] {
                let of = |is_fixed: bool| {
                    Failure::of(100, &said, |path| is_fixed && path == "/s/src.drv")
                };
                let cause = if is_temporary { Cause::Download } else { Cause::Builder };
                assert_eq!(of(true), Some(Failure::Cause(cause)), "{said}");
                assert_eq!(Failure::of(1, &said, |_| true), Some(Failure::Cause(cause)), "{said}");
                assert_eq!(
                    of(false),
                    Some(Failure::Cause(Cause::Builder)),
                    "any builder may print this: {said}"
                );
            }
        }
    }

    #[test]
    fn every_cause_has_a_text_and_a_help_of_its_own() {
        let all = [
            Cause::Builder,
            Cause::HashMismatch,
            Cause::Download,
            Cause::Network,
            Cause::System,
            Cause::Sandbox,
            Cause::Daemon,
            Cause::Access,
            Cause::BuildUsers,
            Cause::Space,
            Cause::Killed,
            Cause::Other,
        ];
        let texts: std::collections::BTreeSet<_> = all.iter().map(Cause::to_string).collect();
        assert_eq!(texts.len(), all.len());
        let temporary: Vec<_> = all.iter().filter(|cause| cause.is_temporary()).collect();
        assert_eq!(temporary, [&Cause::Download, &Cause::Network, &Cause::Killed]);
        assert!(all.iter().all(|cause| !cause.help("/s/x.drv").is_empty()));
    }

    #[test]
    fn only_a_failed_download_makes_an_evaluation_temporary() {
        for said in [
            "error: unable to download 'https://example.org/x': Couldn't resolve host name (6)",
            "error:\n       … while fetching\n\n       error: unable to download 'https://example.org/x': HTTP error 503",
            "       error: unable to download 'https://example.org/x': HTTP error 503",
            "error: unable to download 'https://example.org/x': HTTP error 429",
        ] {
            assert!(is_network(said), "{said}");
        }
        for said in [
            "error: the licence server timed out, try again",
            "error: attribute 'unable to download' missing",
            "warning: unable to download 'x': timed out\nerror: syntax error",
            "error: unable to download 'https://example.org/x': HTTP error 404",
            "error: Could not resolve the attribute",
        ] {
            assert!(!is_network(said), "{said}");
        }
    }
}
