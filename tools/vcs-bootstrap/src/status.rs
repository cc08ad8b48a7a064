//! Builds the status of a `Repository`.

use documents::{Condition, Diagnostic as _, Kind as _, Reason};

use crate::Error;
use crate::clients::connection::Forge;
use crate::observe::{Evidence, Facts, Observation};
use crate::session::Session;
use crate::spec::Repository;
use crate::step::Step;

/// The status of a Repository.
pub(crate) type Status = documents::Status<Facts, Evidence, Step>;

/// Returns the status of a document for which `steps` are left, with a condition for each part that
/// could not be planned.
pub(crate) fn planned(
    session: &Session<'_>,
    observation: &Observation,
    steps: Vec<Step>,
    refused: Vec<crate::model::Refusal>,
) -> Status {
    let mut status = Status::planned(observed(session, observation), steps);
    let known = |refusal: crate::model::Refusal| {
        Condition::new("Known", false, refusal.reason, refusal.what)
    };
    status.conditions.extend(refused.into_iter().map(known));
    status.conditions.extend(complete(session));
    status
}

/// Returns the status of a document for which no step is left.
pub(crate) fn converged(session: &Session<'_>, observation: &Observation) -> Status {
    let desired = &session.declaration.desired;
    let observed = observed(session, observation);
    let url = observed.as_ref().map_or("", |repository| &repository.url);
    let message = format!(
        "{url} is as declared (rules: {}, secrets: {}, variables: {}, deploy keys: {})",
        desired.rules.len(),
        desired.secrets.len(),
        desired.variables.len(),
        desired.deploy_keys.len()
    );
    let mut status = Status::new(Condition::ready(true, Reason::AsDeclared, message));
    status.conditions.extend(complete(session));
    status.evidence = observation.evidence(desired);
    status.observed = observed;
    status
}

/// Returns the status of a document that `destroy` would remove with `steps`, and the error that would
/// stop it.
pub(crate) fn removal_planned(
    session: &Session<'_>,
    observation: &Observation,
    steps: Vec<Step>,
    refusal: Option<&Error>,
) -> Status {
    let name = &session.remote.place.name;
    let mut status = Status::planned(observed(session, observation), steps);
    if let Some(error) = refusal {
        documents::note(name, format_args!("destroy would stop: {error}"));
        let condition = Condition::new("Covered", false, error.reason(), error.to_string());
        status.conditions.push(condition);
    }
    status
}

/// Returns the status after `destroy`.
pub(crate) fn removed(observation: &Observation) -> Status {
    Status::destroyed(match (&observation.found, &observation.actual) {
        (Some(found), Some(actual)) if actual.archived => {
            format!(
                "{} is archived with its history; the secrets and keys of this program are removed",
                found.web
            )
        }
        (Some(found), _) => {
            format!(
                "{} was created by others and is kept, without the parts that this program created",
                found.web
            )
        }
        (None, _) => format!("the {} does not exist", Repository::KIND.to_lowercase()),
    })
}

/// Returns the status of a verified document, with a condition for values that the forge cannot prove.
pub(crate) fn verified(session: &Session<'_>, observation: &Observation) -> Status {
    let mut status = converged(session, observation);
    if session.remote.forge == Forge::Gitea && !session.declaration.secrets.is_empty() {
        let message = "every declared secret exists, and this program last wrote the declared values; \
                       Gitea does not report when a secret was written, so a later change by another \
                       writer is not detected";
        documents::note(&session.remote.place.name, message);
        status.conditions.push(Condition::new("SecretsProven", false, Reason::NotTold, message));
    }
    status
}

fn observed(session: &Session<'_>, observation: &Observation) -> Option<Facts> {
    observation.observed(&session.declaration.desired)
}

/// Returns a condition about declared features that the forge lacks, if there are any.
fn complete(session: &Session<'_>) -> Option<Condition> {
    let unsupported = &session.declaration.unsupported;
    if unsupported.is_empty() {
        return None;
    }
    let message = unsupported.join("; ");
    documents::note(&session.remote.place.name, format_args!("unsupported: {message}"));
    Some(Condition::new("Complete", false, Reason::UnsupportedByForge, message))
}
