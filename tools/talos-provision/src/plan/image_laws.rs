//! Laws of the steps for images, over every small world.

use std::collections::{BTreeMap, BTreeSet};

use super::laws::{CONTROL, OURS, configured, desired, found, recorded, resource, server};
use super::*;
use crate::schematic::Schematic;

const DISK_MAX: u32 = 40;
/// Names of the images of a world.
const DECLARED: u64 = 1;
const CREATING: u64 = 2;
const LARGE: u64 = 3;
const OTHER: u64 = 4;

fn declared() -> DesiredImage {
    DesiredImage {
        talos: "v1.13.9".to_owned(),
        schematic: Schematic::of(&crate::spec::Image::default()),
        factory: "https://factory.talos.dev".to_owned(),
        needs: BTreeMap::new(),
    }
}

fn need() -> Need {
    let offer = BuilderOffer {
        r#type: "cax11".to_owned(),
        locations: vec!["fsn1".to_owned()],
        hourly: crate::money::Rate::default(),
    };
    Need { disk_max: DISK_MAX, offers: vec![offer], gigabyte: None }
}

fn other() -> ImageIdentity {
    ImageIdentity { talos: "v1.13.8".to_owned(), ..declared().identity("arm") }
}

fn image(id: u64) -> OwnImage {
    OwnImage {
        identity: if id == OTHER { other() } else { declared().identity("arm") },
        is_available: id != CREATING,
        disk: if id == LARGE { DISK_MAX * 2 } else { DISK_MAX },
    }
}

/// Server that is there or has to be created, and the image from which it was created.
type Machine = Option<Option<u64>>;

/// Runs `law` on every pair of a declaration and a world.
fn for_all(law: impl Fn(&DesiredState, &ActualState)) {
    let machines: [Machine; 5] =
        [None, Some(None), Some(Some(DECLARED)), Some(Some(LARGE)), Some(Some(OTHER))];
    let identities = [None, Some(declared().identity("arm")), Some(other())];
    let mut worlds = 0;
    for is_declared in [false, true] {
        for machine in machines {
            for set in 0_u64..16 {
                for others in [None, Some(DECLARED), Some(OTHER)] {
                    for identity in &identities {
                        let mut desired = desired(&[(CONTROL, Role::Controlplane)]);
                        desired.image = is_declared.then(declared);
                        // The server types are looked up when a machine has to be created.
                        if let (Some(image), None) = (&mut desired.image, machine) {
                            image.needs.insert("arm".to_owned(), need());
                        }
                        law(&desired, &actual(&desired, machine, set, others, identity.as_ref()));
                        worlds += 1;
                    }
                }
            }
        }
    }
    assert_eq!(worlds, 2 * 5 * 16 * 3 * 3);
}

fn actual(
    desired: &DesiredState,
    machine: Machine,
    set: u64,
    others: Option<u64>,
    builder: Option<&ImageIdentity>,
) -> ActualState {
    let there = |(named, spec): (&SharedResource, &ResourceSpec)| {
        (named.clone(), found(true, named.kind, spec.clone()))
    };
    let record = [(resource(Kind::Network), recorded("begun-1"))];
    let servers = machine.map(|image| {
        let node = configured(OURS);
        let server = Server { image, ..server(1, Role::Controlplane, true, node) };
        (CONTROL.to_owned(), server)
    });
    let exists = |id: &u64| set & (1 << (id - 1)) != 0;
    let builder = builder.map(|identity| ImageBuilder {
        name: "c-image-arm".to_owned(),
        identity: identity.clone(),
    });
    ActualState {
        resources: desired.resources.iter().map(there).chain(record).collect(),
        servers: servers.into_iter().collect(),
        etcd: Etcd::Unknown,
        nodes: BTreeSet::new(),
        cordoned: BTreeSet::new(),
        images: Images {
            ours: (DECLARED..=OTHER).filter(exists).map(|id| (id, image(id))).collect(),
            builders: builder.into_iter().map(|builder| (50, builder)).collect(),
            used_by_others: others.into_iter().collect(),
        },
    }
}

fn creates(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::CreateImage { .. }))
}

fn removed(steps: &[Step]) -> BTreeSet<u64> {
    let id = |step: &Step| match step {
        Step::RemoveImage { id, .. } => Some(*id),
        _ => None,
    };
    steps.iter().filter_map(id).collect()
}

#[test]
fn an_image_is_created_only_for_a_new_machine_that_has_none() {
    for_all(|desired, actual| {
        let steps = plan(desired, actual);
        let has_image = actual.images.ours.contains_key(&DECLARED);
        let expected = desired.image.is_some() && actual.servers.is_empty() && !has_image;
        assert_eq!(creates(&steps), expected, "{steps:?}");
        let at = |step: fn(&Step) -> bool| steps.iter().position(step);
        if let Some(created) = at(|step| matches!(step, Step::CreateImage { .. })) {
            let machine = at(|step| matches!(step, Step::CreateServer { .. }));
            assert!(machine.is_some_and(|machine| created < machine), "{steps:?}");
        }
    });
}

#[test]
fn an_image_is_removed_only_if_no_document_and_no_server_needs_it() {
    for_all(|desired, actual| {
        let is_used = |id: u64| {
            actual.images.used_by_others.contains(&id)
                || actual.servers.values().any(|server| server.image == Some(id))
        };
        // Whether an image is too large is known once the server types were looked up.
        let is_looked_up = desired.image.as_ref().is_some_and(|image| !image.needs.is_empty());
        let is_declared = |id: u64| match id {
            OTHER => false,
            LARGE => desired.image.is_some() && !is_looked_up,
            _ => desired.image.is_some(),
        };
        let ours = actual.images.ours.keys().copied();
        let expected: BTreeSet<_> = ours.filter(|id| !is_used(*id) && !is_declared(*id)).collect();
        let steps = plan(desired, actual);
        assert_eq!(removed(&steps), expected, "{steps:?}");
    });
}

#[test]
fn a_temporary_server_stays_only_while_its_image_is_to_be_created() {
    for_all(|desired, actual| {
        let steps = plan(desired, actual);
        let stays = |builder: &ImageBuilder| {
            creates(&steps) && builder.identity == declared().identity("arm")
        };
        let expected = actual.images.builders.values().filter(|builder| !stays(builder)).count();
        let removed = steps.iter().filter(|step| matches!(step, Step::RemoveBuilder { .. }));
        assert_eq!(removed.count(), expected, "{steps:?}");
    });
}

/// A run that executes only the steps for images, in their order, reaches a world without such steps.
#[test]
fn steps_for_images_lead_to_a_world_without_them() {
    let concerns_images = |step: &Step| {
        matches!(
            step,
            Step::CreateImage { .. } | Step::RemoveBuilder { .. } | Step::RemoveImage { .. }
        )
    };
    for_all(|desired, actual| {
        let mut actual = actual.clone();
        for step in plan(desired, &actual).into_iter().filter(concerns_images) {
            match step {
                Step::CreateImage { .. } => {
                    actual.images.ours.insert(99, image(DECLARED));
                    let ordered = declared().identity("arm");
                    actual.images.builders.retain(|_, builder| builder.identity != ordered);
                }
                Step::RemoveBuilder { id, .. } => drop(actual.images.builders.remove(&id)),
                Step::RemoveImage { id, .. } => drop(actual.images.ours.remove(&id)),
                _ => {}
            }
        }
        let left: Vec<_> = plan(desired, &actual).into_iter().filter(concerns_images).collect();
        assert_eq!(left, [], "{actual:?}");
    });
}

#[test]
fn destroy_removes_temporary_servers_first_and_unused_images_last() {
    for_all(|_, actual| {
        let steps = plan_destroy(actual);
        let ours = actual.images.ours.keys().copied();
        let expected: BTreeSet<_> =
            ours.filter(|id| !actual.images.used_by_others.contains(id)).collect();
        assert_eq!(removed(&steps), expected, "{steps:?}");
        let rank = |step: &Step| match step {
            Step::RemoveImage { .. } => 2,
            Step::Remove { .. } => 1,
            _ => 0,
        };
        assert!(steps.iter().map(rank).is_sorted(), "{steps:?}");
        let builders = steps.iter().filter(|step| matches!(step, Step::RemoveBuilder { .. }));
        assert_eq!(builders.count(), actual.images.builders.len());
    });
}

#[test]
fn a_reader_sees_the_steps_for_images() {
    for_all(|desired, actual| {
        let steps = plan(desired, actual);
        let cloud = plan_cloud(desired, actual);
        assert_eq!(creates(&steps), creates(&cloud));
        assert_eq!(removed(&steps), removed(&cloud));
    });
}
