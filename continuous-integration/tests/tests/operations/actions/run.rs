//! One run of `act`, and its log.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::project::{Test, say};

/// Number of the last messages of a job that a failed test shows.
const MESSAGES_SHOWN: usize = 60;

pub(super) fn run(act: &mut Command) -> Test<Run> {
    let began = Instant::now();
    let ended = act.output()?;
    let log = String::from_utf8_lossy(&ended.stdout);
    let log = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let arguments: Vec<_> = act.get_args().map(|argument| argument.to_string_lossy()).collect();
    say(&format!("{:6.1} s  act {} {}", began.elapsed().as_secs_f64(), arguments[0], arguments[3]));
    Ok(Run { log, stderr: String::from_utf8_lossy(&ended.stderr).into_owned() })
}

/// Log of a workflow that `act` has run.
pub(super) struct Run {
    log: Vec<Value>,
    stderr: String,
}

impl Run {
    /// Returns the result of each job that ran.
    pub(super) fn results(&self) -> BTreeMap<&str, &str> {
        self.log
            .iter()
            .filter_map(|entry| Some((entry["jobID"].as_str()?, entry["jobResult"].as_str()?)))
            .collect()
    }

    pub(super) fn ended(&self, job: &str, how: &str) -> Test {
        if self.results().get(job) == Some(&how) {
            return Ok(());
        }
        let of_the_job = self.log.iter().filter(|entry| entry["jobID"] == job);
        let messages: Vec<_> = of_the_job.filter_map(|entry| entry["msg"].as_str()).collect();
        let last = messages[messages.len().saturating_sub(MESSAGES_SHOWN)..].join("\n");
        Err(format!("{job} has not ended as {how}: {:?}\n{last}\n{}", self.results(), self.stderr)
            .into())
    }

    /// Returns the last value of an output of a step of `job`.
    pub(super) fn output(&self, job: &str, name: &str) -> Option<&str> {
        self.outputs(job, name).next_back()?["arg"].as_str()
    }

    /// Returns an output of the step `step` of `job`.
    pub(super) fn output_of(&self, job: &str, step: &str, name: &str) -> Option<&str> {
        self.outputs(job, name).find(|entry| entry["stepID"][0] == step)?["arg"].as_str()
    }

    fn outputs(&self, job: &str, name: &str) -> impl DoubleEndedIterator<Item = &Value> {
        self.log.iter().filter(move |entry| {
            entry["jobID"] == job && entry["command"] == "set-output" && entry["name"] == name
        })
    }

    /// Returns the summary of `job`. Nothing else shows reliably why a step failed: `act` 0.2.89 stops to
    /// read the output of a command that has ended with an error (`pkg/container/host_environment.go`, `exec`),
    /// so the last lines are lost on a slow machine. `step/main.rs` tests the annotations in those lines.
    pub(super) fn summary(&self, job: &str) -> String {
        let of_the_job =
            self.log.iter().filter(|entry| entry["jobID"] == job && entry["command"] == "summary");
        of_the_job.filter_map(|entry| entry["content"].as_str()).collect()
    }
}
