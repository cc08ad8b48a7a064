//! Phases of a project: each program and the reader derive keys under a name of their own.

use std::collections::BTreeMap;

use documents::Declared;
use secrets::{Error, PhaseKey, Reference};

use crate::project::Project;

/// Names under which keys derive from the root: one per program, and [`READER`].
pub(crate) const PHASES: [&str; 6] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed", "data-drain", READER];

/// Phase of callers that only read, for example a workflow of pull requests. The only key that derives
/// from it is an age identity, which decrypts credentials that are sealed for readers.
pub const READER: &str = "reader";

/// Returns the environment variable that holds the key of `phase`: `ARTIFACT_ATTEST_KEY` for
/// `artifact-attest`.
#[must_use]
pub fn variable(phase: &str) -> String {
    phase.to_ascii_uppercase().replace('-', "_") + "_KEY"
}

/// Returns the generation of each item of `phase` in `project`.
pub(crate) fn item_generations(project: &Project, phase: &str) -> BTreeMap<String, u32> {
    let of_phase = |(key, generation): (&String, &u32)| {
        let item = key.strip_prefix(phase)?.strip_prefix('/')?;
        Some((item.to_owned(), *generation))
    };
    project.generations.iter().filter_map(of_phase).collect()
}

/// Reads the key of `phase` from the environment; `None` when its variable is not set. The caller must
/// check that the key is not published.
pub(crate) fn key_from_environment(
    project: &Declared<Project>,
    phase: &str,
) -> Result<Option<PhaseKey>, Error> {
    let reference = Reference::Env { env: variable(phase) };
    let given = match reference.resolve() {
        Err(Error::Unset(_)) => return Ok(None),
        given => given?, // an empty variable is an error: CI sets it for a secret that does not exist
    };
    let key = PhaseKey::parse(&given, &reference.to_string())?;
    Ok(Some(key.with_generations(item_generations(&project.spec, phase))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_of_a_phase_is_its_name_in_capitals() {
        assert_eq!(variable("artifact-attest"), "ARTIFACT_ATTEST_KEY");
    }
}
