//! Public halves of age identities.

use std::fmt;
use std::str::FromStr as _;

use age::x25519::Recipient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Public half of an age identity, for example `age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^age1[02-9ac-hj-np-z]{58}$"))]
pub struct AgeRecipient(String);

impl AgeRecipient {
    /// Returns the recipient as text: `age1…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AgeRecipient {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.to_uppercase().starts_with("AGE-SECRET-KEY-") {
            let wrong = "an identity, which is secret, and not a recipient: replace this identity \
                         now, and write what `age-keygen -y` prints of the new one";
            return Err(wrong.to_owned());
        }
        match Recipient::from_str(&text) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err("not an age recipient, which `age-keygen -y` prints: age1…".to_owned()),
        }
    }
}

impl From<&Recipient> for AgeRecipient {
    fn from(recipient: &Recipient) -> Self {
        Self(recipient.to_string())
    }
}

impl fmt::Display for AgeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_a_recipient_quotes_no_identity_and_no_other_text() {
        let identity = "AGE-SECRET-KEY-1C8E3LKDAJE5CGFKLL4SWMUC0JTR6KCTMUMVN8CP5YHAYK4NPVTZQDCPV9W";
        for wrong in [identity, &identity.to_lowercase(), "age1hunter2", "hunter2", ""] {
            let error = AgeRecipient::try_from(wrong.to_owned()).expect_err(wrong);
            assert!(!error.contains("1C8E3") && !error.contains("hunter2"), "{error}");
        }
    }
}
