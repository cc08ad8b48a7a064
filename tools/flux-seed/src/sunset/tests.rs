use documents::Deferred;

use super::*;
use crate::clients::cluster::served::ServedKind;
use crate::graph::uid;
use crate::plan::{LiveObject, Owner};
use crate::scan::Scan;

/// A cluster whose objects an API server and its controllers delete as they do.
struct Simulation {
    objects: Vec<Value>,
    suspended: BTreeSet<String>,
    record: Record,
    extent: Extent,
}

/// Returns an object with a UID, which is its kind and name.
fn object(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {
        "name": name, "namespace": namespace, "uid": format!("{kind}/{name}"),
    }})
}

/// Returns an object that the Kustomization of the Delivery has applied.
fn delivered(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut object = object(api_version, kind, namespace, name);
    object["metadata"]["labels"] = json!({
        "kustomize.toolkit.fluxcd.io/name": "prod",
        "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    });
    object["metadata"]["managedFields"] =
        json!([{"manager": "kustomize-controller", "operation": "Apply"}]);
    object
}

fn owned(mut object: Value, owner: &str) -> Value {
    object["metadata"]["ownerReferences"] = json!([{"uid": owner}]);
    object
}

const FLUX: &str = "kustomize.toolkit.fluxcd.io/v1";

/// Returns the objects that the program installs, with what Kubernetes creates for them.
fn installed() -> Vec<Value> {
    vec![
        object(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            None,
            "kustomizations.kustomize.toolkit.fluxcd.io",
        ),
        object("v1", "Namespace", None, "flux-system"),
        object("v1", "Secret", Some("flux-system"), "prod-sops"),
        object("apps/v1", "Deployment", Some("flux-system"), "controller"),
        object("source.toolkit.fluxcd.io/v1", "OCIRepository", Some("flux-system"), "prod"),
        object(FLUX, "Kustomization", Some("flux-system"), "prod"),
    ]
}

/// Returns groups of delivered objects. A simulation has some of them.
fn groups() -> Vec<Vec<Value>> {
    let apps = "apps/v1";
    let team = Some("team");
    let default = Some("default");
    vec![
        vec![
            delivered(apps, "Deployment", default, "web"),
            owned(object(apps, "ReplicaSet", default, "web-1"), "Deployment/web"),
            owned(object("v1", "Pod", default, "web-1-a"), "ReplicaSet/web-1"),
        ],
        vec![
            delivered("v1", "Namespace", None, "team"),
            delivered(apps, "Deployment", team, "inner"),
            owned(object(apps, "ReplicaSet", team, "inner-1"), "Deployment/inner"),
            object("v1", "ConfigMap", team, "by-hand"),
        ],
        vec![
            delivered(apps, "StatefulSet", team, "db"),
            owned(object("v1", "PersistentVolumeClaim", team, "data-db-0"), "StatefulSet/db"),
        ],
        vec![delivered("v1", "PersistentVolumeClaim", default, "direct")],
        vec![delivered(FLUX, "Kustomization", Some("flux-system"), "nested")],
        vec![
            delivered(
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                None,
                "databases.example.org",
            ),
            delivered("example.org/v1", "Database", default, "orders"),
            object("example.org/v1", "Database", default, "by-hand"),
        ],
        vec![delivered("v1", "Service", default, "lb")],
    ]
}

impl Simulation {
    fn sunset(&self) -> Sunset {
        let of_kind = |kind: &str| -> Vec<Value> {
            self.objects.iter().filter(|object| object["kind"] == kind).cloned().collect()
        };
        let served = |api_version: &str, kind: &str, plural: &str| ServedKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced: true,
        };
        let kinds = vec![
            served(FLUX, "Kustomization", "kustomizations"),
            served("example.org/v1", "Database", "databases"),
        ];
        let mut kustomizations = of_kind("Kustomization");
        for live in &mut kustomizations {
            let is_suspended = self.suspended.contains(&uid(live));
            live["spec"] = json!({"suspend": is_suspended, "prune": true});
        }
        let mut services = of_kind("Service");
        for live in &mut services {
            live["spec"] = json!({"type": "LoadBalancer"});
        }
        let facts = ClusterFacts {
            scan: Scan { objects: self.objects.clone(), kinds, ..Scan::default() },
            kustomizations,
            services,
            claims: of_kind("PersistentVolumeClaim"),
            stateful_sets: of_kind("StatefulSet"),
            pods: of_kind("Pod"),
            ..ClusterFacts::default()
        };
        let objects = installed();
        let is_installed =
            |live: &&Value| objects.iter().any(|object| Identity::of(object) == Identity::of(live));
        let actual = self.objects.iter().filter(is_installed).map(|object| {
            let (owner, holds) = (Owner::Ours, Vec::new());
            let live = LiveObject {
                object: object.clone(),
                owner,
                admitted: None,
                holds,
                not_ready_reason: None,
            };
            (Identity::of(object), live)
        });
        let seen = ObservedObjects { actual: actual.collect(), ..ObservedObjects::nothing() };
        let [source, kustomization] = [4, 5].map(|place: usize| Identity::of(&objects[place]));
        let installation = objects[..4].iter().filter(|object| object["kind"] != "Secret");
        let installation = installation.map(Identity::of).collect();
        let desired = Desired {
            objects,
            installation,
            adoption: None,
            shared: BTreeSet::new(),
            images: BTreeMap::new(),
            artifact: Deferred::AfterApply,
            sops_recipient: None,
            source,
            kustomization,
        };
        let record = self.record.clone();
        Sunset::new("prod", &desired, self.extent, (facts, record, seen))
    }

    fn execute(&mut self, step: &Step) {
        match step {
            Step::Suspend { object } => {
                self.suspended.insert(format!("Kustomization/{}", object.name));
            }
            Step::Remove { object, .. } => self.delete(object),
            Step::RemoveRecord { .. } => self.record = Record::none(),
            other => panic!("{other} is no step of a removal"),
        }
    }

    /// Deletes an object and everything that Kubernetes deletes with it.
    fn delete(&mut self, id: &Identity) {
        let is_root = |object: &Value| Identity::of(object) == *id;
        assert!(self.objects.iter().any(is_root), "{id} exists");
        self.objects.retain(|object| !is_root(object));
        loop {
            let there: BTreeSet<_> = self.objects.iter().map(uid).collect();
            let before = self.objects.len();
            self.objects.retain(|object| {
                let metadata = &object["metadata"];
                let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
                let has_owners = owners
                    .into_iter()
                    .all(|owner| there.contains(owner["uid"].as_str().unwrap_or_default()));
                let is_in = |namespace: &str| metadata["namespace"] == namespace;
                let is_of = |kind: &str| object["kind"] == kind;
                has_owners
                    && !(id.kind == "Namespace" && is_in(&id.name))
                    && !(id.name == "databases.example.org" && is_of("Database"))
                    && !(id.name.starts_with("kustomizations.") && is_of("Kustomization"))
            });
            if self.objects.len() == before {
                return;
            }
        }
    }
}

/// Calls `law` with every combination of delivered groups, each with running and with suspended
/// Kustomizations.
fn for_all(law: impl Fn(Simulation)) {
    let groups = groups();
    for number in 0..1_usize << (groups.len() + 1) {
        let mut objects = installed();
        objects.push(object("v1", "ConfigMap", Some("default"), "theirs"));
        for (place, group) in groups.iter().enumerate() {
            if number >> place & 1 == 1 {
                objects.extend(group.iter().cloned());
            }
        }
        let mut suspended = BTreeSet::new();
        if number >> groups.len() == 1 {
            suspended.extend(["prod", "nested"].map(|name| format!("Kustomization/{name}")));
        }
        law(Simulation { objects, suspended, record: Record::none(), extent: Extent::All });
    }
}

/// Executes the removal, until it is complete or `batches` were executed.
fn run(simulation: &mut Simulation, batches: usize) -> Vec<Step> {
    let mut executed = Vec::new();
    for _ in 0..batches {
        let sunset = simulation.sunset();
        let steps = sunset.steps();
        match sunset.next(&steps) {
            Next::Finish => break,
            Next::Wait { reason } => panic!("{reason}"),
            Next::Execute { count } => {
                if sunset.removed().next().is_some() {
                    simulation.record = sunset.record.after_add(&sunset.going);
                }
                for step in &steps[..count] {
                    simulation.execute(step);
                }
                executed.extend_from_slice(&steps[..count]);
            }
        }
    }
    executed
}

const ALL: usize = 100;

#[test]
fn destroy_executes_the_steps_of_the_first_plan_in_their_order_and_leaves_what_others_made() {
    for_all(|mut simulation| {
        let planned = simulation.sunset().steps();
        let executed = run(&mut simulation, ALL);
        assert_eq!(executed, planned);
        let left: Vec<_> = simulation.objects.iter().map(uid).collect();
        assert_eq!(left, ["ConfigMap/theirs"]);
    });
}

#[test]
fn detach_suspends_all_of_flux_before_it_is_removed_and_leaves_every_workload() {
    for_all(|mut simulation| {
        simulation.extent = Extent::Flux;
        let is_of_flux = |object: &Value| {
            let id = Identity::of(object);
            id.group().ends_with(".toolkit.fluxcd.io")
                || installed().iter().any(|installed| Identity::of(installed) == id)
        };
        let mut workloads = simulation.objects.clone();
        workloads.retain(|object| !is_of_flux(object));
        let stays = simulation.sunset().stays;
        let executed = run(&mut simulation, ALL);
        assert_eq!(simulation.objects, workloads);
        let position = |is_wanted: &dyn Fn(&Step) -> bool| executed.iter().position(is_wanted);
        let removed = position(&|step| matches!(step, Step::Remove { .. }));
        let suspended = executed.iter().rposition(|step| matches!(step, Step::Suspend { .. }));
        assert!(suspended < removed, "{executed:?}");
        for step in executed.iter().filter(|step| matches!(step, Step::Remove { .. })) {
            let id = step.object();
            let name = format!("{}/{}", id.kind, id.name);
            assert!(id.kind != "Kustomization" || simulation.suspended.contains(&name), "{name}");
        }
        for object in workloads.iter().filter(|object| object["metadata"]["labels"].is_object()) {
            let reason =
                format!("{} (the Delivery says `onDestroy: detach`)", Identity::of(object));
            assert!(stays.contains(&reason), "{reason}: {stays:?}");
        }
    });
}

#[test]
fn interrupted_removal_is_completed_by_the_next_run_with_the_steps_that_are_left() {
    for_all(|mut simulation| {
        let planned = simulation.sunset().steps();
        let mut executed = Vec::new();
        // Each run ends after one batch, and the inventory is lost with the Kustomization.
        loop {
            let steps = run(&mut simulation, 1);
            if steps.is_empty() {
                break;
            }
            executed.extend(steps);
        }
        assert_eq!(executed, planned);
        assert_eq!(simulation.objects.len(), 1);
        assert!(simulation.record.is_empty());
    });
}

#[test]
fn record_stays_until_every_object_in_it_is_deleted() {
    let (objects, suspended, record) = (installed(), BTreeSet::new(), Record::none());
    let mut simulation = Simulation { objects, suspended, record, extent: Extent::All };
    let pod = owned(object("v1", "Pod", Some("flux-system"), "held"), "ReplicaSet/gone");
    simulation.objects.push(pod);
    let sunset = simulation.sunset();
    let last = sunset.steps().pop();
    assert!(matches!(last, Some(Step::RemoveRecord { .. })));
    let next = sunset.next(&last.into_iter().collect::<Vec<_>>());
    assert!(matches!(next, Next::Wait { .. }), "{next:?}");
}
