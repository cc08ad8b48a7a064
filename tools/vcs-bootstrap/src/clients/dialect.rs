//! Differences between Gitea, its versions, and Forgejo, which has forked from Gitea 1.21.

use std::sync::PoisonError;

use crate::Error;
use crate::clients::http::Client;

/// Field of a branch protection that decides whether administrators may merge against the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Gitea 1.23 and newer: `block_admin_merge_override`
    /// (<https://github.com/go-gitea/gitea/pull/32248>).
    Gitea,
    /// Gitea before 1.23, where administrators may always merge.
    OldGitea,
    /// Forgejo 7 and newer: `apply_to_admins`, and no force pushes to a protected branch at all (API
    /// description of Forgejo 15 in the npm package `@llamaduck/forgejo-ts` 15.0.9,
    /// `CreateBranchProtectionOption`).
    Forgejo,
}

impl Dialect {
    /// Name of the software, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gitea => "Gitea",
            Self::OldGitea => "Gitea before 1.23",
            Self::Forgejo => "Forgejo",
        }
    }

    /// Reads the answer to `GET /version`, for example `1.26.0` or `15.0.1+gitea-1.22.0`. Forgejo appends the
    /// version of Gitea with whose API it is compatible
    /// (<https://forgejo.org/docs/latest/user/versions/>).
    fn of(version: &str) -> Self {
        if version.contains("+gitea-") || version.contains("forgejo") {
            return Self::Forgejo;
        }
        let mut numbers = version.trim_start_matches('v').split(['.', '+', '-']);
        let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok());
        match (number(), number()) {
            (Some(1), Some(minor)) if minor < 23 => Self::OldGitea,
            // An unknown version is rather a newer one.
            _ => Self::Gitea,
        }
    }
}

/// Asks the forge for its version, once in a run.
pub(crate) fn dialect(client: &Client) -> Result<Dialect, Error> {
    let mut version = client.service.version.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = &*version {
        return Ok(Dialect::of(version));
    }
    let answer = client.get("/version")?.expect(&[200])?;
    let text = answer.body["version"].as_str().ok_or_else(|| answer.lacks("version"))?;
    Ok(Dialect::of(version.insert(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_tells_forgejo_from_gitea_and_its_old_releases() {
        for (version, dialect) in [
            ("1.26.0", Dialect::Gitea),
            ("1.23.0+dev-12-gabc", Dialect::Gitea),
            ("1.22.6", Dialect::OldGitea),
            ("v1.21.11", Dialect::OldGitea),
            ("2.0.0", Dialect::Gitea),
            ("main", Dialect::Gitea),
            ("15.0.1+gitea-1.22.0", Dialect::Forgejo),
            ("7.0.0+gitea-1.21.11", Dialect::Forgejo),
            ("1.21.11-1+forgejo", Dialect::Forgejo),
        ] {
            assert_eq!(Dialect::of(version), dialect, "{version}");
        }
    }
}
