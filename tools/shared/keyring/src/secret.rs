//! A secret in memory: overwritten when dropped, and never shown.

use std::fmt;

use zeroize::Zeroizing;

use crate::Error;

/// Secret bytes.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// All of them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The text, without the newline at its end that files and commands leave there.
    ///
    /// # Errors
    ///
    /// [`Error::NotText`].
    pub fn text(&self) -> Result<&str, Error> {
        let text = std::str::from_utf8(&self.0).map_err(|_| Error::NotText)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        Ok(text.strip_suffix('\r').unwrap_or(text))
    }

    /// Whether nothing is in it but the newline at its end.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0.as_slice(), b"" | b"\n" | b"\r\n")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret(…)");
    }

    #[test]
    fn text_ends_before_the_newline_that_a_file_ends_with() {
        for written in ["a b", "a b\n", "a b\r\n"] {
            assert_eq!(Secret::new(written.into()).text().expect("text"), "a b");
        }
        assert_eq!(Secret::new(b"two\n\n".to_vec()).text().expect("text"), "two\n");
        assert!(matches!(Secret::new(vec![0xff]).text(), Err(Error::NotText)));
    }
}
