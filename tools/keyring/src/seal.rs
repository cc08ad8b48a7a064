//! What must be handed on secretly: encrypted with age to the project's recipients.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::str::FromStr as _;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{DecryptError, Decryptor, Encryptor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Error, Identities, Project, Secret};

/// Largest secret that is sealed, in bytes.
const SEALED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The public half of an age identity: `age1…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^age1[02-9ac-hj-np-z]{58}$"))]
pub struct AgeRecipient(String);

impl AgeRecipient {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AgeRecipient {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.to_uppercase().starts_with("AGE-SECRET-KEY-") {
            let wrong = "an identity, which is secret, and not a recipient: change it now, and \
                         write what `age-keygen -y` prints of the new one";
            return Err(wrong.to_owned());
        }
        match age::x25519::Recipient::from_str(&text) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err("not an age recipient, which `age-keygen -y` prints: age1…".to_owned()),
        }
    }
}

impl fmt::Display for AgeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Encrypts `plaintext` to all recipients of `project`, as text.
///
/// # Errors
///
/// [`Error::NoRecipients`], or [`Error::NotSealed`].
pub fn seal(project: &Project, plaintext: &[u8]) -> Result<String, Error> {
    seal_to(project.recipients.iter().map(|it| &it.age), plaintext)
}

/// Encrypts `plaintext` to `recipients`, as text.
///
/// # Errors
///
/// [`Error::NoRecipients`], or [`Error::NotSealed`].
pub fn seal_to<'a>(
    recipients: impl IntoIterator<Item = &'a AgeRecipient>,
    plaintext: &[u8],
) -> Result<String, Error> {
    let parse = |it: &AgeRecipient| age::x25519::Recipient::from_str(it.as_str());
    let recipients: Vec<_> =
        recipients.into_iter().map(parse).collect::<Result<_, _>>().map_err(io::Error::other)?;
    if recipients.is_empty() {
        return Err(Error::NoRecipients);
    }
    let recipients = recipients.iter().map(|it| it as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
    let mut writer = encryptor.wrap_output(armor)?;
    writer.write_all(plaintext)?;
    let armored = writer.finish()?.finish()?;
    String::from_utf8(armored).map_err(|it| io::Error::other(it).into())
}

/// Opens what [`seal`] made, with the identities that SOPS would use.
///
/// # Errors
///
/// There is no identity, none of them is a recipient, or the text was changed.
pub fn unseal(armored: &str) -> Result<Secret, Error> {
    unseal_with(&Identities::from_environment()?, armored)
}

/// Opens what [`seal`] made, with `identities`.
///
/// # Errors
///
/// There is no identity, none of them is a recipient, or the text was changed.
pub fn unseal_with(identities: &Identities, armored: &str) -> Result<Secret, Error> {
    let places = identities.places().ok_or(Error::NoIdentity)?;
    open(identities, armored).map_err(|error| match error {
        DecryptError::NoMatchingKeys => Error::NotForUs { places: places.to_owned() },
        source => Error::NotUnsealed(source),
    })
}

pub(crate) fn open(identities: &Identities, armored: &str) -> Result<Secret, DecryptError> {
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(armored.trim_start().as_bytes()))?;
    let reader = decryptor.decrypt(identities.iter())?;
    let mut plaintext = Zeroizing::new(Vec::new());
    reader.take(SEALED_BYTES_MAX + 1).read_to_end(&mut plaintext)?;
    if plaintext.len() as u64 > SEALED_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
    }
    Ok(Secret::new(std::mem::take(&mut *plaintext)))
}
