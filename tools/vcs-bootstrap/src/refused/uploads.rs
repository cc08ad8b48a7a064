//! Messages with which LFS servers and git-lfs reject objects, each with its cause and help.

use documents::Reason;

use super::{Row, Verdict, verdict};

/// Sources: statuses of the batch API (<https://github.com/git-lfs/git-lfs/blob/v3.7.1/docs/api/batch.md>);
/// GitHub's texts as quoted in <https://github.com/git-lfs/git-lfs/issues/3408> (quota) and
/// <https://github.com/git-lfs/git-lfs/issues/4014>
/// (disabled); `services/lfs/server.go` of Gitea v1.26.0 (size).
const UPLOADS: &[Row] = &[
    (
        &[
            "data quota",
            "insufficient server storage",
            "bandwidth limit",
            "storage limit",
            "budget",
        ],
        Reason::QuotaExceeded,
        "the owner's storage for Git LFS is used up: buy more at the forge, or delete objects there",
    ),
    (
        &["size must be less", "file size limit", "http 413", "status 413", "too large"],
        Reason::FileTooLarge,
        "an object is larger than the forge, or a proxy before it, accepts: raise the limit \
         (LFS_MAX_FILE_SIZE of Gitea, client_max_body_size of nginx), or remove the file from the \
         whole history",
    ),
    (
        &["lfs is disabled", "lfs is not enabled", "not found", "status 501", "not implemented"],
        Reason::UnsupportedByForge,
        "the forge has no LFS server for this repository: enable it (Gitea and Forgejo: \
         LFS_START_SERVER = true in the section [server] of app.ini), or take the files out of LFS: \
         `git lfs migrate export --everything --include='*'`",
    ),
    (
        &["status 403", "authorization error", "must have push access", "denied"],
        Reason::Forbidden,
        "give the token write access to the repository's contents",
    ),
    (
        &["unprocessable", "status 422", "is not", "hash mismatch", "size mismatch"],
        Reason::HistoryBroken,
        "the forge does not accept an object: `git lfs fsck` shows which are broken",
    ),
];

/// Verdict on an upload address that demands a login of its own.
const LOGIN: Verdict = Verdict {
    reason: Reason::Unauthorized,
    help: "the forge sends uploads to a host that demands a login, and the token goes to the forge alone: \
           correct the storage of the forge's LFS server",
};

/// Verdict on a status that matches no row.
const OTHER: Verdict = Verdict {
    reason: Reason::Rejected,
    help: "the forge rejects the objects permanently: correct the cause in its message",
};

/// Returns the cause of a permanent refusal by the batch API, with its status `code`; `None` if the failure is
/// temporary.
pub(crate) fn answer(code: u64, message: &str) -> Option<Verdict> {
    let is_temporary =
        [408, 429, 509].contains(&code) || (code >= 500 && ![501, 507].contains(&code));
    let text = message.to_lowercase();
    let text = if code == 507 { text + " insufficient server storage" } else { text };
    let text = if code == 404 { text + " not found" } else { text };
    verdict(UPLOADS, &text).filter(|_| !is_temporary).or((!is_temporary).then_some(OTHER))
}

/// Returns the cause of a permanent failure of a transfer by git-lfs; `None` if another attempt may succeed.
pub(crate) fn transfer(message: &str) -> Option<Verdict> {
    let text = message.to_lowercase();
    // `creds/creds.go` and `lfshttp/errors.go` of git-lfs v3.7.1.
    if ["credentials for", "could not read username"].iter().any(|word| text.contains(word)) {
        return Some(LOGIN);
    }
    let is_certain =
        ["authorization error", "http 413", "unprocessable", "insufficient server storage"];
    verdict(UPLOADS, &text).filter(|_| is_certain.iter().any(|word| text.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refused_upload_has_its_cause_and_temporary_ones_are_repeated() {
        let reason = |verdict: Option<Verdict>| verdict.map(|verdict| verdict.reason);
        for (code, message, expected) in [
            (403, "This repository is over its data quota.", Some(Reason::QuotaExceeded)),
            (403, "Git LFS is disabled for this repository.", Some(Reason::UnsupportedByForge)),
            (403, "no reason given (status 403)", Some(Reason::Forbidden)),
            (404, "no reason given (status 404)", Some(Reason::UnsupportedByForge)),
            (413, "Request Entity Too Large (status 413)", Some(Reason::FileTooLarge)),
            (422, "Size must be less than or equal to 10", Some(Reason::FileTooLarge)),
            (422, "Object 00 is not 3 bytes", Some(Reason::HistoryBroken)),
            (507, "no reason given", Some(Reason::QuotaExceeded)),
            (418, "a message of its own", Some(Reason::Rejected)),
            (500, "Internal Server Error", None),
            (503, "not found", None),
            (429, "slow down", None),
        ] {
            assert_eq!(reason(answer(code, message)), expected, "{code} {message}");
        }
        for (message, expected) in [
            (
                "fatal: could not read Username for 'https://s3.example.org'",
                Some(Reason::Unauthorized),
            ),
            ("Git credentials for https://s3.example.org/x not found.", Some(Reason::Unauthorized)),
            ("LFS: Client error https://forge.example/x from HTTP 413", Some(Reason::FileTooLarge)),
            ("LFS: Authorization error: https://s3.example.org/x", Some(Reason::Forbidden)),
            ("LFS: Put \"https://forge.example/x\": EOF", None),
            ("Server error https://forge.example/x from HTTP 502", None),
        ] {
            assert_eq!(reason(transfer(message)), expected, "{message}");
        }
    }
}
