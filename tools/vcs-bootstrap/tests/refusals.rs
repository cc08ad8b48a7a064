//! Refused pushes: each message of a forge, read through `git push --porcelain`, has a class with a
//! reason, an exit status and help, and is tried once.

mod common;
#[path = "common/mock.rs"]
mod mock;

use std::collections::BTreeSet;

use common::{Test, ready, status, stderr};
use mock::Setup;

const PLAIN: &str = "owner: owner";
const HOOK: &str = "pre-receive hook declined";
const RULES: &str = "push declined due to repository rule violations";
const FAILED: &str = "failed";

/// Answer of a forge to a push.
#[derive(Clone, Copy)]
enum Refusal {
    /// Status of the reference, and the message that the server prints.
    Reference(&'static str, &'static str),
    /// Failure to unpack the objects, and the message that the server prints.
    Objects(&'static str, &'static str),
    /// HTTP status with a text.
    Http(u16, &'static str),
}

impl Refusal {
    /// Returns status and body of the response.
    fn response(self) -> (u16, String) {
        let (unpack, reference, message) = match self {
            Self::Reference(status, message) => ("ok".to_owned(), status, message),
            Self::Objects(status, message) => (status.to_owned(), "unpacker error", message),
            Self::Http(status, text) => return (status, text.to_owned()),
        };
        let report = format!(
            "{}{}0000",
            packet(&format!("unpack {unpack}\n")),
            packet(&format!("ng refs/heads/main {reference}\n"))
        );
        let said =
            if message.is_empty() { String::new() } else { packet(&format!("\x02{message}\n")) };
        (200, format!("{said}{}0000", packet(&format!("\x01{report}"))))
    }
}

/// Returns `text` with its length in front (<https://git-scm.com/docs/gitprotocol-common#_pkt_line_format>).
fn packet(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

/// Returns refusals with the reason, and a part of the help.
#[expect(clippy::too_many_lines, reason = "a table")]
fn refusals() -> Vec<(Refusal, &'static str, &'static str)> {
    use Refusal::{Http, Objects, Reference};
    vec![
        (
            Reference(
                "refusing to allow a Personal Access Token to create or update workflow `.github/workflows/ci.yaml` without `workflow` scope",
                "",
            ),
            "WorkflowScopeMissing",
            "scope `workflow`",
        ),
        (
            Reference(
                "refusing to allow an OAuth App to create or update workflow `.github/workflows/ci.yaml` without `workflow` scope",
                "",
            ),
            "WorkflowScopeMissing",
            "scope `workflow`",
        ),
        (
            Reference(
                "refusing to allow a GitHub App to create or update workflow `.github/workflows/ci.yaml` without `workflows` permission",
                "",
            ),
            "WorkflowScopeMissing",
            "write access to Workflows",
        ),
        (
            Reference(
                HOOK,
                "error: GH001: Large files detected. You may want to try Git Large File Storage.",
            ),
            "FileTooLarge",
            "git filter-repo",
        ),
        (
            Reference(
                HOOK,
                "error: File model.bin is 123.00 MB; this exceeds GitHub's file size limit of 100.00 MB",
            ),
            "FileTooLarge",
            "git filter-repo",
        ),
        (
            Reference(
                "protected branch hook declined",
                "error: GH006: Protected branch update failed for refs/heads/main.",
            ),
            "BranchProtected",
            "bypass: administrators",
        ),
        (
            Reference(
                "push declined due to email privacy restrictions",
                "error: GH007: Your push would publish a private email address.",
            ),
            "PrivateEmail",
            "noreply address",
        ),
        (
            Reference(
                HOOK,
                "error: GH008: Your push referenced at least 1 unknown Git LFS object:",
            ),
            "NotInCommit",
            "git lfs push --all",
        ),
        (
            Reference(HOOK, "GitLab: LFS objects are missing. Ensure LFS is properly set up"),
            "NotInCommit",
            "git lfs push --all",
        ),
        (
            Reference(HOOK, "error: GH009: Secrets detected! This push failed."),
            "SecretInHistory",
            "revoke the secret",
        ),
        (
            Reference(
                RULES,
                "error: GH013: Repository rule violations found for refs/heads/main.\n- Push cannot contain secrets",
            ),
            "SecretInHistory",
            "revoke the secret",
        ),
        (
            Reference(
                RULES,
                "error: GH013: Repository rule violations found for refs/heads/main.\n- Changes must be made through a pull request.",
            ),
            "BranchProtected",
            "use a pull request",
        ),
        (
            Reference(
                RULES,
                "error: GH013: Repository rule violations found for refs/heads/main.\n- Commits must have verified signatures.",
            ),
            "BranchProtected",
            "sign the commits",
        ),
        (
            Reference(HOOK, "Gitea: Not allowed to push to protected branch main"),
            "BranchProtected",
            "use a pull request",
        ),
        (
            Reference(HOOK, "Forgejo: Not allowed to push to protected branch main"),
            "BranchProtected",
            "use a pull request",
        ),
        (
            Reference("hook declined", "the words of an update hook"),
            "HookDeclined",
            "a hook of the forge",
        ),
        (Reference(HOOK, "commit messages need a ticket"), "HookDeclined", "a hook of the forge"),
        (Reference("non-fast-forward", ""), "HistoryDiverged", "git pull --rebase"),
        (Reference("branch is currently checked out", ""), "BranchCheckedOut", "bare"),
        (Reference("shallow update not allowed", ""), "HistoryIncomplete", "git fetch --unshallow"),
        (
            Objects("index-pack abnormal exit", "fatal: fsck error in packed object"),
            "HistoryBroken",
            "git fsck --full",
        ),
        (
            Objects(
                "index-pack abnormal exit",
                "fatal: pack exceeds maximum allowed size (2.00 GiB)",
            ),
            "QuotaExceeded",
            "larger than the forge allows",
        ),
        (Reference("an unknown reason", ""), "Rejected", "correct the cause in its message"),
        (
            Http(403, "Write access to repository not granted."),
            "Forbidden",
            "write access to the repository's contents",
        ),
        (
            Http(403, "Permission to owner/greeter.git denied to github-actions[bot]."),
            "Forbidden",
            "write access to the repository's contents",
        ),
        (
            Http(403, "This repository was archived so it is read-only."),
            "Archived",
            "unarchive the repository",
        ),
        (
            Http(
                403,
                "The 'owner' organization has enabled or enforced SAML SSO. To access this repository, you must re-authorize the token.",
            ),
            "SsoRequired",
            "single sign-on",
        ),
        (
            Http(403, "This repository is over its data quota."),
            "QuotaExceeded",
            "larger than the forge allows",
        ),
        (
            Http(
                403,
                "The 'owner' organization has an IP allow list enabled, and your IP address is not permitted to access this resource.",
            ),
            "Forbidden",
            "IP allow list",
        ),
        (
            Http(
                403,
                "The 'owner' organization forbids access via a personal access token (classic).",
            ),
            "Forbidden",
            "this kind of token",
        ),
        (Http(413, "too large"), "QuotaExceeded", "larger than the forge allows"),
        (Http(404, "Repository not found."), "NotFound", "may not see it"),
        (Http(401, "Invalid username or token."), "Unauthorized", "create a new token"),
    ]
}

fn forge() -> Test<Setup> {
    let setup = Setup::new(PLAIN)?;
    setup.run("apply").success();
    setup.declare(&format!("{PLAIN}, history: {{push: fastForward}}"))?;
    Ok(setup)
}

/// Applies while the forge answers a push with `refusal`. Returns the run and the number of pushes.
fn pushed(setup: &Setup, refusal: Refusal) -> (assert_cmd::assert::Assert, usize) {
    let (code, text) = refusal.response();
    // A forge refuses a token when git asks for the references, and the objects when they arrive.
    let begins = matches!(refusal, Refusal::Http(code, _) if code != 413);
    let service = if begins { "git-receive-pack" } else { "/git-receive-pack" };
    setup.state(|state| state.git_refuses = Some((service, code, text)));
    setup.pushes();
    let run = setup.run("apply");
    let pushes = setup.pushes();
    setup.state(|state| state.git_refuses = None);
    (run, pushes)
}

// hazard: A push that the forge refuses for good is tried three times and reported as temporary.
// class: A permanent error is called temporary.
// members: 33 messages of GitHub, Gitea, Forgejo, GitLab and git
// now: one attempt, exit 100, a reason and help for each
#[test]
fn refused_push_is_tried_once_and_has_its_own_reason_and_help() -> Test {
    let setup = forge()?;
    let table = refusals();
    assert!(table.len() >= 20);
    for (refusal, reason, help) in &table {
        let (run, pushes) = pushed(&setup, *refusal);
        let run = run.code(100);
        let said = stderr(&run);
        let what = format!("{:?}: {said}", refusal.response());
        assert_eq!(ready(&status(&run)?), ("False", *reason), "{what}");
        assert!(said.contains(help), "{help}: {what}");
        // After a 401, git itself asks the credential helper and the server once more.
        let expected = if matches!(refusal, Refusal::Http(401, _)) { 2 } else { 1 };
        assert_eq!(pushes, expected, "{what}");
    }
    let reasons: BTreeSet<_> = table.iter().map(|(_, reason, _)| reason).collect();
    assert!(reasons.len() >= 15, "{reasons:?}");
    // The refusals were the only obstacle.
    setup.run("apply").success();
    Ok(())
}

#[test]
fn push_that_a_busy_forge_rejects_is_tried_again_and_reported_as_temporary() -> Test {
    let setup = forge()?;
    for refusal in [
        Refusal::Reference("failed to update ref", ""),
        Refusal::Reference("cannot lock ref 'refs/heads/main'", ""),
        Refusal::Objects("index-pack abnormal exit", "fatal: write error: No space left on device"),
        Refusal::Http(503, FAILED),
    ] {
        let (run, pushes) = pushed(&setup, refusal);
        assert_eq!(ready(&status(&run.code(111))?), ("False", "GitFailed"));
        assert!(pushes > 1, "{:?}", refusal.response());
    }
    setup.run("apply").success();
    Ok(())
}
