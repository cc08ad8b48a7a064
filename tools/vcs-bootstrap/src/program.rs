//! What each verb does with one document.

use documents::{
    Condition, Context, Declared, Dependency, Derived, Diagnostic as _, Kind, Program, Stream,
};
use keyring::{DataPolicy, GitOrigin, Projects, Secret};
use serde_json::Value;

use crate::apply::Hand;
use crate::forge::Reader;
use crate::model::{Head, Present, RepositorySlug};
use crate::observe::{self, Look};
use crate::ownership::OwnershipKey;
use crate::plan::{self, Plan};
use crate::remote::{Forge, Remote};
use crate::spec::{Push, Repository};
use crate::step::Step;
use crate::wanted::{self, Declaration};
use crate::{Error, git, observe::Evidence, observe::Observed, sunset};

/// How often we look, plan and act before we say that the forge does not settle.
const ROUNDS_MAX: usize = 3;

/// The most approvals that GitHub allows (its `OpenAPI` description: `required_approving_review_count`,
/// "maximum: 10").
const APPROVALS_MAX: u8 = 10;

/// The most topics that GitHub allows.
const TOPICS_MAX: usize = 20;

type Status = documents::Status<Observed, Evidence, Step>;

/// The program, once every document has been read.
pub(crate) struct Bootstrap {
    projects: Projects,
}

impl Bootstrap {
    /// Finds what the types of a document cannot say.
    pub(crate) fn read(stream: &mut Stream, declared: &[Declared<Repository>]) -> Self {
        let projects = Projects::read(stream);
        for document in declared {
            let spec = &document.spec;
            if projects.get(&spec.project).is_ok_and(|it| it.spec.endpoints.forge.is_none()) {
                let message = "this project does not say where its forge is (endpoints.forge)";
                stream.invalid(document, "/spec/project", message);
            }
            if spec.topics.as_ref().is_some_and(|it| it.items.len() > TOPICS_MAX) {
                let message = format!("a repository has {TOPICS_MAX} topics at most");
                stream.invalid(document, "/spec/topics/items", &message);
            }
            for (index, rule) in spec.rules.iter().enumerate() {
                if rule.branches.is_empty() {
                    let path = format!("/spec/rules/{index}/branches");
                    stream.invalid(document, &path, "a rule without a branch protects nothing");
                }
                let pull_request = rule.require.pull_request.as_ref();
                if pull_request.is_some_and(|pull| pull.approvals > APPROVALS_MAX) {
                    let path = format!("/spec/rules/{index}/require/pullRequest/approvals");
                    let message = format!("a rule requires {APPROVALS_MAX} approvals at most");
                    stream.invalid(document, &path, &message);
                }
                if spec.rules[..index].iter().any(|it| it.name == rule.name) {
                    let path = format!("/spec/rules/{index}/name");
                    stream.invalid(document, &path, "another rule has this name");
                }
            }
        }
        Self { projects }
    }

    fn begin(&self, context: &Context<'_, Repository>, history: bool) -> Result<Work, Error> {
        let document = context.document;
        let project = self.projects.get(&document.spec.project)?;
        let forge = project.spec.endpoints.forge.as_ref().ok_or(Error::NoForge)?;
        let place = RepositorySlug {
            owner: document.spec.owner.to_string(),
            name: document.name.to_string(),
        };
        let seal = OwnershipKey::new(&keyring::phase_key(project, "vcs-bootstrap")?, &place);
        let (remote, token) = Remote::open(forge, place)?;
        let declaration = wanted::declaration(document, project, remote.forge, &seal, history)?;
        // Only a status of this very repository: documents are copied with their statuses.
        let observed = &context.stream.status(document)["observed"];
        let same = observed["name"] == document.name.as_str()
            && observed["owner"] == document.spec.owner.as_str();
        let earlier = observed["id"].as_u64().filter(|_| same);
        Ok(Work { remote, token, seal, declaration, earlier })
    }

    /// Checks that nothing is lost when `steps` delete the repository, and returns the references that
    /// a receipt covers.
    fn check_deletion(
        &self,
        context: &Context<'_, Repository>,
        work: &Work,
        look: &Look,
        steps: &[Step],
    ) -> Result<Option<String>, Error> {
        let deletes = steps.iter().any(|step| matches!(step, Step::Delete {}));
        let Some(found) = look.found.as_ref().filter(|_| deletes) else { return Ok(None) };
        if context.document.spec.data_on_destroy == DataPolicy::Discard {
            return Ok(None);
        }
        let name = context.document.name.as_str();
        let names = |spec: &Value| {
            let sources = spec["sources"].as_array().into_iter().flatten();
            sources.into_iter().any(|source| source["forge"] == name)
        };
        let project = self.projects.get(&context.document.spec.project)?;
        let receipts = keyring::receipts(context.stream, project, names)?;
        let origin = GitOrigin { url: &found.git, token: &work.token };
        let refs = git::refs(&origin)?;
        let repository = found.web.clone();
        if !receipts.iter().any(|receipt| receipt.has_forge(name, &refs)) {
            return Err(Error::NotDrained { repository });
        }
        let what = sunset::beside_history(&work.remote, found, &origin)?;
        if what.is_empty() { Ok(Some(refs)) } else { Err(Error::NotCovered { repository, what }) }
    }
}

impl Program for Bootstrap {
    type Kind = Repository;
    type Error = Error;

    fn dependencies(document: &Declared<Repository>) -> Vec<Dependency> {
        vec![Dependency::to_present("/spec/project", "Project", &document.spec.project)]
    }

    fn plan(&self, context: &Context<'_, Repository>) -> Result<Status, Error> {
        let work = self.begin(context, true)?;
        let look = work.look()?;
        let Plan { steps, refused } = plan::plan(&work.declaration.wanted, &look.world);
        if steps.is_empty() && refused.is_empty() {
            return Ok(work.settled(&look));
        }
        if steps.is_empty() {
            return Err(Error::Blocked(refused));
        }
        check_push(&steps)?;
        let mut status = Status::planned(work.observed(&look), steps);
        for refusal in refused {
            documents::note(&context.document.name, format_args!("unknown: {}", refusal.what));
            status.conditions.push(Condition::new("Known", false, refusal.reason, refusal.what));
        }
        status.conditions.extend(work.complete());
        Ok(status)
    }

    fn plan_destroy(&self, context: &Context<'_, Repository>) -> Result<Status, Error> {
        let work = self.begin(context, false)?;
        let look = work.look()?;
        let Plan { steps, refused } = plan::plan_destroy(&work.declaration.wanted, &look.world);
        if !refused.is_empty() {
            return Err(Error::Blocked(refused));
        }
        if steps.is_empty() {
            return Ok(Status::destroyed(kept(&look)));
        }
        let closed = self.check_deletion(context, &work, &look, &steps).err();
        let mut status = Status::planned(work.observed(&look), steps);
        if let Some(error) = closed {
            documents::note(&context.document.name, format_args!("destroy would stop: {error}"));
            let condition = Condition::new("Covered", false, error.reason(), error.to_string());
            status.conditions.push(condition);
        }
        Ok(status)
    }

    fn apply(&self, context: &Context<'_, Repository>) -> Result<Status, Error> {
        let work = self.begin(context, true)?;
        let look = work.settle(plan::plan, |_, steps| check_push(steps).map(|()| None))?;
        Ok(work.settled(&look))
    }

    fn verify(&self, context: &Context<'_, Repository>) -> Result<Status, Error> {
        let work = self.begin(context, true)?;
        let look = work.look()?;
        let Plan { steps, refused } = plan::plan(&work.declaration.wanted, &look.world);
        if !refused.is_empty() {
            return Err(Error::Blocked(refused));
        }
        let mut wrong: Vec<_> = steps.iter().map(ToString::to_string).collect();
        wrong.extend(look.world.as_ref().and_then(|it| work.moved(it)));
        if !wrong.is_empty() {
            return Err(Error::Unproven(wrong));
        }
        let mut status = work.settled(&look);
        if work.remote.forge == Forge::Gitea && !work.declaration.secrets.is_empty() {
            let message = "the secrets are there under their names, and what was written last by \
                           us is what is declared; Gitea does not tell when a secret was written, \
                           so a change by hand would not be seen";
            documents::note(&context.document.name, message);
            status.conditions.push(Condition::new("SecretsProven", false, "NotTold", message));
        }
        Ok(status)
    }

    fn destroy(&self, context: &Context<'_, Repository>) -> Result<Status, Error> {
        let work = self.begin(context, false)?;
        let gate = |look: &Look, steps: &[Step]| self.check_deletion(context, &work, look, steps);
        let look = work.settle(plan::plan_destroy, gate)?;
        Ok(Status::destroyed(kept(&look)))
    }

    fn derive(&self, context: &Context<'_, Repository>) -> Result<Vec<Derived>, Error> {
        wanted::derived(context.document, self.projects.get(&context.document.spec.project)?)
    }
}

/// One document, what it declares, and the way to its forge.
struct Work {
    remote: Remote,
    token: Secret,
    seal: OwnershipKey,
    declaration: Declaration,
    /// The forge's number for the repository, as an earlier run saw it.
    earlier: Option<u64>,
}

impl Work {
    fn look(&self) -> Result<Look, Error> {
        let wanted = &self.declaration.wanted;
        let head = |found: &_| observe::head(found, wanted, &self.token);
        observe::look(&Reader(&self.remote), &self.seal, wanted, self.earlier, head)
    }

    /// Looks, plans and acts until a look finds nothing left to do. `gate` is asked before each
    /// round of steps, about the look that the steps were planned from.
    fn settle(
        &self,
        plan: fn(&crate::model::Wanted, &crate::model::World) -> Plan,
        gate: impl Fn(&Look, &[Step]) -> Result<Option<String>, Error>,
    ) -> Result<Look, Error> {
        let wanted = &self.declaration.wanted;
        let mut rounds = 0;
        loop {
            let look = self.look()?;
            let Plan { steps, refused } = plan(wanted, &look.world);
            if !refused.is_empty() {
                return Err(Error::Blocked(refused));
            }
            if steps.is_empty() {
                return Ok(look);
            }
            if rounds == ROUNDS_MAX {
                return Err(Error::Unsettled(steps.iter().map(ToString::to_string).collect()));
            }
            let covered_refs = gate(&look, &steps)?;
            rounds += 1;
            let mut hand = Hand { covered_refs, ..self.hand(&look) };
            match hand.take(&steps) {
                // The response was lost, so the write may have been applied: observe first.
                Err(error @ (Error::Ambiguous { .. } | Error::GitFailed { .. }))
                    if rounds < ROUNDS_MAX =>
                {
                    let note = format_args!("{error}: observing the repository again");
                    documents::note(&self.remote.place.name, note);
                }
                taken => taken?,
            }
        }
    }

    fn hand<'a>(&'a self, look: &Look) -> Hand<'a> {
        Hand {
            remote: &self.remote,
            seal: &self.seal,
            token: &self.token,
            secrets: &self.declaration.secrets,
            id: look.found.as_ref().map(|it| it.id),
            git: look.found.as_ref().map(|it| it.git.clone()),
            recorded: look.recorded,
            branch: self.declaration.wanted.history.as_ref().map(|it| &*it.branch),
            covered_refs: None,
        }
    }

    fn observed(&self, look: &Look) -> Option<Observed> {
        look.observed(&self.remote.place, &self.declaration.wanted)
    }

    /// The status of a document for which nothing is left to do.
    fn settled(&self, look: &Look) -> Status {
        let wanted = &self.declaration.wanted;
        let observed = self.observed(look);
        let url = observed.as_ref().map_or("", |it| &it.url);
        let message = format!(
            "{url} is as declared (rules: {}, secrets: {}, deploy keys: {})",
            wanted.rules.len(),
            wanted.secrets.len(),
            wanted.deploy_keys.len()
        );
        let mut status = Status::new(Condition::ready(true, "InPlace", message));
        status.conditions.extend(self.complete());
        status.evidence = look.evidence(wanted);
        status.observed = observed;
        status
    }

    /// Says what the forge does not have, if anything that is declared.
    fn complete(&self) -> Option<Condition> {
        let unsupported = &self.declaration.unsupported;
        if unsupported.is_empty() {
            return None;
        }
        let message = unsupported.join("; ");
        documents::note(&self.remote.place.name, format_args!("unsupported: {message}"));
        Some(Condition::new("Complete", false, "UnsupportedByForge", message))
    }

    /// How the branch differs where a plan has no step for it.
    fn moved(&self, world: &Present) -> Option<String> {
        let history = self.declaration.wanted.history.as_ref()?;
        let branch = &history.branch;
        match world.head.value()? {
            Head::Ahead(there) if history.push == Push::FastForward => {
                Some(format!("{branch} of the forge is ahead, at {there}: `git pull` first"))
            }
            _ => None,
        }
    }
}

/// Checks before any step that the history can be pushed whole.
fn check_push(steps: &[Step]) -> Result<(), Error> {
    for step in steps {
        let Step::Push { from, to, .. } = step else { continue };
        if let Some(refusal) = git::unpushable(to, from.as_deref())? {
            return Err(Error::Blocked(vec![refusal]));
        }
    }
    Ok(())
}

/// What is left after `destroy`, and why.
fn kept(look: &Look) -> String {
    match (&look.found, &look.world) {
        (Some(found), Some(world)) if world.archived => {
            format!("{} is archived, without our secrets and keys: its history stays", found.web)
        }
        (Some(found), _) => {
            format!("{} was made by others: it stays, without what we made in it", found.web)
        }
        (None, _) => format!("there is no {} any more", Repository::KIND.to_lowercase()),
    }
}
