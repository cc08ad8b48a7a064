//! Validations of a `Drain` that its types cannot express.

use contract::facts::project_of_cluster;
use contract::{Access, Project, Projects, Recipient};
use documents::{Declared, Stream};

use crate::spec::{Drain, Source};

/// Reports every error in `declared` documents.
pub(crate) fn validate(stream: &mut Stream, projects: &Projects, declared: &[Declared<Drain>]) {
    for document in declared {
        let mut errors = errors(&document.spec);
        let project = project_of_cluster(stream, document.spec.cluster.as_str());
        if let Some(project) = project.map(str::to_owned) {
            stream.require_exists(document, "/spec/cluster", "Project", &project);
            if let Ok(project) = projects.get(&project) {
                errors.extend(recipient_errors(&document.spec, &project.spec));
            }
        }
        for (path, message) in errors {
            stream.invalid(document, &path, &message);
        }
    }
}

/// Returns the JSON pointer and the message of each error that the document alone shows.
fn errors(spec: &Drain) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let mut error = |path: &str, message: &str| errors.push((path.to_owned(), message.to_owned()));
    if spec.sources.is_empty() {
        error("/spec/sources", "a drain of nothing proves nothing: name a source");
    }
    if spec.recipients.is_empty() {
        error("/spec/recipients", "no recipient could open the copies: name a recipient");
    }
    for (index, source) in spec.sources.iter().enumerate() {
        let path = format!("/spec/sources/{index}");
        match (&source.claim, &source.forge, &source.freeze) {
            (Some(_), None, _) | (None, Some(_), None) => {}
            (None, Some(_), Some(_)) => {
                error(&format!("{path}/freeze"), "a forge cannot be frozen");
            }
            _ => error(&path, "a source is either a claim or a forge"),
        }
        if source.forge.is_some() && source.node.is_some() {
            error(&format!("{path}/node"), "a forge is on no node");
        }
        let same = |other: &Source| {
            (source.claim.is_some() && other.claim == source.claim)
                || (source.forge.is_some() && other.forge == source.forge)
        };
        if spec.sources[..index].iter().any(same) {
            error(&path, "another source names the same");
        }
    }
    for (index, name) in spec.recipients.iter().enumerate() {
        if spec.recipients[..index].contains(name) {
            error(&format!("/spec/recipients/{index}"), "this recipient is named twice");
        }
    }
    errors
}

/// Returns the JSON pointer and the message of each error that the recipients of the Project show.
fn recipient_errors(spec: &Drain, project: &Project) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let known: Vec<_> = project.recipients.iter().map(|known| known.name.to_string()).collect();
    for (index, name) in spec.recipients.iter().enumerate() {
        let mut error = |message: String| {
            errors.push((format!("/spec/recipients/{index}"), message));
        };
        if !known.contains(name) {
            let known = known.join(", ");
            error(format!("the Project has no recipient of this name, only {known}"));
        }
        let reads = |recipient: &Recipient| {
            recipient.name.to_string() == *name && recipient.access == Access::Reader
        };
        if project.recipients.iter().any(reads) {
            let message = "this recipient has the access `reader`, and a copy holds every secret of its claim";
            error(message.to_owned());
        }
    }
    errors
}
