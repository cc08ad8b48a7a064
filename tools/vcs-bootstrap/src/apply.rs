//! The only writer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyring::{GitOrigin, Secret, Url};
use zeroize::Zeroizing;

use crate::Error;
use crate::client;
use crate::forge::{Reader, Writer};
use crate::git;
use crate::model::{OwnershipRecord, Readable};
use crate::ownership::OwnershipKey;
use crate::refused;
use crate::remote::Remote;
use crate::step::Step;

/// What the steps need beside themselves: values that no plan holds.
pub(crate) struct Hand<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) seal: &'a OwnershipKey,
    pub(crate) token: &'a Secret,
    /// By name.
    pub(crate) secrets: &'a BTreeMap<String, Zeroizing<String>>,
    /// What was seen of the repository; filled in when it is created.
    pub(crate) id: Option<u64>,
    pub(crate) git: Option<Url>,
    /// Whether there is a receipt to replace.
    pub(crate) recorded: bool,
    /// The branch that a new repository shall show first.
    pub(crate) branch: Option<&'a str>,
    /// What the forge's references were when a receipt was found to cover them; `None`: no receipt
    /// is required.
    pub(crate) covered_refs: Option<String>,
}

impl Hand<'_> {
    /// Takes `steps` in order, and stops at the first that fails.
    pub(crate) fn take(&mut self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            documents::check_interrupt()?;
            let begun = documents::step(&self.remote.place.name, step);
            let detail = self.step(step)?;
            begun.done(detail);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<String, Error> {
        let writer = Writer(self.remote);
        let mut detail = String::new();
        match step {
            Step::Create { private } => {
                let found = writer.create(&self.seal.creation_marker(), *private, self.branch)?;
                self.reach(&found.git)?;
                detail = found.web;
                (self.id, self.git) = (Some(found.id), Some(found.git));
            }
            Step::Unarchive {} => writer.archive(false)?,
            Step::Record { receipt, times_of } => {
                let receipt = self.with_timestamps(receipt, times_of)?;
                let text = self.seal.write(self.id.ok_or_else(unseen)?, &receipt);
                writer.write_receipt(&text, self.recorded)?;
                self.recorded = true;
            }
            Step::ChangeSettings { to, .. } => writer.change(to)?,
            Step::Publish {} => writer.publish()?,
            Step::Push { branch, to, .. } => {
                let url = self.git.as_ref().ok_or_else(unseen)?;
                git::push(&GitOrigin { url, token: self.token }, branch, to)?;
                detail.clone_from(to);
            }
            Step::ChangeDefaultBranch { to, .. } => writer.change_default_branch(to)?,
            Step::SetTopics { to, .. } => writer.set_topics(to)?,
            Step::WriteSecret { name, .. } => {
                let value = self.secrets.get(name).ok_or_else(unseen)?;
                writer.write_secret(name, value)?;
            }
            Step::AddDeployKey { fingerprint, key } => {
                writer.add_deploy_key(key)?;
                detail.clone_from(fingerprint);
            }
            Step::PutRule { name, to, .. } => writer.put_rule(name, to)?,
            Step::RemoveRule { name } => writer.remove_rule(name)?,
            Step::RemoveSecret { name } => writer.remove_secret(name)?,
            Step::RemoveDeployKey { id, .. } => writer.remove_deploy_key(*id)?,
            Step::Forget {} => {
                writer.forget()?;
                self.recorded = false;
            }
            Step::Archive {} => writer.archive(true)?,
            Step::Delete {} => {
                self.check_refs()?;
                writer.delete()?;
            }
        }
        Ok(detail)
    }

    /// Waits until git, too, finds a repository that was just created. A token that may not read
    /// the history does not stop the other steps.
    fn reach(&self, url: &Url) -> Result<(), Error> {
        let origin = GitOrigin { url, token: self.token };
        for seconds in [1, 2, 4, 8] {
            match git::remote(&origin, "main") {
                Err(Error::GitFailed { .. }) => {}
                Ok(Readable::Denied(refusal)) if refusal.reason == refused::HIDDEN => {}
                reached => return reached.map(drop),
            }
            client::wait(Duration::from_secs(seconds))?;
        }
        git::remote(&origin, "main").map(drop)
    }

    /// Asks for the references once more right before they are deleted: a commit that arrived since
    /// the receipt was checked is in no copy.
    fn check_refs(&self) -> Result<(), Error> {
        let Some(covered) = &self.covered_refs else { return Ok(()) };
        let url = self.git.as_ref().ok_or_else(unseen)?;
        if git::refs(&GitOrigin { url, token: self.token })? == *covered {
            return Ok(());
        }
        Err(Error::NotDrained { repository: self.remote.place.to_string() })
    }

    /// `receipt`, with the times that the forge tells of the secrets just written.
    fn with_timestamps(
        &self,
        receipt: &OwnershipRecord,
        times_of: &BTreeSet<String>,
    ) -> Result<OwnershipRecord, Error> {
        let mut receipt = receipt.clone();
        if times_of.is_empty() {
            return Ok(receipt);
        }
        let seen = match Reader(self.remote).secrets()? {
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

/// A step came before the one that it needs: a mistake of ours, which another run mends.
fn unseen() -> Error {
    Error::Unsettled(vec!["a step came before the one it needs".to_owned()])
}
