//! Rule that decides which values of a file are encrypted.

use regex_lite::Regex;

use super::file::Metadata;

/// Rule of a file. It is compared with each key on the path to a value.
pub(super) enum Rule {
    ExceptSuffix(String),
    OnlySuffix(String),
    ExceptPattern(Regex),
    OnlyPattern(Regex),
    /// Comments decide, which this crate does not read: a value is encrypted if it looks encrypted.
    ByValue,
}

impl Rule {
    /// Reads the rule of `metadata`. The error says why the rule is not supported.
    pub(super) fn new(metadata: &Metadata) -> Result<Self, String> {
        let pattern = |text: &String| {
            let wrong = |_| "a pattern in its metadata is not supported".to_owned();
            Regex::new(text).map_err(wrong)
        };
        let written = metadata.rules.as_slice();
        let written: Vec<_> = written.iter().filter(|(_, text)| !text.is_empty()).collect();
        Ok(match written.as_slice() {
            [] => Self::ExceptSuffix("_unencrypted".to_owned()),
            [("unencrypted_suffix", text)] => Self::ExceptSuffix(text.clone()),
            [("encrypted_suffix", text)] => Self::OnlySuffix(text.clone()),
            [("unencrypted_regex", text)] => Self::ExceptPattern(pattern(text)?),
            [("encrypted_regex", text)] => Self::OnlyPattern(pattern(text)?),
            // Safe only when the MAC covers every value: otherwise an encrypted value could be replaced
            // with an unencrypted one without detection.
            [_] if !metadata.mac_only_encrypted => Self::ByValue,
            [_] => {
                return Err("comments decide which values are encrypted, and its MAC covers only \
                            encrypted values: this is not supported"
                    .to_owned());
            }
            _ => {
                return Err(
                    "its metadata has two rules that decide which values are encrypted".to_owned()
                );
            }
        })
    }

    /// Whether the rule encrypts the value at `path`; `None` when the value itself decides.
    pub(super) fn encrypts(&self, path: &[String]) -> Option<bool> {
        Some(match self {
            Self::ExceptSuffix(suffix) => !path.iter().any(|key| key.ends_with(suffix)),
            Self::OnlySuffix(suffix) => path.iter().any(|key| key.ends_with(suffix)),
            Self::ExceptPattern(pattern) => !path.iter().any(|key| pattern.is_match(key)),
            Self::OnlyPattern(pattern) => path.iter().any(|key| pattern.is_match(key)),
            Self::ByValue => return None,
        })
    }
}
