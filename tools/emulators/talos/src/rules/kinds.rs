//! Checks of the documents that have a kind.

use serde_json::Value;

use super::{
    Found, entries, is_address, is_set, is_true, is_wireguard_key, list, number, text, texts, url,
};
use crate::leaf;

const LINKS: [&str; 7] = [
    "BondConfig",
    "BridgeConfig",
    "DummyLinkConfig",
    "LinkConfig",
    "VLANConfig",
    "VRFConfig",
    "WireguardConfig",
];
/// Kinds that Talos accepts without a name.
const UNNAMED: [&str; 15] = [
    "EnvironmentConfig",
    "EventSinkConfig",
    "HostnameConfig",
    "ImageVerificationConfig",
    "KubeSpanConfig",
    "KubeSpanEndpointsConfig",
    "NetworkDefaultActionConfig",
    "OOMConfig",
    "PCIDriverRebindConfig",
    "ResolverConfig",
    "SideroLinkConfig",
    "TimeSyncConfig",
    "TrustedRootsConfig",
    "WatchdogTimerConfig",
    "ZswapConfig",
];

/// Checks `document` against the v1alpha1 document and against the documents `before` it.
pub(super) fn check(found: &mut Found, document: &Value, main: &Value, before: &[Value]) {
    let (kind, name) = (text(document, "/kind"), text(document, "/name"));
    let id = if name.is_empty() { kind.to_owned() } else { format!("{kind}/{name}") };
    let mut own = Found(Vec::new());
    own.require(UNNAMED.contains(&kind) || !name.is_empty(), "name must be specified");
    for other in before {
        let same = text(other, "/name") == name;
        let (a, b) = (LINKS.contains(&kind), LINKS.contains(&text(other, "/kind")));
        let message = format!("conflicting documents: {}/{name} and {id}", text(other, "/kind"));
        found.require(!(same && a && b), message);
    }
    match kind {
        "HostnameConfig" => {
            hostname(&mut own, document);
            let set = !text(main, "/machine/network/hostname").is_empty();
            found.require(!set, "static hostname is already set in v1alpha1 config");
            let stable = is_true(main, "/machine/features/stableHostname");
            found.require(!stable, "stable hostname is already set in v1alpha1 config");
        }
        "ResolverConfig" => {
            for list in ["nameservers", "searchDomains"] {
                let set = is_set(main, &format!("/machine/network/{list}"));
                let message = format!(".machine.network.{list} is already set in v1alpha1 config");
                found.require(!set, message);
            }
        }
        "TimeSyncConfig" => {
            let set = texts(main, "/machine/time/servers").next().is_some();
            found.require(
                !set,
                "time servers cannot be specified in both v1alpha1 and new-style configuration",
            );
            let both = is_set(document, "/ntp") && is_set(document, "/ptp");
            own.require(!both, "only one of ntp or ptp configuration can be specified");
        }
        "KubeSpanConfig" => {
            let set = is_set(main, "/machine/network/kubespan");
            found.require(
                !set,
                "kubespan is already configured in v1alpha1 machine.network.kubespan",
            );
        }
        _ => volumes_and_others(&mut own, document, kind, name),
    }
    found.0.extend(own.0.into_iter().map(|message| format!("{id}: {message}")));
}

fn hostname(found: &mut Found, document: &Value) {
    let (auto, name) = (text(document, "/auto"), text(document, "/hostname"));
    let neither = auto.is_empty() && name.is_empty();
    found.require(!neither, "either 'auto' or 'hostname' must be set");
    let both = !name.is_empty() && !matches!(auto, "" | "off");
    found.require(!both, "'auto' and 'hostname' cannot be set at the same time");
    let label = name.split('.').next().unwrap_or_default();
    let fits = name.is_empty() || (1..=63).contains(&label.len());
    found.require(fits, format!("invalid hostname \"{label}\""));
}

fn volumes_and_others(found: &mut Found, document: &Value, kind: &str, name: &str) {
    let size = |path: &str| leaf::bytes(text(document, path));
    let (least, most) = (size("/provisioning/minSize"), size("/provisioning/maxSize"));
    let greater = matches!((least, most), (Some(least), Some(most)) if least > most);
    match kind {
        "VolumeConfig" => {
            let known = matches!(name, "STATE" | "EPHEMERAL" | "IMAGECACHE");
            found.require(
                known,
                "only [\"STATE\" \"EPHEMERAL\" \"IMAGECACHE\"] volumes are supported",
            );
            found.require(!greater, "min size is greater than max size");
        }
        "UserVolumeConfig" | "RawVolumeConfig" | "SwapVolumeConfig" => {
            let fits = (1..=34).contains(&name.len());
            found.require(fits, "name must be between 1 and 34 characters long");
            if matches!(text(document, "/volumeType"), "" | "partition") {
                let selector = !text(document, "/provisioning/diskSelector/match").is_empty();
                found.require(selector, "disk selector is required");
                found.require(
                    least.is_some() || is_set(document, "/provisioning/maxSize"),
                    "min size or max size is required",
                );
                found.require(!greater, "min size is greater than max size");
            }
        }
        "EventSinkConfig" => {
            let endpoint = text(document, "/endpoint");
            let message =
                format!("event sink endpoint: address {endpoint}: missing port in address");
            found.require(endpoint.contains(':'), message);
        }
        "KmsgLogConfig" => {
            let (scheme, host, _) = url(text(document, "/url"));
            found.require(matches!(scheme, "tcp" | "udp"), "url scheme must be tcp:// or udp://");
            found.require(host.contains(':'), "url port is required");
        }
        "WatchdogTimerConfig" => {
            let timeout = leaf::nanoseconds(text(document, "/timeout")).unwrap_or_default();
            let fits = timeout == 0 || timeout >= 10_000_000_000;
            found.require(fits, "watchdog timeout: minimum value is 10s");
        }
        "EnvironmentConfig" => {
            for (variable, _) in entries(document, "/variables") {
                let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                let message = format!("invalid environment variable name: \"{variable}\"");
                found.require(variable.chars().all(letter), message);
            }
        }
        "Layer2VIPConfig" | "HCloudVIPConfig" => {
            found.require(is_address(name), "name must be a valid IP address");
            found.require(!text(document, "/link").is_empty(), "link must be specified");
            let token = kind == "Layer2VIPConfig" || !text(document, "/apiToken").is_empty();
            found.require(token, "apiToken must be specified");
        }
        "StaticHostConfig" => {
            found.require(is_address(name), "name must be a valid IP address");
            let hosts = !list(document, "/hostnames").is_empty();
            found.require(hosts, "at least one hostname is required");
        }
        "NetworkRuleConfig" => network_rule(found, document),
        "ExtensionServiceConfig" => {
            let empty = list(document, "/configFiles").is_empty()
                && list(document, "/environment").is_empty();
            found.require(!empty, format!("no config files found for extension \"{name}\""));
        }
        "RegistryMirrorConfig" => {
            for (index, endpoint) in list(document, "/endpoints").iter().enumerate() {
                let scheme = url(text(endpoint, "/url")).0;
                let message =
                    format!("endpoints[{index}].url has unsupported scheme: \"{scheme}\"");
                found.require(matches!(scheme, "http" | "https"), message);
            }
        }
        "RegistryAuthConfig" => {
            let set = ["/username", "/auth", "/identityToken"];
            let count = set.iter().filter(|field| !text(document, field).is_empty()).count();
            found.require(count <= 1, "only one of auth, username/password or identityToken authentication can be specified");
        }
        "RegistryTLSConfig" => {
            let ca = text(document, "/ca");
            let fits = ca.is_empty() || ca.contains("-----BEGIN CERTIFICATE-----");
            found.require(fits, "ca must be a valid PEM-encoded certificate");
        }
        "ImageVerificationConfig" => {
            for (index, rule) in list(document, "/rules").iter().enumerate() {
                let chosen = is_true(rule, "/skip")
                    || is_true(rule, "/deny")
                    || is_set(rule, "/keyless")
                    || is_set(rule, "/publicKey");
                let message = format!("rule {index}: at least one verifier must be configured");
                found.require(chosen, message);
            }
        }
        _ => link(found, document, kind),
    }
}

fn link(found: &mut Found, document: &Value, kind: &str) {
    match kind {
        "DHCPv4Config" | "DHCPv6Config" => {
            let duid = text(document, "/clientIdentifier") == "duid";
            let raw = !text(document, "/duidRaw").is_empty();
            found.require(raw || !duid, "duidRaw must be set if clientIdentifier is 'duid'");
            found.require(duid || !raw, "duidRaw can only be set if clientIdentifier is 'duid'");
        }
        "VLANConfig" => {
            let fits = (1..=4094).contains(&number(document, "/vlanID"));
            found.require(fits, "vlanID must be specified and between 1 and 4094");
            found.require(!text(document, "/parent").is_empty(), "parent must be specified");
        }
        "BondConfig" => {
            let links = !list(document, "/links").is_empty();
            found.require(links, "at least one link must be specified");
            found.require(is_set(document, "/bondMode"), "bond mode must be specified");
        }
        "WireguardConfig" => {
            let key = is_wireguard_key(text(document, "/privateKey"));
            found.require(key, "wireguard private key is invalid");
            for (index, peer) in list(document, "/peers").iter().enumerate() {
                let key = is_wireguard_key(text(peer, "/publicKey"));
                let message = format!("wireguard peer public key is invalid (peer index {index})");
                found.require(key, message);
            }
        }
        _ => {}
    }
    for (index, address) in list(document, "/addresses").iter().enumerate() {
        let address = text(address, "/address").split('/').next().unwrap_or_default();
        let fits = !matches!(address, "" | "0.0.0.0" | "::");
        found.require(fits, format!("address {index} must be a valid IP address"));
    }
}

fn network_rule(found: &mut Found, document: &Value) {
    let mut earlier: Vec<(u64, u64)> = Vec::new();
    for port in list(document, "/portSelector/ports") {
        let parsed = |text: &str| text.parse().unwrap_or_default();
        let range = port.as_str().and_then(|range| range.split_once('-'));
        let single = port.as_u64().unwrap_or_default();
        let (low, high) = range.map_or((single, single), |(low, high)| (parsed(low), parsed(high)));
        found.require(low <= high, format!("invalid port range: {low}-{high}"));
        if let Some((from, to)) = earlier.iter().find(|(from, to)| low <= *to && *from <= high) {
            let message = format!("invalid port range: {low}-{high}, overlaps with {from}-{to}");
            found.require(false, message);
        }
        earlier.push((low, high));
    }
    found.require(!earlier.is_empty(), "portSelector.ports is required");
}
