//! Execution of the steps of a plan.
//!
//! **Invariant:** what is signed was read twice from its source, and read back whole from the store.
//! **Invariant:** a failure starts nothing. What was stopped stays stopped and held, so that the next
//! run continues from there. Only [`Step::Start`], a step of `destroy`, starts a workload.

use std::fs;

use contract::labels::{self, NODE, REPLICAS};
use contract::{Copied, Receipt};
use serde_json::json;

use crate::authorize::{check_draft, judged, refusals, refuse};
use crate::clients::cluster::exec;
use crate::clients::forge;
use crate::copy::{Copy, read_back, sign};
use crate::observe::{LiveClaim, LiveSource, LiveWorkload, Observation, RECONCILE};
use crate::scratch::Scratch;
use crate::session::{Copies, Session};
use crate::step::Step;
use crate::step_context::StepContext;
use crate::{Error, hold};

/// The pieces of one execution.
pub(crate) struct Execution<'a, 'b> {
    pub(crate) session: &'a Session<'b>,
    pub(crate) observation: &'a Observation,
    pub(crate) step_context: &'a mut StepContext,
}

impl Execution<'_, '_> {
    /// Executes `step`, and returns a detail for people.
    pub(crate) fn execute(&mut self, step: &Step) -> Result<String, Error> {
        let Self { session, observation, .. } = *self;
        let writers = self.step_context.writers()?;
        writers.lease.check()?;
        let writer = &writers.cluster;
        let mut detail = String::new();
        match step {
            Step::RecordNode { claim, to, .. } => {
                let live = self.claim(claim)?;
                writer.merge(&live.path, &json!({"metadata": {"annotations": {NODE: to}}}))?;
            }
            Step::Stop { workload, .. } => {
                let live = self.workload(workload)?;
                let replicas = live.at.stopped.unwrap_or(0).max(live.at.replicas).to_string();
                // Flux is told in the same request to leave the workload alone.
                let mut annotations = json!({RECONCILE: "disabled", REPLICAS: replicas});
                if let (Some(reconcile), None) = (&live.reconcile, live.at.stopped) {
                    annotations[labels::RECONCILE] = reconcile.clone().into();
                }
                let metadata = json!({"annotations": annotations});
                let patch = json!({"metadata": metadata, "spec": {"replicas": 0}});
                writer.merge(&live.path, &patch)?;
            }
            Step::Hold { .. } => {
                observation.held.put(writer)?;
                observation.held.prove(&session.reader, &session.limit())?;
                self.step_context.is_hold_enforced = true;
            }
            Step::Copy { source } => detail = self.copy(source)?,
            Step::Sign { .. } => detail = self.sign()?,
            Step::Record { .. } => {
                let (receipt, _) =
                    observation.receipt.as_ref().ok_or_else(documents::Error::out_of_order)?;
                observation.held.record(writer, Some(&receipt.digest))?;
            }
            Step::Thaw { .. } => hold::remove(&session.reader, writer, session.name())?,
            Step::Start { workload, to, .. } => {
                let live = self.workload(workload)?;
                let annotations =
                    json!({RECONCILE: live.reconciled, labels::RECONCILE: null, REPLICAS: null});
                let metadata = json!({"annotations": annotations});
                let patch = json!({"metadata": metadata, "spec": {"replicas": to}});
                writer.merge(&live.path, &patch)?;
            }
        }
        Ok(detail)
    }

    fn claim(&self, name: &str) -> Result<&LiveClaim, Error> {
        let mut claims = self.observation.claims();
        Ok(claims
            .find(|live| live.claim.to_string() == name)
            .ok_or_else(documents::Error::out_of_order)?)
    }

    fn workload(&self, name: &str) -> Result<&LiveWorkload, Error> {
        let mut workloads = self.observation.workloads().into_iter();
        Ok(workloads
            .find(|live| live.at.name == name)
            .ok_or_else(documents::Error::out_of_order)?)
    }

    /// Copies one source. Its position among the observed sources is its position in the receipt and
    /// its folder in the store.
    fn copy(&mut self, source: &str) -> Result<String, Error> {
        let mut draft =
            self.step_context.draft.take().ok_or_else(documents::Error::out_of_order)?;
        let mut sources = self.observation.sources.iter();
        let index = sources
            .position(|live| live.name() == source)
            .ok_or_else(documents::Error::out_of_order)?;
        let live = &self.observation.sources[index];
        let copied = draft.sources.get_mut(index).ok_or_else(documents::Error::out_of_order)?;
        let desired = &self.session.copies()?.desired;
        let session = &self.step_context.write_session(self.session)?;
        let folder = format!("{}/{index}", self.observation.prefix(desired));
        let copy = Copy { session, desired, folder };
        let detail = match live {
            LiveSource::Claim(live) => copy_claim(&copy, live, copied)?,
            LiveSource::Forge { repository, .. } => copy_repository(&copy, repository, copied)?,
        };
        self.step_context.draft = Some(draft);
        Ok(detail)
    }

    /// Signs the receipt, after a look that proves that nothing changed since the copies began.
    fn sign(&mut self) -> Result<String, Error> {
        let Copies { desired, store } = self.session.copies()?;
        let receipt: Receipt =
            self.step_context.draft.take().ok_or_else(documents::Error::out_of_order)?;
        check_draft(self.session, &receipt.run)?;
        read_back(store, desired, &receipt)?;
        let session = self.step_context.write_session(self.session)?;
        session.check()?;
        let object = sign(&session, desired, self.observation, &receipt)?;
        self.step_context.read_back = Some(receipt.run);
        Ok(object)
    }
}

/// Copies a claim, and reads it a second time to prove that it is at rest.
fn copy_claim(copy: &Copy<'_>, live: &LiveClaim, copied: &mut Copied) -> Result<String, Error> {
    let (session, drain) = (copy.session, copy.desired.drain);
    let Some(place) = &live.verdict.place else {
        return refuse(true, refusals(live, &live.verdict.refused)).map(|()| String::new());
    };
    let name = live.claim.to_string();
    let mount = documents::step(drain, "mount");
    let readers = session.readers(drain);
    let volume = readers.mount(&live.claim, place)?;
    // The content may have changed since the survey, and the content of an exclusive volume is seen for
    // the first time.
    let report = volume.survey()?;
    refuse(true, judged(drain, live, &report))?;
    copied.not_kept = report.not_kept();
    mount.done(&name);
    let mut first = volume.read()?;
    let detail = copy.copy(&name, &mut first, copied)?;
    finish(drain, &name, first)?;
    let mut second = volume.read()?;
    if copy.fingerprint(&name, &mut second)? != copied.fingerprint {
        return Err(Error::Changed { source_name: name });
    }
    finish(drain, &name, second)?;
    Ok(detail)
}

/// Copies a repository, which `git` itself proves to be whole.
fn copy_repository(
    copy: &Copy<'_>,
    repository: &str,
    copied: &mut Copied,
) -> Result<String, Error> {
    let (url, token) =
        copy.desired.forges.get(repository).ok_or_else(documents::Error::out_of_order)?;
    let scratch = Scratch::new()?;
    let archive = forge::archive(url, token, scratch.path())?;
    let cannot = |source| Error::File { what: "read", path: archive.clone(), source };
    let file = fs::File::open(&archive).map_err(cannot)?;
    // The archive is plain text, so its name is removed as soon as the file is open.
    fs::remove_file(&archive).map_err(cannot)?;
    copy.copy(&format!("forge {repository}"), file, copied)
}

/// Reads to the end, and shows what the reader wrote to standard error.
fn finish(drain: &str, name: &str, read: exec::Running) -> Result<(), Error> {
    let ended = read.finish();
    let (_, said) = ended.map_err(|source| Error::Read { source_name: name.to_owned(), source })?;
    for line in said.lines() {
        documents::detail(drain, format_args!("{name}: {line}"));
    }
    Ok(())
}
