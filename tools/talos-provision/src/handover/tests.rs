//! Configurations over every small world, compared with the schemas of the provider.

use std::collections::BTreeMap;
use std::sync::Arc;

use documents::Deferred;
use opentofu::Configuration;
use serde_json::json;
use testing::tofu::Schema;

use super::*;
use crate::clients::hetzner::{Catalog, CloudState};
use crate::desired;
use crate::money::Money;
use crate::observe::Kubernetes;
use crate::plan::{
    ActualState, Balancer, BalancerService, DesiredState, Etcd, ImageIdentity, Images, Node,
    OwnImage, Power, Server, Target, TargetSelector,
};
use crate::spec::Role;

/// A part of the world that exists or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Group,
    Network,
    Subnet,
    Firewall,
    PrimaryIp,
    Balancer,
    /// The load balancer is in the network, with its service and its target.
    Wired,
    /// A declared server.
    Server,
    /// The declared server is in the network.
    Attached,
    /// A server that the document does not declare.
    Surplus,
    Image,
    /// A resource of others has each declared name that is free.
    Others,
}

const PARTS: [Part; 12] = [
    Part::Group,
    Part::Network,
    Part::Subnet,
    Part::Firewall,
    Part::PrimaryIp,
    Part::Balancer,
    Part::Wired,
    Part::Server,
    Part::Attached,
    Part::Surplus,
    Part::Image,
    Part::Others,
];

const IMAGE: u64 = 70;
const SERVER_ID: u64 = 80;
const SURPLUS_ID: u64 = 81;
const OTHERS: u64 = 987_654;
const RANGE: &str = "10.0.1.0/24";

fn id(kind: Kind) -> u64 {
    90 + kind as u64
}

fn scope() -> Scope {
    Scope { project: "holistic".to_owned(), cluster: "prod".to_owned() }
}

/// Returns the declared state of a cluster with one control plane. `more` are further fields.
fn declared(more: &str) -> DesiredState {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cluster.yaml");
    let text = format!(
        "apiVersion: holistic/v1alpha1
kind: Cluster
metadata: {{name: prod}}
spec:
  project: holistic
  talos: v1.13.9
  kubernetes: v1.36.3
  certificates: {{notBefore: 2026-11-01}}
  firewall: {{talos: [192.0.2.0/24], icmp: [anywhere]}}
  pools: [{{name: a, role: controlplane, count: 1, type: cax11, locations: [fsn1, nbg1]}}]
{more}"
    );
    std::fs::write(&file, text).expect("written");
    let mut stream = Stream::read(&[file]);
    let documents = stream.documents_of::<Cluster>();
    desired::desired(documents.first().expect("a Cluster"))
}

fn server(id: u64, network: bool) -> Server {
    let labels = scope().labels();
    Server {
        id,
        ours: true,
        role: Some(Role::Controlplane),
        r#type: "cax11".to_owned(),
        location: "nbg1".to_owned(),
        address: None,
        power: Power::On,
        labels,
        networks: network.then_some(self::id(Kind::Network)).into_iter().collect(),
        firewalls: [self::id(Kind::Firewall), 7].into(),
        group: Some(self::id(Kind::PlacementGroup)),
        image: Some(IMAGE),
        volumes: Vec::new(),
        monthly: Money::default(),
        node: Node::Maintenance,
    }
}

/// Returns a resource with what a person has set beside the document.
fn details(part: Part, has: impl Fn(Part) -> bool) -> serde_json::Value {
    let protection = json!({"delete": true, "rebuild": true});
    let subnet = json!({"type": "cloud", "ip_range": RANGE, "network_zone": "eu-central"});
    let net = json!({"network": id(Kind::Network), "ip": "10.0.1.2", "alias_ips": ["10.0.1.9"]});
    match part {
        Part::Network => json!({
            "protection": protection,
            "expose_routes_to_vswitch": false,
            "subnets": has(Part::Subnet).then_some(subnet).into_iter().collect::<Vec<_>>(),
        }),
        Part::Firewall => json!({"rules": [{
            "direction": "in", "protocol": "icmp", "port": null, "description": "ping",
            "source_ips": ["::/0", "0.0.0.0/0"], "destination_ips": [],
        }]}),
        Part::PrimaryIp => json!({"type": "ipv4", "protection": protection}),
        Part::Balancer => json!({
            "load_balancer_type": {"name": "lb21"},
            "algorithm": {"type": "least_connections"},
            "protection": protection,
            "services": [{"listen_port": 6443,
                          "health_check": {"interval": 15, "timeout": 10, "retries": 3}}],
        }),
        Part::Server | Part::Surplus => json!({
            "protection": protection,
            "backup_window": "22-02",
            "private_net": has(Part::Attached).then_some(net).into_iter().collect::<Vec<_>>(),
        }),
        Part::Image => json!({
            "description": "Talos v1.13.9", "labels": {"os": "talos"}, "created_from": {"id": 4},
        }),
        _ => json!({}),
    }
}

/// Returns the observation of a world that has these parts.
fn observation(desired: &DesiredState, parts: &[Part]) -> Observation {
    let has = |part: Part| parts.contains(&part);
    let wired = has(Part::Wired) && has(Part::Network);
    let mut cloud = CloudState::default();
    let mut keep = |family: Family, id: u64, part: Part| {
        let details = details(part, |part| parts.contains(&part) && has(Part::Network));
        cloud.details.insert((family, id), Arc::new(details));
    };
    let found = |kind: Kind, spec: ResourceSpec, ours: bool| ObservedResource {
        id: if ours { id(kind) } else { OTHERS },
        ours,
        labels: if ours { scope().labels() } else { Labels::new() },
        spec,
        networks: (wired && kind == Kind::LoadBalancer)
            .then_some(id(Kind::Network))
            .into_iter()
            .collect(),
        address: None,
        location: Some("nbg1".to_owned()),
        monthly: Money::default(),
    };
    let servers = TargetSelector::Labels(scope().control_planes());
    let complete = Balancer {
        public: true,
        services: [BalancerService::kubernetes()].into(),
        targets: [Target { servers, private: true }].into(),
    };
    let balancer = if wired { complete } else { Balancer { public: true, ..Balancer::default() } };
    let nodes = if has(Part::Subnet) { vec![RANGE.to_owned()] } else { Vec::new() };
    let specs = BTreeMap::from([
        (Kind::PlacementGroup, (Part::Group, ResourceSpec::PlacementGroup)),
        (
            Kind::Network,
            (Part::Network, ResourceSpec::Network { range: "10.0.0.0/16".to_owned(), nodes }),
        ),
        (Kind::Firewall, (Part::Firewall, ResourceSpec::Firewall(Vec::new()))),
        (Kind::PrimaryIp, (Part::PrimaryIp, ResourceSpec::PrimaryIp { auto_delete: true })),
        (Kind::LoadBalancer, (Part::Balancer, ResourceSpec::LoadBalancer(balancer))),
    ]);
    let mut resources = BTreeMap::new();
    for (kind, (part, spec)) in &specs {
        let name = if *kind == Kind::PlacementGroup { "prod-a" } else { "prod" };
        let resource = SharedResource { kind: *kind, name: name.to_owned() };
        if has(*part) {
            keep(Family::Shared(*kind), id(*kind), *part);
            resources.insert(resource, found(*kind, spec.clone(), true));
        } else if has(Part::Others) {
            resources.insert(resource, found(*kind, spec.clone(), false));
        }
    }
    let mut servers = BTreeMap::new();
    for (part, name, id) in
        [(Part::Server, "prod-a-1", SERVER_ID), (Part::Surplus, "prod-b-1", SURPLUS_ID)]
    {
        if has(part) {
            keep(Family::Servers, id, part);
            servers.insert(name.to_owned(), server(id, has(Part::Attached) && has(Part::Network)));
        } else if has(Part::Others) {
            let labels = Labels::new();
            let other = Server { id: OTHERS, ours: false, labels, ..server(id, false) };
            servers.insert(name.to_owned(), other);
        }
    }
    let mut images = Images::default();
    if has(Part::Image) {
        keep(Family::Images, IMAGE, Part::Image);
        let identity = ImageIdentity {
            talos: "v1.13.9".to_owned(),
            schematic: String::new(),
            architecture: "arm".to_owned(),
        };
        images.ours.insert(IMAGE, OwnImage { identity, is_available: true, disk: 3 });
    }
    cloud.images = images.clone();
    let (etcd, nodes, cordoned) = (Etcd::Unknown, [].into(), [].into());
    let actual = ActualState { resources, servers, etcd, nodes, cordoned, images };
    let mut catalog = Catalog::default();
    catalog.images.insert("cax11".to_owned(), 33);
    catalog.architectures.insert("cax11".to_owned(), "arm".to_owned());
    catalog.balancers.push(("fsn1".to_owned(), "lb11".to_owned()));
    Observation {
        cloud,
        endpoint: Deferred::AfterApply,
        desired: desired.clone(),
        actual,
        node_states: BTreeMap::new(),
        kubernetes: Kubernetes { ready: Ok(()), nodes: Vec::new() },
        catalog,
    }
}

fn configuration(now: &Observation) -> serde_json::Value {
    let world = World { scope: &scope(), zone: "eu-central", now };
    let resources = world.resources().expect("resources");
    let provider = provider_at(Some("http://127.0.0.1:1/v1"));
    let text = Configuration { note: String::new(), provider, resources }.render();
    serde_json::from_str(&text).expect("JSON")
}

/// Returns the ids of a configuration, by address.
fn imports(configuration: &serde_json::Value) -> BTreeMap<String, String> {
    let imports = configuration["import"].as_array().into_iter().flatten();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    imports.map(|import| (text(&import["to"]), text(&import["id"]))).collect()
}

/// Returns every world that can exist: nothing is in a network that does not exist.
fn worlds() -> impl Iterator<Item = Vec<Part>> {
    let world = |bits: u32| {
        let chosen = |(index, part): (usize, Part)| (bits >> index & 1 == 1).then_some(part);
        PARTS.into_iter().enumerate().filter_map(chosen).collect::<Vec<_>>()
    };
    let can_exist = |parts: &Vec<Part>| {
        let has = |part: Part| parts.contains(&part);
        let net = has(Part::Network);
        (net || !has(Part::Subnet))
            && (net && has(Part::Balancer) || !has(Part::Wired))
            && (net && (has(Part::Server) || has(Part::Surplus)) || !has(Part::Attached))
    };
    (0..1_u32 << PARTS.len()).map(world).filter(can_exist)
}

const DECLARATIONS: [&str; 3] = [
    "",
    "  endpoint: https://prod.example.org:6443\n",
    "  image: {extensions: [siderolabs/qemu-guest-agent]}\n",
];

#[test]
fn every_configuration_fits_the_schemas_of_the_provider() {
    let schema = Schema::read("hcloud").expect("schemas");
    let (mut kinds, mut checked) = (BTreeSet::new(), BTreeSet::new());
    for declaration in DECLARATIONS {
        let declared = declared(declaration);
        for parts in worlds() {
            let configuration = configuration(&observation(&declared, &parts));
            // Many worlds have the same configuration.
            if !checked.insert(configuration.to_string()) {
                continue;
            }
            assert_eq!(schema.differences(&configuration), [""; 0], "{declaration} {parts:?}");
            let resources = configuration["resource"].as_object().into_iter().flatten();
            kinds.extend(resources.map(|(kind, _)| kind.clone()));
        }
    }
    assert_eq!(kinds, schema.kinds().into_iter().map(str::to_owned).collect());
}

#[test]
fn every_resource_of_ours_is_imported_and_no_planned_one() {
    let control_planes = scope().control_planes();
    let ids = |kind: Kind| id(kind).to_string();
    let (network, balancer) = (id(Kind::Network), id(Kind::LoadBalancer));
    for declaration in DECLARATIONS {
        let declared = declared(declaration);
        for parts in worlds().filter(|parts| !parts.contains(&Part::Others)) {
            let has = |part: Part| parts.contains(&part);
            let (net, lb) = (has(Part::Network), has(Part::Balancer));
            let wired = lb && net && has(Part::Wired);
            let attached = net && has(Part::Attached);
            let expected = [
                (has(Part::Group), "hcloud_placement_group.prod-a", ids(Kind::PlacementGroup)),
                (net, "hcloud_network.prod", ids(Kind::Network)),
                (
                    net && has(Part::Subnet),
                    "hcloud_network_subnet.prod-10_0_1_0_24",
                    format!("{network}-{RANGE}"),
                ),
                (has(Part::Firewall), "hcloud_firewall.prod", ids(Kind::Firewall)),
                (has(Part::PrimaryIp), "hcloud_primary_ip.prod", ids(Kind::PrimaryIp)),
                (lb, "hcloud_load_balancer.prod", ids(Kind::LoadBalancer)),
                (wired, "hcloud_load_balancer_network.prod", format!("{balancer}-{network}")),
                (wired, "hcloud_load_balancer_service.prod-6443", format!("{balancer}__6443")),
                (
                    wired,
                    "hcloud_load_balancer_target.prod-control-planes",
                    format!("{balancer}__label_selector__{control_planes}"),
                ),
                (has(Part::Image), "hcloud_snapshot.prod-image-70", IMAGE.to_string()),
                (has(Part::Server), "hcloud_server.prod-a-1", SERVER_ID.to_string()),
                (
                    has(Part::Server) && attached,
                    "hcloud_server_network.prod-a-1",
                    format!("{SERVER_ID}-{network}"),
                ),
                (has(Part::Surplus), "hcloud_server.prod-b-1", SURPLUS_ID.to_string()),
                (
                    has(Part::Surplus) && attached,
                    "hcloud_server_network.prod-b-1",
                    format!("{SURPLUS_ID}-{network}"),
                ),
            ];
            let expected = expected.into_iter().filter(|(exists, ..)| *exists);
            let expected: BTreeMap<_, _> =
                expected.map(|(_, address, id)| (address.to_owned(), id)).collect();
            let configuration = configuration(&observation(&declared, &parts));
            assert_eq!(imports(&configuration), expected, "{declaration} {parts:?}");
        }
    }
}

#[test]
fn no_resource_of_others_is_in_a_configuration() {
    let everything = [Part::Others];
    for declaration in DECLARATIONS {
        let declared = declared(declaration);
        let configuration = configuration(&observation(&declared, &everything));
        assert_eq!(imports(&configuration), BTreeMap::new());
        // A resource block would create a second one, and a reference would use a foreign one.
        assert!(configuration.get("resource").is_none(), "{configuration:#}");
    }
    let declared = declared("");
    for parts in worlds() {
        let text = configuration(&observation(&declared, &parts)).to_string();
        assert!(!text.contains(&OTHERS.to_string()), "{parts:?}");
    }
}

#[test]
fn declared_values_are_declared_and_all_others_are_as_observed() {
    let mut parts = PARTS.to_vec();
    parts.retain(|part| *part != Part::Others);
    let configuration = configuration(&observation(&declared(""), &parts));
    let of = |kind: &str, label: &str| configuration["resource"][kind][label].clone();
    // Drift is shown, not adopted.
    assert_eq!(of("hcloud_primary_ip", "prod")["auto_delete"], false);
    let rules = of("hcloud_firewall", "prod")["rule"].clone();
    assert_eq!(
        rules,
        json!([
            {"direction": "in", "protocol": "icmp", "source_ips": ["0.0.0.0/0", "::/0"], "description": "ping"},
            {"direction": "in", "protocol": "tcp", "port": "50000", "source_ips": ["192.0.2.0/24"]},
        ])
    );
    for (kind, label) in [
        ("hcloud_network", "prod"),
        ("hcloud_primary_ip", "prod"),
        ("hcloud_load_balancer", "prod"),
        ("hcloud_server", "prod-a-1"),
    ] {
        assert_eq!(of(kind, label)["delete_protection"], true, "{kind}");
    }
    let server = of("hcloud_server", "prod-a-1");
    assert_eq!((&server["backups"], &server["location"]), (&json!(true), &json!("nbg1")));
    assert_eq!(server["firewall_ids"], json!([7, "${hcloud_firewall.prod.id}"]));
    assert_eq!(server["placement_group_id"], "${hcloud_placement_group.prod-a.id}");
    assert_eq!(server["labels"]["holistic/pool"], "a", "a lost label is restored");
    assert_eq!(server["lifecycle"]["prevent_destroy"], true);
    let attachment = of("hcloud_server_network", "prod-a-1");
    let addresses = (&attachment["ip"], &attachment["alias_ips"]);
    assert_eq!(addresses, (&json!("10.0.1.2"), &json!(["10.0.1.9"])));
    let balancer = of("hcloud_load_balancer", "prod");
    assert_eq!(balancer["load_balancer_type"], "lb21");
    assert_eq!(balancer["algorithm"], json!([{"type": "least_connections"}]));
    let check = of("hcloud_load_balancer_service", "prod-6443")["health_check"][0].clone();
    assert_eq!((&check["interval"], &check["port"]), (&json!(15), &json!(6443)));
}

#[test]
fn planned_machine_says_what_no_plan_knows() {
    let by_hand = configuration(&observation(&declared(""), &[]));
    let server = &by_hand["resource"]["hcloud_server"]["prod-a-1"];
    assert_eq!((&server["image"], &server["location"]), (&json!("33"), &json!("fsn1")));
    assert!(by_hand.get("variable").is_none());
    assert!(by_hand.get("import").is_none());
    // The provider cannot assign a Primary IP to a load balancer.
    assert!(by_hand["resource"].get("hcloud_primary_ip").is_none());
    // A network without the record counts as one whose etcd was started.
    let network = &by_hand["resource"]["hcloud_network"]["prod"];
    let labels: Vec<_> = network["labels"].as_object().expect("labels").keys().collect();
    assert_eq!(labels, ["holistic/cluster", "holistic/project"]);

    let unwritten = configuration(&observation(&declared(DECLARATIONS[2]), &[]));
    let server = &unwritten["resource"]["hcloud_server"]["prod-a-1"];
    assert_eq!(server["image"], "${var.talos_image_arm}");
    let description = unwritten["variable"]["talos_image_arm"]["description"].as_str();
    assert!(description.is_some_and(|text| text.contains("v1.13.9")), "{unwritten:#}");
}
