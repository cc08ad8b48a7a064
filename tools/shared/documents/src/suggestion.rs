//! Suggestions for misspelt words.

/// Returns the word of `known` that `word` most likely means. `None`, if every one differs too much.
///
/// At most a third of the letters may be wrong, as in rustc's suggestions
/// (<https://doc.rust-lang.org/nightly/nightly-rustc/rustc_span/edit_distance/fn.find_best_match_for_name.html>).
/// Case and the separators of other naming styles do not count: `read_back` means `readBack`.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = letters(word);
    let typos = |known: &str| {
        let known = letters(known);
        let typos_max = known.chars().count().max(3) / 3;
        // The difference of the lengths limits the work on a long text.
        let is_near = word.len().abs_diff(known.len()) <= 4 * typos_max;
        let typos = is_near.then(|| distance(&word, &known))?;
        (typos <= typos_max).then_some(typos)
    };
    let near = known.into_iter().filter_map(|known| Some((typos(known)?, known)));
    near.min().map(|(_, known)| known)
}

/// Returns the least number of letters to insert, remove, replace, or swap with their neighbour.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    strsim::osa_distance(left, right)
}

/// Returns `word` in lower case without separators.
fn letters(word: &str) -> String {
    let letters = word.chars().filter(|letter| !matches!(letter, '_' | '-' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn nearest_word_has_at_most_a_third_of_its_letters_wrong() {
        let known = ["readBack", "recipients", "name", "url", "cluster"];
        for (typo, meant) in [
            ("read_back", "readBack"),
            ("readback", "readBack"),
            ("readBakc", "readBack"),
            ("recipient", "recipients"),
            ("Name", "name"),
            ("nmae", "name"),
            ("uri", "url"),
            ("clsuters", "cluster"),
        ] {
            assert_eq!(nearest(typo, known), Some(meant), "{typo}");
        }
        let long = "name".repeat(1_000_000);
        for other in ["", "id", "colour", "hunter2", "host", long.as_str()] {
            assert_eq!(nearest(other, known), None);
        }
        assert_eq!(nearest("name", []), None);
    }
}
