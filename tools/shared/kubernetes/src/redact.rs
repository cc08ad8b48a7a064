//! Removal of credentials from texts that people and logs see.

use std::fmt;

use secrets::Secret;

/// Shortest credential that is searched for, in bytes. A shorter text is no credential, and its
/// replacement would garble messages.
const CREDENTIAL_BYTES_MIN: usize = 6;

/// Text in place of a credential.
const REDACTED: &str = "[redacted]";

/// Credentials of one kubeconfig.
#[derive(Default)]
pub(crate) struct Redactor(Vec<Secret>);

impl Redactor {
    pub(crate) fn new(credentials: impl IntoIterator<Item = String>) -> Self {
        let long = credentials.into_iter().filter(|text| text.len() >= CREDENTIAL_BYTES_MIN);
        Self(long.map(|text| Secret::new(text.into_bytes())).collect())
    }

    /// Returns `text` without the credentials.
    pub(crate) fn clean(&self, text: &str) -> String {
        let credentials = self.0.iter().filter_map(|secret| secret.text().ok());
        credentials.fold(text.to_owned(), |text, credential| text.replace(credential, REDACTED))
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(…)")
    }
}
