//! How long we wait, and what for. Reads only.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Error;
use crate::cluster::Reader;
use crate::deadline::POLL;
use crate::kstatus::{condition, text};
use crate::observe::{Hidden, Look, Seen, has_answered, observe};
use crate::plan::{Step, plan};
use crate::wanted::Wanted;

/// Flux looks at what it delivers again at every interval, and says so: a second or two on a busy
/// machine.
const INTERVAL_TAKES_MAX: Duration = Duration::from_secs(10);

/// A whole look at a moment in which Flux is not at work, and what is left to do: what Flux does at
/// every interval is no change, and no proof of the contrary. One that stays at it is shown at work.
pub(crate) fn at_rest(
    reader: &Reader,
    name: &str,
    wanted: &Wanted,
) -> Result<(Seen, Vec<Step>), Error> {
    let until = Instant::now() + INTERVAL_TAKES_MAX;
    loop {
        let seen = observe(reader, name, wanted, Look::Whole)?;
        let passes = |step: &Step| {
            let live = seen.world.get(step.object()).map(|it| &it.object);
            matches!(step, Step::Reconcile { .. })
                && live.is_some_and(|it| is_at_work(it) || !has_answered(it))
        };
        let mut steps = plan(&wanted.objects, &seen.world);
        steps.retain(|step| !seen.hidden.contains(&Hidden::Object(step.object().clone())));
        if steps.is_empty() || !steps.iter().all(passes) || Instant::now() >= until {
            return Ok((seen, steps));
        }
        documents::check_interrupt()?;
        sleep(POLL);
    }
}

/// Whether its controller is at it, and need not be asked. One that waits until it tries again
/// must be.
pub(crate) fn is_at_work(object: &Value) -> bool {
    let reconciling = condition(object, "Reconciling");
    match reconciling.filter(|it| text(it, "status") == "True") {
        Some(it) => text(it, "reason") == "Progressing",
        None => object["status"]["observedGeneration"] != object["metadata"]["generation"],
    }
}
