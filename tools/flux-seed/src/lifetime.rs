//! Lifetimes of registry tokens. Pure.

use remote::registry::default_user;

/// Token that ends by itself within hours, so that a cluster cannot keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortLived {
    /// Kind of the token.
    pub kind: &'static str,
    /// Time for which the vendor accepts the token.
    pub lifetime: &'static str,
    /// Advice: a credential that lasts.
    pub instead: &'static str,
}

/// Recognises tokens that end within hours, by their form or by their registry.
///
/// - GitHub: <https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/about-authentication-to-github#githubs-token-formats>
/// - Google: <https://cloud.google.com/artifact-registry/docs/docker/authentication>
/// - Amazon: <https://docs.aws.amazon.com/AmazonECR/latest/userguide/registry_auth.html>
/// - Azure: <https://learn.microsoft.com/azure/container-registry/container-registry-authentication>
pub(crate) fn short_lived(host: &str, user: &str, token: &str) -> Option<ShortLived> {
    let is_default = |name: &str| user == name && default_user(host, token) == Some(name);
    if token.starts_with("ghs_") {
        return Some(ShortLived {
            kind: "an installation token of GitHub, such as `GITHUB_TOKEN`",
            lifetime: "an hour",
            instead: "declare a classic personal access token with `read:packages` as `reader` of that endpoint",
        });
    }
    if is_default("oauth2accesstoken") {
        return Some(ShortLived {
            kind: "an access token of Google",
            lifetime: "an hour",
            instead: "declare the key of a service account that may read the repository as `reader` of that endpoint",
        });
    }
    if is_default("AWS") {
        return Some(ShortLived {
            kind: "a password of Amazon ECR, which has no others",
            lifetime: "12 hours",
            instead: "publish to a registry with lasting tokens, or to a public repository without a token",
        });
    }
    is_default("00000000-0000-0000-0000-000000000000").then_some(ShortLived {
        kind: "a token of `az acr login`",
        lifetime: "3 hours",
        instead: "declare a token of the registry that may read as `reader` of that endpoint, and its name as `user`",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_that_ends_within_hours_is_recognised_at_every_vendor() {
        let key = "{\"type\":\"service_account\"}";
        let azure = "00000000-0000-0000-0000-000000000000";
        for (host, user, token, lifetime) in [
            ("ghcr.io", "token", "ghs_0123456789", Some("an hour")),
            ("mirror.example.org", "me", "ghs_0123456789", Some("an hour")),
            ("ghcr.io", "token", "ghp_0123456789", None),
            ("europe-west3-docker.pkg.dev", "oauth2accesstoken", "ya29.x", Some("an hour")),
            ("europe-west3-docker.pkg.dev", "_json_key", key, None),
            ("1.dkr.ecr.eu-central-1.amazonaws.com", "AWS", "x", Some("12 hours")),
            ("me.azurecr.io", azure, "x", Some("3 hours")),
            ("me.azurecr.io", "reader", "x", None),
            ("registry.example.org", "AWS", "x", None),
        ] {
            let found = short_lived(host, user, token).map(|token| token.lifetime);
            assert_eq!(found, lifetime, "{user} at {host}");
        }
    }
}
