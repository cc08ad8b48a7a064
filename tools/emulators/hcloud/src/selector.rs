//! Label selectors: `a=b,c!=d,e,!f,g in (h,i),j notin (k)`
//! (<https://docs.hetzner.cloud/reference/cloud#label-selector>).

use crate::error::ApiError;
use crate::labels::{self, Labels};

/// A selector: labels match if every term matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Present(String),
    Absent(String),
    In(String, Vec<String>),
    /// Matches labels without the key, too.
    NotIn(String, Vec<String>),
}

impl Selector {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let wrong = || ApiError::invalid_fields(&[("label_selector", "is not a label selector")]);
        let mut terms = Vec::new();
        let mut rest = text.trim();
        loop {
            let (term, after) = term(rest).ok_or_else(wrong)?;
            terms.push(term);
            rest = after.trim_start();
            if rest.is_empty() {
                return Ok(Self(terms));
            }
            rest = rest.strip_prefix(',').ok_or_else(wrong)?.trim_start();
        }
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|term| match term {
            Term::Present(key) => labels.contains_key(key),
            Term::Absent(key) => !labels.contains_key(key),
            Term::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Term::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        })
    }
}

/// Reads one term; returns the term and the rest of the text.
fn term(text: &str) -> Option<(Term, &str)> {
    if let Some(negated) = text.strip_prefix('!') {
        let (key, rest) = key(negated.trim_start())?;
        return Some((Term::Absent(key), rest));
    }
    let (key, rest) = key(text)?;
    let spaced = rest.trim_start();
    for (sign, negated) in [("==", false), ("!=", true), ("=", false)] {
        if let Some(rest) = spaced.strip_prefix(sign) {
            let (value, rest) = value(rest.trim_start())?;
            return Some((set(key, vec![value], negated), rest));
        }
    }
    for (word, negated) in [("notin", true), ("in", false)] {
        let apart = spaced.len() < rest.len();
        if apart
            && let Some(list) =
                spaced.strip_prefix(word).and_then(|rest| rest.trim_start().strip_prefix('('))
        {
            let (inside, rest) = list.split_once(')')?;
            let values: Option<Vec<_>> =
                inside.split(',').map(|value| whole_value(value.trim())).collect();
            return Some((set(key, values?, negated), rest));
        }
    }
    Some((Term::Present(key), rest))
}

fn set(key: String, values: Vec<String>, negated: bool) -> Term {
    if negated { Term::NotIn(key, values) } else { Term::In(key, values) }
}

fn key(text: &str) -> Option<(String, &str)> {
    let (key, rest) =
        take(text, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    labels::key_allowed(key).then(|| (key.to_owned(), rest))
}

fn value(text: &str) -> Option<(String, &str)> {
    let (value, rest) = take(text, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    Some((whole_value(value)?, rest))
}

fn whole_value(text: &str) -> Option<String> {
    (text.is_empty() || labels::segment(text)).then(|| text.to_owned())
}

fn take(text: &str, part: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !part(c)).unwrap_or(text.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn holds(selector: &str, pairs: &[(&str, &str)]) -> bool {
        Selector::parse(selector).unwrap().matches(&labels(pairs))
    }

    #[test]
    fn every_term_matches_the_labels_that_the_documentation_names() {
        let worlds: [&[(&str, &str)]; 4] = [&[], &[("k", "")], &[("k", "a")], &[("k", "b")]];
        // Per selector: does it hold when the label is absent, empty, `a`, `b`?
        let table = [
            ("k", [false, true, true, true]),
            ("!k", [true, false, false, false]),
            ("k=a", [false, false, true, false]),
            ("k==a", [false, false, true, false]),
            ("k = a", [false, false, true, false]),
            ("k!=a", [true, true, false, true]),
            ("k=", [false, true, false, false]),
            ("k in (a,b)", [false, false, true, true]),
            ("k in (a)", [false, false, true, false]),
            ("k in ( a , b )", [false, false, true, true]),
            ("k notin (a,b)", [true, true, false, false]),
            ("k notin (b)", [true, true, true, false]),
        ];
        for (selector, expected) in table {
            for (world, expected) in worlds.iter().zip(expected) {
                assert_eq!(holds(selector, world), expected, "`{selector}` over {world:?}");
            }
            for (other, also) in table {
                for (index, world) in worlds.iter().enumerate() {
                    let both = format!("{selector},{other}");
                    assert_eq!(
                        holds(&both, world),
                        expected[index] && also[index],
                        "`{both}` over {world:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn keys_may_have_a_prefix_or_equal_an_operator() {
        assert!(holds("holistic/role=control-plane", &[("holistic/role", "control-plane")]));
        assert!(holds("in,notin", &[("in", "x"), ("notin", "y")]));
        assert!(holds("in in (in)", &[("in", "in")]));
        assert!(holds("a.b-c_d=1.2-3_4", &[("a.b-c_d", "1.2-3_4")]));
    }

    #[test]
    fn parse_refuses_malformed_selectors() {
        for text in [
            "",
            ",",
            "a,",
            ",a",
            "=b",
            "a=b c",
            "a in",
            "a in b",
            "a in (b",
            "a in b)",
            "!",
            "!a=b",
            "-a",
            "a=-b",
            "a b",
            "a=b,,c",
            "a in (b) c",
            "a|b",
            "x/y/z",
            "/a",
            "a/",
            "a in(b)(c)",
        ] {
            assert!(Selector::parse(text).is_err(), "`{text}` was accepted");
        }
    }
}
