//! One document with its references resolved, and the client of its forge.

use std::collections::{BTreeMap, BTreeSet};

use ::git::Origin as GitOrigin;
use contract::facts::{self, RepositorySlug as DeclaredSlug};
use contract::{DataPolicy, Projects, Roots};
use documents::{Context, Intent};
use serde_json::Value;

use crate::clients::connection::{Forge, Remote, Services};
use crate::clients::forge::Reader;
use crate::clients::git;
use crate::desired::{self, Declaration, Source};
use crate::model::{Head, Present, Readable, RepositorySlug};
use crate::observe::{self, Observation};
use crate::ownership::OwnershipKey;
use crate::plan::Plan;
use crate::spec::{Push, Repository};
use crate::step::Step;
use crate::{Error, plan, sunset};

/// A document, the declared state, and readers of its forge.
pub(crate) struct Session<'a> {
    context: Context<'a, Repository>,
    projects: &'a Projects,
    pub(crate) remote: Remote,
    pub(crate) ownership: OwnershipKey,
    pub(crate) declaration: Declaration,
    /// The forge's number for the repository, as an earlier run saw it.
    earlier: Option<u64>,
    /// Names that the repository may still have.
    former: Vec<RepositorySlug>,
}

impl<'a> Session<'a> {
    /// Resolves the references of a document and connects to its forge. Only an `intent` that pushes
    /// reads the local history.
    pub(crate) fn open(
        projects: &'a Projects,
        (roots, services): (&'a Roots, &'a Services),
        context: &Context<'a, Repository>,
        intent: Intent,
    ) -> Result<Self, Error> {
        let document = context.document;
        let project = projects.get(&document.spec.project)?;
        let source = Source { document, project, roots };
        let place = source.place();
        let key = roots.phase_key(project, "vcs-bootstrap")?;
        let ownership = OwnershipKey::new(&key, &source.first_place());
        let remote = Remote::open(services, project, place.clone(), document.name.as_str())?;
        // Versions differ in their rules only.
        let asks = remote.forge == Forge::Gitea && !document.spec.rules.is_empty();
        let dialect = if asks { Some(remote.dialect()?) } else { None };
        // A removal pushes no commit, so it works outside of a Git repository.
        let with_values = !intent.is_removal();
        let forge = (remote.forge, dialect);
        let declaration = desired::declaration(&source, forge, &ownership, with_values)?;
        let mut former = source.former_places();
        // A rename that was interrupted before the transfer leaves the new name at the former owner.
        let between = former.iter().map(|former| former.owner.clone());
        let between = between.map(|owner| RepositorySlug { owner, name: place.name.clone() });
        former.extend(between.collect::<Vec<_>>());
        former.retain(|former| *former != place);
        let status = context.stream.status(document);
        let number = |place: &RepositorySlug| {
            facts::repository_id(status, DeclaredSlug { owner: &place.owner, name: &place.name })
        };
        let earlier = number(&place).or_else(|| former.iter().find_map(number));
        let context = Context { ..*context };
        Ok(Self { context, projects, remote, ownership, declaration, earlier, former })
    }

    /// Returns the name of the document, for messages.
    pub(crate) fn document(&self) -> &str {
        self.context.document.name.as_str()
    }

    pub(crate) fn observe(&self) -> Result<Observation, Error> {
        let desired = &self.declaration.desired;
        let refs = |found: &_| observe::refs(found, desired, &self.remote);
        let which = (self.earlier, &*self.former);
        observe::observe(&Reader(&self.remote), &self.ownership, desired, which, refs)
    }

    pub(crate) fn plan(&self, observation: &Observation, intent: Intent) -> Plan {
        let desired = &self.declaration.desired;
        if intent.is_removal() {
            plan::plan_destroy(desired, &observation.actual)
        } else {
            let plan = plan::plan(desired, &observation.actual);
            match &observation.lfs {
                Readable::Value(objects) => plan.with_lfs(objects),
                Readable::Denied(_) => plan,
            }
        }
    }

    /// Returns the rulesets of GitHub among `names` as the forge describes them.
    pub(crate) fn rulesets(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Value>, Error> {
        if names.is_empty() { Ok(BTreeMap::new()) } else { Reader(&self.remote).rulesets(names) }
    }

    /// Checks that a drain receipt covers everything that `steps` delete, and returns the references that
    /// it covers; `None` when nothing is deleted or the document discards its data.
    pub(crate) fn check_deletion(
        &self,
        observation: &Observation,
        steps: &[Step],
    ) -> Result<Option<String>, Error> {
        let deletes = steps.iter().any(|step| matches!(step, Step::Delete {}));
        let Some(found) = observation.found.as_ref().filter(|_| deletes) else { return Ok(None) };
        let document = self.context.document;
        if document.spec.data_on_destroy == DataPolicy::Discard {
            return Ok(None);
        }
        let name = document.name.as_str();
        let project = self.projects.get(&document.spec.project)?;
        let receipts = contract::receipts_of_repository(self.context.stream, project, name)?;
        let token = self.remote.token()?;
        let origin = GitOrigin { url: &found.git, token: &token };
        let refs = git::refs(&origin)?;
        let repository = found.web.clone();
        if !receipts.iter().any(|receipt| receipt.has_forge(name, &refs)) {
            return Err(Error::NotDrained { repository });
        }
        let what = sunset::beside_history(&self.remote, found, &origin)?;
        if what.is_empty() { Ok(Some(refs)) } else { Err(Error::NotCovered { repository, what }) }
    }

    /// Returns the difference of the branch for which a plan has no step: commits that only the forge has.
    pub(crate) fn branch_difference(&self, actual: &Present) -> Option<String> {
        let history = self.declaration.desired.history.as_ref()?;
        let branch = &history.branch;
        match actual.head.value()? {
            Head::Ahead(there) if history.push == Push::FastForward => {
                Some(format!("the forge's {branch} is ahead, at {there}: run `git pull` first"))
            }
            _ => None,
        }
    }
}

/// Checks before any step that the history can be pushed completely, with its objects of Git LFS.
pub(crate) fn check_push(observation: &Observation, steps: &[Step]) -> Result<(), Error> {
    match &observation.lfs {
        Readable::Denied(refusal) if steps.iter().any(|step| matches!(step, Step::Push { .. })) => {
            Err(Error::Blocked(vec![refusal.clone()]))
        }
        Readable::Denied(_) | Readable::Value(_) => Ok(()),
    }
}
