//! Encryption with age to recipients, and decryption with identities.

use std::io::{self, Read as _, Write as _};
use std::str::FromStr as _;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{DecryptError, Decryptor, Encryptor};
use zeroize::Zeroizing;

use crate::{AgeRecipient, Error, Identities, PhaseKey, Secret};

/// Largest secret that is decrypted, in bytes. A kubeconfig or talosconfig has a few KiB.
const SEALED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Item of a phase key from which the age identity of the phase derives.
pub const RECIPIENT_ITEM: &str = "recipient";

/// Encrypts `plaintext` to `recipients` as ASCII armor.
///
/// # Errors
///
/// [`Error::NoRecipients`] when `recipients` is empty, or [`Error::NotSealed`].
pub fn seal_to<'a>(
    recipients: impl IntoIterator<Item = &'a AgeRecipient>,
    plaintext: &[u8],
) -> Result<String, Error> {
    let parse = |recipient: &AgeRecipient| age::x25519::Recipient::from_str(recipient.as_str());
    let recipients: Vec<_> =
        recipients.into_iter().map(parse).collect::<Result<_, _>>().map_err(io::Error::other)?;
    if recipients.is_empty() {
        return Err(Error::NoRecipients);
    }
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
    let mut writer = encryptor.wrap_output(armor)?;
    writer.write_all(plaintext)?;
    let armored = writer.finish()?.finish()?;
    String::from_utf8(armored).map_err(|error| io::Error::other(error).into())
}

/// Returns the recipient whose identity derives from `key`, the key of a phase, in the scope `name`:
/// the name of the Project.
#[must_use]
pub fn derived_recipient(key: &PhaseKey, name: &str) -> AgeRecipient {
    AgeRecipient::from(&key.age(name, RECIPIENT_ITEM).to_public())
}

/// Decrypts the output of [`seal_to`].
///
/// # Errors
///
/// There is no identity, no identity is a recipient, or the text was changed.
pub fn unseal_with(identities: &Identities, armored: &str) -> Result<Secret, Error> {
    let places = identities.places().ok_or(Error::NoIdentity)?;
    open(identities, armored).map_err(not_opened(places))
}

/// Whether one of `identities` decrypts `armored`.
#[must_use]
pub fn opens(identities: &Identities, armored: &str) -> bool {
    open(identities, armored).is_ok()
}

/// Decrypts an age file, armored or binary, while it is read.
///
/// # Errors
///
/// There is no identity, no identity is a recipient, or `input` is not an age file.
pub fn open_with<R: io::Read>(
    identities: &Identities,
    input: R,
) -> Result<impl io::Read + use<R>, Error> {
    let places = identities.places().ok_or(Error::NoIdentity)?;
    let opened = Decryptor::new(input).and_then(|file| file.decrypt(identities.iter()));
    opened.map_err(not_opened(places))
}

/// Translates a failure to decrypt with the identities from `places`.
fn not_opened(places: &str) -> impl FnOnce(DecryptError) -> Error {
    move |error| match error {
        DecryptError::NoMatchingKeys => Error::NotForUs { places: places.to_owned() },
        source => Error::NotUnsealed(source),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn new_identity() -> (Identities, AgeRecipient) {
        let identity = age::x25519::Identity::generate();
        let recipient = AgeRecipient::from(&identity.to_public());
        (identity.into(), recipient)
    }

    proptest! {
        #[test]
        fn each_recipient_opens_a_sealed_text(plaintext: Vec<u8>) {
            let ((one, first), (two, second)) = (new_identity(), new_identity());
            let sealed = seal_to([&first, &second], &plaintext).expect("sealed");
            for identities in [one, two] {
                let opened = unseal_with(&identities, &sealed).expect("opened");
                prop_assert_eq!(opened.expose(), plaintext.as_slice());
            }
        }
    }

    #[test]
    fn a_sealed_text_does_not_open_for_others() {
        let (recipient, other) = (new_identity().1, new_identity().0);
        let sealed = seal_to([&recipient], b"hunter2").expect("sealed");
        assert!(matches!(unseal_with(&other, &sealed), Err(Error::NotForUs { .. })));
    }

    #[test]
    fn a_sealed_text_that_was_changed_does_not_open() {
        let (identities, recipient) = new_identity();
        let sealed = seal_to([&recipient], &[7; 100]).expect("sealed");
        let middle = sealed.len() - 80;
        let changed: String = (0..)
            .zip(sealed.chars())
            .map(|(index, letter)| match letter {
                'A' if index == middle => 'B',
                _ if index == middle => 'A',
                letter => letter,
            })
            .collect();
        assert!(matches!(unseal_with(&identities, &changed), Err(Error::NotUnsealed(_))));
        assert!(matches!(unseal_with(&identities, &sealed[..90]), Err(Error::NotUnsealed(_))));
    }

    #[test]
    fn sealing_to_no_recipient_fails() {
        assert!(matches!(seal_to([], b"hunter2"), Err(Error::NoRecipients)));
    }
}
