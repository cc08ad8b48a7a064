//! The status of a plan for a caller that only reads, for example a workflow of pull requests.
//!
//! A reader has `readerKubeconfig` of the Cluster and no key of `flux-seed`: the API server denies it
//! every Secret, and it cannot derive what they should hold. The status reports those as `Unknown`.

use documents::Condition;

use crate::observe::Seen;
use crate::plan::Step;
use crate::status::{Observed, Status};
use crate::wanted::Wanted;

/// The reason of a condition that a reader cannot determine.
const READER: &str = "ReaderAccess";

/// The status of a plan that compared every object but Secrets and those that the API server denied.
pub(crate) fn status(
    observed: Observed,
    steps: Vec<Step>,
    seen: &Seen,
    unlisted: &[String],
) -> Status {
    let mut status = if steps.is_empty() {
        let message =
            "every object that a reader can see is as declared; Secrets were not compared";
        unknown(Some(observed), message)
    } else {
        Status::planned(Some(observed), steps)
    };
    let mut notes = vec!["Secrets were not compared: this needs the key of flux-seed".to_owned()];
    if !seen.hidden.is_empty() {
        let hidden: Vec<_> = seen.hidden.iter().map(ToString::to_string).collect();
        notes.push(format!("the API server denies a reader {}", hidden.join(", ")));
    }
    if !unlisted.is_empty() {
        notes.push(format!("losses of data through {} were not computed", unlisted.join(", ")));
    }
    let message = notes.join("; ");
    status.conditions.push(Condition::unknown("Compared", READER, message));
    status
}

/// No cluster could be looked at.
pub(crate) fn without_cluster(wanted: &Wanted) -> Status {
    let message = "the status of the Cluster lacks /sealed/readerKubeconfig, so the cluster was not \
                   looked at: hand on the output of a `talos-provision apply` that seals it for readers";
    unknown(Some(Observed::of(wanted, None)), message)
}

/// Without a plan, because steps may be left that a reader cannot see.
fn unknown(observed: Option<Observed>, message: &str) -> Status {
    Status { observed, ..Status::new(Condition::unknown("Ready", READER, message)) }
}
