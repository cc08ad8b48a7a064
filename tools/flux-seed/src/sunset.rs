//! Removes what was delivered, then what was installed, and proves that both are gone.
//!
//! Flux is suspended and never resumed: resuming applies the artifact once more, which would start
//! what a person has stopped. Its inventory is deleted here, in an order in which each controller
//! still runs when its objects go.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::Error;
use crate::cluster::{Reader, Writer};
use crate::deadline::Deadline;
use crate::graph::{Because, Doomed, Facts, Going, Graph, is_applied_by, is_kept, is_of, key, uid};
use crate::object::{Identity, order};
use crate::observe::{self, Look, Seen, observe};
use crate::plan::{Step, kept, plan_destroy};
use crate::record::Record;
use crate::wait::is_at_work;
use crate::wanted::Wanted;

/// How often the cluster is looked at again before the removal is given up.
const ROUNDS: usize = 6;

/// What a removal takes and leaves.
pub(crate) struct Sunset {
    pub(crate) facts: Facts,
    pub(crate) seen: Seen,
    pub(crate) record: Record,
    /// Everything that goes.
    pub(crate) going: Going,
    /// Objects of the Delivery that stay, each with the reason.
    pub(crate) stays: Vec<String>,
}

impl Sunset {
    /// Looks at everything. Changes nothing.
    pub(crate) fn observe(
        reader: &Reader,
        name: &str,
        wanted: &Wanted,
        prune: bool,
    ) -> Result<Self, Error> {
        let facts = Facts::read(reader)?;
        let record = Record::read(reader, name)?;
        let mut seen = observe(reader, name, wanted, Look::Removal)?;
        let graph = Graph::new(&facts);
        let delivered = delivered(&facts, &graph, wanted, prune);
        let roots = || delivered.iter().map(|id| (id.clone(), Because::Delivered));
        let first = record.closure(&graph, roots().collect());
        // What others keep in our definitions and our Namespace, now that it is known what goes.
        observe::foreign_contents(&facts.scan, &first, wanted, &mut seen.world);
        let installed = plan_destroy(&seen.world).into_iter().map(|step| step.object().clone());
        let installed = installed.map(|id| (id, Because::Installed));
        let going = record.closure(&graph, roots().chain(installed).collect());
        let mut stays = stays(&facts, wanted, &going, prune);
        stays.extend(kept(&seen.world));
        for api in &facts.scan.silent {
            stays.push(format!("what {api} serves (its server does not answer)"));
        }
        Ok(Self { facts, seen, record, going, stays })
    }

    /// The steps of the removal, in order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let removals = plan_destroy(&self.seen.world);
        let ours: BTreeSet<_> = removals.iter().map(|step| key(step.object())).collect();
        let delivered = self.waves().into_iter().flatten();
        let delivered = delivered.filter(|doomed| !ours.contains(&key(&doomed.id)));
        let steps = delivered.map(|doomed| Step::Remove { object: doomed.id.clone() });
        steps.chain(removals).collect()
    }

    /// What we delete so that `doomed` goes.
    fn root<'a>(&'a self, doomed: &'a Doomed) -> &'a Doomed {
        let mut root = doomed;
        // Owners may own one another.
        for _ in 0..self.going.len() {
            let above = match &root.because {
                Because::Owner(id) | Because::StatefulSet(id) => self.going.get(&key(id)),
                _ => None,
            };
            match above {
                Some(above) => root = above,
                None => break,
            }
        }
        root
    }

    /// Waits until the claims and volumes are gone that go with what was deleted so far: the
    /// storage's controllers still run.
    fn data_is_gone(&self, reader: &Reader, deadline: &Deadline) -> Result<(), Error> {
        let kinds = ["PersistentVolumeClaim", "PersistentVolume"];
        let ours = |doomed: &&Doomed| {
            let root = self.root(doomed);
            let deleted = root.is_direct() && root.because != Because::Installed;
            kinds.contains(&doomed.id.kind.as_str()) && doomed.is_removed() && deleted
        };
        let all = self.going.values().filter(ours);
        all.into_iter().try_for_each(|it| wait_deleted(reader, &it.id, &it.uid, deadline))
    }

    /// What we delete ourselves of the delivered, in waves: each is gone before the next begins.
    fn waves(&self) -> Vec<Vec<&Doomed>> {
        let mut users = self.facts.claim_users();
        // What owns claims goes with what uses them, before the storage's controllers.
        let claims = self.going.values().filter(|doomed| doomed.is_claim());
        users.extend(claims.map(|claim| self.root(claim).uid.clone()));
        let direct = |doomed: &&Doomed| {
            matches!(doomed.because, Because::Delivered | Because::Recorded)
                && !self.seen.world.contains_key(&doomed.id)
        };
        let mut waves: Vec<Vec<&Doomed>> = vec![Vec::new(); WAVES];
        for doomed in self.going.values().filter(direct) {
            waves[wave(doomed, &self.facts, &users, &self.going)].push(doomed);
        }
        for wave in &mut waves {
            wave.sort_by(|a, b| order(&b.id).cmp(&order(&a.id)));
        }
        waves
    }
}

const WAVES: usize = 9;
const CLAIMS: usize = 3;
const VOLUMES: usize = 4;
const NAMESPACES: usize = 7;

/// When an object goes. Its controller must still run, and what uses it must be gone.
fn wave(doomed: &Doomed, facts: &Facts, users: &BTreeSet<String>, going: &Going) -> usize {
    let id = &doomed.id;
    let is_balancer = || {
        facts.services.iter().any(|service| {
            Identity::of(service).is_same(id) && service["spec"]["type"] == "LoadBalancer"
        })
    };
    match (id.group(), id.kind.as_str()) {
        // The cloud's controller removes its load balancers: it must not go first.
        ("networking.k8s.io" | "extensions", "Ingress") => 0,
        ("", "Service") if is_balancer() => 0,
        ("gateway.networking.k8s.io", kind) if kind != "GatewayClass" => 0,
        (group, _) if group.ends_with(".toolkit.fluxcd.io") && id.kind == "HelmRelease" => 1,
        // Flux's sources and Kustomizations are suspended, and hold nothing by now.
        (group, _) if group.ends_with(".toolkit.fluxcd.io") => 6,
        // A webhook whose server is gone would refuse every later deletion.
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => 5,
        // Claims that only the Namespace takes away go while the storage's controllers still run.
        ("", "Namespace")
            if going.values().any(|claim| {
                claim.is_claim() && claim.because == Because::Namespace(id.name.clone())
            }) =>
        {
            VOLUMES
        }
        ("", "Namespace") => NAMESPACES,
        ("apiextensions.k8s.io", _) => 8,
        ("", "PersistentVolumeClaim") => CLAIMS,
        ("", "PersistentVolume") => VOLUMES,
        _ if users.contains(&doomed.uid) => 2,
        _ if facts.scan.is_defined(id) => 1,
        _ => 6,
    }
}

/// The objects that the Delivery has applied and that go with it.
fn delivered(facts: &Facts, graph: &Graph<'_>, wanted: &Wanted, prune: bool) -> Vec<Identity> {
    let absent = json!({"metadata": {
        "name": wanted.kustomization.name, "namespace": wanted.kustomization.namespace,
    }});
    let live = facts.kustomizations.iter();
    let live = live.into_iter().find(|it| Identity::of(it).is_same(&wanted.kustomization));
    // Without a Kustomization, the labels of the objects tell.
    let ours = |id: &Identity| wanted.objects.iter().any(|it| Identity::of(it).is_same(id));
    let mut all = graph.delivered(live.unwrap_or(&absent), prune);
    all.retain(|id| !ours(id));
    all
}

/// What the Delivery has applied and that stays, and why.
fn stays(facts: &Facts, wanted: &Wanted, going: &Going, prune: bool) -> Vec<String> {
    let name = wanted.kustomization.name.as_str();
    let namespace = wanted.kustomization.namespace.as_deref().unwrap_or_default();
    let mut stays = Vec::new();
    for object in facts.scan.objects.iter().filter(|object| is_of(object, name, namespace)) {
        let id = Identity::of(object);
        let owned = object["metadata"]["ownerReferences"].is_array() || id.kind == "Endpoints";
        let ours = || wanted.objects.iter().any(|it| Identity::of(it).is_same(&id));
        if owned || going.contains_key(&key(&id)) || ours() {
            continue;
        }
        let why = if is_kept(object) {
            "Flux was told to leave it"
        } else if !prune {
            "the Delivery says `prune: false`"
        } else if is_applied_by(object, name, namespace) {
            "its Kustomization was told to orphan it"
        } else {
            "it has the Delivery's labels, and Flux did not apply it"
        };
        stays.push(format!("{id} ({why})"));
    }
    stays
}

/// Removes everything that goes, in the order that keeps controllers alive until their objects are
/// gone, and returns what stays. `allow` is the data gate: it is asked before the first deletion and
/// again whenever more would go, and it marks what a hold keeps.
pub(crate) fn remove(
    name: &str,
    wanted: &Wanted,
    prune: bool,
    (reader, writer): (&Reader, &Writer),
    deadline: &Deadline,
    allow: &dyn Fn(&Sunset) -> Result<(), Error>,
) -> Result<Vec<String>, Error> {
    for _ in 0..ROUNDS {
        let sunset = Sunset::observe(reader, name, wanted, prune)?;
        allow(&sunset)?;
        if !sunset.going.values().any(Doomed::is_removed) {
            Record::remove(reader, writer, name)?;
            return Ok(sunset.stays);
        }
        sunset.record.add(writer, name, &sunset.going)?;
        if suspend(name, &sunset, wanted, (reader, writer))? {
            // An apply that had begun before may have made more: look again.
            continue;
        }
        for (number, wave) in sunset.waves().into_iter().enumerate() {
            // Claims, volumes and Namespaces hold data: nothing may have been added meanwhile.
            if matches!(number, CLAIMS | VOLUMES | NAMESPACES) && !wave.is_empty() {
                allow(&Sunset::observe(reader, name, wanted, prune)?)?;
            }
            take(name, &sunset, &wave, (reader, writer), deadline)?;
            if number == VOLUMES {
                sunset.data_is_gone(reader, deadline)?;
            }
        }
        for step in plan_destroy(&sunset.seen.world) {
            documents::check_interrupt()?;
            let Some(live) = sunset.seen.world.get(step.object()) else { continue };
            let doing = documents::step(name, "remove");
            writer.delete(&live.object)?;
            wait_deleted(reader, step.object(), &uid(&live.object), deadline)?;
            doing.done(step.object());
        }
        for doomed in sunset.going.values() {
            if doomed.is_removed() {
                wait_deleted(reader, &doomed.id, &doomed.uid, deadline)?;
            }
        }
    }
    let left = Sunset::observe(reader, name, wanted, prune)?;
    Err(Error::Unsettled { steps: left.steps().iter().map(ToString::to_string).collect() })
}

/// Suspends the Kustomization of the Delivery and every one that it delivered, so that nothing is
/// applied or pruned any more. Whether any was at work.
fn suspend(
    name: &str,
    sunset: &Sunset,
    wanted: &Wanted,
    (reader, writer): (&Reader, &Writer),
) -> Result<bool, Error> {
    let mut changed = false;
    let is_ours =
        |id: &Identity| id.is_same(&wanted.kustomization) || sunset.going.contains_key(&key(id));
    let mut all: Vec<_> = sunset.facts.kustomizations.iter().collect();
    // The one that delivers the others first: it would set their fields back.
    all.sort_by_key(|live| !Identity::of(live).is_same(&wanted.kustomization));
    for live in all {
        let id = Identity::of(live);
        if live["spec"]["suspend"] == true || !is_ours(&id) {
            continue;
        }
        let doing = documents::step(name, "suspend");
        writer.merge(&id, &json!({"spec": {"suspend": true}}))?;
        let until = Deadline::after(10);
        while is_at_work(live) {
            let there = reader.get(&id)?.unwrap_or_default();
            // A controller that does not run never ends its work: we do not wait for long.
            let working = there["status"]["conditions"].as_array().into_iter().flatten();
            let working = working.into_iter().any(|it| {
                it["type"] == "Reconciling"
                    && it["status"] == "True"
                    && it["reason"] == "Progressing"
            });
            if !working || until.wait(Vec::new).is_err() {
                break;
            }
        }
        doing.done(&id);
        changed = true;
    }
    Ok(changed)
}

/// Deletes one wave, and waits until all of it is gone.
fn take(
    name: &str,
    sunset: &Sunset,
    wave: &[&Doomed],
    (reader, writer): (&Reader, &Writer),
    deadline: &Deadline,
) -> Result<(), Error> {
    let mut deleted = Vec::new();
    for doomed in wave {
        documents::check_interrupt()?;
        // As it is now: somebody may have told Flux meanwhile to leave it, or made another one.
        let Some(live) = reader.get(&doomed.id)? else { continue };
        let flipped = doomed.because == Because::Delivered && is_kept(&live);
        if flipped || uid(&live) != doomed.uid {
            continue;
        }
        let doing = documents::step(name, "remove");
        writer.delete(&live)?;
        deleted.push((*doomed, doing));
    }
    for (doomed, doing) in deleted {
        wait_deleted(reader, &doomed.id, &doomed.uid, deadline)?;
        // Pods of a workload that has claims go before the claims.
        for pod in sunset.facts.pods_of(&doomed.uid) {
            wait_deleted(reader, &Identity::of(pod), &uid(pod), deadline)?;
        }
        doing.done(&doomed.id);
    }
    Ok(())
}

/// Waits until the very object is no longer there.
pub(crate) fn wait_deleted(
    reader: &Reader,
    id: &Identity,
    was: &str,
    deadline: &Deadline,
) -> Result<(), Error> {
    loop {
        let there = deadline.look(|| reader.get(id))?.filter(|live| uid(live) == was);
        let Some(there) = there else { return Ok(()) };
        deadline.wait(|| {
            let finalizers = &there["metadata"]["finalizers"];
            let waits = match finalizers.as_array() {
                None => String::new(),
                Some(list) => {
                    let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
                    format!(", held by its finalizers {}", list.join(", "))
                }
            };
            vec![format!("{id} is still there{waits}")]
        })?;
    }
}
