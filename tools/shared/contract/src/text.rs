//! Texts that a document declares and that have a rule of their own.

/// Declares a newtype for a text that fulfils a rule: the documentation, the name, a function that checks the
/// text, and the error message.
///
/// The message names the rule and never quotes the text, because a person may have put a secret in its place.
/// Types and functions come from the crate that calls the macro, which needs `serde` and `schemars`.
#[macro_export]
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(
            Clone,
            Debug,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            ::serde::Serialize,
            ::serde::Deserialize,
            ::schemars::JsonSchema,
        )]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::convert::TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> ::std::result::Result<Self, Self::Error> {
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err($rule) }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    #![expect(unreachable_pub, reason = "the macro declares types of documents, which are public")]

    crate::checked_text! {
        /// A word of small letters.
        Word,
        |text| !text.is_empty() && text.chars().all(|letter| letter.is_ascii_lowercase()),
        "not a word of small letters"
    }

    #[test]
    fn checked_text_is_read_only_if_it_fulfils_its_rule_and_is_never_quoted() {
        let word: Word = serde_json::from_str("\"nix\"").expect("a word");
        assert_eq!((word.as_str(), word.to_string()), ("nix", "nix".to_owned()));
        assert_eq!(serde_json::json!(word), "nix");
        for wrong in ["\"\"", "\"Hunter2\"", "\"hunter2\""] {
            let error = serde_json::from_str::<Word>(wrong).expect_err("not a word").to_string();
            assert!(error.contains("not a word of small letters"), "{error}");
            assert!(!error.to_lowercase().contains("hunter2"), "{error}");
        }
        let schema = schemars::schema_for!(Word);
        assert_eq!(schema.get("type"), Some(&"string".into()));
        assert_eq!(schema.get("description"), Some(&"A word of small letters.".into()));
    }
}
