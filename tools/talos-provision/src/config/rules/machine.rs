//! Rules for the document that has `machine` and `cluster`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Report, WIREGUARD_KEY, encryption_keys, entries, is_endpoint, is_set, is_subnet, is_true,
    is_wireguard_key, list, names, text, url,
};
use crate::config::scalar;
use crate::spec::Role;

/// Fields of the kubelet's configuration that Talos owns (`pkg/machinery/kubelet/kubelet.go`).
const KUBELET_PROTECTED: [&str; 13] = [
    "apiVersion",
    "authentication",
    "authorization",
    "cgroupRoot",
    "kind",
    "kubeletCgroups",
    "port",
    "protectKernelDefaults",
    "resolvConf",
    "rotateCertificates",
    "systemCgroups",
    "staticPodPath",
    "seccompDefault",
];
/// Annotations that Talos owns (`pkg/machinery/constants/constants.go`).
const ANNOTATIONS_RESERVED: [&str; 3] =
    ["talos.dev/owned-annotations", "talos.dev/owned-labels", "talos.dev/owned-taints"];
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// Roles of the Talos API (`pkg/machinery/role/role.go`).
const API_ROLES: [&str; 7] = [
    "os:admin",
    "os:operator",
    "os:reader",
    "os:etcd:backup",
    "os:image:verifier",
    "os:meta:writer",
    "os:impersonator",
];
/// Versions of Kubernetes 1.x that Talos 1.13 runs (`pkg/machinery/compatibility/talos113`).
const KUBERNETES_MINORS: std::ops::RangeInclusive<u64> = 31..=36;
const KUBESPAN_MTU_MIN: i64 = 1280;
const SUBNET: &str = "is no network or address, such as `10.0.0.0/8` or `!192.0.2.1`";

pub(super) fn check(report: &mut Report, root: &Value, role: Role) {
    let machine_type = text(root, "/machine/type");
    report.require(
        machine_type == role.as_str(),
        "/machine/type",
        format!("is not `{}`: the pool in the document declares the role", role.as_str()),
    );
    let persist = root.pointer("/persist") != Some(&Value::Bool(false));
    report.require(persist, "/persist", "is false, which Talos no longer supports");
    let worker = role == Role::Worker;
    if worker {
        for path in ["/machine/ca/key", "/cluster/ca/key"] {
            report.require(
                text(root, path).is_empty(),
                path,
                "is a key that workers must not have",
            );
        }
        report.require(
            !is_set(root, "/cluster/etcd"),
            "/cluster/etcd",
            "is only allowed on control planes: move the patch to the pools of control planes",
        );
    } else {
        report.require(is_set(root, "/machine/ca"), "/machine/ca", "is required on control planes");
        cni(report, root);
        etcd(report, root);
    }
    features(report, root, worker);
    network(report, root, worker);
    kubelet(report, root);
    names_of_node(report, root);
    storage(report, root);
    cluster(report, root);
    images(report, root, worker);
    for (index, destination) in list(root, "/machine/logging/destinations").iter().enumerate() {
        let path = format!("/machine/logging/destinations/{index}");
        let url = url(text(destination, "/endpoint"));
        let fits = matches!(url.scheme, "tcp" | "udp") && !url.host.is_empty();
        report.require(
            fits,
            format!("{path}/endpoint"),
            "is no URL such as `tcp://192.0.2.1:5555`",
        );
        let format = text(destination, "/format") == "json_lines";
        report.require(format, format!("{path}/format"), "is not `json_lines`, the only format");
    }
}

fn cni(report: &mut Report, root: &Value) {
    let path = "/cluster/network/cni";
    if !is_set(root, path) {
        return;
    }
    let at = |field: &str| format!("{path}/{field}");
    let (name, urls) = (text(root, &at("name")), at("urls"));
    match name {
        "flannel" | "none" => {
            let empty = list(root, &urls).is_empty();
            report.require(empty, urls, format!("must be empty for the CNI `{name}`"));
        }
        "custom" => report.each(root, &urls, is_endpoint, "is no URL with a host"),
        _ => report.refuse(at("name"), "is not one of `flannel`, `custom` and `none`"),
    }
    if matches!(name, "custom" | "none") {
        let flannel = !list(root, &at("flannel/extraArgs")).is_empty()
            || is_true(root, &at("flannel/kubeNetworkPoliciesEnabled"));
        report.require(!flannel, at("flannel"), format!("must be empty for the CNI `{name}`"));
    }
}

fn etcd(report: &mut Report, root: &Value) {
    if !is_set(root, "/cluster/etcd") {
        return;
    }
    report.require(is_set(root, "/cluster/etcd/ca"), "/cluster/etcd/ca", "is required");
    let both = !text(root, "/cluster/etcd/subnet").is_empty()
        && !list(root, "/cluster/etcd/advertisedSubnets").is_empty();
    report.require(!both, "/cluster/etcd/subnet", "cannot be set beside `advertisedSubnets`");
    let subnet = text(root, "/cluster/etcd/subnet");
    report.require(subnet.is_empty() || is_subnet(subnet), "/cluster/etcd/subnet", SUBNET);
    for field in ["advertisedSubnets", "listenSubnets"] {
        report.each(root, &format!("/cluster/etcd/{field}"), is_subnet, SUBNET);
    }
}

fn features(report: &mut Report, root: &Value, worker: bool) {
    let dns = "/machine/features/hostDNS";
    let forward = format!("{dns}/forwardKubeDNSToHost");
    let fits = !is_true(root, &forward) || is_true(root, &format!("{dns}/enabled"));
    report.require(
        fits,
        dns,
        "has `forwardKubeDNSToHost`, which requires `enabled: true`: disable both",
    );
    let access = "/machine/features/kubernetesTalosAPIAccess";
    if is_true(root, &format!("{access}/enabled")) {
        report.require(
            !worker,
            access,
            "is only allowed on control planes: move the patch to the pools of control planes",
        );
        let known = |role: &str| API_ROLES.contains(&role);
        let message = format!("is no role of Talos: use {}", API_ROLES.join(", "));
        report.each(root, &format!("{access}/allowedRoles"), known, &message);
    }
    let order = "/machine/features/nodeAddressSortAlgorithm";
    let known = matches!(text(root, order).to_lowercase().as_str(), "" | "v1" | "v2");
    report.require(known, order, "is neither `v1` nor `v2`");
}

fn network(report: &mut Report, root: &Value, worker: bool) {
    let path = "/machine/network/interfaces";
    let mut members: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, device) in list(root, path).iter().enumerate() {
        let at = |field: &str| format!("{path}/{index}{field}");
        let names =
            list(device, "/bond/interfaces").iter().chain(list(device, "/bridge/interfaces"));
        for name in names.filter_map(Value::as_str) {
            let other = *members.entry(name).or_insert(index);
            report.require(
                other == index,
                at(""),
                "has a member that belongs to another interface",
            );
        }
        let both = is_set(device, "/bond") && is_set(device, "/bridge");
        report.require(!both, at(""), "cannot have both `bond` and `bridge`");
        if worker {
            let message =
                "is only allowed on control planes: move the patch to the pools of control planes";
            report.require(!is_set(device, "/vip"), at("/vip"), message);
            for (vlan, value) in list(device, "/vlans").iter().enumerate() {
                report.require(!is_set(value, "/vip"), at(&format!("/vlans/{vlan}/vip")), message);
            }
        }
        if !is_true(device, "/ignore") {
            interface(report, root, &at(""));
        }
    }
    let span = "/machine/network/kubespan";
    if is_true(root, &format!("{span}/enabled")) {
        let mtu = root.pointer(&format!("{span}/mtu")).and_then(Value::as_i64);
        let fits = mtu.is_none_or(|mtu| mtu >= KUBESPAN_MTU_MIN);
        report.require(fits, format!("{span}/mtu"), "is smaller than 1280");
        report.each(root, &format!("{span}/filters/endpoints"), is_subnet, SUBNET);
        let excluded = format!("{span}/filters/excludeAdvertisedNetworks");
        report.each(root, &excluded, scalar::is_prefix, SUBNET);
        let discovery = is_true(root, "/cluster/discovery/enabled");
        report.require(discovery, span, "requires `cluster.discovery.enabled: true`");
    }
}

fn interface(report: &mut Report, root: &Value, path: &str) {
    let at = |field: &str| format!("{path}{field}");
    let device = root.pointer(path).unwrap_or(&Value::Null);
    let named = !text(device, "/interface").is_empty();
    match (named, is_set(device, "/deviceSelector")) {
        (false, false) => report.refuse(path, "has neither `interface` nor `deviceSelector`"),
        (true, true) => report.refuse(path, "cannot have both `interface` and `deviceSelector`"),
        (false, true) => {
            let empty = entries(device, "/deviceSelector").next().is_none();
            report.require(!empty, at("/deviceSelector"), "is empty");
        }
        (true, false) => {}
    }
    addresses(report, root, path);
    for (index, _) in list(device, "/vlans").iter().enumerate() {
        addresses(report, root, &at(&format!("/vlans/{index}")));
    }
    if is_set(device, "/vip") {
        let fits = scalar::is_address(text(device, "/vip/ip"));
        report.require(fits, at("/vip/ip"), "is no IP address");
    }
    for (index, route) in list(device, "/routes").iter().enumerate() {
        let at = |field: &str| at(&format!("/routes/{index}{field}"));
        let optional = |field: &str, fits: fn(&str) -> bool| {
            let text = text(route, field);
            text.is_empty() || fits(text)
        };
        report.require(optional("/network", scalar::is_prefix), at("/network"), "is no network");
        for field in ["/gateway", "/source"] {
            report.require(optional(field, scalar::is_address), at(field), "is no IP address");
        }
        let neither = text(route, "/network").is_empty() && text(route, "/gateway").is_empty();
        report.require(!neither, at(""), "has neither `network` nor `gateway`");
    }
    if is_set(device, "/wireguard") {
        let key = is_wireguard_key(text(device, "/wireguard/privateKey"));
        report.require(key, at("/wireguard/privateKey"), WIREGUARD_KEY);
        for (index, peer) in list(device, "/wireguard/peers").iter().enumerate() {
            let peer_at = |field: &str| at(&format!("/wireguard/peers/{index}{field}"));
            let key = is_wireguard_key(text(peer, "/publicKey"));
            report.require(key, peer_at("/publicKey"), WIREGUARD_KEY);
            report.each(root, &peer_at("/allowedIPs"), scalar::is_prefix, "is no network");
        }
    }
}

fn addresses(report: &mut Report, root: &Value, path: &str) {
    let fits = |text: &str| scalar::is_prefix(text) || scalar::is_address(text);
    report.each(root, &format!("{path}/addresses"), fits, "is no address such as `192.0.2.1/24`");
    let cidr = text(root, &format!("{path}/cidr"));
    report.require(cidr.is_empty() || fits(cidr), format!("{path}/cidr"), "is no address");
    let both = !cidr.is_empty() && !list(root, &format!("{path}/addresses")).is_empty();
    report.require(!both, format!("{path}/cidr"), "cannot be set beside `addresses`");
}

fn kubelet(report: &mut Report, root: &Value) {
    report.each(root, "/machine/kubelet/nodeIP/validSubnets", is_subnet, SUBNET);
    for (field, _) in entries(root, "/machine/kubelet/extraConfig") {
        let owned = KUBELET_PROTECTED.contains(&field.as_str());
        let path = format!("/machine/kubelet/extraConfig/{}", escaped(field));
        report.require(!owned, path, "cannot be set, because Talos sets it");
    }
}

pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Checks labels, annotations and taints.
fn names_of_node(report: &mut Report, root: &Value) {
    let mut bytes = 0;
    for list in ["nodeLabels", "nodeAnnotations", "nodeTaints"] {
        for (key, value) in entries(root, &format!("/machine/{list}")) {
            let path = format!("/machine/{list}/{}", escaped(key));
            let value = value.as_str().unwrap_or_default();
            if let Err(why) = names::key(key) {
                report.refuse(path.as_str(), why);
            }
            match list {
                "nodeLabels" => {
                    let message = "has an invalid value: use at most 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at both ends";
                    report.require(names::is_value(value), path, message);
                }
                "nodeTaints" => {
                    let (label, effect) = value.split_once(':').unwrap_or(("", value));
                    let fits = TAINT_EFFECTS.contains(&effect) && names::is_value(label);
                    report.require(
                        fits,
                        path,
                        "is no effect such as `NoSchedule` or `value:NoExecute`",
                    );
                }
                _ => {
                    bytes += key.len() + value.len();
                    let reserved = ANNOTATIONS_RESERVED.contains(&key.as_str());
                    report.require(!reserved, path, "is reserved for Talos");
                }
            }
        }
    }
    let fits = bytes <= ANNOTATIONS_BYTES_MAX;
    report.require(fits, "/machine/nodeAnnotations", "has more than 256 KiB");
}

fn storage(report: &mut Report, root: &Value) {
    for (disk, value) in list(root, "/machine/disks").iter().enumerate() {
        let partitions = list(value, "/partitions");
        let count = partitions.len();
        for (index, partition) in partitions.iter().enumerate() {
            let size = text(partition, "/size");
            let full = size.is_empty() || scalar::bytes(size) == Some(0);
            let path = format!("/machine/disks/{disk}/partitions/{index}");
            report.require(
                !full || index + 1 == count,
                path,
                "has no size, but is not the last partition",
            );
        }
    }
    for partition in ["state", "ephemeral"] {
        let path = format!("/machine/systemDiskEncryption/{partition}");
        if is_set(root, &path) {
            encryption_keys(report, root, &format!("{path}/keys"));
        }
    }
    let extensions = list(root, "/machine/install/extensions");
    for (index, extension) in extensions.iter().enumerate() {
        let twice = extensions[..index].contains(extension);
        let path = format!("/machine/install/extensions/{index}");
        report.require(!twice, path, "is declared twice");
    }
}

fn cluster(report: &mut Report, root: &Value) {
    let endpoint = text(root, "/cluster/controlPlane/endpoint");
    report.require(
        is_endpoint(endpoint),
        "/cluster/controlPlane/endpoint",
        "is no URL with a host",
    );
    let domain = text(root, "/cluster/network/dnsDomain");
    let fits = domain.is_empty() || names::is_dns(domain);
    report.require(fits, "/cluster/network/dnsDomain", "is no DNS name such as `cluster.local`");
    let manifests = "/cluster/externalCloudProvider/manifests";
    if is_true(root, "/cluster/externalCloudProvider/enabled") {
        report.each(root, manifests, is_endpoint, "is no URL with a host");
    } else {
        let empty = list(root, manifests).is_empty();
        report.require(
            empty,
            manifests,
            "has manifests, but `externalCloudProvider.enabled` is not true",
        );
    }
    let manifests = list(root, "/cluster/inlineManifests");
    for (index, manifest) in manifests.iter().enumerate() {
        let name = text(manifest, "/name");
        let path = format!("/cluster/inlineManifests/{index}/name");
        report.require(!name.trim().is_empty(), path.as_str(), "is empty");
        let twice = manifests[..index].iter().any(|earlier| text(earlier, "/name") == name);
        report.require(!twice, path, "is the name of another manifest");
    }
    let service = "/cluster/discovery/registries/service";
    let endpoint = text(root, &format!("{service}/endpoint"));
    let used = is_true(root, "/cluster/discovery/enabled")
        && !is_true(root, &format!("{service}/disabled"))
        && !endpoint.is_empty();
    let parts = url(endpoint);
    let fits = !parts.scheme.is_empty() && matches!(parts.path, "" | "/");
    report.require(!used || fits, format!("{service}/endpoint"), "is no URL without a path");
    for component in ["apiServer", "controllerManager", "scheduler"] {
        for list in ["requests", "limits"] {
            let path = format!("/cluster/{component}/resources/{list}");
            for (resource, _) in entries(root, &path) {
                let known = matches!(resource.as_str(), "cpu" | "memory");
                report.require(
                    known,
                    format!("{path}/{}", escaped(resource)),
                    "is neither `cpu` nor `memory`",
                );
            }
        }
    }
    let authorizers = "/cluster/apiServer/authorizationConfig";
    for (index, authorizer) in list(root, authorizers).iter().enumerate() {
        let path = format!("{authorizers}/{index}");
        let known = matches!(text(authorizer, "/type"), "Node" | "RBAC" | "Webhook");
        report.require(known, format!("{path}/type"), "is not one of `Node`, `RBAC` and `Webhook`");
        report.require(!text(authorizer, "/name").is_empty(), format!("{path}/name"), "is empty");
    }
    if !list(root, authorizers).is_empty() {
        for (flag, _) in entries(root, "/cluster/apiServer/extraArgs") {
            let conflict =
                flag == "authorization-mode" || flag.starts_with("authorization-webhook-");
            let path = format!("/cluster/apiServer/extraArgs/{}", escaped(flag));
            report.require(!conflict, path, "cannot be set beside `authorizationConfig`");
        }
    }
}

/// Checks the versions of Kubernetes in the images, as a node does when it receives a configuration.
fn images(report: &mut Report, root: &Value, worker: bool) {
    let all = [
        "/machine/kubelet/image",
        "/cluster/apiServer/image",
        "/cluster/controllerManager/image",
        "/cluster/scheduler/image",
    ];
    for path in &all[..if worker { 1 } else { 4 }] {
        let image = text(root, path);
        if image.is_empty() {
            continue; // Talos uses its own default.
        }
        let version = image.rsplit_once(":v").map(|(_, version)| version);
        let version = version.and_then(|version| version.split('@').next());
        let mut parts = version.unwrap_or_default().split('.').map(str::parse::<u64>);
        let fits = matches!((parts.next(), parts.next()), (Some(Ok(1)), Some(Ok(minor))) if KUBERNETES_MINORS.contains(&minor));
        report.require(fits, *path, "has no tag of Kubernetes v1.31 to v1.36, such as `:v1.36.3`");
    }
}
