//! Executes steps. Only this module creates a writer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::git::{Origin as GitOrigin, Url};
use documents::{Reason, WritePermit, pause};

use crate::Error;
use crate::clients::forge::{ForgeRepository, Reader, Writer};
use crate::clients::git;
use crate::clients::lfs_server::LfsServer;
use crate::model::{OwnershipRecord, Readable};
use crate::observe::Observation;
use crate::ownership::VARIABLE;
use crate::session::Session;
use crate::step::Step;

/// Values that a step hands to later steps of the same run.
#[derive(Default)]
pub(crate) struct StepContext {
    /// Forge's number and clone URL of the repository that this run created, renamed or transferred.
    created: Option<(u64, Url)>,
    /// Whether the ownership record exists after the last step; `None` when this run has neither written
    /// nor removed it.
    recorded: Option<bool>,
    /// References that a drain receipt covers; `None` when no receipt is required.
    pub(crate) covered_refs: Option<String>,
}

/// Everything that the execution of one step needs.
pub(crate) struct Execution<'a, 'b> {
    pub(crate) session: &'a Session<'b>,
    pub(crate) observation: &'a Observation,
    pub(crate) step_context: &'a mut StepContext,
    pub(crate) permit: &'a WritePermit,
}

impl Execution<'_, '_> {
    /// Executes `step`, and returns a detail for people.
    pub(crate) fn execute(&mut self, step: &Step) -> Result<String, Error> {
        let session = self.session;
        let writer = Writer::new(&session.remote, self.permit);
        let mut detail = String::new();
        match step {
            Step::Create { private } => {
                let branch = session.declaration.desired.default_branch.as_deref();
                let found =
                    writer.create(&session.ownership.creation_marker(), *private, branch)?;
                self.wait_for_git(&found.git)?;
                detail = found.web;
                self.step_context.created = Some((found.id, found.git));
            }
            Step::Rename { to, .. } => self.moved(writer.rename(to)?),
            Step::Transfer { .. } => self.moved(writer.transfer()?),
            Step::Unarchive {} => writer.archive(false)?,
            Step::Record { receipt, times_of } => {
                let receipt = self.with_timestamps(receipt, times_of)?;
                let text = session.ownership.write(self.id()?, &receipt);
                let replaces = self.step_context.recorded.unwrap_or(self.observation.recorded);
                writer.write_variable(VARIABLE, &text, replaces)?;
                self.step_context.recorded = Some(true);
            }
            Step::ChangeSettings { to, .. } => writer.change(to)?,
            Step::Publish {} => writer.publish()?,
            Step::UploadLfsObjects { .. } => detail = self.upload_lfs()?,
            Step::Push { branch, to, tags, .. } => {
                self.push(Some((branch, to)), tags)?;
                detail.clone_from(to);
            }
            Step::PushTags { tags } => self.push(None, tags)?,
            Step::ChangeDefaultBranch { to, .. } => writer.change_default_branch(to)?,
            Step::SetTopics { to, .. } => writer.set_topics(to)?,
            Step::WriteSecret { name, .. } => {
                let value = session
                    .declaration
                    .secrets
                    .get(name)
                    .ok_or_else(documents::Error::out_of_order)?;
                writer.write_secret(name, value)?;
            }
            Step::WriteVariable { name, from, to } => {
                writer.write_variable(name, to, from.is_some())?;
            }
            Step::RemoveVariable { name } => writer.remove_variable(name)?,
            Step::AddDeployKey { fingerprint, title, key } => {
                writer.add_deploy_key(title, key)?;
                detail.clone_from(fingerprint);
            }
            Step::PutRule { name, to, .. } => writer.put_rule(name, to)?,
            Step::RemoveRule { name } => writer.remove_rule(name)?,
            Step::RemoveSecret { name } => writer.remove_secret(name)?,
            Step::RemoveDeployKey { id, .. } => writer.remove_deploy_key(*id)?,
            Step::Forget {} => {
                writer.remove_variable(VARIABLE)?;
                self.step_context.recorded = Some(false);
            }
            Step::Archive {} => writer.archive(true)?,
            Step::Delete {} => {
                self.check_refs()?;
                writer.delete()?;
            }
        }
        Ok(detail)
    }

    /// Uploads the objects of Git LFS that the history to be pushed names.
    fn upload_lfs(&self) -> Result<String, Error> {
        let history = self.session.declaration.desired.history.as_ref();
        let head = history.and_then(|history| Some((&*history.branch, &**history.commit.value()?)));
        let (Some(head), Some(objects)) = (head, self.observation.lfs.value()) else {
            return Err(documents::Error::out_of_order().into());
        };
        let token = self.session.remote.token()?;
        let origin = GitOrigin { url: self.git()?, token: &token };
        let server = LfsServer::at(&origin, self.session.document())?;
        let missing = server.missing(objects, self.permit)?;
        server.upload(head, &missing, self.permit)?;
        Ok(format!("{} of {} were missing", missing.len(), objects.len()))
    }

    /// Pushes a branch and tags.
    fn push(
        &self,
        branch: Option<(&String, &String)>,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let token = self.session.remote.token()?;
        let origin = GitOrigin { url: self.git()?, token: &token };
        let branch = branch.map(|(name, commit)| (commit.clone(), format!("{}{name}", git::HEADS)));
        let tags =
            tags.iter().map(|(name, object)| (object.clone(), format!("{}{name}", git::TAGS)));
        git::push(&origin, &branch.into_iter().chain(tags).collect::<Vec<_>>(), self.permit)
    }

    /// Records the clone URL of the repository after a rename or a transfer.
    fn moved(&mut self, found: ForgeRepository) {
        self.step_context.created = Some((found.id, found.git));
    }

    /// Returns the forge's number for the repository.
    fn id(&self) -> Result<u64, Error> {
        let created = self.step_context.created.as_ref().map(|(id, _)| *id);
        let found = self.observation.found.as_ref().map(|found| found.id);
        Ok(created.or(found).ok_or_else(documents::Error::out_of_order)?)
    }

    /// Returns the clone URL of the repository.
    fn git(&self) -> Result<&Url, Error> {
        let created = self.step_context.created.as_ref().map(|(_, git)| git);
        let found = self.observation.found.as_ref().map(|found| &found.git);
        Ok(created.or(found).ok_or_else(documents::Error::out_of_order)?)
    }

    /// Waits until Git finds a repository that was just created. A token that may not read the history
    /// does not stop the other steps.
    fn wait_for_git(&self, url: &Url) -> Result<(), Error> {
        let token = self.session.remote.token()?;
        let origin = GitOrigin { url, token: &token };
        for seconds in [1, 2, 4, 8] {
            match git::remote(&origin, "main") {
                Err(Error::GitFailed { .. }) => {}
                Ok(Readable::Denied(refusal)) if refusal.reason == Reason::NotFound => {}
                answer => return answer.map(drop),
            }
            pause(Duration::from_secs(seconds))?;
        }
        git::remote(&origin, "main").map(drop)
    }

    /// Reads the references again right before they are deleted, because no copy has a commit that
    /// arrived after the check of the receipt.
    fn check_refs(&self) -> Result<(), Error> {
        let Some(covered) = &self.step_context.covered_refs else { return Ok(()) };
        let token = self.session.remote.token()?;
        let origin = GitOrigin { url: self.git()?, token: &token };
        if git::refs(&origin)? == *covered {
            return Ok(());
        }
        Err(Error::NotDrained { repository: self.session.remote.place.to_string() })
    }

    /// Returns the ownership record with the times at which the secrets `times_of` were written, as the
    /// forge reports them.
    fn with_timestamps(
        &self,
        receipt: &OwnershipRecord,
        times_of: &BTreeSet<String>,
    ) -> Result<OwnershipRecord, Error> {
        let mut receipt = receipt.clone();
        if times_of.is_empty() {
            return Ok(receipt);
        }
        let seen = match Reader(&self.session.remote).secrets()? {
            Readable::Value(seen) => seen,
            Readable::Denied(refusal) => return Err(Error::Blocked(vec![refusal])),
        };
        for name in times_of {
            if let Some(recorded) = receipt.secrets.get_mut(name) {
                recorded.updated_at = seen.get(name).cloned().flatten();
            }
        }
        Ok(receipt)
    }
}
