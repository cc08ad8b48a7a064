//! Steps that create the declared image, and that remove images and temporary servers that nothing
//! needs.

use std::collections::BTreeSet;

use super::{ActualState, DesiredState, Step};
use crate::model::{ImageIdentity, OwnImage};

/// Returns the steps that concern images.
pub(super) fn steps(desired: &DesiredState, actual: &ActualState) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut identities = BTreeSet::new();
    for (image, architecture, need) in desired.image.iter().flat_map(|image| {
        image.needs.iter().map(move |(architecture, need)| (image, architecture, need))
    }) {
        if actual.images.find(image, architecture).is_some() {
            continue;
        }
        identities.insert(image.identity(architecture));
        let offer = need.offers.first();
        steps.push(Step::CreateImage {
            talos: image.talos.clone(),
            schematic: image.schematic.id().to_owned(),
            architecture: architecture.clone(),
            r#type: offer.map(|offer| offer.r#type.clone()).unwrap_or_default(),
            locations: offer.map(|offer| offer.locations.clone()).unwrap_or_default(),
            hourly: offer.map(|offer| offer.hourly),
            gigabyte_monthly: need.gigabyte,
        });
    }
    // Before the server types were looked up, it is unknown which temporary server is needed.
    let is_known = desired.image.as_ref().is_none_or(|image| !image.needs.is_empty())
        || desired.machines.keys().all(|name| actual.servers.contains_key(name));
    let idle = actual
        .images
        .builders
        .iter()
        .filter(|(_, builder)| is_known && !identities.contains(&builder.identity));
    steps.extend(
        idle.map(|(id, builder)| Step::RemoveBuilder { name: builder.name.clone(), id: *id }),
    );
    steps.extend(surplus(desired, actual).map(|(id, image)| remove(*id, &image.identity)));
    steps
}

/// Returns the steps of `destroy` for temporary servers.
pub(super) fn destroy_builders(actual: &ActualState) -> impl Iterator<Item = Step> {
    let builders = actual.images.builders.iter();
    builders.map(|(id, builder)| Step::RemoveBuilder { name: builder.name.clone(), id: *id })
}

/// Returns the steps of `destroy` for images. An image from which a server of others was created
/// stays.
pub(super) fn destroy_images(actual: &ActualState) -> impl Iterator<Item = Step> {
    let images = &actual.images;
    let unused = images.ours.iter().filter(|(id, _)| !images.used_by_others.contains(id));
    unused.map(|(id, image)| remove(*id, &image.identity))
}

/// Returns images of ours that the document does not declare and from which no server was created.
pub(crate) fn surplus<'a>(
    desired: &'a DesiredState,
    actual: &'a ActualState,
) -> impl Iterator<Item = (&'a u64, &'a OwnImage)> {
    let is_declared = move |image: &OwnImage| {
        desired.image.as_ref().is_some_and(|declared| {
            let identity = declared.identity(&image.identity.architecture);
            let need = declared.needs.get(&image.identity.architecture);
            identity == image.identity && need.is_none_or(|need| image.disk <= need.disk_max)
        })
    };
    let is_used = move |id: &u64| {
        actual.images.used_by_others.contains(id)
            || actual.servers.values().any(|server| server.image == Some(*id))
    };
    actual.images.ours.iter().filter(move |(id, image)| !is_declared(image) && !is_used(id))
}

fn remove(id: u64, identity: &ImageIdentity) -> Step {
    Step::RemoveImage {
        id,
        talos: identity.talos.clone(),
        schematic: identity.schematic.clone(),
        architecture: identity.architecture.clone(),
    }
}
