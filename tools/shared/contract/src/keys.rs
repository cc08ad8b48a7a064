//! Keys of a project: from its root, or from the environment of a CI job.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use documents::Declared;
use secrets::{Error, PhaseKey, RootKey};

use crate::phases::{READER, item_generations, key_from_environment};
use crate::project::Project;
use crate::verification::artifact_key;
use crate::{ContractError, published};

/// Root of a project.
#[derive(Debug)]
pub struct ProjectRoot(RootKey);

impl ProjectRoot {
    /// Derives the key of `phase` in `project`, in the generations that the document names.
    #[must_use]
    pub fn phase(&self, project: &Declared<Project>, phase: &str) -> PhaseKey {
        let key = self.0.derive(project.name.as_str(), phase, project.spec.generation(phase));
        key.with_generations(item_generations(&project.spec, phase))
    }
}

/// Reads the root of `project`.
///
/// # Errors
///
/// The reference cannot be resolved, or [`Error::NotAKey`].
pub fn root_key(project: &Declared<Project>) -> Result<ProjectRoot, Error> {
    let reference = &project.spec.root;
    RootKey::parse(&reference.resolve()?, &reference.to_string()).map(ProjectRoot)
}

/// Reads the key of `phase` from the environment; `None` when its variable is not set.
fn given_phase_key(project: &Declared<Project>, phase: &str) -> Result<Option<PhaseKey>, Error> {
    let key = key_from_environment(project, phase)?;
    if let Some(key) = &key {
        published::refuse_phase_key(project, phase, key.expose())?;
    }
    Ok(key)
}

/// Returns the key of `phase`: from the environment (`ARTIFACT_ATTEST_KEY` for `artifact-attest`) when
/// the variable is set, or else derived from the root.
///
/// # Errors
///
/// Neither can be resolved, or [`Error::NotAKey`].
pub fn phase_key(project: &Declared<Project>, phase: &str) -> Result<PhaseKey, Error> {
    match given_phase_key(project, phase)? {
        Some(key) => Ok(key),
        None => Ok(root_key(project)?.phase(project, phase)),
    }
}

/// Roots that a run has read, by project. A root may come from a command that waits for a person, so a
/// run with many documents reads each root once.
#[derive(Debug, Default)]
pub struct Roots(Mutex<BTreeMap<String, ProjectRoot>>);

impl Roots {
    /// Returns the key of `phase`, like [`phase_key`].
    ///
    /// # Errors
    ///
    /// The errors of [`phase_key`].
    pub fn phase_key(&self, project: &Declared<Project>, phase: &str) -> Result<PhaseKey, Error> {
        if let Some(key) = given_phase_key(project, phase)? {
            return Ok(key);
        }
        // The lock is held while the root is read, so that parallel documents do not read it again.
        let mut roots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = roots.get(project.name.as_str()) {
            return Ok(root.phase(project, phase));
        }
        let root = root_key(project)?;
        let key = root.phase(project, phase);
        roots.insert(project.name.to_string(), root);
        Ok(key)
    }
}

/// Returns the key of `phase`, or `None` for a caller that has no more than the key of [`READER`]: the
/// root and the phase's key cannot be resolved, and `READER_KEY` is set.
///
/// # Errors
///
/// The errors of [`phase_key`] when `READER_KEY` is not set, and of a wrong `READER_KEY`.
pub fn phase_key_unless_reader(
    project: &Declared<Project>,
    phase: &str,
) -> Result<Option<PhaseKey>, Error> {
    if let Some(key) = given_phase_key(project, phase)? {
        return Ok(Some(key));
    }
    match root_key(project) {
        Ok(root) => Ok(Some(root.phase(project, phase))),
        Err(published @ Error::Published(_)) => Err(published),
        Err(error) => match given_phase_key(project, READER)? {
            Some(_) => Ok(None),
            None => Err(error),
        },
    }
}

/// Returns the public keys of which one must have signed an artifact of `project`: the keys that its
/// document names, or else the key that derives from the phase `artifact-attest` for `item`.
///
/// # Errors
///
/// The document names no key, and neither `ARTIFACT_ATTEST_KEY` nor the root can be read.
pub fn artifact_keys(
    project: &Declared<Project>,
    item: &str,
) -> Result<Vec<p256::ecdsa::VerifyingKey>, Error> {
    let named = &project.spec.verification_keys.artifacts;
    if named.is_empty() {
        let key = phase_key(project, "artifact-attest")?;
        return Ok(vec![*key.p256(project.name.as_str(), item).verifying_key()]);
    }
    let why = "not a P-256 public key in PEM (RFC 5480)";
    let parse =
        |text: &String| artifact_key(text).ok_or(ContractError::VerificationKey { why }.into());
    named.iter().map(parse).collect()
}
