//! Result of one run of git, and its messages for people.

use regex_lite::Regex;

/// Longest message in an error, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 600;

/// Result of one run of git.
#[derive(Debug)]
pub struct Ended {
    /// Whether the exit status was 0.
    pub success: bool,
    /// Standard output, without white space at either end.
    pub text: String,
    /// Standard error, including progress.
    pub said: String,
}

impl Ended {
    /// Returns the messages in one line of at most 600 characters, without progress and without
    /// credentials in URLs, for example of a proxy.
    #[must_use]
    pub fn message(&self) -> String {
        let lines = self.said.split(['\n', '\r']);
        let lines = lines.map(|line| line.trim_start_matches("remote:").trim());
        let text: Vec<_> = lines.filter(|line| !line.is_empty() && !is_progress(line)).collect();
        let text = text.join("; ").replace(char::is_control, " ");
        let text = match Regex::new("://[^/@ ]*@") {
            Ok(credentials) => credentials.replace_all(&text, "://…@").into_owned(),
            Err(_) => text,
        };
        text.chars().take(MESSAGE_CHARACTERS_MAX).collect()
    }
}

/// Whether `line` is a progress line of git, for example
/// `Writing objects: 100% (3/3), 232 bytes | 232.00 KiB/s, done.`
fn is_progress(line: &str) -> bool {
    let counts = line.contains("% (") && line.contains("objects:")
        || line.contains("% (") && line.contains("deltas:");
    counts
        || line.starts_with("Enumerating objects:")
        || line.starts_with("Delta compression using")
        || line.starts_with("Total ") && line.contains("(delta ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_omits_progress_and_credentials() {
        let said = "Enumerating objects: 3, done.\nWriting objects:  33% (1/3)\rWriting objects: 100% (3/3), done.\n\
            remote: error: no\nfatal: unable to reach http://me:hunter2@proxy:3128/\n";
        let ended = Ended { success: false, text: String::new(), said: said.to_owned() };
        assert_eq!(ended.message(), "error: no; fatal: unable to reach http://…@proxy:3128/");
    }
}
