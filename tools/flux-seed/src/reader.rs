//! The status of a plan for a caller that only reads, for example a workflow of pull requests.
//!
//! A reader has `readerKubeconfig` of the Cluster and no key of `flux-seed`. The API server denies a
//! reader every Secret, and without the key their declared values cannot be derived. The status
//! reports such objects as `Unknown`.

use contract::facts::READER_KUBECONFIG;
use documents::{Condition, Reason};

use crate::desired::Desired;
use crate::observe::ObservedObjects;
use crate::status::{Facts, Status};
use crate::step::Step;
use crate::summary;

/// Returns the status of a plan that compared every object except Secrets and objects that the API
/// server denied.
pub(crate) fn status(
    observed: Facts,
    steps: Vec<Step>,
    seen: &ObservedObjects,
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
    status.conditions.push(Condition::unknown("Compared", Reason::ReaderAccess, message));
    status
}

/// Returns the status of a plan without access to a cluster.
pub(crate) fn without_cluster(desired: &Desired) -> Status {
    let message = format!(
        "the status of the Cluster lacks {READER_KUBECONFIG}, so the cluster was not read: pass the \
         output of a `talos-provision apply` that seals it for readers"
    );
    unknown(Some(summary::facts(desired, None)), &message)
}

/// Returns a status without a plan, because steps may be left that a reader cannot see.
fn unknown(observed: Option<Facts>, message: &str) -> Status {
    Status { observed, ..Status::new(Condition::unknown("Ready", Reason::ReaderAccess, message)) }
}
