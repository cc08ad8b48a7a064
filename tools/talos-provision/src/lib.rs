//! Machines at Hetzner, Talos on them, and a Kubernetes control plane that answers.
//!
//! ```text
//! document, root ── desired, pki, config ──┐
//! cloud, machines, Kubernetes ── observe ──┴── plan ──► execute ──► observe again ──► status
//! ```
//!
//! **Invariant:** [`plan`] is a function of values: it opens nothing and asks nothing.
//! **Invariant:** only `execute` makes writers, each with the permit of the engine.
//! **Invariant:** keys, certificates and configurations are functions of the document and the
//! root: the same on every machine, at any time.

mod absence;
mod api_error;
mod change;
mod cli;
mod clients;
pub mod config;
mod derive;
mod desired;
mod earlier;
mod emit;
mod error;
mod execute;
mod gate;
mod handover;
mod labels;
mod model;
mod money;
mod observe;
mod offers;
pub mod pki;
pub mod plan;
mod registries;
pub mod schematic;
mod session;
pub mod spec;
pub mod status;
mod step;
mod validate;

pub use api_error::ApiError;
pub use cli::Cli;
pub use error::Error;
pub use money::Money;
pub use status::Status;

use std::collections::BTreeMap;
use std::time::Duration;

use contract::Projects;
use documents::{
    Context, Declared, Deferred, Dependency, Derived, Exit, Intent, Next, Opened, OpenedBy, Plan,
    Program, Rendering, Stream, Verb, WritePermit,
};
use opentofu::Collector;

use desired::Patches;
use execute::StepContext;
use observe::Observation;
use plan::{Node, Stage, Step};
use session::Session;
use spec::Cluster;
use status::{Evidence, Facts};

/// Longest time that a cluster may take to be healthy after a step.
const HEALTHY_MAX: Duration = Duration::from_secs(900);

impl documents::Kind for Cluster {
    const KIND: &'static str = "Cluster";
    type Observed = Facts;
    type Evidence = Evidence;
    type Step = Step;
}

/// Runs one command.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    let options = match &cli.verb {
        Verb::Plan { options, .. } => Some(options),
        _ => None,
    };
    let handover = Collector::new(options);
    documents::run::<Cli, _>("talos-provision", &cli.verb, |stream, declared| {
        let (projects, patches) = validate::read(stream, declared);
        if handover.is_asked() {
            handover::validate(stream, declared);
        }
        TalosProvision { projects, patches, handover }
    })
}

/// The program, with the documents and files that Clusters refer to.
struct TalosProvision {
    projects: Projects,
    /// Patches by the name of the document.
    patches: BTreeMap<String, Patches>,
    /// Resources for `OpenTofu`.
    handover: Collector,
}

impl TalosProvision {
    fn patches(&self, document: &Declared<Cluster>) -> Result<&Patches, Error> {
        let patches = self.patches.get(document.name.as_str());
        patches.ok_or_else(|| Error::Patch("they were not read".to_owned()))
    }
}

impl Program for TalosProvision {
    type Kind = Cluster;
    type Error = Error;
    type Session<'a> = Session<'a>;
    type Observation = Observation;
    type StepContext = StepContext;

    fn dependencies(document: &Declared<Cluster>) -> Vec<Dependency> {
        vec![Dependency::to_present("/spec/project", "Project", &document.spec.project)]
    }

    fn open<'a>(
        &'a self,
        context: &Context<'a, Cluster>,
        intent: Intent,
    ) -> Result<OpenedBy<'a, Self>, Error> {
        if !intent.is_removal() {
            validate::not_expired(context.document)?;
        }
        let patches = self.patches(context.document)?;
        Ok(Opened::Session(Session::open(context, intent, &self.projects, patches)?))
    }

    fn observe(&self, session: &Session<'_>, _: &StepContext) -> Result<Observation, Error> {
        observe::observe(session)
    }

    fn plan(&self, session: &Session<'_>, now: &Observation, _: Intent) -> Plan<Step> {
        let conflicts = now.conflicts(session).into_iter().map(Into::into).collect();
        Plan { steps: now.steps(session), conflicts }
    }

    fn footer(&self, now: &Observation, steps: &[Step]) -> Option<String> {
        let before = now.monthly_cost();
        let after = plan::cost_after(before, steps);
        (before != after).then(|| {
            let currency = after.currency().or(before.currency());
            let currency = currency.map_or_else(String::new, |currency| format!(" {currency}"));
            format!("cost: {before} → {after}{currency} per month, net")
        })
    }

    /// Passes the data gate: for all removals of the first plan before anything is touched, and for
    /// each removal again right before it, because the cluster lives on meanwhile.
    fn authorize(
        &self,
        session: &Session<'_>,
        now: &Observation,
        steps: &[Step],
        context: &mut StepContext,
        _: &WritePermit,
    ) -> Result<(), Error> {
        context.begin_round();
        let refusals = if session.intent.is_removal() {
            gate::whole(session, &now.cloud)?
        } else if context.is_authorized {
            gate::machines(session, now, &steps[..plan::batch(steps)])?
        } else {
            gate::machines(session, now, steps)?
        };
        gate::pass(session.name(), refusals)?;
        context.is_authorized = true;
        Ok(())
    }

    fn next(
        &self,
        session: &Session<'_>,
        now: &Observation,
        steps: &[Step],
    ) -> Result<Next, Error> {
        let cni = session.spec().network.cni;
        let reason = if session.intent.is_removal() {
            let is_shared =
                |step: &Step| matches!(step, Step::Remove { .. } | Step::RemoveImage { .. });
            // A server that is being deleted uses the network and the placement group.
            steps.first().is_none_or(is_shared).then(|| now.leaving()).flatten()
        } else {
            match steps.first().map(Step::stage) {
                None => now.failing_check(cni),
                // Keep surplus machines, and restart none, until the others are healthy: otherwise
                // etcd may lose its quorum.
                Some(Stage::Restarts | Stage::Removal) => now.keeps_surplus(cni),
                Some(Stage::Workers) => now.actual.keeps_workers_waiting(),
                // The name of a server stays taken until it is gone.
                Some(Stage::Servers) => now.leaving(),
                Some(_) => None,
            }
        };
        // Waiting does not help against a crash: Talos starts etcd again with the same arguments.
        if let (Some(_), false, Some(crash)) =
            (&reason, session.intent.is_removal(), now.etcd_crash())
        {
            return Err(crash);
        }
        Ok(match reason {
            Some(reason) => Next::Wait { reason },
            None if steps.is_empty() => Next::Finish,
            None if session.intent.is_removal() => {
                Next::Execute { count: plan::batch_destroy(steps) }
            }
            None => Next::Execute { count: plan::batch(steps) },
        })
    }

    fn execute(
        &self,
        session: &Session<'_>,
        now: &Observation,
        step: &Step,
        context: &mut StepContext,
        permit: &WritePermit,
    ) -> Result<String, Error> {
        execute::execute(session, now, step, context, permit)
    }

    fn finish(
        &self,
        session: &Session<'_>,
        _: &Observation,
        context: &mut StepContext,
        permit: &WritePermit,
    ) -> Result<(), Error> {
        execute::finish(session, context, permit)
    }

    fn pending(
        &self,
        session: &Session<'_>,
        context: &StepContext,
        _: &[Step],
    ) -> Result<Option<String>, Error> {
        execute::pending(session, context)
    }

    /// A declared machine that does not answer, or a failing check for which no step is planned. A machine
    /// that restarts is silent for seconds, and Talos restarts a service 5 s after the service has ended
    /// (`internal/app/machined/pkg/system/runner/restart`). `talosctl health` waits for the same checks.
    /// Measured: once in four runs of the test of a whole cluster, a worker did not answer right after an
    /// `apply` that had changed its authorities; once a kubelet had just ended on a busy machine.
    fn is_passing(&self, session: &Session<'_>, now: &Observation, steps: &[Step]) -> bool {
        let is_silent = |name: &String| {
            let server = now.actual.servers.get(name);
            server.is_some_and(|server| matches!(server.node, Node::Unreachable { .. }))
        };
        let is_unhealthy =
            || steps.is_empty() && now.failing_check(session.spec().network.cni).is_some();
        session.intent == Intent::Verify
            && (now.desired.machines.keys().any(is_silent) || is_unhealthy())
    }

    fn time_limit(&self, _: &Session<'_>) -> Duration {
        HEALTHY_MAX
    }

    fn status(
        &self,
        session: &Session<'_>,
        now: &Observation,
        steps: Vec<Step>,
        intent: Intent,
    ) -> Result<Status, Error> {
        if intent == Intent::Plan {
            for (name, machine) in &now.desired.machines {
                if let Deferred::Value(sha256) = &machine.configuration {
                    documents::detail(name, format_args!("configuration sha256:{sha256}"));
                }
            }
        }
        let status = status::status(session, now, steps, intent)?;
        if self.handover.is_asked() {
            self.handover.add(session.name(), handover::resources(session, now)?);
        }
        Ok(status)
    }

    fn rendering(&self, _: &Stream, declared: &[Declared<Cluster>]) -> Option<Rendering> {
        let names: Vec<_> = declared.iter().map(|cluster| cluster.name.as_str()).collect();
        self.handover.rendering(&handover::provider(&self.projects, declared), &names)
    }

    fn verify(
        &self,
        session: &Session<'_>,
        now: &Observation,
        steps: Vec<Step>,
    ) -> Result<Status, Error> {
        if let Some(step) = steps.first() {
            let more = steps.len() - 1;
            let what = format!("`{step}` is left to do, and {more} steps after it");
            return Err(Error::VerificationFailed { what });
        }
        if let Some(what) = now.failing_check(session.spec().network.cni) {
            return Err(Error::VerificationFailed { what });
        }
        status::status(session, now, steps, Intent::Verify)
    }

    fn derive(&self, context: &Context<'_, Cluster>) -> Result<Vec<Derived>, Error> {
        derive::derive(
            context,
            self.projects.get(&context.document.spec.project)?,
            self.patches(context.document)?,
        )
    }
}
