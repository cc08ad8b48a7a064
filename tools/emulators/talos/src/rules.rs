//! Checks of a node before it accepts a configuration, with Talos's own messages
//! (`pkg/machinery/config/types/v1alpha1/v1alpha1_validation.go` of v1.13.9).
//!
//! Expressions in CEL and certificates of registries are not checked.

mod kinds;

use serde_json::Value;

use crate::error::Error;
use crate::kind::Kind;
use crate::leaf;

/// Roles of the Talos API.
const API_ROLES: [&str; 7] = [
    "os:admin",
    "os:operator",
    "os:reader",
    "os:etcd:backup",
    "os:image:verifier",
    "os:meta:writer",
    "os:impersonator",
];

/// Refuses documents that Talos's validator refuses. `main` is the v1alpha1 document.
pub(crate) fn check(main: &Value, kind: Kind, others: &[Value]) -> Result<(), Error> {
    let mut found = Found(Vec::new());
    let worker = kind == Kind::Worker;
    if !worker {
        cni(&mut found, main);
        etcd(&mut found, main);
    }
    features(&mut found, main, worker);
    network(&mut found, main, worker);
    node(&mut found, main);
    storage(&mut found, main);
    cluster(&mut found, main);
    images(&mut found, main, worker);
    for (index, document) in others.iter().enumerate() {
        kinds::check(&mut found, document, main, &others[..index]);
    }
    match found.0.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::new(format!("1 error occurred:\n\t* {one}\n\n"))),
        many => {
            let head = format!("{} errors occurred:", many.len());
            Err(Error::new(format!("{head}\n\t* {}\n\n", many.join("\n\t* "))))
        }
    }
}

/// Messages of the failed checks.
struct Found(Vec<String>);

impl Found {
    fn require(&mut self, fits: bool, message: impl Into<String>) {
        if !fits {
            self.0.push(message.into());
        }
    }
}

fn text<'a>(root: &'a Value, path: &str) -> &'a str {
    root.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(root: &'a Value, path: &str) -> &'a [Value] {
    root.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn texts<'a>(root: &'a Value, path: &str) -> impl Iterator<Item = &'a str> {
    list(root, path).iter().filter_map(Value::as_str)
}

fn entries<'a>(root: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    root.pointer(path).and_then(Value::as_object).into_iter().flatten()
}

fn is_true(root: &Value, path: &str) -> bool {
    root.pointer(path) == Some(&Value::Bool(true))
}

fn is_set(root: &Value, path: &str) -> bool {
    root.pointer(path).is_some_and(|value| !value.is_null())
}

fn number(root: &Value, path: &str) -> i64 {
    root.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

fn is_subnet(text: &str) -> bool {
    let text = text.trim_start_matches('!');
    is_address(text) || leaf::is_prefix(text)
}

/// Returns scheme, host with port, and path of a URL.
fn url(text: &str) -> (&str, &str, &str) {
    let Some((scheme, rest)) = text.split_once("://") else { return ("", "", "") };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (scheme, host, path)
}

fn has_host(text: &str) -> bool {
    let host = url(text).1;
    !host.is_empty() && !host.starts_with(':')
}

fn is_wireguard_key(text: &str) -> bool {
    data_encoding::BASE64.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == 32)
}

/// Returns whether a text is a qualified name of Kubernetes, or with `value` the value of a label.
fn is_qualified(text: &str, value: bool) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, _)) if value || prefix.is_empty() => return false,
        Some((_, name)) => name,
        None => text,
    };
    let end = |letter: char| letter.is_ascii_alphanumeric();
    let inner = |letter: char| end(letter) || "-_.".contains(letter);
    (value && text.is_empty())
        || (1..=63).contains(&name.len())
            && name.starts_with(end)
            && name.ends_with(end)
            && name.chars().all(inner)
}

fn cni(found: &mut Found, main: &Value) {
    let path = "/cluster/network/cni";
    let (name, urls) = (text(main, &format!("{path}/name")), format!("{path}/urls"));
    match name {
        _ if !is_set(main, path) => {}
        "flannel" | "none" => {
            let empty = list(main, &urls).is_empty();
            found.require(empty, format!("\"urls\" field should be empty for \"{name}\" CNI"));
        }
        "custom" => found.require(texts(main, &urls).all(has_host), "hostname must not be blank"),
        _ => found.require(false, "cni name should be one of [\"flannel\", \"custom\", \"none\"]"),
    }
}

fn etcd(found: &mut Found, main: &Value) {
    let subnet = !text(main, "/cluster/etcd/subnet").is_empty();
    let both = subnet && !list(main, "/cluster/etcd/advertisedSubnets").is_empty();
    found.require(!both, "etcd subnet can't be set when advertised subnets are set");
    for (list, name) in [("advertisedSubnets", "advertised"), ("listenSubnets", "listen")] {
        for subnet in texts(main, &format!("/cluster/etcd/{list}")) {
            let message = format!("etcd {name} subnet is not valid: \"{subnet}\"");
            found.require(is_subnet(subnet), message);
        }
    }
}

fn features(found: &mut Found, main: &Value, worker: bool) {
    let dns = "/machine/features/hostDNS";
    let forward = is_true(main, &format!("{dns}/forwardKubeDNSToHost"));
    found.require(
        !forward || is_true(main, &format!("{dns}/enabled")),
        "feature hostDNS.forwardKubeDNSToHost requires hostDNS.enabled to be true (.machine.features.hostDNS)",
    );
    let access = "/machine/features/kubernetesTalosAPIAccess";
    if is_true(main, &format!("{access}/enabled")) {
        let message =
            "feature Kubernetes Talos API Access can only be enabled on control plane machines";
        found.require(!worker, message);
        for role in texts(main, &format!("{access}/allowedRoles")) {
            let message =
                format!("invalid role \"{role}\" in allowed roles for Kubernetes Talos API Access");
            found.require(API_ROLES.contains(&role), message);
        }
    }
    let order = text(main, "/machine/features/nodeAddressSortAlgorithm").to_lowercase();
    let known = ["", "v1", "v2"].contains(&order.as_str());
    found.require(known, format!("invalid node address sort algorithm: {order} does not belong to AddressSortAlgorithm values"));
}

fn network(found: &mut Found, main: &Value, worker: bool) {
    for device in list(main, "/machine/network/interfaces") {
        let vip = is_set(device, "/vip")
            || list(device, "/vlans").iter().any(|vlan| is_set(vlan, "/vip"));
        found.require(
            !worker || !vip,
            "virtual (shared) IP is not allowed on non-controlplane nodes",
        );
        if !is_true(device, "/ignore") {
            interface(found, device);
        }
    }
    if is_true(main, "/machine/network/kubespan/enabled") {
        let discovery = is_true(main, "/cluster/discovery/enabled");
        found.require(
            discovery,
            ".cluster.discovery should be enabled when .machine.network.kubespan is enabled",
        );
        let mtu = main.pointer("/machine/network/kubespan/mtu").and_then(Value::as_i64);
        found.require(mtu.is_none_or(|mtu| mtu >= 1280), "kubespan link MTU must be at least 1280");
    }
}

fn interface(found: &mut Found, device: &Value) {
    let name = text(device, "/interface");
    let options = "[networking.os.device.interface], [networking.os.device.deviceSelector]";
    match (name.is_empty(), is_set(device, "/deviceSelector")) {
        (true, false) => {
            found.require(false, format!("{options}: required either config section to be set"));
        }
        (false, true) => {
            found.require(false, format!("{options}: config sections are mutually exclusive"));
        }
        _ => {}
    }
    for address in texts(device, "/addresses") {
        let fits = leaf::is_prefix(address) || is_address(address);
        found.require(
            fits,
            format!("[networking.os.device.addresses] \"{name}\": invalid CIDR address: {address}"),
        );
    }
    let ip = text(device, "/vip/ip");
    let fits = !is_set(device, "/vip") || is_address(ip);
    found.require(
        fits,
        format!("[networking.os.device.vip] failed to parse \"{ip}\" as IP address"),
    );
    for (index, route) in list(device, "/routes").iter().enumerate() {
        let place = format!("networking.os.device.route[{index}]");
        let (network, gateway) = (text(route, "/network"), text(route, "/gateway"));
        let fits = gateway.is_empty() || is_address(gateway);
        found.require(fits, format!("[{place}.gateway] \"{gateway}\": invalid network address"));
        let fits = network.is_empty() || leaf::is_prefix(network);
        found.require(fits, format!("[{place}.network] \"{network}\": invalid network address"));
        let neither = network.is_empty() && gateway.is_empty();
        found.require(!neither, format!("[{place}]: either network or gateway should be set"));
    }
    if is_set(device, "/wireguard") {
        let key = is_wireguard_key(text(device, "/wireguard/privateKey"));
        found.require(key, "private key is invalid: wrong key length");
    }
}

/// Checks the kubelet, labels, annotations, taints and log destinations.
fn node(found: &mut Found, main: &Value) {
    const PROTECTED: [&str; 13] = [
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
    for (field, _) in entries(main, "/machine/kubelet/extraConfig") {
        let fits = !PROTECTED.contains(&field.as_str());
        found.require(fits, format!("kubelet configuration field \"{field}\" can't be overridden"));
    }
    for subnet in texts(main, "/machine/kubelet/nodeIP/validSubnets") {
        found.require(
            is_subnet(subnet),
            format!("kubelet nodeIP subnet is not valid: \"{subnet}\""),
        );
    }
    for (list, name) in
        [("nodeLabels", "labels"), ("nodeAnnotations", "annotations"), ("nodeTaints", "taints")]
    {
        for (key, value) in entries(main, &format!("/machine/{list}")) {
            let value = value.as_str().unwrap_or_default();
            let why = match name {
                _ if !is_qualified(key, false) => format!("name \"{key}\" is invalid"),
                "labels" if !is_qualified(value, true) => {
                    format!("label value \"{value}\" is invalid")
                }
                "annotations" if key.starts_with("talos.dev/owned-") => {
                    format!("annotation \"{key}\" is reserved")
                }
                "taints" => {
                    let effect = value.split_once(':').map_or(value, |(_, effect)| effect);
                    if ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
                        continue;
                    }
                    format!("invalid taint effect: \"{effect}\"")
                }
                _ => continue,
            };
            found.require(false, format!("invalid machine node {name}: {why}"));
        }
    }
    for destination in list(main, "/machine/logging/destinations") {
        let (scheme, host, _) = url(text(destination, "/endpoint"));
        found.require(!host.is_empty(), "empty logging endpoint's host");
        let fits = matches!(scheme, "tcp" | "udp");
        found.require(fits, format!("unexpected logging endpoint scheme \"{scheme}\""));
        let format = text(destination, "/format");
        found.require(format == "json_lines", format!("unknown logging format \"{format}\""));
    }
}

fn storage(found: &mut Found, main: &Value) {
    for disk in list(main, "/machine/disks") {
        let partitions = list(disk, "/partitions");
        let full =
            |partition: &Value| leaf::bytes(text(partition, "/size")).unwrap_or_default() <= 0.0;
        let before_last = &partitions[..partitions.len().saturating_sub(1)];
        let device = text(disk, "/device");
        found.require(!before_last.iter().any(full), format!("partition for disk \"{device}\" is set to occupy full disk, but it's not the last partition in the list"));
    }
    for (partition, label) in [("state", "STATE"), ("ephemeral", "EPHEMERAL")] {
        let path = format!("/machine/systemDiskEncryption/{partition}");
        if is_set(main, &path) {
            let keys = list(main, &format!("{path}/keys"));
            found.require(
                !keys.is_empty(),
                format!("partition \"{label}\": no encryption keys provided"),
            );
            for (index, key) in keys.iter().enumerate() {
                let slot = number(key, "/slot");
                let used = keys[..index].iter().any(|earlier| number(earlier, "/slot") == slot);
                found.require(
                    !used,
                    format!("partition \"{label}\": encryption key slot {slot} is already in use"),
                );
            }
        }
    }
}

fn cluster(found: &mut Found, main: &Value) {
    let domain = text(main, "/cluster/network/dnsDomain");
    let letter = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    found.require(domain.chars().all(letter), format!("\"{domain}\" is not a valid DNS name"));
    let manifests = "/cluster/externalCloudProvider/manifests";
    if is_true(main, "/cluster/externalCloudProvider/enabled") {
        for manifest in texts(main, manifests) {
            found.require(has_host(manifest), format!("invalid external cloud provider manifest url \"{manifest}\": hostname must not be blank"));
        }
    } else {
        let empty = list(main, manifests).is_empty();
        found.require(empty, "external cloud provider is disabled, but manifests are provided");
    }
    let manifests = list(main, "/cluster/inlineManifests");
    for (index, manifest) in manifests.iter().enumerate() {
        let name = text(manifest, "/name");
        found.require(!name.trim().is_empty(), "inline manifest name can't be empty");
        let twice = manifests[..index].iter().any(|earlier| text(earlier, "/name") == name);
        found.require(!twice, format!("inline manifest name \"{name}\" is duplicate"));
    }
    let path = url(text(main, "/cluster/discovery/registries/service/endpoint")).2;
    found.require(matches!(path, "" | "/"), "cluster discovery service path should be empty");
    for (component, name) in [
        ("apiServer", "apiserver"),
        ("controllerManager", "controller-manager"),
        ("scheduler", "scheduler"),
    ] {
        for list in ["requests", "limits"] {
            for (key, _) in entries(main, &format!("/cluster/{component}/resources/{list}")) {
                let known = matches!(key.as_str(), "cpu" | "memory");
                found.require(
                    known,
                    format!(
                        "{name} resource validation failed: unsupported pod resource \"{key}\""
                    ),
                );
            }
        }
    }
    for authorizer in list(main, "/cluster/apiServer/authorizationConfig") {
        let name = text(authorizer, "/type");
        let known = matches!(name, "Node" | "RBAC" | "Webhook");
        found.require(known, format!("apiserver authorization config validation failed: authorizer type {name} is not allowed, allowed types are [Node RBAC Webhook]"));
    }
}

/// Checks the versions of Kubernetes that Talos 1.13 runs: v1.31 to v1.36.
fn images(found: &mut Found, main: &Value, worker: bool) {
    let all = [
        "/machine/kubelet/image",
        "/cluster/apiServer/image",
        "/cluster/controllerManager/image",
        "/cluster/scheduler/image",
    ];
    for path in &all[..if worker { 1 } else { 4 }] {
        let image = text(main, path);
        if image.is_empty() {
            continue;
        }
        let Some((_, version)) = image.rsplit_once(":v") else {
            found.require(false, format!("invalid image reference: \"{image}\""));
            continue;
        };
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u64>().ok());
        let age = if minor.is_some_and(|minor| minor < 31) { "old" } else { "new" };
        let fits = minor.is_some_and(|minor| (31..=36).contains(&minor));
        found.require(
            fits,
            format!("version of Kubernetes {version} is too {age} to be used with Talos 1.13.9"),
        );
    }
}
