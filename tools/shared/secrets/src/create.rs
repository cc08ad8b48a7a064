//! New secrets for a new project: an identity, a root, and the SOPS file that holds them.

use age::secrecy::ExposeSecret as _;
use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::random::random;
use crate::sops::write;
use crate::{AgeRecipient, Error, RootKey, Secret, derive, seal};

/// Creates a root: 32 random bytes as base64, the notation in which a SOPS file holds it.
///
/// # Errors
///
/// [`Error::Unreadable`] when the kernel gives no random bytes.
pub fn new_root() -> Result<Secret, Error> {
    Ok(Secret::new(BASE64.encode(random()?.expose()).into_bytes()))
}

/// Creates an age identity, and returns it as a line of text with its recipient.
///
/// # Errors
///
/// [`Error::Unreadable`] when the kernel gives no random bytes.
pub fn new_identity() -> Result<(Secret, AgeRecipient), Error> {
    let bytes = random()?;
    let bytes = <[u8; 32]>::try_from(bytes.expose()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| std::io::Error::other("not 32 bytes"))?;
    let identity = derive::identity(&bytes);
    let text = identity.to_string().expose_secret().as_bytes().to_vec();
    Ok((Secret::new(text), AgeRecipient::from(&identity.to_public())))
}

/// Returns the recipient whose identity derives from the key of `phase` in the project called
/// `project`. A CI job that holds the key of the phase can decrypt what is sealed to this recipient.
///
/// # Errors
///
/// [`Error::NotAKey`] when `root` is not 32 bytes.
pub fn phase_recipient(root: &Secret, project: &str, phase: &str) -> Result<AgeRecipient, Error> {
    let key = RootKey::parse(root, "the root")?.derive(project, phase, 1);
    Ok(seal::derived_recipient(&key, project))
}

/// Writes a SOPS file in YAML with `entries`, in this order, that `recipients` can decrypt. The name of
/// an entry is `a`, or `a.b` for an entry of a map. `now` is an RFC 3339 time in UTC.
///
/// # Errors
///
/// [`Error::NotText`] when a secret is not UTF-8, or [`Error::NoRecipients`].
pub fn encrypt(
    entries: &[(&str, Secret)],
    recipients: &[AgeRecipient],
    now: &str,
) -> Result<String, Error> {
    if recipients.is_empty() {
        return Err(Error::NoRecipients);
    }
    write::write(entries, recipients, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identities, Sops};

    #[test]
    fn a_new_file_opens_for_its_recipients_and_has_every_value() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secrets.yaml");
        let (identity, recipient) = new_identity().expect("an identity");
        let (other, second) = new_identity().expect("an identity");
        assert_ne!(recipient, second);
        let root = new_root().expect("a root");
        let entries = [
            ("root", root.clone()),
            ("github", Secret::new(b"a \"token\": # \xc3\xbc".to_vec())),
            ("s3.accessKeyId", Secret::new(b"one".to_vec())),
            ("s3.secretAccessKey", Secret::new(b"two".to_vec())),
        ];
        let now = "2026-11-28T12:00:00Z";
        let text = encrypt(&entries, &[recipient, second], now).expect("encrypted");
        assert!(!text.contains("token"), "{text}");
        std::fs::write(&file, &text).expect("written");
        for identity in [identity, other] {
            let identities = Identities::parse(&identity).expect("an identity");
            let sops = Sops::open(&file, &identities).expect("the file opens");
            for (name, secret) in &entries {
                assert_eq!(sops.get(name).expect("a value").expose(), secret.expose());
            }
        }
        let stranger = Identities::parse(&new_identity().expect("an identity").0);
        assert!(Sops::open(&file, &stranger.expect("an identity")).is_err());
        assert!(encrypt(&entries, &[], now).is_err());
    }
}
