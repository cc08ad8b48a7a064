//! Copies every persistent byte out of a cluster, before it is destroyed.
//!
//! ```text
//! documents ── wanted ──┐
//!                       ├── plan ──► survey ► stop ► hold ► copy ► read back ► sign ──► documents
//! cluster, forge, store ┘
//! ```
//!
//! **Invariant:** [`plan`](crate::plan) is a function of values: it opens nothing and asks nothing.
//! **Invariant:** only `apply` and `destroy` make a writer, and nothing in the store is ever
//! written over or deleted.
//! **Invariant:** from the first stop until `destroy`, nothing starts again: a failure leaves the
//! workloads stopped and the claims held.
//! **Invariant:** a status is computed from what is seen, never from what was done; so the second
//! run writes the same bytes as the first, and nothing anywhere.

mod apply;
mod archive;
mod claim;
mod cli;
mod cluster;
mod copy;
mod error;
mod exec;
mod extract;
mod forge;
mod hold;
mod labels;
mod lease;
mod limit;
mod observe;
mod pack;
mod plan;
mod restore;
mod scratch;
mod session;
pub mod spec;
mod store;
mod volume;

pub use cli::Cli;
pub use error::Error;

use std::collections::{BTreeMap, BTreeSet};

use documents::{Condition, Declared, Dependency, Derived, Exit, Name, Stream, Verbs};
use keyring::{Access, AgeRecipient, Project, Projects, Recipient, Secret, Store, Url};

use cli::Command;
use lease::Lease;
pub(crate) use limit::Limit;
use observe::{Absent, Evidence, Keys, Observed, Seen, Wanted, claims, observe};
use plan::Step;
use session::Session;
use spec::{Drain, Source};

impl documents::Kind for Drain {
    const KIND: &'static str = "Drain";
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
    match &cli.command {
        Command::Phase(verb) => documents::run("data-drain", verb, DataDrain::read),
        Command::Restore { target, to, receipt } => {
            documents::start("data-drain", target.output);
            let mut stream = Stream::read(&target.documents);
            let drains = stream.documents_of::<Drain>();
            let program = DataDrain::read(&mut stream, &drains);
            stream.accept()?;
            let restored = drains.iter().try_for_each(|document| {
                let context = Context { document, stream: &stream };
                restore::restore(program.project(&context)?, &context, to, receipt.as_deref())
            });
            Ok(restored.map_or_else(|error: Error| documents::report(&error), |()| Exit::Done))
        }
    }
}

type Context<'a> = documents::Context<'a, Drain>;
type Status = documents::Status<Observed, Evidence, Step>;

struct DataDrain {
    projects: Projects,
}

impl DataDrain {
    fn read(stream: &mut Stream, declared: &[Declared<Drain>]) -> Self {
        let projects = Projects::read(stream);
        for drain in declared {
            for (path, message) in mistakes(&drain.spec) {
                stream.invalid(drain, &path, &message);
            }
            let Some(project) = project_of(stream, &drain.spec.cluster) else { continue };
            stream.require_exists(drain, "/spec/cluster", "Project", &project);
            let Ok(project) = projects.get(&project) else { continue };
            for (index, name) in drain.spec.recipients.iter().enumerate() {
                let known = || project.spec.recipients.iter().map(|it| it.name.to_string());
                if !known().any(|it| it == *name) {
                    let known: Vec<_> = known().collect();
                    let message = format!(
                        "the Project has no recipient of this name, only {}",
                        known.join(", ")
                    );
                    stream.invalid(drain, &format!("/spec/recipients/{index}"), &message);
                }
                let reads =
                    |it: &Recipient| it.name.to_string() == *name && it.access == Access::Reader;
                if project.spec.recipients.iter().any(reads) {
                    let message = "this recipient has the access `reader`, and a copy holds every secret of its claim";
                    stream.invalid(drain, &format!("/spec/recipients/{index}"), message);
                }
            }
        }
        Self { projects }
    }

    fn project(&self, context: &Context<'_>) -> Result<&Declared<Project>, Error> {
        let project =
            project_of(context.stream, &context.document.spec.cluster).unwrap_or_default();
        Ok(self.projects.get(project)?)
    }

    fn wanted<'a>(&'a self, context: &Context<'a>) -> Result<Wanted<'a>, Error> {
        let (document, project) = (context.document, self.project(context)?);
        let recipient = |name: &String| -> Option<AgeRecipient> {
            let named = project.spec.recipients.iter().find(|it| it.name.to_string() == *name);
            named.map(|it| it.age.clone())
        };
        let Store::S3 { bucket, .. } = store::declared(&project.spec)?;
        let mut forges = BTreeMap::new();
        for forge in document.spec.sources.iter().filter_map(|it| it.forge.as_ref()) {
            forges.insert(forge.as_str(), origin(context.stream, &project.spec, forge)?);
        }
        Ok(Wanted {
            project: project.name.as_str(),
            drain: document.name.as_str(),
            cluster: document.spec.cluster.as_str(),
            bucket,
            sources: &document.spec.sources,
            recipients: document.spec.recipients.iter().filter_map(recipient).collect(),
            receipts: keyring::receipt_keys(project)?,
            forges,
            covered: covered(context.stream, &document.spec.cluster),
        })
    }

    fn status(wanted: &Wanted<'_>, seen: &Seen, reason: &str) -> Status {
        let message = format!(
            "{} is copied for {} recipients, read back and receipted",
            wanted.cluster,
            wanted.recipients.len()
        );
        Status {
            observed: Some(seen.observed(wanted)),
            evidence: seen.evidence(wanted),
            ..Status::new(Condition::ready(true, reason, message))
        }
    }

    /// The cluster's kubeconfig, opened with the caller's age identity, or the phase's own.
    fn kubeconfig(&self, context: &Context<'_>) -> Result<Secret, Error> {
        let name = context.document.spec.cluster.as_str();
        let sealed = context.stream.status_of::<String>("Cluster", name, "/sealed/kubeconfig")?;
        Ok(keyring::unseal(self.project(context)?, "data-drain", &sealed)?)
    }
}

impl Verbs for DataDrain {
    type Kind = Drain;
    type Error = Error;

    fn dependencies(document: &Declared<Drain>) -> Vec<Dependency> {
        let sources = document.spec.sources.iter().enumerate();
        let forges = sources.filter_map(|(index, it)| {
            Some(Dependency::to_ready(
                format!("/spec/sources/{index}/forge"),
                "Repository",
                it.forge.as_ref()?,
            ))
        });
        let mut refers =
            vec![Dependency::to_ready("/spec/cluster", "Cluster", &document.spec.cluster)];
        if document.spec.sources.iter().any(|it| it.claim.is_some()) {
            refers.push(Dependency::to_ready("/spec/reader", "Artifact", &document.spec.reader));
        }
        refers.extend(forges);
        refers
    }

    fn plan(&self, context: &Context<'_>) -> Result<Status, Error> {
        let is_ready = |kind, name: &Name| context.stream.ready(kind, name.as_str()).is_ok();
        let forges = context.document.spec.sources.iter().filter_map(|it| it.forge.as_ref());
        let forges_are = forges.into_iter().all(|it| is_ready("Repository", it));
        if !is_ready("Cluster", &context.document.spec.cluster) || !forges_are {
            let name = context.document.name.as_str();
            documents::note(
                name,
                "what is to be copied is not there yet: nothing can be told of it",
            );
            return Ok(Status::planned(None, plan::plan(&not_there(&context.document.spec))));
        }
        let wanted = self.wanted(context)?;
        let store = store::Reader::open(store::declared(&self.project(context)?.spec)?)?;
        let reader = cluster::Reader::open(&self.kubeconfig(context)?)?;
        let seen = observe(&reader, &store, &wanted)?;
        let steps = plan::plan(&seen.world());
        told(&wanted, &seen);
        if steps.is_empty() {
            return Ok(Self::status(&wanted, &seen, "Drained"));
        }
        if let Ok(image) = image(context) {
            apply::admissible(&reader, wanted.drain, &image, &seen)?;
        }
        Ok(Status::planned(Some(seen.observed(&wanted)), steps))
    }

    fn plan_destroy(&self, context: &Context<'_>) -> Result<Status, Error> {
        if is_gone(context) {
            return Ok(Status::planned(None, Vec::new()));
        }
        let reader = cluster::Reader::open(&self.kubeconfig(context)?)?;
        Ok(Status::planned(None, plan::plan_destroy(&stopped(&reader, context)?.world())))
    }

    fn apply(&self, context: &Context<'_>) -> Result<Status, Error> {
        let (wanted, kubeconfig) = (self.wanted(context)?, self.kubeconfig(context)?);
        let store = store::declared(&self.project(context)?.spec)?;
        let back = store::Reader::open(store)?;
        let reader = cluster::Reader::open(&kubeconfig)?;
        let mut seen = observe(&reader, &back, &wanted)?;
        told(&wanted, &seen);
        if plan::plan(&seen.world()).is_empty() {
            // A copy that is damaged by now is told; nothing is started because of it.
            apply::proven(&back, &wanted, &seen)?;
        } else {
            let phase = keyring::phase_key(self.project(context)?, "data-drain")?;
            let lease = Lease::take(wanted.drain, &kubeconfig)?;
            let session = Session {
                reader: &reader,
                writer: &cluster::Writer::open(&kubeconfig)?,
                back: &back,
                store: &store::Writer::open(store)?,
                keys: &Keys::new(phase, wanted.project),
                lease: &lease,
                image: &image(context)?,
                limit: Limit::new(context.document.spec.timeout_seconds.seconds()),
            };
            // Another run may have been at work until the lease was taken.
            seen = observe(&reader, &back, &wanted)?;
            apply::apply(&session, &wanted, &seen)?;
            seen = observe(&reader, &back, &wanted)?;
        }
        let left = plan::plan(&seen.world());
        if left.is_empty() {
            return Ok(Self::status(&wanted, &seen, "Drained"));
        }
        Err(Error::Unsettled { steps: left.iter().map(ToString::to_string).collect() })
    }

    fn verify(&self, context: &Context<'_>) -> Result<Status, Error> {
        let wanted = self.wanted(context)?;
        let store = store::Reader::open(store::declared(&self.project(context)?.spec)?)?;
        let seen = observe(&cluster::Reader::open(&self.kubeconfig(context)?)?, &store, &wanted)?;
        told(&wanted, &seen);
        if seen.receipt.is_none() {
            let what = seen.world().found.into_iter().map(|found| found.source);
            return Err(Error::Unproven { what: what.collect(), why: seen.changes() });
        }
        apply::proven(&store, &wanted, &seen)?;
        Ok(Self::status(&wanted, &seen, "Proven"))
    }

    fn destroy(&self, context: &Context<'_>) -> Result<Status, Error> {
        if is_gone(context) {
            return Ok(Status::destroyed("the cluster is gone; the copies stay"));
        }
        let kubeconfig = self.kubeconfig(context)?;
        let reader = cluster::Reader::open(&kubeconfig)?;
        if !plan::plan_destroy(&stopped(&reader, context)?.world()).is_empty() {
            let lease = Lease::take(context.document.name.as_str(), &kubeconfig)?;
            let writer = cluster::Writer::open(&kubeconfig)?;
            apply::start(
                &reader,
                &writer,
                context.document.name.as_str(),
                &stopped(&reader, context)?,
            )?;
            lease.check()?;
        }
        let left = plan::plan_destroy(&stopped(&reader, context)?.world());
        if left.is_empty() {
            return Ok(Status::destroyed("what was stopped runs again; the copies stay"));
        }
        Err(Error::Unsettled { steps: left.iter().map(ToString::to_string).collect() })
    }

    fn derive(&self, context: &Context<'_>) -> Result<Vec<Derived>, Error> {
        let project = self.project(context)?;
        let key = keyring::phase_key(project, "data-drain")?;
        let public = keyring::ReceiptKey::of(&key, project.name.as_str()).pem();
        Ok(vec![Derived::new("receipt.pub", public.into_bytes().into())])
    }
}

/// What the types cannot say: where, and what is wrong.
fn mistakes(spec: &Drain) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut mistake = |path: &str, message: &str| {
        mistakes.push((path.to_owned(), message.to_owned()));
    };
    if spec.sources.is_empty() {
        mistake("/spec/sources", "a drain of nothing proves nothing: name a source");
    }
    if spec.recipients.is_empty() {
        mistake("/spec/recipients", "nobody could open the copies: name a recipient");
    }
    for (index, source) in spec.sources.iter().enumerate() {
        let path = format!("/spec/sources/{index}");
        match (&source.claim, &source.forge, &source.freeze) {
            (Some(_), None, _) | (None, Some(_), None) => {}
            (None, Some(_), Some(_)) => {
                mistake(&format!("{path}/freeze"), "a forge cannot be frozen");
            }
            _ => mistake(&path, "a source is either a claim or a forge"),
        }
        if source.forge.is_some() && source.node.is_some() {
            mistake(&format!("{path}/node"), "a forge is on no node");
        }
        let same = |other: &Source| {
            (source.claim.is_some() && other.claim == source.claim)
                || (source.forge.is_some() && other.forge == source.forge)
        };
        if spec.sources[..index].iter().any(same) {
            mistake(&path, "another source names the same");
        }
    }
    for (index, name) in spec.recipients.iter().enumerate() {
        if spec.recipients[..index].contains(name) {
            mistake(&format!("/spec/recipients/{index}"), "it is named twice");
        }
    }
    mistakes
}

/// A world in which nothing that is to be copied is there yet.
fn not_there(spec: &Drain) -> plan::World {
    let found = spec.sources.iter().map(|source| plan::Found {
        source: match (&source.claim, &source.forge) {
            (Some(claim), _) => claim.to_string(),
            (None, forge) => format!("forge {}", forge.as_ref().map_or("", Name::as_str)),
        },
        is_claim: source.claim.is_some(),
        workload: None,
    });
    let any_claim = spec.sources.iter().any(|source| source.claim.is_some());
    let hold = if any_claim { plan::Hold::Absent } else { plan::Hold::Needless };
    plan::World { found: found.collect(), hold, receipted: false, recorded: false }
}

/// What a drain may have stopped or held; claims that are gone are left out.
fn stopped(reader: &cluster::Reader, context: &Context<'_>) -> Result<Seen, Error> {
    claims(
        reader,
        context.document.name.as_str(),
        &context.document.spec.sources,
        Absent::IsLeftOut,
    )
}

/// Tells of data that no Drain of the cluster copies.
fn told(wanted: &Wanted<'_>, seen: &Seen) {
    for claim in &seen.uncovered {
        let text = format!("{claim} is a bound claim that no Drain names: its data is not copied");
        documents::note(wanted.drain, text);
    }
}

/// The claims that any Drain of the cluster names.
fn covered(stream: &Stream, cluster: &Name) -> BTreeSet<String> {
    let drains = stream.documents().filter(|document| {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/")
            && document["kind"] == "Drain"
            && document["spec"]["cluster"] == cluster.as_str()
    });
    let sources = drains.filter_map(|document| document["spec"]["sources"].as_array()).flatten();
    sources.filter_map(|source| source["claim"].as_str().map(str::to_owned)).collect()
}

/// Where git finds a repository of the forge, and what lets us in.
fn origin(stream: &Stream, project: &Project, forge: &Name) -> Result<(Url, Secret), Error> {
    let name = forge.as_str();
    let url: String = stream.status_of("Repository", name, "/observed/cloneUrl")?;
    let url = Url::try_from(url).map_err(|why| documents::Error::NotReady {
        document: format!("Repository/{name}"),
        why: format!("its clone URL is {why}"),
    })?;
    let endpoint = project.endpoints.forge.as_ref().ok_or(Error::NoEndpoint("forge"))?;
    let (keyring::Forge::Github { token, .. } | keyring::Forge::Gitea { token, .. }) = endpoint;
    endpoint.owns(&url)?; // a status is only a file: it does not decide where the token goes
    Ok((url, token.resolve()?))
}

/// The image that reads volumes, pinned to what was attested.
fn image(context: &Context<'_>) -> Result<String, Error> {
    if context.document.spec.sources.iter().all(|it| it.claim.is_none()) {
        return Ok(String::new());
    }
    let name = context.document.spec.reader.as_str();
    Ok(context.stream.status_of("Artifact", name, "/observed/reference")?)
}

fn project_of(stream: &Stream, cluster: &Name) -> Option<String> {
    let cluster = stream.document("Cluster", cluster.as_str())?;
    cluster["spec"]["project"].as_str().map(str::to_owned)
}

/// Whether the cluster has been destroyed.
fn is_gone(context: &Context<'_>) -> bool {
    let cluster = context.stream.document("Cluster", context.document.spec.cluster.as_str());
    let conditions = cluster.and_then(|it| it["status"]["conditions"].as_array());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == "Ready" && it["reason"] == Condition::DESTROYED)
}
