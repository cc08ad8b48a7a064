//! How the status of a `Repository` is built.

use documents::{Condition, Diagnostic as _, Kind as _};

use crate::Error;
use crate::observe::{Evidence, Look, Observed};
use crate::remote::Forge;
use crate::session::Session;
use crate::spec::Repository;
use crate::step::Step;

/// The status of a Repository.
pub(crate) type Status = documents::Status<Observed, Evidence, Step>;

/// Returns the status of a document for which `steps` are left, and what is in their way.
pub(crate) fn planned(
    session: &Session<'_>,
    look: &Look,
    steps: Vec<Step>,
    refused: Vec<crate::model::Refusal>,
) -> Status {
    let mut status = Status::planned(observed(session, look), steps);
    let known = |refusal: crate::model::Refusal| {
        Condition::new("Known", false, refusal.reason, refusal.what)
    };
    status.conditions.extend(refused.into_iter().map(known));
    status.conditions.extend(complete(session));
    status
}

/// Returns the status of a document for which no step is left.
pub(crate) fn converged(session: &Session<'_>, look: &Look) -> Status {
    let wanted = &session.declaration.wanted;
    let observed = observed(session, look);
    let url = observed.as_ref().map_or("", |repository| &repository.url);
    let message = format!(
        "{url} is as declared (rules: {}, secrets: {}, deploy keys: {})",
        wanted.rules.len(),
        wanted.secrets.len(),
        wanted.deploy_keys.len()
    );
    let mut status = Status::new(Condition::ready(true, "InPlace", message));
    status.conditions.extend(complete(session));
    status.evidence = look.evidence(wanted);
    status.observed = observed;
    status
}

/// Returns the status of a document that `destroy` would remove with `steps`, or with an error.
pub(crate) fn removal_planned(
    session: &Session<'_>,
    look: &Look,
    steps: Vec<Step>,
    refusal: Option<&Error>,
) -> Status {
    let name = &session.remote.place.name;
    let mut status = Status::planned(observed(session, look), steps);
    if let Some(error) = refusal {
        documents::note(name, format_args!("destroy would stop: {error}"));
        let condition = Condition::new("Covered", false, error.reason(), error.to_string());
        status.conditions.push(condition);
    }
    status
}

/// Returns the status after `destroy`.
pub(crate) fn removed(look: &Look) -> Status {
    Status::destroyed(match (&look.found, &look.world) {
        (Some(found), Some(world)) if world.archived => {
            format!("{} is archived, without our secrets and keys: its history stays", found.web)
        }
        (Some(found), _) => {
            format!("{} was made by others: it stays, without what we made in it", found.web)
        }
        (None, _) => format!("there is no {} any more", Repository::KIND.to_lowercase()),
    })
}

/// Returns the status of a proven document, with what its forge cannot prove.
pub(crate) fn verified(session: &Session<'_>, look: &Look) -> Status {
    let mut status = converged(session, look);
    if session.remote.forge == Forge::Gitea && !session.declaration.secrets.is_empty() {
        let message = "the secrets are there under their names, and what was written last by us is \
                       what is declared; Gitea does not tell when a secret was written, so a change \
                       by hand would not be seen";
        documents::note(&session.remote.place.name, message);
        status.conditions.push(Condition::new("SecretsProven", false, "NotTold", message));
    }
    status
}

fn observed(session: &Session<'_>, look: &Look) -> Option<Observed> {
    look.observed(&session.remote.place, &session.declaration.wanted)
}

/// Returns a condition about declared features that the forge lacks, if there are any.
fn complete(session: &Session<'_>) -> Option<Condition> {
    let unsupported = &session.declaration.unsupported;
    if unsupported.is_empty() {
        return None;
    }
    let message = unsupported.join("; ");
    documents::note(&session.remote.place.name, format_args!("unsupported: {message}"));
    Some(Condition::new("Complete", false, "UnsupportedByForge", message))
}
