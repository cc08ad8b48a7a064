//! One document with its references resolved, and the client of its forge.

use ::git::Origin as GitOrigin;
use contract::facts::{self, RepositorySlug as DeclaredSlug};
use contract::{DataPolicy, Projects};
use documents::{Context, Intent};
use secrets::Secret;

use crate::clients::connection::Remote;
use crate::clients::forge::Reader;
use crate::clients::git;
use crate::desired::{self, Declaration};
use crate::model::{Head, Present, RepositorySlug};
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
    pub(crate) token: Secret,
    pub(crate) ownership: OwnershipKey,
    pub(crate) declaration: Declaration,
    /// The forge's number for the repository, as an earlier run saw it.
    earlier: Option<u64>,
}

impl<'a> Session<'a> {
    /// Resolves the references of a document and connects to its forge. Only an `intent` that pushes
    /// reads the local history.
    pub(crate) fn open(
        projects: &'a Projects,
        context: &Context<'a, Repository>,
        intent: Intent,
    ) -> Result<Self, Error> {
        let document = context.document;
        let project = projects.get(&document.spec.project)?;
        let forge = project.spec.endpoints.forge.as_ref().ok_or(Error::NoForge)?;
        let place = RepositorySlug {
            owner: document.spec.owner.to_string(),
            name: document.name.to_string(),
        };
        let ownership = OwnershipKey::new(&contract::phase_key(project, "vcs-bootstrap")?, &place);
        let (remote, token) = Remote::open(forge, place)?;
        // A removal pushes no commit, so it works outside of a Git repository.
        let with_history = !intent.is_removal();
        let declaration =
            desired::declaration(document, project, remote.forge, &ownership, with_history)?;
        let slug =
            DeclaredSlug { owner: document.spec.owner.as_str(), name: document.name.as_str() };
        let earlier = facts::repository_id(context.stream.status(document), slug);
        let context = Context { ..*context };
        Ok(Self { context, projects, remote, token, ownership, declaration, earlier })
    }

    pub(crate) fn observe(&self) -> Result<Observation, Error> {
        let desired = &self.declaration.desired;
        let head = |found: &_| observe::head(found, desired, &self.token);
        observe::observe(&Reader(&self.remote), &self.ownership, desired, self.earlier, head)
    }

    pub(crate) fn plan(&self, observation: &Observation, intent: Intent) -> Plan {
        let desired = &self.declaration.desired;
        if intent.is_removal() {
            plan::plan_destroy(desired, &observation.actual)
        } else {
            plan::plan(desired, &observation.actual)
        }
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
        let origin = GitOrigin { url: &found.git, token: &self.token };
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

/// Checks before any step that every object of the history can be pushed.
pub(crate) fn check_push(steps: &[Step]) -> Result<(), Error> {
    for step in steps {
        let Step::Push { from, to, .. } = step else { continue };
        if let Some(refusal) = git::unpushable(to, from.as_deref())? {
            return Err(Error::Blocked(vec![refusal]));
        }
    }
    Ok(())
}
