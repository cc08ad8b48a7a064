//! The workflows of a new project, in a repository from the template. Its runner has nothing but
//! a runner's commands, and gets Nix from the installer alone.

use serde_json::{Value, json};

use super::runner::Runner;
use super::{Plane, Test, checks};
use crate::project::Project;

/// Programs that the workflows download. A person runs the others.
const PROGRAMS: [&str; 3] = ["artifact-attest", "talos-provision", "flux-seed"];

/// Jobs of each workflow, in their order.
const JOBS: [&str; 3] = ["attest", "provision", "deliver"];

pub(crate) fn workflows_of_a_new_project_apply_plan_and_compare(project: &Project) -> Test {
    checks::workflows_are_well_formed(project)?;
    let input = project.sh("lab up project sources machines deployments")?;
    let (_, status) = project.pipe("vcs-bootstrap", "apply", &input)?;
    assert_eq!(status, 0, "a person runs vcs-bootstrap");
    let plane = Plane::new(project, &input)?;
    let runner = Runner::new(&plane, &PROGRAMS)?;
    let act = |workflow: &str, event: &str, payload: &Value| {
        let file = format!(".github/workflows/{workflow}.yaml");
        runner.act(&plane.clone, "v1", (&file, event, payload), &plane.secrets)
    };

    let applied = act("apply", "push", &json!({"ref": "refs/heads/main"}))?;
    for job in JOBS {
        applied.ended(job, "success")?;
        assert_eq!(applied.output(job, "ready"), Some("true"), "{job}");
    }
    let summary = applied.summary("deliver");
    assert!(summary.contains("\n```mermaid\n"), "the evidence as a picture: {summary}");

    let before = project.writes()?;
    let night = act("drift", "schedule", &json!({}))?;
    for job in JOBS {
        night.ended(job, "success")?;
    }
    assert_eq!(project.writes()?, before, "a night without drift writes nothing");

    plane.sh("git switch --quiet --create change
        sed -i '/name: work/s/count: 1/count: 2/' machines/prod/cluster.yaml
        git commit --quiet --all --message 'One machine more'")?;
    let number = plane.open_pull_request("change")?;
    let event = Plane::pull_request(&number, &plane.repository);
    let planned = act("plan", "pull_request", &event)?;
    for job in JOBS.iter().chain(&["comment"]) {
        planned.ended(job, "success")?;
    }
    let comments = plane.forge("GET", &format!("issues/{number}/comments"), &json!({}))?;
    let comment = comments[0]["body"].as_str().ok_or("no comment")?;
    assert!(comment.contains("createServer prod-work-2"), "{comment}");
    Ok(())
}
