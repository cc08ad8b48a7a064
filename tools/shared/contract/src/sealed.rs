//! Sealed credentials: encrypted with age to the recipients of a project.

use documents::Declared;
use secrets::{
    AgeRecipient, Error, Identities, RECIPIENT_ITEM, Secret, derived_recipient, seal_to,
    unseal_with,
};

use crate::keys::phase_key;
use crate::project::{Access, Project};
use crate::{ContractError, published};

/// Encrypts a credential that gives `access` to the recipients of `project` that may have this access,
/// as ASCII armor.
///
/// # Errors
///
/// [`Error::NoRecipients`] when no recipient may have `access`, or [`Error::NotSealed`].
pub fn seal(project: &Project, access: Access, plaintext: &[u8]) -> Result<String, Error> {
    let trusted = project.recipients.iter().filter(|recipient| recipient.access >= access);
    seal_to(trusted.map(|recipient| &recipient.age), plaintext)
}

/// Decrypts the output of [`seal`]: with the identities that SOPS would use, or with the identity that
/// derives from the key of `phase`. So a CI job that holds only this key can decrypt a credential, when
/// the project names the derived recipient.
///
/// # Errors
///
/// There is no identity, no identity is a recipient, or the text was changed.
pub fn unseal(project: &Declared<Project>, phase: &str, armored: &str) -> Result<Secret, Error> {
    let identities = Identities::from_environment()?;
    published::refuse_sealed(&project.spec, &identities, armored)?;
    let result = unseal_with(&identities, armored);
    // The phase key is read last, because its reference may run a command that asks a person.
    let Err(Error::NotForUs { .. } | Error::NoIdentity) = result else { return result };
    let Ok(key) = phase_key(project, phase) else { return result };
    let name = project.name.as_str();
    let derived: AgeRecipient = derived_recipient(&key, name);
    let identities = identities.and(key.age(name, RECIPIENT_ITEM), &format!("the key of {phase}"));
    unseal_with(&identities, armored).map_err(|error| match error {
        Error::NotForUs { places } => ContractError::NotARecipient { places, derived }.into(),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use secrets::new_identity;

    use super::*;

    #[test]
    fn credentials_of_administrators_do_not_open_for_readers() {
        let identity = || {
            let (text, recipient) = new_identity().expect("an identity");
            (Identities::parse(&text).expect("an identity"), recipient)
        };
        let ((founder, first), (reader, second)) = (identity(), identity());
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
}
