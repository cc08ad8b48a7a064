//! An action in a workflow of another repository, on a runner with nothing but a runner's commands. Its
//! documents are too large for the output of a job.

use std::fs;

use serde_json::{Value, json};

use super::runner::Runner;
use super::{Plane, Test};

/// The first job fails, because the repository differs from its document, and the second job gets its
/// documents all the same.
const WORKFLOW: &str = "on: push
jobs:
  check:
    runs-on: ubuntu-latest
    outputs:
      stream: ${{ steps.forge.outputs.stream }}
    steps:
      - uses: actions/checkout@v6
      - id: forge
        uses: zabronax/holistic/continuous-integration/actions/vcs-bootstrap@v1.2.3
        with:
          documents: project
          flags: --check -v
        env:
          SOPS_AGE_KEY: ${{ secrets.SOPS_AGE_KEY }}
  next:
    needs: check
    if: ${{ !cancelled() }}
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v6
      - id: forge
        uses: zabronax/holistic/continuous-integration/actions/vcs-bootstrap@v1.2.3
        with:
          stream: ${{ needs.check.outputs.stream }}
        env:
          SOPS_AGE_KEY: ${{ secrets.SOPS_AGE_KEY }}
      - shell: bash
        run: jq --exit-status --slurp 'any(.[].metadata.annotations[\"example.org/large\"] // empty; length > 200000)' \"$DOCUMENTS\"
        env:
          DOCUMENTS: ${{ steps.forge.outputs.documents }}
";

pub(super) fn an_action_works_in_a_repository_without_nix_and_rust(plane: &Plane<'_>) -> Test {
    let root = plane.project.root();
    plane.project.sh(&format!(
        "# a foreign repository
        mkdir foreign && cp -r clone/project foreign && cd foreign && git init --quiet --initial-branch=main
        sed -i 's/push: fastForward, branch: main/push: never/; s/wiki: false/wiki: true/' project/repository.yaml
        {}
        git add --all
        git -c user.name=tester -c user.email=tester@example.org commit --quiet --message 'Documents alone'",
        Plane::LARGE_PROJECT
    ))?;
    let file = root.join("foreign.yaml");
    fs::write(&file, WORKFLOW)?;
    let identity = plane.project.sh("grep AGE-SECRET-KEY project/test-identity.txt")?;
    let secrets = [("SOPS_AGE_KEY", identity), ("GITHUB_TOKEN", plane.token.clone())];
    let runner = Runner::new(plane, &["vcs-bootstrap"])?;
    let (file, payload) = (file.display().to_string(), json!({}));
    let act = runner.act(&root.join("foreign"), "v1.2.3", (&file, "push", &payload), &secrets)?;

    act.ended("check", "failure")?;
    assert!(act.summary("check").contains("exit status 3"), "{}", act.summary("check"));
    act.ended("next", "success")?;
    for job in ["check", "next"] {
        let stream: Value = serde_json::from_str(act.output(job, "stream").ok_or("no stream")?)?;
        assert_eq!(stream["artifact"].as_str(), act.output(job, "artifact"), "{stream}");
        let observed: Value =
            serde_json::from_str(act.output(job, "observed").ok_or("nothing observed")?)?;
        let url = observed["Repository/holistic"]["url"].as_str();
        assert_eq!(url, act.output(job, "url"), "the typed output has the fact");
        assert!(url.is_some_and(|url| url.ends_with("zabronax/holistic")), "{observed}");
    }
    Ok(())
}
