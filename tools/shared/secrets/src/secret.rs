//! A secret in memory: overwritten when dropped, and absent from debug output.

use std::fmt;

use zeroize::Zeroizing;

use crate::Error;

/// Secret bytes, which are overwritten when they are dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of `bytes`, and overwrites them when the secret is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns all bytes, including a newline at the end.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text without the newline that files and commands put at the end.
    ///
    /// # Errors
    ///
    /// [`Error::NotText`] when the bytes are not UTF-8.
    pub fn text(&self) -> Result<&str, Error> {
        let text = std::str::from_utf8(&self.0).map_err(|_| Error::NotText)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        Ok(text.strip_suffix('\r').unwrap_or(text))
    }

    /// Whether the secret holds nothing but a newline.
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
    fn debug_output_hides_the_secret() {
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
