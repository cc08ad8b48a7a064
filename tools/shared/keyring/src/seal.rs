//! What must be handed on secretly: encrypted with age to the project's recipients.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::str::FromStr as _;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::ExposeSecret as _;
use age::{DecryptError, Decryptor, Encryptor};
use documents::Declared;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Access, Error, Identities, PhaseKey, Project, Secret, derive, phase_key, published};

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

/// The identity with this key as a line of text, and its recipient.
pub(crate) fn identity_text(key: &[u8; 32]) -> (Secret, AgeRecipient) {
    let identity = derive::identity(key);
    let text = identity.to_string().expose_secret().as_bytes().to_vec();
    (Secret::new(text), AgeRecipient(identity.to_public().to_string()))
}

/// Encrypts a credential that gives `access` to the recipients of `project` that are trusted with
/// that access, as text.
///
/// # Errors
///
/// [`Error::NoRecipients`], or [`Error::NotSealed`].
pub fn seal(project: &Project, access: Access, plaintext: &[u8]) -> Result<String, Error> {
    let trusted = project.recipients.iter().filter(|recipient| recipient.access >= access);
    seal_to(trusted.map(|recipient| &recipient.age), plaintext)
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

/// The item of a phase's key from which its identity derives.
pub(crate) const RECIPIENT: &str = "recipient";

/// The recipient whose identity derives from `key`, the key of a phase of the project called `name`.
#[must_use]
pub fn derived_recipient(key: &PhaseKey, name: &str) -> AgeRecipient {
    AgeRecipient(key.age(name, RECIPIENT).to_public().to_string())
}

/// Opens what [`seal`] made: with the identities that SOPS would use, or with the one that derives
/// from the key of `phase`. So a job of CI that holds nothing but that key opens what it needs,
/// where the project names it among its recipients.
///
/// # Errors
///
/// There is no identity, none of them is a recipient, or the text was changed.
pub fn unseal(project: &Declared<Project>, phase: &str, armored: &str) -> Result<Secret, Error> {
    let identities = Identities::from_environment()?;
    published::refuse_sealed(&project.spec, &identities, armored)?;
    let end = unseal_with(&identities, armored);
    // The key is asked for only then: it may stand in a SOPS file, or be a command's.
    let Err(Error::NotForUs { .. } | Error::NoIdentity) = end else { return end };
    let Ok(key) = phase_key(project, phase) else { return end };
    let derived = key.age(project.name.as_str(), RECIPIENT);
    let recipient = derived_recipient(&key, project.name.as_str());
    unseal_with(&identities.and(derived, phase), armored).map_err(|error| match error {
        Error::NotForUs { places, .. } => Error::NotForUs { places, derived: Some(recipient) },
        other => other,
    })
}

/// Opens what [`seal`] made, with `identities`.
///
/// # Errors
///
/// There is no identity, none of them is a recipient, or the text was changed.
pub fn unseal_with(identities: &Identities, armored: &str) -> Result<Secret, Error> {
    let places = identities.places().ok_or(Error::NoIdentity)?;
    open(identities, armored).map_err(not_opened(places))
}

/// Reads what is in an age file, with `identities`.
///
/// # Errors
///
/// There is no identity, none of them is a recipient, or it is no age file.
pub fn open_with<R: io::Read>(
    identities: &Identities,
    input: R,
) -> Result<impl io::Read + use<R>, Error> {
    let places = identities.places().ok_or(Error::NoIdentity)?;
    let opened = Decryptor::new(input).and_then(|it| it.decrypt(identities.iter()));
    opened.map_err(not_opened(places))
}

/// Why the identities from `places` do not open something.
fn not_opened(places: &str) -> impl FnOnce(DecryptError) -> Error {
    move |error| match error {
        DecryptError::NoMatchingKeys => {
            Error::NotForUs { places: places.to_owned(), derived: None }
        }
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

    fn somebody() -> (Identities, AgeRecipient) {
        let identity = age::x25519::Identity::generate();
        let recipient = AgeRecipient::try_from(identity.to_public().to_string());
        (identity.into(), recipient.expect("a recipient"))
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_for_each_recipient(plaintext: Vec<u8>) {
            let ((one, first), (two, second)) = (somebody(), somebody());
            let sealed = seal_to([&first, &second], &plaintext).expect("sealed");
            for identities in [one, two] {
                let opened = unseal_with(&identities, &sealed).expect("opened");
                prop_assert_eq!(opened.expose(), plaintext.as_slice());
            }
        }
    }

    #[test]
    fn credentials_of_administrators_do_not_open_for_readers() {
        let ((founder, first), (reader, second)) = (somebody(), somebody());
        let document = serde_json::json!({"root": {"env": "ROOT"}, "recipients": [
            {"name": "founder", "age": first.as_str()},
            {"name": "reader", "age": second.as_str(), "access": "reader"},
        ]});
        let project: Project = serde_json::from_value(document).expect("a project");
        for (access, opens_for_reader) in [(Access::Administrator, false), (Access::Reader, true)] {
            let sealed = seal(&project, access, b"kubeconfig").expect("sealed");
            assert!(unseal_with(&founder, &sealed).is_ok(), "{access:?}");
            assert_eq!(unseal_with(&reader, &sealed).is_ok(), opens_for_reader, "{access:?}");
        }
    }

    #[test]
    fn what_is_sealed_does_not_open_for_others() {
        let (recipient, other) = (somebody().1, somebody().0);
        let sealed = seal_to([&recipient], b"hunter2").expect("sealed");
        assert!(matches!(unseal_with(&other, &sealed), Err(Error::NotForUs { .. })));
    }

    #[test]
    fn what_was_changed_since_it_was_sealed_does_not_open() {
        let (identities, recipient) = somebody();
        let sealed = seal_to([&recipient], &[7; 100]).expect("sealed");
        let middle = sealed.len() - 80;
        let changed: String = (0..)
            .zip(sealed.chars())
            .map(|(index, it)| if index == middle { if it == 'A' { 'B' } else { 'A' } } else { it })
            .collect();
        assert!(matches!(unseal_with(&identities, &changed), Err(Error::NotUnsealed(_))));
        assert!(matches!(unseal_with(&identities, &sealed[..90]), Err(Error::NotUnsealed(_))));
    }

    #[test]
    fn nothing_is_sealed_for_nobody() {
        assert!(matches!(seal_to([], b"hunter2"), Err(Error::NoRecipients)));
    }

    #[test]
    fn an_identity_in_the_place_of_a_recipient_is_refused_and_not_quoted() {
        let identity = "AGE-SECRET-KEY-1C8E3LKDAJE5CGFKLL4SWMUC0JTR6KCTMUMVN8CP5YHAYK4NPVTZQDCPV9W";
        for wrong in [identity, &identity.to_lowercase(), "age1hunter2", "hunter2", ""] {
            let error = AgeRecipient::try_from(wrong.to_owned()).expect_err(wrong);
            assert!(!error.contains("1C8E3") && !error.contains("hunter2"), "{error}");
        }
    }
}
