//! Redaction of texts that machines return.
//!
//! A machine quotes the configuration that it received. Talos v1.13.9 answers an unknown field with
//! the field's value, and a change that it cannot make with the whole difference. Both answers were
//! seen with private keys in them.

/// Longest text that is shown, in characters.
const CHARACTERS_MAX: usize = 400;
/// Phrases after which Talos quotes its input.
const BEFORE_QUOTES: [&str; 4] = ["diff:", "unknown keys", "cannot unmarshal", "Config diff"];
/// Most items of a list of errors that are shown.
const ITEMS_MAX: usize = 5;
/// Replacement of text that was left out.
const LEFT_OUT: &str = "[…]";

/// Returns the first line of `text`, without quoted text and without anything after a phrase that
/// introduces a quote. For a list of errors in the format of Go's multierror, the text of each item
/// before its first colon is appended.
pub(super) fn first_line(text: &str) -> String {
    let mut shown = shown(text.lines().next().unwrap_or_default(), text.lines().nth(1).is_some());
    if text.lines().next().is_some_and(|line| line.ends_with(" occurred:")) {
        let items = text.lines().filter_map(|line| line.trim_start().strip_prefix("* "));
        for item in items.take(ITEMS_MAX) {
            let head = item.split(": ").next().unwrap_or_default();
            shown.push_str("; ");
            shown.push_str(&self::shown(head, head.len() < item.len()));
        }
    }
    shown
}

/// Redacts one line. `more` says whether the text has further lines.
fn shown(line: &str, more: bool) -> String {
    let cut = BEFORE_QUOTES.iter().filter_map(|words| line.find(words).map(|at| at + words.len()));
    let cut = cut.min().unwrap_or(line.len());
    let mut shown = without_quotes(&line[..cut]);
    let long = shown.chars().count() > CHARACTERS_MAX;
    if long {
        shown = shown.chars().take(CHARACTERS_MAX).collect();
    }
    if (long || cut < line.len() || more) && !shown.ends_with(LEFT_OUT) {
        shown.push(' ');
        shown.push_str(LEFT_OUT);
    }
    shown
}

/// Replaces quoted text. A quote that is not closed hides the rest of the line.
fn without_quotes(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some((at, quote)) = opening_quote(rest) {
        shown.push_str(&rest[..at]);
        shown.push_str(LEFT_OUT);
        let after = &rest[at + quote.len_utf8()..];
        let Some(end) = closing_quote(after, quote) else { return shown };
        rest = &after[end + quote.len_utf8()..];
    }
    shown + rest
}

/// Finds the first opening quotation mark. An apostrophe inside a word does not count.
fn opening_quote(text: &str) -> Option<(usize, char)> {
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        if matches!(letter, '"' | '`') || letter == '\'' && !before.is_alphanumeric() {
            return Some((at, letter));
        }
        before = letter;
    }
    None
}

/// Finds the closing mark for `quote`. A mark after a backslash does not count.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if letter == quote => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::first_line;

    const SECRET: &str = "SECRETSECRETSECRET";

    // hazard: A machine quotes a private key in its refusal, and it ends up on standard error and
    // in the status.
    // class: Responses may contain secrets.
    // members: diffs of refused changes, warnings, events, values in type errors, a proxy's page
    // that repeats the token
    // now: the first line with `[…]`, and the command that shows the rest
    #[test]
    fn a_value_that_a_machine_quotes_is_left_out() {
        for text in [
            // Seen with Talos v1.13.9: a misspelt field of a WireguardConfig.
            "error decoding document v1alpha1/WireguardConfig/wg0 (line 131): unknown keys found during decoding:\nprivatKey: SECRETSECRETSECRET",
            "unknown keys found during decoding: privatKey: SECRETSECRETSECRET",
            "this config change can't be applied in immediate mode\ndiff:\n--- a\n+key: SECRETSECRETSECRET",
            "this config change can't be applied in immediate mode diff: SECRETSECRETSECRET",
            "1 error occurred:\n\t* invalid key \"SECRETSECRETSECRET\"",
            "time: invalid duration \"SECRETSECRETSECRET\"",
            "invalid `SECRETSECRETSECRET` here",
            "invalid 'SECRETSECRETSECRET' here",
            "invalid \"a \\\" SECRETSECRETSECRET\" here",
            "yaml: line 3: cannot unmarshal !!str SECRETSECRETSECRET into bool",
            "it begins \"SECRETSECRETSECRET and does not end",
        ] {
            let shown = first_line(text);
            assert!(!shown.contains(SECRET), "{shown}");
            assert!(!shown.is_empty());
        }
    }

    #[test]
    fn text_without_quotes_is_shown_unchanged() {
        for text in [
            "bootstrap is not available yet",
            "etcd data directory is not empty",
            "this config change can't be applied in immediate mode",
            "the machine's clock isn't in sync",
        ] {
            assert_eq!(first_line(text), text);
        }
        let errors =
            "2 errors occurred:\n\t* static hostname is already set\n\t* invalid label: SECRET\n\n";
        assert_eq!(
            first_line(errors),
            "2 errors occurred: […]; static hostname is already set; invalid label […]"
        );
        assert_eq!(first_line("task \"etcd\" failed: exit code 1"), "task […] failed: exit code 1");
    }
}
