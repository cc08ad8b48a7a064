//! The only code that is given writers.
//!
//! Steps are taken a stage at a time, and what is there is looked at again before the next: an
//! address, a configuration or a member that a stage brought about is seen, not assumed. So a run
//! that was interrupted anywhere is continued by the next one.

mod take;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::Error;
use crate::gate;
use crate::hetzner::{self, Catalog, CloudState, Writer, interruptible_sleep};
use crate::labels;
use crate::observe::{Observation, failing_check};
use crate::plan::{self, Etcd, History, Kind, Stage, Step, World};
use crate::session::{Ground, Session};

/// Most stages that one run takes.
const STAGES_MAX: usize = 200;
/// Longest that a cluster may take to be well, in seconds.
const WELL_SECONDS_MAX: u64 = 900;
/// How often the cloud is asked while machines are waited for, in seconds.
const CLOUD_SECONDS: u64 = 15;

/// Takes every step, and waits until the cluster is well. `gate` is passed before anything is touched,
/// for every machine that the plan removes; and again before each of them, since the cluster lives on
/// meanwhile.
pub(crate) fn apply(
    session: &Session<'_>,
    mut view: CloudState,
    gate: impl Fn(&CloudState, &Observation, &[Step]) -> Result<(), Error>,
) -> Result<Observation, Error> {
    let now = session.look(&view)?;
    unobstructed(&now)?;
    gate(&view, &now, &plan::plan(&now.wanted, &now.world))?;
    let mut stock = Catalog::default();
    for _ in 0..STAGES_MAX {
        let (mut now, left) = ready_for_more(session, &mut view)?;
        // What machines are made from is asked for before anything else is made for them.
        if left.iter().any(|it| stock.lacks(it)) {
            stock = stocked(&session.ground.cloud, &mut now, &left)?;
        }
        let Some(stage) = left.iter().map(Step::stage).min() else {
            return Ok(now);
        };
        let steps: Vec<_> = left.into_iter().filter(|it| it.stage() == stage).collect();
        gate(&view, &now, &steps)?;
        take::stage(session, &now, (&view, &stock), stage, &steps)?;
        let cloud = [
            Stage::Things,
            Stage::Repairs,
            Stage::Servers,
            Stage::Bootstrap,
            Stage::Restarts,
            Stage::Removal,
        ];
        if cloud.contains(&stage) {
            view = session.ground.see_ours()?;
        }
    }
    Err(Error::NotConverged { steps: STAGES_MAX })
}

/// What the machines of `steps` are made from, and at what price: nothing is asked if none are.
pub(crate) fn stocked(
    cloud: &hetzner::Reader,
    now: &mut Observation,
    steps: &[Step],
) -> Result<Catalog, Error> {
    let name = |step: &Step| match step {
        Step::CreateServer { name, .. } => Some(name.clone()),
        _ => None,
    };
    let names: BTreeSet<_> = steps.iter().filter_map(name).collect();
    let things = steps.iter().any(|it| matches!(it, Step::Create { .. }));
    if names.is_empty() && !things {
        return Ok(Catalog::default());
    }
    cloud.catalog(&mut now.wanted, &names)
}

/// Waits until a step may be taken, or until none is left and everything is well.
fn ready_for_more(
    session: &Session<'_>,
    view: &mut CloudState,
) -> Result<(Observation, Vec<Step>), Error> {
    let (began, mut asked) = (Instant::now(), Instant::now());
    let mut waiting = None;
    loop {
        documents::check_interrupt()?;
        let now = session.look(view)?;
        unobstructed(&now)?;
        let steps = plan::plan(&now.wanted, &now.world);
        let conditions = now.conditions(session.spec().network.cni);
        let failing = match steps.iter().map(Step::stage).min() {
            None => failing_check(&conditions),
            // Keep surplus machines, and restart none, until the others are healthy: otherwise etcd
            // may lose its quorum.
            Some(Stage::Restarts | Stage::Removal) => now.needs_what_goes(&conditions),
            Some(Stage::Workers) => now.world.keeps_workers_waiting(),
            Some(_) => None,
        };
        let Some(failing) = failing else {
            if let Some(step) = waiting {
                documents::RunningStep::done(step, "every check passes");
            }
            return Ok((now, steps));
        };
        waiting.get_or_insert_with(|| documents::step(session.name(), "health"));
        documents::detail(session.name(), &failing);
        if began.elapsed() > Duration::from_secs(WELL_SECONDS_MAX) {
            return Err(Error::Unhealthy { what: failing });
        }
        interruptible_sleep(Duration::from_millis(250))?;
        if asked.elapsed() > Duration::from_secs(CLOUD_SECONDS) {
            (*view, asked) = (session.ground.see_ours()?, Instant::now());
        }
    }
}

/// Lets steps be taken, unless something stands in their way.
pub(crate) fn unobstructed(now: &Observation) -> Result<(), Error> {
    let conflicts = plan::conflicts(&now.wanted, &now.world);
    if conflicts.is_empty() { Ok(()) } else { Err(Error::Conflicts(conflicts)) }
}

/// What the cloud shows, for [`plan::plan_destroy`]: it asks nothing of machines.
pub(crate) fn world(view: &CloudState) -> World {
    let (resources, servers) = (view.resources.clone(), view.servers.clone());
    World {
        resources,
        servers,
        etcd: Etcd::Unknown,
        nodes: BTreeSet::new(),
        cordoned: BTreeSet::new(),
    }
}

/// Records that the data gate was passed, for a next run that finds no control plane to ask. Of a
/// cluster that never began, nothing has to be recorded.
fn mark(writer: &Writer<'_>, view: &CloudState) -> Result<(), Error> {
    let network = view.resources.iter().find(|(thing, it)| thing.kind == Kind::Network && it.ours);
    let begun = History::read(&view.resources, &view.servers).has_begun();
    let servers = view.servers.values().any(|server| server.ours);
    match network {
        Some((_, found)) if begun && servers => {
            let controls = gate::control_planes(view);
            // A destroy that goes on keeps the number with which it began.
            if labels::destroyed_from(&found.labels).is_some_and(|before| before >= controls) {
                return Ok(());
            }
            let labels = labels::destroying(&found.labels, controls);
            writer.set_labels("networks", found.id, &labels)
        }
        _ => Ok(()),
    }
}

/// Removes all that carries our labels; answers what others made that is left.
pub(crate) fn destroy(ground: &Ground<'_>, view: &CloudState) -> Result<Vec<String>, Error> {
    let writer = Writer::new(&ground.cloud);
    let leftovers = ground.cloud.leftovers(view)?;
    mark(&writer, view)?;
    writer.wait_deleted(&view.leaving)?;
    let mut gone = Vec::new();
    let steps = plan::plan_destroy(&world(view));
    for step in &steps {
        documents::check_interrupt()?;
        if let Step::RemoveServer { id, .. } = step {
            gone.extend(writer.remove_server(*id)?);
        }
    }
    if !gone.is_empty() {
        let machines = documents::step(&ground.document.name, "remove machines");
        writer.wait(&gone)?;
        machines.done("");
    }
    for step in &steps {
        documents::check_interrupt()?;
        if let Step::Remove { thing } = step
            && let Some(found) = view.resources.get(thing)
        {
            let removal = documents::step(&ground.document.name, step);
            writer.remove(thing.kind, found.id)?;
            removal.done("");
        }
    }
    let kept = ground.see()?;
    match plan::plan_destroy(&world(&kept)).len() {
        0 => {
            let things = kept.resources.into_keys().map(|it| it.to_string());
            let named = things.chain(kept.servers.into_keys());
            Ok(named.chain(ground.cloud.describe(&leftovers)?).collect())
        }
        steps => Err(Error::NotConverged { steps }),
    }
}
