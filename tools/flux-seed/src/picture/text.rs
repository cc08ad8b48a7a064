//! Texts that fit into a box.

/// Most lines that a viewer of the SVG shows beside the pointer.
pub(crate) const DETAILS_MAX: usize = 12;

/// Digits of a shortened digest, as container tools show them.
const DIGITS: usize = 12;

/// Replaces whitespace by spaces, and characters that are invisible or reorder a line by U+FFFD. Names of
/// Kubernetes have none of them, but a message may quote anything.
pub(crate) fn clean(text: &str) -> String {
    let is_hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let shown = |letter: char| match letter {
        letter if letter.is_whitespace() => ' ',
        letter if is_hidden(letter) => '\u{fffd}',
        letter => letter,
    };
    let text: String = text.chars().map(shown).collect();
    text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns the first digits of a digest or a commit.
pub(crate) fn short(digest: &str) -> String {
    let digits = digest.rsplit_once(':').map_or(digest, |(_, digits)| digits);
    digits.chars().take(DIGITS).collect()
}

/// Width of a text in letters of ASCII. Any other letter counts as two, because many of them are.
fn width(text: &str) -> usize {
    text.chars().map(|letter| if letter.is_ascii() { 1 } else { 2 }).sum()
}

/// Returns the longest beginning of `text` that is at most `most` wide.
fn beginning(text: &str, most: usize) -> &str {
    let mut room = most;
    for (index, letter) in text.char_indices() {
        match room.checked_sub(if letter.is_ascii() { 1 } else { 2 }) {
            Some(left) => room = left,
            None => return &text[..index],
        }
    }
    text
}

/// Shortens `text` in its middle, because names differ at both ends.
pub(crate) fn fitted(text: &str, most: usize) -> String {
    let text = clean(text);
    if width(&text) <= most {
        return text;
    }
    let room = most.saturating_sub(2); // the ellipsis
    let first = beginning(&text, room.div_ceil(2));
    let reversed: String = text.chars().rev().collect();
    let last: String = beginning(&reversed, room / 2).chars().rev().collect();
    format!("{first}…{last}")
}

/// Breaks `text` into at most `lines` lines. The last line shows with an ellipsis that there is more.
pub(crate) fn wrapped(text: &str, most: usize, lines: usize) -> Vec<String> {
    let text = clean(text);
    let mut rest = text.as_str();
    let mut all = Vec::new();
    while !rest.is_empty() && all.len() < lines {
        if width(rest) <= most {
            all.push(rest.to_owned());
            return all;
        }
        let is_last = all.len() + 1 == lines;
        let line = beginning(rest, if is_last { most.saturating_sub(2) } else { most });
        let space = line.rfind(' ').filter(|_| !rest[line.len()..].starts_with(' '));
        // A wide letter in a narrow box would not fit at all.
        let line = match space.filter(|at| *at > 0) {
            Some(at) => &line[..at],
            None if line.is_empty() => &rest[..rest.chars().next().map_or(0, char::len_utf8)],
            None => line,
        };
        rest = rest[line.len()..].trim_start();
        all.push(if is_last { format!("{line}…") } else { line.to_owned() });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_into_their_box_and_show_that_they_are_shortened() {
        assert_eq!(fitted("flux-system/prod", 20), "flux-system/prod");
        assert_eq!(fitted("a-namespace/a-very-long-name", 13), "a-name…-name");
        assert_eq!(fitted("a\n\tb\u{202e}c\u{0}", 20), "a b\u{fffd}c\u{fffd}");
        assert_eq!(wrapped("one two three four", 9, 3), ["one two", "three", "four"]);
        assert_eq!(wrapped("one two three four", 9, 2), ["one two", "three…"]);
        assert_eq!(wrapped("abcdefghij", 4, 3), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("日本語", 1, 2), ["日", "本…"]);
        assert_eq!(wrapped("", 4, 2), [""; 0]);
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
