//! Failures of a run, and since when each is known. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cause::{Cause, Recovery, Subject};

/// Time for which a failure must last before the wait ends, where one attempt proves little. It covers a
/// second attempt of Flux (`retryInterval` of our Kustomization is 15 s), and one of a kubelet, which pulls
/// an image or starts a container again after 10 s
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy>).
pub(crate) const CONFIRMATION: Duration = Duration::from_secs(20);

/// Longest time for which the failure of an attempt counts while the next attempt runs.
const ATTEMPT_MAX: Duration = Duration::from_secs(60);

/// Failures by the object that reports them.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<Subject, Seen>);

struct Seen {
    cause: Cause,
    first: Instant,
    last: Instant,
}

impl Known {
    /// Takes over the causes of one look. An object that is merely at work, because its controller has
    /// begun another attempt, keeps the failure of the attempt before.
    pub(crate) fn update(&mut self, causes: &mut [Cause], now: Instant) {
        for cause in causes {
            let known = self.0.get_mut(&cause.reported_by);
            let known = known.filter(|seen| now.duration_since(seen.last) <= ATTEMPT_MAX);
            match known {
                Some(seen) if !cause.failure.is_failure() => *cause = seen.cause.clone(),
                Some(seen)
                    if (seen.cause.failure, seen.cause.recovery, &seen.cause.object)
                        == (cause.failure, cause.recovery, &cause.object) =>
                {
                    (seen.cause, seen.last) = (cause.clone(), now);
                }
                _ if cause.failure.is_failure() => {
                    let seen = Seen { cause: cause.clone(), first: now, last: now };
                    self.0.insert(cause.reported_by.clone(), seen);
                }
                _ => {}
            }
        }
    }

    /// Returns the next time after `now` at which one of `causes` becomes final, if it lasts.
    pub(crate) fn next_final(&self, causes: &[Cause], now: Instant) -> Option<Instant> {
        let unlikely = causes.iter().filter(|cause| cause.recovery == Recovery::Unlikely);
        let seen = unlikely.filter_map(|cause| self.0.get(&cause.reported_by));
        seen.map(|seen| seen.first + CONFIRMATION).filter(|time| *time > now).min()
    }

    /// Whether waiting cannot change `cause`.
    pub(crate) fn is_final(&self, cause: &Cause) -> bool {
        match cause.recovery {
            Recovery::Never => true,
            Recovery::Unlikely => {
                let seen = self.0.get(&cause.reported_by);
                seen.is_some_and(|seen| seen.last.duration_since(seen.first) >= CONFIRMATION)
            }
            Recovery::Possible => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::Failure;

    fn cause(failure: Failure) -> Cause {
        let (kind, name) = ("Kustomization".to_owned(), "prod".to_owned());
        Cause::new(Subject { kind, namespace: None, name }, failure, "Why", "")
    }

    /// Updates a new list with one failure at each of these seconds, and returns the last cause and
    /// whether it is final.
    fn after(looks: &[(u64, Failure)]) -> (Failure, bool) {
        let (began, mut known) = (Instant::now(), Known::default());
        let mut last = cause(Failure::InProgress);
        for (second, failure) in looks {
            let mut causes = [cause(*failure)];
            known.update(&mut causes, began + Duration::from_secs(*second));
            [last] = causes;
        }
        (last.failure, known.is_final(&last))
    }

    use Failure::{ContainerCrashes, FieldRejected, InProgress, JobAborted, KindMissing};

    #[test]
    fn verdict_of_a_controller_is_final_at_once() {
        assert_eq!(after(&[(0, JobAborted)]), (JobAborted, true));
    }

    #[test]
    fn failure_of_one_attempt_is_final_after_the_time_of_a_second_one() {
        assert_eq!(after(&[(0, KindMissing), (19, KindMissing)]), (KindMissing, false));
        assert_eq!(after(&[(0, KindMissing), (20, KindMissing)]), (KindMissing, true));
        let changed = [(0, KindMissing), (15, FieldRejected), (20, FieldRejected)];
        assert_eq!(after(&changed), (FieldRejected, false), "another failure counts anew");
    }

    #[test]
    fn next_look_is_due_when_the_first_failure_becomes_final() {
        let (began, mut known) = (Instant::now(), Known::default());
        let mut causes = [cause(KindMissing)];
        known.update(&mut causes, began);
        assert_eq!(known.next_final(&causes, began), Some(began + CONFIRMATION));
        assert_eq!(known.next_final(&causes, began + CONFIRMATION), None);
        let mut at_work = [cause(InProgress)];
        known.update(&mut at_work, began + Duration::from_secs(1));
        assert_eq!(known.next_final(&at_work, began), Some(began + CONFIRMATION));
        assert_eq!(known.next_final(&[cause(KindMissing).may_pass()], began), None);
    }

    #[test]
    fn object_at_work_keeps_the_failure_of_the_attempt_before() {
        let between = [(0, KindMissing), (16, InProgress)];
        assert_eq!(after(&between), (KindMissing, false), "a message names it meanwhile");
        let again = [(0, KindMissing), (16, InProgress), (21, KindMissing)];
        assert_eq!(after(&again), (KindMissing, true));
        let long_ago = [(0, KindMissing), (70, InProgress)];
        assert_eq!(after(&long_ago), (InProgress, false));
        let healed = [(0, KindMissing), (70, KindMissing)];
        assert_eq!(after(&healed), (KindMissing, false), "an old failure counts anew");
    }

    #[test]
    fn failure_that_may_pass_is_never_final() {
        assert!(!after(&[(0, ContainerCrashes), (59, ContainerCrashes)]).1);
        let (began, mut known) = (Instant::now(), Known::default());
        for second in [0, 30] {
            let mut causes = [cause(KindMissing).may_pass()];
            known.update(&mut causes, began + Duration::from_secs(second));
            assert!(!known.is_final(&causes[0]), "the report may be about an earlier artifact");
        }
    }
}
