//! Validations of a `Repository` that its types cannot express.

use contract::Projects;
use documents::{Declared, Stream};

use crate::spec::Repository;

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
    for document in declared {
        for (path, message) in errors(&document.spec, projects) {
            stream.invalid(document, &path, &message);
        }
    }
}

/// Returns the JSON pointer and the message of each error.
fn errors(spec: &Repository, projects: &Projects) -> Vec<(String, String)> {
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
