//! New secrets for a new project: an identity, a root, and the file that they are kept in.

use std::fs::File;
use std::io::Read as _;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::derive::RootKey;
use crate::sops::write;
use crate::{AgeRecipient, Error, Secret, published, seal};

/// 32 random bytes, from the kernel.
pub(crate) fn random() -> Result<Secret, Error> {
    let file = "/dev/urandom";
    let mut bytes = Zeroizing::new(vec![0; 32]);
    let read = File::open(file).and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|source| Error::Unreadable { file: file.into(), source })?;
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

/// A new root, as documents refer to it: 32 bytes as base64.
///
/// # Errors
///
/// The kernel gives no random bytes.
pub fn new_root() -> Result<Secret, Error> {
    Ok(Secret::new(BASE64.encode(random()?.expose()).into_bytes()))
}

/// A new age identity, as a line of text, and its recipient.
///
/// # Errors
///
/// The kernel gives no random bytes.
pub fn new_identity() -> Result<(Secret, AgeRecipient), Error> {
    let bytes = random()?;
    let bytes = <[u8; 32]>::try_from(bytes.expose()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| std::io::Error::other("not 32 bytes"))?;
    Ok(seal::identity_text(&bytes))
}

/// The recipient whose identity derives from the key of `phase`, of which `root` is the root, in the
/// project called `project`: a job of CI that holds that key opens what is sealed to it.
///
/// # Errors
///
/// [`Error::NotAKey`].
pub fn phase_recipient(root: &Secret, project: &str, phase: &str) -> Result<AgeRecipient, Error> {
    let key = RootKey::parse(root)?.derive(project, phase, 1);
    Ok(seal::derived_recipient(&key, project))
}

/// Public keys of the artifacts and of the receipts that will be signed with keys that derive from
/// `root` in the project called `project`: each the Base64 body of a PEM block.
///
/// # Errors
///
/// [`Error::NotAKey`], or a key that cannot be written.
pub fn verification_keys(root: &Secret, project: &str) -> Result<(String, String), Error> {
    let [artifacts, receipts] = published::public_keys(&RootKey::parse(root)?, project, 1)?;
    Ok((BASE64.encode(&artifacts), BASE64.encode(&receipts)))
}

/// A SOPS file in YAML with `entries`, in this order, that `recipients` can open. The name of an entry
/// is `a`, or `a.b` for one in a map. `now` is an RFC 3339 time in UTC.
///
/// # Errors
///
/// A secret is no text, or there is nobody to open the file.
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

/// Whether the identity of `recipient` is in this repository or in its template, so that anybody has
/// it, or derives from a root that is.
#[must_use]
pub fn is_published(recipient: &str) -> bool {
    published::is_recipient(recipient)
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
            let sops = Sops::open(&file, &identities).expect("it opens");
            for (name, secret) in &entries {
                assert_eq!(sops.get(name).expect("it is there").expose(), secret.expose());
            }
        }
        let stranger = Identities::parse(&new_identity().expect("an identity").0);
        assert!(Sops::open(&file, &stranger.expect("an identity")).is_err());
        assert!(encrypt(&entries, &[], now).is_err());
    }

    #[test]
    fn the_recipient_of_a_phase_is_the_one_in_this_repository() {
        let root = Secret::new(b"R4WH/+lTRezrj60Vw35cSxR+Q0aF9RdxhhZ7dz9c6KQ=".to_vec());
        let recipient = phase_recipient(&root, "holistic", "flux-seed").expect("a root");
        let project = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../project/project.yaml");
        let project = std::fs::read_to_string(project).expect("the project");
        assert!(project.contains(recipient.as_str()), "{recipient}");
        assert!(is_published(recipient.as_str()));
        let new = phase_recipient(&new_root().expect("a root"), "holistic", "flux-seed");
        assert!(!is_published(new.expect("a root").as_str()));
    }
}
