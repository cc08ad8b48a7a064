//! Creation of the load balancer in the first location that has one.
//!
//! A Primary IP belongs to one location for ever (hcloud-go v2.53.0, `schema.PrimaryIPUpdateRequest` has no
//! location), and a load balancer gets its address only when it is created. So an address that nothing
//! uses yet is created again in the next location.

use super::{StepContext, create_at, missing};
use crate::Error;
use crate::clients::hetzner::{SharedPlacement, Writer};
use crate::observe::Observation;
use crate::plan::{History, Kind, SharedResource};

pub(super) fn create(
    now: &Observation,
    resource: &SharedResource,
    context: &mut StepContext,
    cloud: &Writer<'_>,
    placement: SharedPlacement<'_>,
) -> Result<u64, Error> {
    let of_kind = |(other, _): &(&SharedResource, &_)| other.kind == Kind::PrimaryIp;
    let found = now.actual.resources.iter().filter(|(_, found)| found.ours).find(of_kind);
    let bound = found.and_then(|(_, found)| found.location.as_deref());
    let mut offers: Vec<_> = now.catalog.balancers.iter().collect();
    offers.sort_by_key(|(location, _)| bound.is_some_and(|bound| bound != location));
    if !is_unused(now) {
        offers.retain(|(location, _)| bound.is_none_or(|bound| bound == location));
    }
    let mut address = placement.address.ok_or_else(|| missing("primary IP"))?;
    // This run creates the address in the first location of the catalog.
    let first = now.catalog.balancers.first().map(|(location, _)| location.as_str());
    let mut current = bound.or(first);
    let mut why = "no type is offered there".to_owned();
    for (location, balancer_type) in &offers {
        let mut placement =
            SharedPlacement { location, balancer_type, address: Some(address), ..placement };
        if current != Some(location.as_str()) {
            address = move_address(now, context, cloud, &placement)?;
            (placement.address, current) = (Some(address), Some(location.as_str()));
        }
        match create_at(now, resource, cloud, &placement) {
            Err(Error::Api(error)) if error.is_of_location() => {
                let text =
                    format_args!("load balancer unavailable in {location}: {}", error.message);
                documents::note(&resource.name, text);
                why = error.message;
            }
            end => return end,
        }
    }
    let locations: Vec<_> = offers.iter().map(|(location, _)| location.as_str()).collect();
    let locations = match (locations.is_empty(), bound) {
        (true, Some(bound)) => bound.to_owned(),
        _ => locations.join(", "),
    };
    Err(Error::NoBalancer { name: resource.name.clone(), locations, why })
}

/// Returns whether no machine has the address in its configuration.
fn is_unused(now: &Observation) -> bool {
    let has_servers = now.actual.servers.values().any(|server| server.ours);
    // The network may have been created in this run.
    !has_servers && matches!(now.actual.history(), History::Never)
}

/// Deletes the Primary IP, and creates it again in another location.
fn move_address(
    now: &Observation,
    context: &mut StepContext,
    cloud: &Writer<'_>,
    placement: &SharedPlacement<'_>,
) -> Result<u64, Error> {
    let of_kind = |resource: &&SharedResource| resource.kind == Kind::PrimaryIp;
    let resource = now.desired.resources.keys().find(of_kind);
    let resource = resource.ok_or_else(|| missing("primary IP"))?.clone();
    if let Some(id) = placement.address {
        cloud.remove(Kind::PrimaryIp, id)?;
    }
    let id = create_at(now, &resource, cloud, placement)?;
    context.created.insert(resource, id);
    Ok(id)
}
