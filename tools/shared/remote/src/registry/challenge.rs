//! Parser of authentication challenges in `WWW-Authenticate` headers (RFC 9110, section 11.6.1).

/// One challenge of a `WWW-Authenticate` header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Challenge {
    scheme: String,
    /// Names in lower case, with their values.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Whether the challenge has this scheme, compared without regard to case.
    pub(crate) fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// Returns the value of the first parameter called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns every challenge in a header, for example `Basic realm="a", Bearer
    /// realm="b",service="c"`.
    pub(crate) fn read(header: &str) -> Vec<Self> {
        let mut challenges: Vec<Self> = Vec::new();
        let mut rest = header.trim_start_matches(is_separator);
        while !rest.is_empty() {
            let end = rest.find(|letter| is_separator(letter) || letter == '=' || letter == '"');
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
            rest = match (value, challenges.last_mut()) {
                (Some(value), Some(challenge)) if !word.is_empty() => {
                    let (value, after) = value_of(value.trim_start_matches([' ', '\t']));
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                    after
                }
                _ if word.is_empty() => {
                    // No word begins here, so skip one stray letter.
                    after.strip_prefix(['=', '"']).unwrap_or_default()
                }
                _ => {
                    challenges.push(Self { scheme: word.to_owned(), parameters: Vec::new() });
                    after
                }
            };
            rest = rest.trim_start_matches(is_separator);
        }
        challenges
    }
}

fn is_separator(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | ',')
}

/// Splits a token or a quoted string from the beginning of `text`, and returns the rest.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find(is_separator).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let (mut value, mut letters) = (String::new(), quoted.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_challenge_of_a_header_is_read() {
        let header = "Basic realm=\"a, \\\"b\", Bearer realm=\"https://auth.example/token\",service=registry.example , error=\"x\"";
        let all = Challenge::read(header);
        assert_eq!(all.len(), 2);
        assert!(all[0].is("basic") && all[0].get("realm") == Some("a, \"b"));
        assert!(all[1].is("bearer"));
        assert_eq!(all[1].get("realm"), Some("https://auth.example/token"));
        assert_eq!(all[1].get("service"), Some("registry.example"));
        assert_eq!(Challenge::read("Basic").len(), 1);
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        let pieces = ["Bearer", " ", ",", "=", "\"", "\\", "realm", "ü", "\t", "realm=\"", "a=b"];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    for fourth in pieces {
                        Challenge::read(&[first, second, third, fourth].concat());
                    }
                }
            }
        }
    }
}
