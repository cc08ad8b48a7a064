//! Servers and their attachments to the network.

use std::collections::BTreeSet;

use contract::labels::{POOL, ROLE};
use opentofu::{Address, Arguments, Input, Resource, Value};

use super::details::{self, details};
use super::{World, kind_of, label_map};
use crate::Error;
use crate::plan::{Family, Kind, Machine, Server};

const SERVER: &str = "hcloud_server";

/// Arguments whose differences `OpenTofu` ignores on a server that exists.
///
/// The API shows neither the user data nor the SSH keys of a server, and another image would replace the
/// server and its disk. The other three exist in the state of `OpenTofu` alone, and an import leaves them
/// empty (`Resource` in
/// <https://github.com/hetznercloud/terraform-provider-hcloud/blob/v1.68.0/internal/server/resource.go>).
const IGNORED: [&str; 6] = [
    "user_data",
    "ssh_keys",
    "image",
    "keep_disk",
    "ignore_remote_firewall_ids",
    "shutdown_before_deletion",
];

pub(super) fn resources(world: &World<'_>) -> Result<Vec<Resource>, Error> {
    let (desired, actual) = (&world.now.desired.machines, &world.now.actual.servers);
    let ours = actual.iter().filter(|(_, server)| server.ours).map(|(name, _)| name);
    let is_free = |name: &&String| actual.get(*name).is_none_or(|server| server.ours);
    let names: BTreeSet<_> = desired.keys().filter(is_free).chain(ours).collect();
    let mut resources = Vec::new();
    for name in names {
        let (machine, server) = (desired.get(name), actual.get(name));
        let address = Address::new(SERVER, name);
        let found = server.map(|server| details(&world.now.cloud, Family::Servers, server.id));
        let found: Option<details::Server> = found.transpose()?;
        resources.push(match (server, &found) {
            (Some(server), Some(found)) => existing(world, &address, (machine, server), found),
            _ => match machine {
                Some(machine) => planned(world, &address, machine),
                None => continue,
            },
        });
        resources.extend(attachment(world, &address, (machine, server), found.as_ref()));
    }
    Ok(resources)
}

impl World<'_> {
    /// Returns a value for the id of a server: a reference if the server is ours.
    pub(super) fn server_id(&self, id: u64) -> Value {
        let mut ours = self.now.actual.servers.iter().filter(|(_, server)| server.ours);
        let ours = ours.find(|(_, server)| server.id == id);
        ours.map_or(Value::Number(id), |(name, _)| Address::new(SERVER, name).id())
    }

    /// Returns the id of the placement group of a machine, unless others have created it.
    fn group_of(&self, machine: &Machine) -> Option<Value> {
        let group = &machine.group;
        let address = || Address::new(kind_of(Kind::PlacementGroup), &group.name);
        self.shared().contains(group).then(|| address().id())
    }

    /// Returns the image from which a new machine is created.
    fn image(&self, machine: &Machine) -> Value {
        let Some(image) = &self.now.desired.image else {
            let by_hand = self.now.catalog.images.get(&machine.r#type);
            return by_hand.map_or_else(
                || unknown_image("any", &format!("Talos {}", machine.talos)),
                |id| id.to_string().into(),
            );
        };
        let architecture = self.now.catalog.architectures.get(&machine.r#type);
        let architecture = architecture.map_or("any", String::as_str);
        match self.now.actual.images.find(image, architecture) {
            Some(id) => id.to_string().into(),
            None => unknown_image(
                architecture,
                &format!("Talos {} with the schematic {}", image.talos, image.schematic.id()),
            ),
        }
    }
}

/// Returns an image that does not exist, for which `OpenTofu` asks.
fn unknown_image(architecture: &str, what: &str) -> Value {
    Value::Input(Input {
        name: format!("talos_image_{architecture}"),
        description: format!(
            "Id of a snapshot of {what} for the architecture {architecture}. No such snapshot exists yet: \
             `talos-provision apply` creates it."
        ),
        default: None,
        is_secret: false,
    })
}

fn planned(world: &World<'_>, address: &Address, machine: &Machine) -> Resource {
    let mut labels = world.scope.labels();
    labels.insert(ROLE.to_owned(), machine.role.as_str().to_owned());
    labels.insert(POOL.to_owned(), machine.pool.clone());
    let mut arguments: Arguments = vec![
        ("name", (&address.name).into()),
        ("labels", label_map(&labels)),
        ("server_type", (&machine.r#type).into()),
    ];
    let location = machine.locations.first();
    arguments.extend(location.map(|location| ("location", location.into())));
    arguments.push(("image", world.image(machine)));
    arguments.extend(world.group_of(machine).map(|group| ("placement_group_id", group)));
    let firewall = world.address(Kind::Firewall).map(|firewall| firewall.id());
    arguments.push(("firewall_ids", firewall.into_iter().collect()));
    let note = "OpenTofu creates a machine that waits for its configuration, which this file does not hold."
        .to_owned();
    Resource { note, ..Resource::new(address.clone(), None, arguments) }
}

fn existing(
    world: &World<'_>,
    address: &Address,
    (machine, server): (Option<&Machine>, &Server),
    found: &details::Server,
) -> Resource {
    let labels =
        machine.map_or_else(|| server.labels.clone(), |machine| machine.relabel(&server.labels));
    let mut arguments: Arguments = vec![
        ("name", (&address.name).into()),
        ("labels", label_map(&labels)),
        ("server_type", (&server.r#type).into()),
        ("location", (&server.location).into()),
    ];
    arguments.extend(server.image.map(|image| ("image", image.to_string().into())));
    let group = machine.and_then(|machine| world.group_of(machine));
    let group = group.or(server.group.map(|id| world.id(Kind::PlacementGroup, id)));
    arguments.extend(group.map(|group| ("placement_group_id", group)));
    let mut firewalls: Vec<_> =
        server.firewalls.iter().map(|id| world.id(Kind::Firewall, *id)).collect();
    let ours = world.address(Kind::Firewall).filter(|_| machine.is_some());
    firewalls.extend(ours.map(|ours| ours.id()).filter(|ours| !firewalls.contains(ours)));
    arguments.push(("firewall_ids", Value::List(firewalls)));
    arguments.push(("backups", found.backup_window.is_some().into()));
    arguments.push(("delete_protection", found.protection.delete.into()));
    arguments.push(("rebuild_protection", found.protection.rebuild.into()));
    let id = Some(server.id.to_string());
    Resource {
        ignored: IGNORED.to_vec(),
        // OpenTofu does not know whether the data on the machine was drained.
        is_kept: true,
        ..Resource::new(address.clone(), id, arguments)
    }
}

/// Returns the attachment to the network of the cluster, with the addresses that the server has: etcd and
/// the other machines know it by them.
fn attachment(
    world: &World<'_>,
    address: &Address,
    (machine, server): (Option<&Machine>, Option<&Server>),
    found: Option<&details::Server>,
) -> Option<Resource> {
    let network = world.address(Kind::Network)?;
    let id = world.now.actual.id(Kind::Network);
    let mut nets = found.into_iter().flat_map(|found| &found.private_net);
    let attached = nets.find(|net| Some(net.network) == id);
    if attached.is_none() && machine.is_none() {
        return None;
    }
    let mut arguments: Arguments = vec![("server_id", address.id()), ("network_id", network.id())];
    if let Some(net) = attached {
        arguments.extend(net.ip.as_ref().map(|ip| ("ip", ip.into())));
        if !net.alias_ips.is_empty() {
            arguments.push(("alias_ips", net.alias_ips.iter().collect()));
        }
    }
    let import = attached.zip(server).map(|(net, server)| format!("{}-{}", server.id, net.network));
    let address = Address::new("hcloud_server_network", &address.name);
    Some(Resource { after: world.subnets(), ..Resource::new(address, import, arguments) })
}
