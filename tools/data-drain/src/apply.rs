//! The way there: look, stop, hold, copy, look again, read back, sign.
//!
//! **Invariant:** what is signed was read from its source twice, and from the store whole.
//! **Invariant:** a failure starts nothing: what was stopped stays stopped and held, so the next run
//! goes on from there. Only `destroy` starts it.

use std::fs;

use documents::Refusal;
use keyring::Receipt;
use serde_json::json;

use crate::claim::{NODE, Place, Report};
use crate::copy::{Copy, read_back, sign};
use crate::error::NOT_DRAINABLE;
use crate::observe::{
    Absent, Live, LiveClaim, RECONCILE, RECONCILED, REPLICAS, Seen, Wanted, claims, observe,
};
use crate::plan::{Hold, Step, plan_destroy};
use crate::session::Session;
use crate::volume::Readers;
use crate::{Error, Limit, cluster, forge, hold, scratch, store, volume};

/// Brings a receipt about for what is there.
pub(crate) fn apply(session: &Session<'_>, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Error> {
    let readers = Readers {
        drain: wanted.drain,
        image: session.image,
        reader: session.reader,
        writer: session.writer,
        limit: session.limit,
    };
    if let Some((receipt, _)) = &seen.receipt
        && seen.world().hold == Hold::Active
    {
        // All is copied and signed: only the hold does not know it.
        read_back(session.back, wanted, receipt)?;
        return record(session, wanted, seen, &receipt.digest);
    }
    preflight(session, wanted, seen, &readers)?;
    stop(session, wanted, seen)?;
    freeze(session, wanted)?;
    let seen = observe(session.reader, session.back, wanted)?;
    let receipt = seen.draft(wanted).ok_or_else(|| in_use(&seen, session.limit))?;
    let receipt = copy(session, wanted, &seen, receipt, &readers)?;
    let after = observe(session.reader, session.back, wanted)?;
    if after.draft(wanted).is_none_or(|draft| draft.run != receipt.run) {
        let what = "a workload, a pod, the hold or a repository";
        return Err(Error::Changed { source_name: what.to_owned() });
    }
    read_back(session.back, wanted, &receipt)?;
    session.check()?;
    let digest = sign(session, wanted, &seen, &receipt)?;
    if seen.held.claims.is_empty() {
        return Ok(());
    }
    record(session, wanted, &seen, &digest)
}

/// Proves again what a receipt says.
pub(crate) fn proven(back: &store::Reader, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Error> {
    seen.receipt.as_ref().map_or(Ok(()), |(receipt, _)| read_back(back, wanted, receipt))
}

/// Refuses what cannot be drained, before anything is stopped.
fn preflight(
    session: &Session<'_>,
    wanted: &Wanted<'_>,
    seen: &Seen,
    readers: &Readers<'_>,
) -> Result<(), Error> {
    admissible(session.reader, wanted.drain, session.image, seen)?;
    // Credentials that do not work are found while everything still runs.
    session.store.head(&format!("{}/probe", seen.prefix(wanted)))?;
    let mut refused: Vec<Refusal> = Vec::new();
    for live in seen.claims() {
        // What is stopped is looked at before it is copied.
        let (Some(place), false) = (&live.verdict.place, live.verdict.users.is_empty()) else {
            continue;
        };
        if live.verdict.exclusive {
            continue;
        }
        session.check()?;
        let doing = documents::step(wanted.drain, "survey");
        let report = readers.mount(&live.claim, place)?.survey()?;
        refused.extend(judged(wanted, live, &report));
        doing.done(format_args!("{}: {} entries", live.claim, report.entries));
    }
    refuse(false, refused)
}

/// What the cluster alone tells: the judgement on each claim, and whether readers are admitted.
pub(crate) fn admissible(
    reader: &cluster::Reader,
    drain: &str,
    image: &str,
    seen: &Seen,
) -> Result<(), Error> {
    let mut refused = Vec::new();
    for live in seen.claims() {
        for fact in &live.verdict.notes {
            documents::note(drain, format_args!("{}: {fact}", live.claim));
        }
        refused.extend(refusals(live, &live.verdict.refused));
        let Some(place) = &live.verdict.place else { continue };
        if let Some(why) = volume::refusal(reader, drain, image, (&live.claim, place))? {
            refused.extend(refusals(live, &[format!("the reader's pod is not admitted: {why}")]));
        }
    }
    if !seen.held.claims.is_empty() && !hold::is_supported(reader)? {
        let why = "the cluster has no ValidatingAdmissionPolicy, which came with Kubernetes 1.30, so \
                   nothing could keep pods off the claims";
        refused.push(Refusal {
            object: "the cluster".to_owned(),
            reason: NOT_DRAINABLE.to_owned(),
            message: why.to_owned(),
        });
    }
    refuse(false, refused)
}

fn judged(wanted: &Wanted<'_>, live: &LiveClaim, report: &Report) -> Vec<Refusal> {
    for fact in report.not_kept() {
        documents::note(wanted.drain, format_args!("{}: {fact}", live.claim));
    }
    refusals(live, &report.refused(live.allow_empty))
}

fn refusals(live: &LiveClaim, reasons: &[String]) -> Vec<Refusal> {
    let refusal = |why: &String| Refusal {
        object: live.claim.to_string(),
        reason: NOT_DRAINABLE.to_owned(),
        message: why.clone(),
    };
    reasons.iter().map(refusal).collect()
}

fn refuse(stopped: bool, refusals: Vec<Refusal>) -> Result<(), Error> {
    if refusals.is_empty() { Ok(()) } else { Err(Error::Refused { stopped, refusals }) }
}

/// Stops what writes, and notes where it ran. Flux is told to leave it alone in the same breath.
fn stop(session: &Session<'_>, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Error> {
    for live in seen.claims() {
        // Once the pod is gone, nothing else tells where the data of a node-local volume is.
        let Some(Place::Node(node)) = &live.verdict.place else { continue };
        let annotations = json!({NODE: node});
        session.writer.merge(&live.path, &json!({"metadata": {"annotations": annotations}}))?;
    }
    for workload in seen.workloads() {
        let at = &workload.at;
        if at.replicas == 0 && at.stopped.is_some() {
            continue;
        }
        session.check()?;
        let step = Step::Stop { workload: at.name.clone(), replicas: at.replicas };
        let doing = documents::step(wanted.drain, "stop");
        let replicas = at.stopped.unwrap_or(0).max(at.replicas).to_string();
        let mut annotations = json!({RECONCILE: "disabled", REPLICAS: replicas});
        if let (Some(own), None) = (&workload.reconcile, at.stopped) {
            annotations[RECONCILED] = own.clone().into();
        }
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": 0}});
        session.writer.merge(&workload.path, &patch)?;
        doing.done(step);
    }
    Ok(())
}

/// Waits until no pod uses what is to be copied, and sees to it that none can any more.
fn freeze(session: &Session<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
    let look = || claims(session.reader, wanted.drain, wanted.sources, Absent::IsAnError);
    let seen = look()?;
    if seen.held.claims.is_empty() {
        return Ok(());
    }
    let step = Step::Hold { claims: seen.held.claims.len() };
    let doing = documents::step(wanted.drain, "hold");
    if seen.hold.active.is_none() {
        seen.held.put(session.writer)?;
    }
    seen.held.prove(session.reader, &session.limit)?;
    // A pod that was admitted before the policy was active shows in this list, or has gone.
    session.limit.until(|| {
        let seen = look()?;
        Ok(seen.at_rest().is_none().then(|| in_use(&seen, session.limit)))
    })?;
    doing.done(step);
    Ok(())
}

fn record(
    session: &Session<'_>,
    wanted: &Wanted<'_>,
    seen: &Seen,
    digest: &str,
) -> Result<(), Error> {
    let doing = documents::step(wanted.drain, "record");
    seen.held.record(session.writer, Some(digest))?;
    doing.done(Step::Record { claims: seen.held.claims.len() });
    Ok(())
}

/// Takes the hold off, starts what a drain has stopped, and gives it back to Flux.
pub(crate) fn start(
    reader: &cluster::Reader,
    writer: &cluster::Writer,
    name: &str,
    seen: &Seen,
) -> Result<(), Error> {
    for step in plan_destroy(&seen.world()) {
        if let Step::Thaw { .. } = &step {
            let doing = documents::step(name, "thaw");
            hold::remove(reader, writer, name)?;
            doing.done(&step);
        }
        let Step::Start { workload, replicas } = &step else { continue };
        let live = seen.workloads().into_iter().find(|live| live.at.name == *workload);
        let Some(live) = live else { continue };
        let doing = documents::step(name, "start");
        let annotations = json!({RECONCILE: live.reconciled, RECONCILED: null, REPLICAS: null});
        let spec = json!({"replicas": replicas});
        writer
            .merge(&live.path, &json!({"metadata": {"annotations": annotations}, "spec": spec}))?;
        doing.done(&step);
    }
    Ok(())
}

fn in_use(seen: &Seen, limit: Limit) -> Error {
    let running = seen.workloads().into_iter().filter(|live| live.at.replicas > 0);
    let running = running.map(|live| live.at.name.clone());
    let mut who: Vec<_> = seen.users().into_iter().chain(running).collect();
    if who.is_empty() {
        who.push("no pod, but the hold is not in place".to_owned());
    }
    Error::InUse { seconds: limit.seconds, who }
}

/// Copies every source, each in the place that its number gives it.
fn copy(
    session: &Session<'_>,
    wanted: &Wanted<'_>,
    seen: &Seen,
    mut receipt: Receipt,
    readers: &Readers<'_>,
) -> Result<Receipt, Error> {
    let prefix = seen.prefix(wanted);
    for (index, live) in seen.sources.iter().enumerate() {
        let copy = Copy { session, wanted, folder: format!("{prefix}/{index}") };
        let copied = &mut receipt.sources[index];
        match live {
            Live::Claim(live) => {
                let Some(place) = &live.verdict.place else {
                    return refuse(true, refusals(live, &live.verdict.refused)).map(|()| receipt);
                };
                session.check()?;
                let doing = documents::step(wanted.drain, "mount");
                let volume = readers.mount(&live.claim, place)?;
                // The content may have become another since the survey, and in an exclusive volume
                // it is seen for the first time.
                let report = volume.survey()?;
                refuse(true, judged(wanted, live, &report))?;
                copied.not_kept = report.not_kept();
                doing.done(&live.claim);
                let name = live.claim.to_string();
                let mut first = volume.read()?;
                copy.copy(&name, &mut first, copied)?;
                finish(wanted, &name, first)?;
                let mut second = volume.read()?;
                if copy.fingerprint(&name, &mut second)? != copied.fingerprint {
                    return Err(Error::Changed { source_name: name });
                }
                finish(wanted, &name, second)?;
            }
            Live::Forge { repository, .. } => {
                session.check()?;
                let (url, token) = &wanted.forges[repository.as_str()];
                let scratch = scratch::folder()?;
                let archive = forge::archive(url, token, scratch.path())?;
                let cannot = |source| Error::File { what: "read", path: archive.clone(), source };
                let file = fs::File::open(&archive).map_err(cannot)?;
                // Plaintext has no name any more once it is open.
                fs::remove_file(&archive).map_err(cannot)?;
                copy.copy(&format!("forge {repository}"), file, copied)?;
            }
        }
    }
    Ok(receipt)
}

/// Sees a read to its end, and tells what the reader complained of.
fn finish(wanted: &Wanted<'_>, name: &str, read: crate::exec::Running) -> Result<(), Error> {
    let ended = read.finish();
    let (_, said) = ended.map_err(|source| Error::Read { source_name: name.to_owned(), source })?;
    for line in said.lines() {
        documents::detail(wanted.drain, format_args!("{name}: {line}"));
    }
    Ok(())
}
