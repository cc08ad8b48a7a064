//! Messages with which forges reject git, each with its cause and help.
//!
//! **Invariant:** a refusal is permanent unless its own message says otherwise, so it is never
//! retried.

use documents::Reason;

pub(crate) mod uploads;

/// Cause and help of a rejected git command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Reason of the condition.
    pub(crate) reason: Reason,
    /// Help for this cause.
    pub(crate) help: &'static str,
}

/// Lower-case phrases of a message (any of them matches), the reason, and the help. The
/// first matching row decides, so specific rows come first.
type Row = (&'static [&'static str], Reason, &'static str);

/// Sources: GitHub's error codes and texts as quoted in the linked pages and reports.
/// - GH001: <https://docs.github.com/en/repositories/working-with-files/managing-large-files/about-large-files-on-github>
/// - GH006, GH013: <https://docs.github.com/en/repositories/configuring-branches-and-merges-in-your-repository/managing-rulesets/troubleshooting-rules>
/// - GH008: <https://github.com/sinbad/lfs-folderstore/issues/13>
/// - GH009, GH013 with secrets: <https://docs.github.com/en/code-security/secret-scanning/working-with-secret-scanning-and-push-protection/working-with-push-protection-from-the-command-line>
/// - GH007: <https://docs.github.com/en/account-and-profile/how-tos/email-preferences/blocking-command-line-pushes-that-expose-your-personal-email-address>
/// - workflow scope: <https://github.com/web-platform-tests/wpt/issues/31939>
/// - SAML: <https://docs.github.com/en/authentication/authenticating-with-single-sign-on/authorizing-a-personal-access-token-for-use-with-single-sign-on>
const PUSHES: &[Row] = &[
    (
        &[
            "without `workflow` scope",
            "without `workflows` permission",
            "create or update workflow",
        ],
        Reason::WorkflowScopeMissing,
        "the history contains .github/workflows: give a classic token the scope `workflow`, or a \
         fine-grained token or an App write access to Workflows",
    ),
    (
        &["gh008", "unknown git lfs object", "lfs objects are missing"],
        Reason::NotInCommit,
        "the forge lacks objects of Git LFS that the history names: upload them from a clone that has \
         them with `git lfs push --all`, or take the files out of LFS with `git lfs migrate export`",
    ),
    (
        &["gh001", "large files detected", "file size limit"],
        Reason::FileTooLarge,
        "a file in the history is larger than the forge accepts: remove it from the whole history, \
         not only from the last commit (`git filter-repo --strip-blobs-bigger-than 100M`)",
    ),
    (
        &["gh009", "cannot contain secrets", "secrets detected", "push protection"],
        Reason::SecretInHistory,
        "the history contains a secret: revoke the secret, then remove it from every commit that \
         the message names",
    ),
    (
        &["gh007", "private email"],
        Reason::PrivateEmail,
        "a commit shows an e-mail address that its account keeps private: rewrite the commit with \
         the account's noreply address",
    ),
    (
        &["non-fast-forward", "fetch first", "stale info", "needs force"],
        Reason::HistoryDiverged,
        "the forge has commits that the local branch lacks: run `git pull --rebase`, then this \
         command again; nothing is ever forced",
    ),
    (
        &["was archived so", "repository is archived"],
        Reason::Archived,
        "the repository is archived, so it accepts no push: unarchive the repository to use it again",
    ),
    (
        &["saml sso", "saml single sign-on"],
        Reason::SsoRequired,
        "authorise the token for the organisation's single sign-on, in the token's settings",
    ),
    (
        &["quota", "size limit", "maximum allowed size", "returned error: 413"],
        Reason::QuotaExceeded,
        "the push or the repository is larger than the forge allows: delete data at the forge, raise the \
         limit, or make the history smaller",
    ),
    (
        &[
            "gh003",
            "gh006",
            "gh013",
            "protected branch",
            "protected tag",
            "repository rule violations",
            "cannot force-push",
            "not allowed to push to protected",
        ],
        Reason::BranchProtected,
        "a rule of the forge forbids the push: use a pull request, declare `bypass: administrators`, \
         or sign the commits, as the message says",
    ),
    ADDRESS_DENIED,
    TOKEN_KIND_DENIED,
    DENIED,
    UNAUTHORISED,
    (
        &["repository not found", "not found", "returned error: 404"],
        Reason::NotFound,
        "the repository does not exist, or the token may not see it: give the token access to the repository",
    ),
    (
        &["shallow update not allowed"],
        Reason::HistoryIncomplete,
        "run `git fetch --unshallow` first: the forge accepts no shallow history",
    ),
    (
        &["currently checked out"],
        Reason::BranchCheckedOut,
        "the repository at the forge has a work tree with this branch: make the repository bare",
    ),
    (
        &["hook declined", "pre-receive", "update hook"],
        Reason::HookDeclined,
        "a hook of the forge rejects the push: correct the cause in its message",
    ),
    (
        &["fsck error", "unpacker error", "index-pack abnormal exit", "missing necessary objects"],
        Reason::HistoryBroken,
        "the forge does not accept the objects: `git fsck --full` shows which are broken",
    ),
];

/// <https://docs.github.com/en/organizations/keeping-your-organization-secure/managing-security-settings-for-your-organization/managing-allowed-ip-addresses-for-your-organization>
const ADDRESS_DENIED: Row = (
    &["ip allow list", "ip address is not permitted"],
    Reason::Forbidden,
    "run this from an address in the IP allow list of the organisation, or add this machine's address",
);

/// <https://docs.github.com/en/organizations/managing-programmatic-access-to-your-organization/setting-a-personal-access-token-policy-for-your-organization>
const TOKEN_KIND_DENIED: Row = (
    &["forbids access via a personal access token", "forbids access via a fine-grained"],
    Reason::Forbidden,
    "the organisation does not accept this kind of token: use a fine-grained token, a classic one or an \
     App, as the message says",
);

const DENIED: Row = (
    &[
        "write access to repository not granted",
        "permission to ",
        "permission denied",
        "returned error: 403",
        "not allowed to push",
        "no permission",
        "access denied",
        "user permission denied",
    ],
    Reason::Forbidden,
    "give the token write access to the repository's contents",
);

const UNAUTHORISED: Row = (
    &[
        "authentication failed",
        "returned error: 401",
        "invalid username or",
        "could not read username",
        "bad credentials",
    ],
    Reason::Unauthorized,
    "the Git endpoint rejects the token that the API accepts: give the token read and write access to the \
     repository's contents, or create a new token and store it where spec.endpoints.forge points",
);

/// Messages of `git ls-remote` that are permanent.
const LISTINGS: &[Row] = &[
    (
        &["saml sso", "saml single sign-on"],
        Reason::SsoRequired,
        "authorise the token for the organisation's single sign-on, in the token's settings",
    ),
    UNAUTHORISED,
    (
        &["returned error: 30", "unable to update url base from redirection"],
        Reason::Redirected,
        "the clone address redirects to another one, where the token is not sent: make the forge's \
         own address (ROOT_URL of Gitea) and spec.endpoints.forge agree",
    ),
    ADDRESS_DENIED,
    TOKEN_KIND_DENIED,
    (
        DENIED.0,
        Reason::Forbidden,
        "give the token read and write access to the repository's contents",
    ),
    (
        &["not found", "returned error: 404", "does not exist"],
        Reason::NotFound,
        "give the token read and write access to the repository's contents",
    ),
];

/// Phrases of temporary failures, after which the same push may succeed.
const TEMPORARY: [&str; 11] = [
    "cannot lock ref",
    "failed to lock",
    "failed to update ref",
    "incorrect old value",
    "reference already exists",
    "internal server error",
    "unable to create temporary",
    "no space left",
    "timed out",
    "temporarily unavailable",
    "try again later",
];

/// Verdict on a refusal that matches no row.
const OTHER: Verdict = Verdict {
    reason: Reason::Rejected,
    help: "the forge rejects this push permanently: correct the cause in its message",
};

/// Returns the cause of a permanent refusal of a push; `None` if the failure is temporary or no
/// refusal.
///
/// `porcelain` is the output of `git push --porcelain`, with a line that begins with `!` for each
/// rejected reference. <https://git-scm.com/docs/git-push#_output>
pub(crate) fn push(porcelain: &str, said: &str) -> Option<Verdict> {
    let refused: Vec<_> = porcelain.lines().filter(|line| line.starts_with('!')).collect();
    let text = [porcelain, "\n", said].concat().to_lowercase();
    let lines = refused.join("\n").to_lowercase();
    let busy = |text: &str| TEMPORARY.iter().any(|word| text.contains(word));
    // The cause of an unpacker error (such as a full disk) is in the messages, not in the line.
    let elsewhere = refused.is_empty() || lines.contains("unpacker error");
    if busy(&lines) || (elsewhere && busy(&text)) {
        return None;
    }
    verdict(PUSHES, &text).or((!refused.is_empty()).then_some(OTHER))
}

/// Returns the cause of a permanent refusal to list references.
pub(crate) fn listing(said: &str) -> Option<Verdict> {
    verdict(LISTINGS, &said.to_lowercase())
}

fn verdict(rows: &[Row], text: &str) -> Option<Verdict> {
    let row = rows.iter().find(|row| row.0.iter().any(|word| text.contains(word)));
    row.map(|&(_, reason, help)| Verdict { reason, help })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declined(reason: &str) -> String {
        format!(
            "To https://github.com/o/r.git\n!\tabc:refs/heads/main\t[remote rejected] ({reason})\nDone"
        )
    }

    /// Returns porcelain output, standard error and the reason, with messages as forges send them.
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn refusals() -> Vec<(String, &'static str, Reason)> {
        let hook = || declined("pre-receive hook declined");
        vec![
            (
                declined(
                    "refusing to allow a Personal Access Token to create or update workflow `.github/workflows/ci.yaml` without `workflow` scope",
                ),
                "error: failed to push some refs",
                Reason::WorkflowScopeMissing,
            ),
            (
                declined(
                    "refusing to allow a GitHub App to create or update workflow `.github/workflows/ci.yaml` without `workflows` permission",
                ),
                "",
                Reason::WorkflowScopeMissing,
            ),
            (
                hook(),
                "remote: error: GH001: Large files detected. You may want to try Git Large File Storage - https://git-lfs.github.com.",
                Reason::FileTooLarge,
            ),
            (
                declined("protected branch hook declined"),
                "remote: error: GH006: Protected branch update failed for refs/heads/main.",
                Reason::BranchProtected,
            ),
            (
                declined("push declined due to email privacy restrictions"),
                "remote: error: GH007: Your push would publish a private email address.",
                Reason::PrivateEmail,
            ),
            (
                hook(),
                "remote: error: GH008: Your push referenced at least 1 unknown Git LFS object:\nremote:     4cac19622fc3ada9c0fdeadb33f88f367b541f38b89102a3f1261ac81fd5bcb5",
                Reason::NotInCommit,
            ),
            (
                hook(),
                "remote: error: GH009: Secrets detected! This push failed.",
                Reason::SecretInHistory,
            ),
            (
                declined("push declined due to repository rule violations"),
                "remote: error: GH013: Repository rule violations found for refs/heads/main.\nremote: - Push cannot contain secrets",
                Reason::SecretInHistory,
            ),
            (
                declined("push declined due to repository rule violations"),
                "remote: error: GH013: Repository rule violations found for refs/heads/main.\nremote: - Changes must be made through a pull request.",
                Reason::BranchProtected,
            ),
            (
                hook(),
                "remote: Gitea: Not allowed to push to protected branch main",
                Reason::BranchProtected,
            ),
            (
                hook(),
                "remote: GitLab: LFS objects are missing. Ensure LFS is properly set up",
                Reason::NotInCommit,
            ),
            (
                "!\tabc:refs/heads/main\t[rejected] (fetch first)".to_owned(),
                "hint: Updates were rejected because the remote contains work",
                Reason::HistoryDiverged,
            ),
            (
                "!\tabc:refs/heads/main\t[rejected] (non-fast-forward)".to_owned(),
                "",
                Reason::HistoryDiverged,
            ),
            (
                declined("hook declined"),
                "remote: the message of our own hook",
                Reason::HookDeclined,
            ),
            (hook(), "remote: commit messages need a ticket", Reason::HookDeclined),
            (declined("branch is currently checked out"), "", Reason::BranchCheckedOut),
            (declined("shallow update not allowed"), "", Reason::HistoryIncomplete),
            (
                declined("unpacker error"),
                "remote: fatal: fsck error in packed object",
                Reason::HistoryBroken,
            ),
            (
                declined("unpacker error"),
                "remote: fatal: pack exceeds maximum allowed size (2.00 GiB)",
                Reason::QuotaExceeded,
            ),
            (declined("an unknown reason"), "", Reason::Rejected),
            (
                String::new(),
                "remote: Write access to repository not granted.\nfatal: unable to access 'https://github.com/o/r.git/': The requested URL returned error: 403",
                Reason::Forbidden,
            ),
            (
                String::new(),
                "remote: Permission to o/r.git denied to someone.\nfatal: unable to access: The requested URL returned error: 403",
                Reason::Forbidden,
            ),
            (
                String::new(),
                "remote: This repository was archived so it is read-only.\nfatal: unable to access: The requested URL returned error: 403",
                Reason::Archived,
            ),
            (
                String::new(),
                "remote: The 'o' organization has enabled or enforced SAML SSO.\nfatal: The requested URL returned error: 403",
                Reason::SsoRequired,
            ),
            (
                String::new(),
                "remote: This repository is over its data quota.\nfatal: The requested URL returned error: 403",
                Reason::QuotaExceeded,
            ),
            (
                String::new(),
                "error: RPC failed; HTTP 413 curl 22 The requested URL returned error: 413",
                Reason::QuotaExceeded,
            ),
            (
                String::new(),
                "remote: Repository not found.\nfatal: repository 'https://github.com/o/r.git/' not found",
                Reason::NotFound,
            ),
            (
                String::new(),
                "fatal: Authentication failed for 'https://github.com/o/r.git/'",
                Reason::Unauthorized,
            ),
        ]
    }

    #[test]
    fn each_refusal_has_its_cause_and_its_own_help() {
        for (porcelain, said, reason) in refusals() {
            let verdict = push(&porcelain, said).map(|verdict| verdict.reason);
            assert_eq!(verdict, Some(reason), "{porcelain} {said}");
        }
        let helps: std::collections::BTreeSet<_> = PUSHES.iter().map(|row| row.2).collect();
        assert_eq!(helps.len(), PUSHES.len(), "no two causes have the same help");
    }

    #[test]
    fn a_busy_or_silent_server_is_retried() {
        for (porcelain, said) in [
            (declined("cannot lock ref 'refs/heads/main': Unable to create"), ""),
            (declined("failed to update ref"), ""),
            (declined("Internal Server Error"), ""),
            (declined("unpacker error"), "remote: fatal: write error: No space left on device"),
            (String::new(), "fatal: unable to access: The requested URL returned error: 502"),
            (String::new(), "fatal: unable to access: Could not resolve host: github.com"),
            (String::new(), "fatal: the remote end hung up unexpectedly"),
        ] {
            assert_eq!(push(&porcelain, said), None, "{porcelain} {said}");
        }
    }
}
