//! Projects of the input, and their validation.

use documents::{Declared, Stream};

use crate::phases::PHASES;
use crate::project::{Access, Project};
use crate::verification::{ReceiptKey, artifact_key};
use crate::{ContractError, published};

/// Projects of the input.
#[derive(Debug)]
pub struct Projects(Vec<Declared<Project>>);

impl Projects {
    /// Reads the projects of `stream`. Validation errors are reported by [`Stream::accept`]. A published
    /// secret is an error in a project with an endpoint on another machine.
    pub fn read(stream: &mut Stream) -> Self {
        let Self(mut projects) = Self::read_for_lab(stream);
        for project in &mut projects {
            published::guard(stream, project);
        }
        Self(projects)
    }

    /// Reads the projects of `stream` and allows published secrets, because the lab replaces every
    /// endpoint before a program uses a secret.
    pub fn read_for_lab(stream: &mut Stream) -> Self {
        let projects = stream.documents_of::<Project>();
        for project in &projects {
            for (path, message) in validate(&project.spec) {
                stream.invalid(project, &path, &message);
            }
        }
        Self(projects)
    }

    /// Returns the project called `name`.
    ///
    /// # Errors
    ///
    /// [`ContractError::NoProject`] when the input has no such project.
    pub fn get(&self, name: impl AsRef<str>) -> Result<&Declared<Project>, secrets::Error> {
        let name = name.as_ref();
        let found = self.0.iter().find(|project| project.name.as_str() == name);
        found.ok_or_else(|| ContractError::NoProject(name.to_owned()).into())
    }
}

/// Returns the validation errors that the types do not express, each with its JSON pointer.
fn validate(project: &Project) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let mut invalid = |path: String, message: &str| errors.push((path, message.to_owned()));
    if !project.recipients.iter().any(|recipient| recipient.access == Access::Administrator) {
        let message = "no recipient could decrypt credentials of administrators: name at least one \
                       recipient with the access `administrator`, which is the default";
        invalid("/spec/recipients".to_owned(), message);
    }
    for (index, recipient) in project.recipients.iter().enumerate() {
        if project.recipients[..index].iter().any(|other| other.name == recipient.name) {
            invalid(format!("/spec/recipients/{index}/name"), "another recipient has this name");
        }
    }
    let keys = &project.verification_keys;
    for (index, pem) in keys.receipts.iter().enumerate() {
        if let Err(why) = ReceiptKey::parse(pem) {
            invalid(format!("/spec/verificationKeys/receipts/{index}"), why);
        }
    }
    for (index, pem) in keys.artifacts.iter().enumerate() {
        if artifact_key(pem).is_none() {
            let why = "not a P-256 public key in PEM (RFC 5480)";
            invalid(format!("/spec/verificationKeys/artifacts/{index}"), why);
        }
    }
    for (key, generation) in &project.generations {
        let path = format!("/spec/generations/{}", key.replace('~', "~0").replace('/', "~1"));
        let (phase, item) =
            key.split_once('/').map_or((&**key, None), |(phase, item)| (phase, Some(item)));
        if !PHASES.contains(&phase) || item.is_some_and(str::is_empty) {
            let message = format!(
                "no key has this name: write <phase> or <phase>/<item>, where a phase is one of {}",
                PHASES.join(", ")
            );
            invalid(path, &message);
        } else if *generation == 0 {
            invalid(path, "generations start at 1");
        }
    }
    errors
}
