//! Requests for many repositories: how many, which of them wait for each other, and which documents are
//! processed at the same time. Uses one mock of GitHub for each repository.

mod common;
#[path = "common/fleet.rs"]
mod fleet;
#[path = "common/mock.rs"]
mod mock;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use common::{Sandbox, Test};
use fleet::{Fleet, depth};
use mock::http::TOKEN;

/// Number of documents.
const DOCUMENTS: usize = 60;
/// The most requests of a document that wait for each other.
const DEPTH_MAX: usize = 4;
/// Requests for a document without changes: the repository, variables, rulesets, one of them, secrets, keys.
const REQUESTS: usize = 6;
/// Number of documents that are processed at the same time.
const PARALLEL: usize = 8;

const SPEC: &str = "project: lab, owner: owner, description: ours, topics: {items: [nix]}, \
    rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}}}RULES], \
    variables: {REGISTRY: ghcr.io/owner}, secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

/// Declares `count` repositories with more rules and fields, and applies them.
fn fleet(count: usize, (rules, more): (&str, &str)) -> Test<(Fleet, Sandbox)> {
    let fleet = Fleet::start()?;
    let sandbox = Sandbox::new(&fleet.endpoint(), TOKEN)?;
    let document = |number| {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Repository\nmetadata: {{name: r{number}}}\n\
             spec: {{{}{more}}}\n",
            SPEC.replace("RULES", rules)
        )
    };
    fs::write(
        sandbox.path().join("repository.yaml"),
        (0..count).map(document).collect::<String>(),
    )?;
    sandbox.run("apply").success();
    fleet.take_asked();
    Ok((fleet, sandbox))
}

#[test]
fn requests_of_one_document_form_a_short_chain() -> Test {
    let (fleet, sandbox) =
        fleet(1, (", {name: releases, branches: [release/*]}", ", history: {push: fastForward}"))?;
    // Long enough that requests at the same time overlap on a busy machine.
    fleet.set_delay(Duration::from_millis(300));
    sandbox.run("plan --check").success();
    let asked = fleet.take_asked();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.clone()).collect();
    // Two ways begin at the repository: the API's, and git's, which asks without the credential, with it, and
    // for the references. Git starts processes meanwhile, so each way is measured on its own.
    let (git, api): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|asked| asked.line.contains(".git/"));
    assert_eq!((api.len(), git.len()), (REQUESTS + 1, 3), "one more rule: {lines:?}");
    for depth in [depth(&api), 1 + depth(&git)] {
        assert!(depth <= DEPTH_MAX, "{depth}: {lines:?}");
    }
    assert_eq!(fleet.differences(), [""; 0]);
    Ok(())
}

#[test]
fn sixty_documents_without_changes_are_read_in_parallel_with_six_requests_each() -> Test {
    let (fleet, sandbox) = fleet(DOCUMENTS, ("", ""))?;
    fleet.expect_meeting(PARALLEL);
    sandbox.run("plan --check").success();
    assert!(fleet.have_met(), "{PARALLEL} documents at the same time");
    let asked = fleet.take_asked();
    assert!(asked.iter().all(|asked| asked.line.starts_with("GET ")));
    let mut counts = BTreeMap::<_, usize>::new();
    for asked in &asked {
        *counts.entry(&asked.repository).or_default() += 1;
    }
    assert_eq!(counts.len(), DOCUMENTS);
    assert!(counts.values().all(|count| *count == REQUESTS), "{counts:?}");
    assert_eq!(fleet.differences(), [""; 0]);
    Ok(())
}
