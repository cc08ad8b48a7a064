//! The load balancer, its attachment to the network, its services and its targets.

use opentofu::{Address, Arguments, Resource, Value};

use super::details::{self, HealthCheck};
use super::{Shared, World, kind_of};
use crate::Error;
use crate::plan::{Balancer, BalancerService, Kind, ResourceSpec, Target, TargetSelector};

/// Times with which `apply` creates a health check.
const HEALTH_CHECK: HealthCheck = HealthCheck { interval: 5, timeout: 3, retries: 3 };

pub(super) fn resources(world: &World<'_>, shared: &Shared<'_>) -> Result<Vec<Resource>, Error> {
    let found: Option<details::LoadBalancer> = world.details(Kind::LoadBalancer, shared.found)?;
    let observed = shared.found.and_then(|found| balancer(&found.spec));
    let Some(declared) = shared.declared.and_then(balancer).or(observed) else {
        return Ok(Vec::new());
    };
    let address = Address::new(kind_of(Kind::LoadBalancer), shared.name);
    let mut resources = vec![load_balancer(world, shared, found.as_ref())];
    resources.extend(attachment(world, shared, (&address, declared)));
    let services = declared.services.iter();
    resources.extend(services.map(|wanted| {
        let same = |other: &BalancerService| other.listen == wanted.listen;
        let is_there = observed.is_some_and(|balancer| balancer.services.iter().any(same));
        let mut services = found.iter().flat_map(|found| &found.services);
        let check = services.find(|other| other.listen_port == wanted.listen);
        let check = check.map_or(HEALTH_CHECK, |service| service.health_check);
        let id = shared.found.filter(|_| is_there);
        service(
            shared.name,
            wanted,
            check,
            id.map(|found| format!("{}__{}", found.id, wanted.listen)),
        )
    }));
    let targets = declared.targets.iter();
    resources.extend(targets.map(|wanted| {
        let same = |other: &Target| other.servers == wanted.servers;
        let is_there = observed.is_some_and(|balancer| balancer.targets.iter().any(same));
        let id = shared.found.filter(|_| is_there).map(|found| found.id);
        target(world, shared.name, wanted, id)
    }));
    Ok(resources)
}

fn balancer(spec: &ResourceSpec) -> Option<&Balancer> {
    match spec {
        ResourceSpec::LoadBalancer(balancer) => Some(balancer),
        _ => None,
    }
}

fn load_balancer(
    world: &World<'_>,
    shared: &Shared<'_>,
    found: Option<&details::LoadBalancer>,
) -> Resource {
    let mut arguments = world.named(shared);
    let algorithm =
        |name: &str| [Value::block(vec![("type", name.into())])].into_iter().collect::<Value>();
    let mut note = String::new();
    if let (Some(details), Some(found)) = (found, shared.found) {
        arguments.push(("load_balancer_type", (&details.load_balancer_type.name).into()));
        arguments.extend(found.location.as_ref().map(|location| ("location", location.into())));
        arguments.push(("algorithm", algorithm(&details.algorithm.r#type)));
        arguments.push(("delete_protection", details.protection.delete.into()));
    } else {
        if let Some((location, balancer_type)) = world.now.catalog.balancers.first() {
            arguments.push(("load_balancer_type", balancer_type.into()));
            arguments.push(("location", location.into()));
        }
        arguments.push(("algorithm", algorithm("round_robin")));
        "The provider cannot assign a Primary IP to a load balancer, so OpenTofu would create one with \
             another address than `apply`."
                .clone_into(&mut note);
    }
    Resource { note, ..shared.resource(Kind::LoadBalancer, arguments) }
}

/// Returns the attachment to the network of the cluster.
fn attachment(
    world: &World<'_>,
    shared: &Shared<'_>,
    (address, declared): (&Address, &Balancer),
) -> Option<Resource> {
    let network = world.address(Kind::Network)?;
    let id = world.now.actual.id(Kind::Network);
    let attached = shared.found.zip(id).filter(|(found, id)| found.networks.contains(id));
    // A load balancer that is no longer declared keeps what it has.
    if attached.is_none() && shared.declared.is_none() {
        return None;
    }
    let arguments: Arguments = vec![
        ("load_balancer_id", address.id()),
        ("network_id", network.id()),
        ("enable_public_interface", declared.public.into()),
    ];
    let import = attached.map(|(found, id)| format!("{}-{id}", found.id));
    let address = Address::new("hcloud_load_balancer_network", shared.name);
    Some(Resource { after: world.subnets(), ..Resource::new(address, import, arguments) })
}

fn service(
    balancer: &str,
    service: &BalancerService,
    times: HealthCheck,
    import: Option<String>,
) -> Resource {
    let (protocol, port) = &service.check;
    let check = Value::block(vec![
        ("protocol", protocol.into()),
        ("port", u64::from(*port).into()),
        ("interval", times.interval.into()),
        ("timeout", times.timeout.into()),
        ("retries", times.retries.into()),
    ]);
    let arguments = vec![
        ("load_balancer_id", Address::new(kind_of(Kind::LoadBalancer), balancer).id()),
        ("protocol", (&service.protocol).into()),
        ("listen_port", u64::from(service.listen).into()),
        ("destination_port", u64::from(service.to).into()),
        ("proxyprotocol", service.proxy.into()),
        ("health_check", [check].into_iter().collect()),
    ];
    let name = format!("{balancer}-{}", service.listen);
    Resource::new(Address::new("hcloud_load_balancer_service", name), import, arguments)
}

fn target(world: &World<'_>, balancer: &str, target: &Target, id: Option<u64>) -> Resource {
    let (kind, argument, identifier) = match &target.servers {
        TargetSelector::Labels(labels) => {
            ("label_selector", ("label_selector", labels.into()), labels.clone())
        }
        TargetSelector::Server(server) => {
            ("server", ("server_id", world.server_id(*server)), server.to_string())
        }
        TargetSelector::Address(address) => ("ip", ("ip", address.into()), address.clone()),
    };
    let mut arguments = vec![
        ("type", kind.into()),
        ("load_balancer_id", Address::new(kind_of(Kind::LoadBalancer), balancer).id()),
        argument,
    ];
    // The provider rejects the argument beside an address.
    if !matches!(target.servers, TargetSelector::Address(_)) {
        arguments.push(("use_private_ip", target.private.into()));
    }
    let import = id.map(|id| format!("{id}__{kind}__{identifier}"));
    let name = match &target.servers {
        TargetSelector::Labels(_) => format!("{balancer}-control-planes"),
        TargetSelector::Server(_) | TargetSelector::Address(_) => {
            format!("{balancer}-{identifier}")
        }
    };
    Resource::new(Address::new("hcloud_load_balancer_target", name), import, arguments)
}
