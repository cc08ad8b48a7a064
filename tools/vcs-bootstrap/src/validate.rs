//! Validations of a `Repository` that its types cannot express.

use contract::Projects;
use documents::{Declared, Stream};

use crate::ownership::VARIABLE;
use crate::spec::{Repository, RepositoryName};

/// The most approvals that GitHub allows (its `OpenAPI` description: `required_approving_review_count`,
/// "maximum: 10").
const APPROVALS_MAX: u8 = 10;

/// The most topics that GitHub allows
/// (<https://docs.github.com/en/repositories/managing-your-repositorys-settings-and-features/customizing-your-repository/classifying-your-repository-with-topics>).
const TOPICS_MAX: usize = 20;

/// Reports every error in the `declared` documents.
pub(crate) fn validate(
    stream: &mut Stream,
    projects: &Projects,
    declared: &[Declared<Repository>],
) {
    for (index, document) in declared.iter().enumerate() {
        for (path, message) in errors(document, projects) {
            stream.invalid(document, &path, &message);
        }
        let is_same = |other: &&Declared<Repository>| {
            other.spec.project == document.spec.project && place(other) == place(document)
        };
        if let Some(other) = declared[..index].iter().find(is_same) {
            let message = format!("the document {} declares the same repository", other.name);
            let field = if document.spec.name.is_some() { "/spec/name" } else { "/metadata/name" };
            stream.invalid(document, field, &message);
        }
    }
}

/// Returns owner and name in lower case, because forges compare them so.
fn place(document: &Declared<Repository>) -> String {
    let spec = &document.spec;
    let name = spec.name.as_ref().map_or(document.name.as_str(), RepositoryName::as_str);
    format!("{}/{name}", spec.owner).to_ascii_lowercase()
}

/// Returns the JSON pointer and the message of each error.
fn errors(document: &Declared<Repository>, projects: &Projects) -> Vec<(String, String)> {
    let spec = &document.spec;
    let mut errors = Vec::new();
    let mut error = |path: String, message: String| errors.push((path, message));
    if projects.get(&spec.project).is_ok_and(|project| project.spec.endpoints.forge.is_none()) {
        let message = "the project declares no forge (endpoints.forge)";
        error("/spec/project".to_owned(), message.to_owned());
    }
    if spec.topics.as_ref().is_some_and(|topics| topics.items.len() > TOPICS_MAX) {
        let message = format!("a repository has {TOPICS_MAX} topics at most");
        error("/spec/topics/items".to_owned(), message);
    }
    for (index, former) in spec.previously.iter().enumerate() {
        let former = former.as_str().to_ascii_lowercase();
        let place = place(document);
        if former == place || format!("{}/{former}", spec.owner).to_ascii_lowercase() == place {
            error(format!("/spec/previously/{index}"), "this is the present name".to_owned());
        }
    }
    for phase in &spec.secrets.phase_keys {
        let name = contract::variable(phase.as_str());
        if spec.secrets.references.keys().any(|reference| reference.as_str() == name) {
            let message = format!(
                "phaseKeys contains {phase}, whose key has this name",
                phase = phase.as_str()
            );
            error(format!("/spec/secrets/{name}"), message);
        }
    }
    if spec.variables.keys().any(|name| name.as_str() == VARIABLE) {
        let message = "this variable holds the ownership record of vcs-bootstrap";
        error(format!("/spec/variables/{VARIABLE}"), message.to_owned());
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        if rule.branches.is_empty() {
            let message = "a rule without a branch protects nothing";
            error(format!("/spec/rules/{index}/branches"), message.to_owned());
        }
        let pull_request = rule.require.pull_request.as_ref();
        if pull_request.is_some_and(|pull| pull.approvals > APPROVALS_MAX) {
            let path = format!("/spec/rules/{index}/require/pullRequest/approvals");
            error(path, format!("a rule requires {APPROVALS_MAX} approvals at most"));
        }
        if spec.rules[..index].iter().any(|earlier| earlier.name == rule.name) {
            error(format!("/spec/rules/{index}/name"), "another rule has this name".to_owned());
        }
    }
    errors
}
