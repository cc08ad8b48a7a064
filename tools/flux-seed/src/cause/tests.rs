//! Form of the causes, and the page of failures.

use serde_json::json;

use super::*;

fn subject(kind: &str, name: &str) -> Subject {
    Subject { kind: kind.to_owned(), namespace: Some("default".to_owned()), name: name.to_owned() }
}

fn crash() -> Cause {
    let cause = Cause::new(
        subject("Deployment", "greeter"),
        Failure::ContainerCrashes,
        "CrashLoopBackOff",
        "panic: no database",
    );
    let pod = WorstPod {
        name: "greeter-1".to_owned(),
        container: Some("web".to_owned()),
        init: false,
        exit_code: Some(101),
        restarts: Some(3),
    };
    let event = Event {
        reason: "BackOff".to_owned(),
        message: "Back-off restarting failed container".to_owned(),
    };
    Cause { pod: Some(pod), event: Some(event), ..cause }
}

#[test]
fn cause_is_flat_json_and_one_line() {
    let expected = json!({
        "kind": "Deployment", "namespace": "default", "name": "greeter",
        "failure": "ContainerCrashes", "recovery": "possible",
        "reason": "CrashLoopBackOff", "message": "panic: no database",
        "pod": {"name": "greeter-1", "container": "web", "exitCode": 101, "restarts": 3},
        "event": {"reason": "BackOff", "message": "Back-off restarting failed container"},
    });
    assert_eq!(json!(crash()), expected);
    assert_eq!(
        crash().to_string(),
        "Deployment default/greeter: pod greeter-1, container web: CrashLoopBackOff, exit code 101: \
         panic: no database (BackOff: Back-off restarting failed container)"
    );
}

#[test]
fn causes_are_sorted_by_severity_and_the_line_counts_those_that_it_leaves_out() {
    let cause = |failure, name: &str| Cause::new(subject("Job", name), failure, "Why", "");
    let mut causes = vec![cause(Failure::InProgress, "waiting"), crash()];
    causes.push(cause(Failure::KindMissing, "kind"));
    causes.push(cause(Failure::JobAborted, "job"));
    let sorted = sorted(causes.clone());
    let failures: Vec<_> = sorted.iter().map(|cause| cause.failure).collect();
    assert_eq!(
        failures,
        [Failure::JobAborted, Failure::KindMissing, Failure::ContainerCrashes, Failure::InProgress]
    );
    let text = line(&sorted);
    assert!(text.starts_with("Job default/job: Why; Job default/kind: Why; Deployment"), "{text}");
    assert!(!text.contains("waiting"), "an object at work is not named beside failures: {text}");
    assert_eq!(line(&sorted[3..]), "Job default/waiting: Why");
    for number in 0..6 {
        causes.push(cause(Failure::PodNotCreated, &format!("quota-{number}")));
    }
    assert!(line(&super::sorted(causes)).ends_with("; and 4 more"));
}

#[test]
fn number_and_length_of_causes_are_limited() {
    let many = (0..2 * LISTED_MAX).map(|number| {
        Cause::new(subject("Pod", &number.to_string()), Failure::PodFailed, "Evicted", "")
    });
    assert_eq!(sorted(many.collect()).len(), LISTED_MAX);
    let long = short(&"ä \n".repeat(MESSAGE_BYTES_MAX));
    assert!(long.len() <= MESSAGE_BYTES_MAX + '…'.len_utf8() && !long.contains('\n'), "{long}");
}

/// Returns the page that `knowledge/failures.md` must be.
fn page() -> String {
    let head = "---\n\
        title: Failures of a delivery\n\
        summary: Every failure that flux-seed names in status.observed.causes, whether waiting can help, and the next action.\n\
        date: 2026-11-30\n\
        ---\n\
        `flux-seed` names each object that keeps a Delivery from being ready: in the line of a wait, in the error, and in `status.observed.causes`. \
        This page is generated from the list in `tools/flux-seed/src/cause/failure.rs`:\n\
        `SNAPSHOTS=overwrite cargo nextest run -p flux-seed cause`.\n\n\
        The column *recovery* decides how long `apply` waits. The exit status is 100 if waiting cannot help, otherwise 111.\n\n\
        | recovery | meaning |\n|---|---|\n\
        | `never` | The controller has given up, or the declaration itself is wrong. `apply` ends at once, with 100. |\n\
        | `unlikely` | Only a person can remove the cause, but one attempt proves little. `apply` ends with 100 after the failure has lasted for 20 seconds: Flux tries again after 15 seconds, and a kubelet after 10. |\n\
        | `possible` | The cause may pass. `apply` waits for `timeoutSeconds` and ends with 111. |\n\n\
        A cause has `possible` in spite of this table if its report may be about an earlier state: Flux has not applied the declared artifact yet, or a rollout was too slow before the run.\n\n\
        | failure | meaning | recovery | what to do |\n|---|---|---|---|\n";
    let rows = Failure::ALL.iter().map(|failure| {
        let recovery = json!(failure.recovery()).as_str().unwrap_or_default().to_owned();
        let (word, meaning, help) = (failure.word(), failure.meaning(), failure.help());
        let action = help[..1].to_uppercase() + &help[1..];
        format!("| `{word}` | {meaning} | `{recovery}` | {action}. |\n")
    });
    head.to_owned() + &rows.collect::<String>()
}

#[test]
fn page_of_failures_is_generated_from_the_list() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../knowledge/failures.md");
    if std::env::var_os("SNAPSHOTS").is_some_and(|action| action == "overwrite") {
        std::fs::write(path, page()).expect("the page can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "run this test with SNAPSHOTS=overwrite, and read the difference");
}

#[test]
fn every_failure_has_a_meaning_a_help_and_its_word_in_a_status() {
    for failure in Failure::ALL {
        assert_eq!(json!(failure), failure.word());
        assert!(failure.meaning().ends_with('.'), "{}", failure.word());
        assert!(!failure.help().ends_with('.'), "{}", failure.word());
    }
}
