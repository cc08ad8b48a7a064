//! Checks whether the public source repository contains the commit to be signed.

use std::ffi::OsStr;
use std::time::Duration;

use ::git::{Origin as GitOrigin, Url};
use ::remote::{Settings, agent, is_untrusted};
use secrets::Secret;

use crate::Error;
use crate::git::Git;
use crate::source::Source;

/// Git aborts a transfer that stays below 100 bytes per second for 30 seconds.
const PATIENCE: [&str; 4] = ["-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=30"];
/// Time limit of the probe that tells a network failure from an HTTP error.
const PROBE_MAX: Duration = Duration::from_secs(30);

/// Result of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Containment {
    /// A branch or a tag of the source contains the commit.
    Contained,
    /// No branch or tag of the source contains the commit.
    Missing,
    /// The source could not be read.
    Unknown {
        /// Last lines of Git's standard error.
        said: String,
        /// Whether the server did not answer at all, so that a retry may help.
        is_unreachable: bool,
    },
}

/// Checks whether a branch or tag at `url` contains the commit of `source`.
///
/// Git first uses the user's own credentials, then the token of the project's forge if `url` is at
/// that forge. If both fail, as in a CI job without a login for `url`, the branches that the user's
/// clone has fetched from `url` decide.
pub(crate) fn check(
    source: &Source,
    url: &str,
    token: Option<&(Url, Secret)>,
) -> Result<Containment, Error> {
    let borrowed = source.git.borrowed(&source.rev)?;
    let ask = |arguments: &[&str]| -> Result<(bool, String, String), Error> {
        let all = [&PATIENCE[..], arguments].concat();
        let literal = [("GIT_LITERAL_PATHSPECS", OsStr::new("0"))];
        let ended = borrowed.git.run(&all, &literal, b"")?;
        if ended.code == Some(0) {
            return Ok((true, ended.text(), String::new()));
        }
        let Some((url, token)) = token else { return Ok((false, String::new(), ended.said)) };
        let origin = GitOrigin { url, token };
        let ended = ::git::run(&all, borrowed.path(), Some(&origin));
        let ended = ended.map_err(|source| Error::Tool { program: "git", source })?;
        let said = ended.message();
        Ok((ended.success, ended.text, said))
    };
    let (is_asked, listed, said) = ask(&["ls-remote", "--", url])?;
    if !is_asked {
        return Ok(if is_fetched(source, url)? {
            Containment::Contained
        } else {
            Containment::Unknown { is_unreachable: is_unreachable(url), said }
        });
    }
    let tips = tips(&listed);
    if tips.is_empty() {
        return Ok(Containment::Missing);
    }
    if is_reachable(&borrowed.git, &source.rev, &tips)? {
        return Ok(Containment::Contained);
    }
    // The source may have commits that this clone lacks, so fetch them.
    let heads = ["fetch", "-q", "--no-tags", "--no-write-fetch-head", "--", url];
    let all =
        [&heads[..], &["+refs/heads/*:refs/source/heads/*", "+refs/tags/*:refs/source/tags/*"]];
    let (is_fetched, _, said) = ask(&all.concat())?;
    if !is_fetched {
        return Ok(Containment::Unknown { is_unreachable: is_unreachable(url), said });
    }
    let is_contained = is_reachable(&borrowed.git, &source.rev, &tips)?;
    Ok(if is_contained { Containment::Contained } else { Containment::Missing })
}

/// Returns the branches and tags in the output of `git ls-remote`. Pull requests are left out
/// because anyone can open one.
fn tips(listed: &str) -> Vec<String> {
    let refs = listed.lines().filter_map(|line| line.split_once('\t'));
    let is_counted = |name: &str| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
    let counted = refs.filter(|(_, name)| is_counted(name));
    let mut tips: Vec<_> = counted.map(|(object, _)| object.to_owned()).collect();
    tips.retain(|object| object.bytes().all(|byte| byte.is_ascii_hexdigit()));
    tips.sort();
    tips.dedup();
    tips
}

/// Whether one of `tips` contains `rev`. Tips that this clone lacks are ignored.
fn is_reachable(git: &Git, rev: &str, tips: &[String]) -> Result<bool, Error> {
    let known = git.run(
        &["cat-file", "--batch-check=%(objectname) %(objecttype)"],
        &[],
        (tips.join("\n") + "\n").as_bytes(),
    )?;
    let known = known.text();
    let known = known.lines().filter_map(|line| line.split_once(' '));
    let known = known.filter(|(_, kind)| ["commit", "tag"].contains(kind));
    let mut input = format!("{rev}\n");
    let mut any = false;
    for (tip, _) in known {
        any = true;
        input.extend(["^", tip, "\n"]);
    }
    // `rev-list` prints nothing if a tip contains `rev`, because the tips' history is excluded.
    let left = git.run(&["rev-list", "-1", "--stdin"], &[], input.as_bytes())?;
    Ok(any && left.code == Some(0) && left.stdout.is_empty())
}

/// Whether a branch that the user's clone has fetched from `url` contains the commit.
fn is_fetched(source: &Source, url: &str) -> Result<bool, Error> {
    let remotes = ["config", "--null", "--get-regexp", r"^remote\..*\.url$"];
    let remotes = source.git.run(&remotes, &[], b"")?; // exit status 1 if there are none
    let remotes = String::from_utf8_lossy(&remotes.stdout).into_owned();
    for remote in remotes.split_terminator('\0') {
        let Some((key, at)) = remote.split_once('\n') else { continue };
        let name = key.trim_start_matches("remote.").trim_end_matches(".url");
        if address(at) != address(url) {
            continue;
        }
        let refs = format!("refs/remotes/{name}/");
        let contains = format!("--contains={}", source.rev);
        let held = source.git.run(&["for-each-ref", "--count=1", &contains, &refs], &[], b"")?;
        if held.code == Some(0) && !held.stdout.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Normalises a repository's URL to `host/path`. Accepts the forms `https://host/path.git`,
/// `ssh://git@host/path` and `git@host:path`.
fn address(url: &str) -> String {
    let url = url
        .split_once("://")
        .map_or_else(|| url.replacen(':', "/", 1), |(_, rest)| rest.to_owned());
    let (authority, path) = url.split_once('/').unwrap_or((&url, ""));
    let host = authority.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
    let path = path.trim_matches('/').trim_end_matches(".git");
    format!("{host}/{path}")
}

/// Whether the server at `url` does not answer. Git cannot tell because all of its failed fetches
/// have the same exit status.
fn is_unreachable(url: &str) -> bool {
    let agent = agent(Settings {
        program: "artifact-attest",
        is_plain: url.starts_with("http://"),
        response_max: PROBE_MAX,
        attempt_max: PROBE_MAX,
    });
    let answer = agent.map(|agent| agent.get(url).call());
    // A certificate that is not trusted is no failure of the network, and a retry does not help.
    match answer {
        Ok(Ok(answer)) => answer.status().is_server_error() || answer.status() == 429,
        Ok(Err(error)) => !is_untrusted(&error),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_for_every_form_of_a_url() {
        for same in [
            "https://github.com/a/b",
            "https://GitHub.com/a/b.git/",
            "https://x-access-token:sesame@github.com/a/b",
            "ssh://git@github.com/a/b.git",
            "git@github.com:a/b.git",
        ] {
            assert_eq!(address(same), "github.com/a/b", "{same}");
        }
        assert_ne!(address("https://github.com.evil/a/b"), "github.com/a/b");
    }

    #[test]
    fn only_branches_and_tags_count_as_containing_a_commit() {
        let listed = "aa\tHEAD\nbb\trefs/heads/main\ncc\trefs/tags/v1\ndd\trefs/tags/v1^{}\nee\trefs/pull/1/head\n--x\trefs/heads/odd\n";
        assert_eq!(tips(listed), ["bb", "cc", "dd"]);
    }
}
