//! Texts of others, made fit for messages, which are published.

/// Longest text that is shown, in characters.
const CHARACTERS_MAX: usize = 300;
/// Prefixes of tokens that a message may quote: JSON web tokens, GitHub, GitLab, Docker Hub.
const TOKEN_PREFIXES: [&str; 9] =
    ["eyJ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "dckr_"];

/// Returns `text` without `secrets`.
#[must_use]
pub fn without_secrets(text: &str, secrets: &[impl AsRef<str>]) -> String {
    let secrets = secrets.iter().map(AsRef::as_ref).filter(|secret| !secret.is_empty());
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "(redacted)"))
}

/// Returns a message of a service without `secrets`, without words that look like tokens, and without
/// control characters.
#[must_use]
pub fn redact(message: &str, secrets: &[impl AsRef<str>]) -> String {
    let message = without_secrets(message, secrets);
    let words = message.split_whitespace().map(|word| {
        let is_token = TOKEN_PREFIXES.iter().any(|prefix| word.contains(prefix));
        if is_token { "(redacted)" } else { word }
    });
    limited(&words.collect::<Vec<_>>().join(" "))
}

/// Returns a URL without its query, which may contain a token.
#[must_use]
pub fn shown(url: &str) -> String {
    limited(url.split(['?', '#']).next().unwrap_or_default())
}

fn limited(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_never_shown() {
        assert_eq!(shown("https://a/b?_state=secret"), "https://a/b");
        assert_eq!(shown("https://a/b#secret"), "https://a/b");
    }

    #[test]
    fn a_message_is_shown_without_secrets_and_tokens() {
        let message = "sesame, ghp_abc\nand eyJhbGci.e30.x are\u{7} no good";
        let expected = "(redacted), (redacted) and (redacted) are no good";
        assert_eq!(redact(message, &["sesame", ""]), expected);
        assert_eq!(redact(&"a".repeat(1000), &[""; 0]).len(), CHARACTERS_MAX);
    }
}
