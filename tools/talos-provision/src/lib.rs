//! Machines at Hetzner, Talos on them, and a Kubernetes control plane that answers.
//!
//! ```text
//! document, root ── pki, config ──► configurations ──┐
//! cloud, machines, Kubernetes ── observe ────────────┴── plan ──► apply ──► look again ──► status
//! ```
//!
//! **Invariant:** [`plan`] is a function of values: it opens nothing and asks nothing.
//! **Invariant:** only `apply` makes writers.
//! **Invariant:** keys, certificates and configurations are functions of the document and the
//! root: the same on every machine, at any time.

mod absence;
mod api_error;
mod apply;
mod cli;
pub mod config;
mod derive;
mod emit;
mod error;
mod gate;
mod hetzner;
mod kubernetes;
mod labels;
mod money;
pub mod observe;
pub mod pki;
pub mod plan;
mod read;
mod reader;
mod session;
pub mod spec;
mod talos;
pub mod wire;

pub use api_error::ApiError;
pub use cli::Cli;
pub use error::Error;
pub use money::Money;
pub use observe::Status;

use std::collections::BTreeMap;

use documents::{Condition, Context, Declared, Deferred, Dependency, Derived, Exit, Verbs};
use keyring::{Access, Projects};

use absence::see;
use hetzner::CloudState;
use observe::{Evidence, Observation, Observed};
use plan::Step;
use session::{Patches, Session};
use spec::Cluster;

impl documents::Kind for Cluster {
    const KIND: &'static str = "Cluster";
    type Observed = Observed;
    type Evidence = Evidence;
    type Step = Step;
}

/// Runs one command.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    documents::run("talos-provision", &cli.verb, |stream, declared| {
        let (projects, patches) = read::read(stream, declared);
        TalosProvision { projects, patches }
    })
}

/// The program, with what it read beside its own documents.
struct TalosProvision {
    projects: Projects,
    /// By the name of the document.
    patches: BTreeMap<String, Patches>,
}

impl Verbs for TalosProvision {
    type Kind = Cluster;
    type Error = Error;

    fn dependencies(document: &Declared<Cluster>) -> Vec<Dependency> {
        vec![Dependency::to_present("/spec/project", "Project", &document.spec.project)]
    }

    fn plan(&self, context: &Context<'_, Cluster>) -> Result<Status, Error> {
        read::not_expired(context.document)?;
        let project = self.projects.get(&context.document.spec.project)?;
        if keyring::phase_key_unless_reader(project, "talos-provision")?.is_none() {
            return reader::plan(context, &self.projects);
        }
        let session = self.session(context, Access::Reader)?;
        let view = see(context, &session.ground)?;
        let mut now = session.look(&view)?;
        apply::unobstructed(&now)?;
        for (name, machine) in &now.wanted.machines {
            if let Deferred::Value(sha256) = &machine.configuration {
                documents::detail(name, format_args!("configuration sha256:{sha256}"));
            }
        }
        let steps = plan::plan(&now.wanted, &now.world);
        if steps.is_empty() {
            return self.status(context, &session, &now);
        }
        let refusals = gate::machines(context, &self.projects, &session, (&view, &now), &steps)?;
        apply::stocked(&session.ground.cloud, &mut now, &steps)?;
        let steps = plan::plan(&now.wanted, &now.world);
        let planned = Status::planned(Some(now.observed()), steps);
        Ok(refused(context, "apply", planned, refusals))
    }

    fn plan_destroy(&self, context: &Context<'_, Cluster>) -> Result<Status, Error> {
        let session = self.session(context, Access::Reader)?;
        let view = see(context, &session.ground)?;
        let steps = plan::plan_destroy(&apply::world(&view));
        if steps.is_empty() {
            return Ok(Status::destroyed("nothing of it is there"));
        }
        let refusals = gate::whole(context, &self.projects, &session, &view)?;
        let cloud = &session.ground.cloud;
        let leftovers = cloud.describe(&cloud.leftovers(&view)?)?;
        let mut planned = refused(context, "destroy", Status::planned(None, steps), refusals);
        if !leftovers.is_empty() {
            let what = format!("others made {}, and `destroy` leaves it", leftovers.join(", "));
            documents::note(&context.document.name, &what);
            planned.conditions.push(Condition::new("Leftovers", true, "MadeByOthers", what));
        }
        Ok(planned)
    }

    fn apply(&self, context: &Context<'_, Cluster>) -> Result<Status, Error> {
        read::not_expired(context.document)?;
        let session = self.session(context, Access::Administrator)?;
        let view = see(context, &session.ground)?;
        let gate = |view: &CloudState, now: &Observation, steps: &[Step]| {
            let refusals = gate::machines(context, &self.projects, &session, (view, now), steps)?;
            gate::pass(context.document.name.as_str(), refusals)
        };
        let now = apply::apply(&session, view, gate)?;
        self.status(context, &session, &now)
    }

    fn verify(&self, context: &Context<'_, Cluster>) -> Result<Status, Error> {
        let session = self.session(context, Access::Reader)?;
        read::not_expired(context.document)?;
        let now = session.look_patiently(&see(context, &session.ground)?)?;
        apply::unobstructed(&now)?;
        let left = plan::plan(&now.wanted, &now.world);
        if let Some(step) = left.first() {
            let more = left.len() - 1;
            let what = format!("`{step}` is left to do, and {more} steps after it");
            return Err(Error::VerificationFailed { what });
        }
        let conditions = now.conditions(context.document.spec.network.cni);
        if let Some(what) = observe::failing_check(&conditions) {
            return Err(Error::VerificationFailed { what });
        }
        self.status(context, &session, &now)
    }

    fn destroy(&self, context: &Context<'_, Cluster>) -> Result<Status, Error> {
        let session = self.session(context, Access::Administrator)?;
        let view = see(context, &session.ground)?;
        gate::pass(
            context.document.name.as_str(),
            gate::whole(context, &self.projects, &session, &view)?,
        )?;
        let kept = apply::destroy(&session.ground, &view)?;
        Ok(Status::destroyed(match kept.as_slice() {
            [] => "nothing of it is left".to_owned(),
            kept => format!("left, since others made it: {}", kept.join(", ")),
        }))
    }

    fn derive(&self, context: &Context<'_, Cluster>) -> Result<Vec<Derived>, Error> {
        derive::derive(
            context,
            self.projects.get(&context.document.spec.project)?,
            self.patches(context)?,
        )
    }
}

/// `status` with what `verb` would refuse to remove.
fn refused(
    context: &Context<'_, Cluster>,
    verb: &str,
    mut status: Status,
    refusals: Vec<documents::Refusal>,
) -> Status {
    for refusal in &refusals {
        documents::note(
            &context.document.name,
            format_args!("`{verb}` will refuse: {}", refusal.message),
        );
    }
    status.refusals = refusals;
    status
}

impl TalosProvision {
    fn patches(&self, context: &Context<'_, Cluster>) -> Result<&Patches, Error> {
        let patches = self.patches.get(context.document.name.as_str());
        patches.ok_or_else(|| Error::Patch("they were not read".to_owned()))
    }

    fn session<'a>(
        &'a self,
        context: &Context<'a, Cluster>,
        access: Access,
    ) -> Result<Session<'a>, Error> {
        Session::open(context.document, &self.projects, self.patches(context)?, access)
    }

    /// What is there, and nothing is left to do.
    fn status(
        &self,
        context: &Context<'_, Cluster>,
        session: &Session<'_>,
        now: &Observation,
    ) -> Result<Status, Error> {
        let checks = now.conditions(context.document.spec.network.cni);
        let ready = match observe::failing_check(&checks) {
            None => {
                let machines = now.wanted.machines.len();
                Condition::ready(
                    true,
                    "Provisioned",
                    format!("machines: {machines}, all checks pass"),
                )
            }
            Some(why) => Condition::ready(false, "Unwell", why),
        };
        let mut status = Status::new(ready);
        status.conditions.extend(checks);
        status.observed = Some(now.observed());
        status.evidence = now.evidence(&session.pki);
        if let Deferred::Value(endpoint) = &now.endpoint {
            let project = self.projects.get(&context.document.spec.project)?;
            let name = context.document.name.as_str();
            for (what, access, text) in session.pki.clients(name, endpoint, &now.control_planes()) {
                let sealed = keyring::seal(&project.spec, access, text.as_bytes())?;
                status.sealed.insert(what.to_owned(), sealed);
            }
        }
        Ok(status)
    }
}
