//! The one list of reasons of conditions, errors and refusals.
//!
//! A reason is one word in `CamelCase` that names a cause, in the sense of the field `reason` of a
//! Kubernetes condition
//! (<https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#typical-status-properties>).
//! The list uses the words of Kubernetes and HTTP for the causes that they name, for example `Unauthorized`
//! for 401 and `Forbidden` for 403.
//!
//! All programs take their reasons from this list, because a status, an error and a refusal hold a
//! [`Reason`]. The list is in a crate below all others, since the engine reports reasons as well.
//! `knowledge/reasons.md` is generated from the list.

mod list;

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

pub use list::Reason;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// The schema is that of a text, because another version may have written the status with other words.
impl JsonSchema for Reason {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Reason;

    #[test]
    fn every_reason_is_one_word_in_camel_case() {
        for reason in Reason::ALL {
            let word = reason.as_str();
            assert!(word.starts_with(|letter: char| letter.is_ascii_uppercase()), "{word}");
            assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{word}");
        }
    }

    #[test]
    fn no_two_reasons_have_the_same_meaning() {
        let meanings: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.meaning()).collect();
        assert_eq!(meanings.len(), Reason::ALL.len());
    }

    #[test]
    fn every_reason_has_sentences_and_documented_exit_statuses() {
        for reason in Reason::ALL {
            for text in [reason.meaning(), reason.action()] {
                assert!(text.ends_with('.') && text.trim() == text, "{reason}: {text:?}");
            }
            let exits = reason.exits();
            assert!(exits.iter().all(|exit| [2, 100, 111].contains(exit)), "{reason}: {exits:?}");
            assert!(exits.is_sorted(), "{reason}: {exits:?}");
        }
    }
}
