//! Which values of a file are encrypted.

use regex_lite::Regex;

use super::file::Metadata;

/// The one rule of a file; a part of a path is the name of a map's key.
pub(super) enum Rule {
    ExceptSuffix(String),
    OnlySuffix(String),
    ExceptPattern(Regex),
    OnlyPattern(Regex),
    /// Comments tell, which are not read here: whatever looks encrypted is.
    AsItLooks,
}

impl Rule {
    /// The rule in `metadata`, or what keeps it from being one.
    pub(super) fn of(metadata: &Metadata) -> Result<Self, String> {
        let pattern = |text: &String| {
            let wrong = |_| "a pattern in its metadata is none that is known here".to_owned();
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
            // Sound only where the MAC covers every value, whether it is encrypted or not.
            [_] if !metadata.mac_only_encrypted => Self::AsItLooks,
            [_] => {
                return Err("comments tell what is encrypted, and its MAC covers only that: \
                            this is not read here"
                    .to_owned());
            }
            _ => return Err("its metadata has two rules of what is encrypted".to_owned()),
        })
    }

    /// Whether it encrypts the value at `path`; `None` when only the value itself can tell.
    pub(super) fn encrypts(&self, path: &[String]) -> Option<bool> {
        Some(match self {
            Self::ExceptSuffix(suffix) => !path.iter().any(|it| it.ends_with(suffix)),
            Self::OnlySuffix(suffix) => path.iter().any(|it| it.ends_with(suffix)),
            Self::ExceptPattern(pattern) => !path.iter().any(|it| pattern.is_match(it)),
            Self::OnlyPattern(pattern) => path.iter().any(|it| pattern.is_match(it)),
            Self::AsItLooks => return None,
        })
    }
}
