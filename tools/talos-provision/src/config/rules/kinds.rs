//! Rules for the documents that have a `kind`.

use serde_json::Value;

use super::{
    Report, Url, WIREGUARD_KEY, duration, encryption_keys, entries, is_set, is_subnet, is_true,
    is_wireguard_key, list, number, text, url,
};
use crate::config::scalar;

/// Kinds for which Talos requires no name.
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
/// Kinds of links: two links cannot have one name.
const LINKS: [&str; 7] = [
    "BondConfig",
    "BridgeConfig",
    "DummyLinkConfig",
    "LinkConfig",
    "VLANConfig",
    "VRFConfig",
    "WireguardConfig",
];
const CONFLICTS: [&[&str]; 3] = [
    &LINKS,
    &["HCloudVIPConfig", "Layer2VIPConfig"],
    &["ExistingVolumeConfig", "UserVolumeConfig"],
];
/// Longest name of a volume: a partition label has 36 characters, two of which Talos uses.
const VOLUME_NAME_LETTERS_MAX: usize = 34;
const ROUTING_TABLES_RESERVED: [&str; 4] = ["unspec", "default", "main", "local"];
const WATCHDOG_NANOSECONDS_MIN: i64 = 10_000_000_000;

/// Checks one document against `root`, the document with `machine`, and against the documents `before` it.
pub(super) fn check(
    report: &mut Report,
    (kind, document): (&str, &Value),
    root: &Value,
    before: &[Value],
) {
    let name = text(document, "/name");
    let unnamed = UNNAMED.contains(&kind);
    report.require(
        unnamed || !name.is_empty(),
        "/name",
        "is missing: every document of this kind has a name",
    );
    let conflicts = |kinds: &&[&str]| kinds.contains(&kind);
    for kinds in CONFLICTS.iter().filter(|kinds| conflicts(kinds)) {
        let other = before.iter().find(|other| {
            text(other, "/name") == name
                && text(other, "/kind") != kind
                && kinds.contains(&text(other, "/kind"))
        });
        if let Some(other) = other {
            let message = format!("is also the name of a {}", text(other, "/kind"));
            report.refuse("/name", message);
        }
    }
    if LINKS.contains(&kind) {
        link(report, document);
    }
    match kind {
        "HostnameConfig" => hostname(report, document, root),
        "ResolverConfig" => resolver(report, root),
        "TimeSyncConfig" => time_sync(report, document, root),
        "KubeSpanConfig" => kube_span(report, document, root),
        "VolumeConfig" => system_volume(report, document, root),
        "UserVolumeConfig"
        | "RawVolumeConfig"
        | "SwapVolumeConfig"
        | "ExternalVolumeConfig"
        | "ExistingVolumeConfig" => volume(report, document, kind),
        "WireguardConfig" => wireguard(report, document),
        "NetworkRuleConfig" => network_rule(report, document),
        "ImageVerificationConfig" => image_rules(report, document),
        _ => {
            services(report, (kind, document));
            addresses(report, (kind, document), name);
        }
    }
}

/// Checks the documents that configure services of a machine.
fn services(report: &mut Report, (kind, document): (&str, &Value)) {
    match kind {
        "EventSinkConfig" => {
            let endpoint = text(document, "/endpoint");
            let fits = endpoint.rsplit_once(':').is_some_and(|(host, _)| {
                !host.contains(':') || host.starts_with('[') && host.ends_with(']')
            });
            report.require(fits, "/endpoint", "is no host with a port, such as `192.0.2.1:4000`");
        }
        "KmsgLogConfig" => {
            let Url { scheme, port, path, .. } = url(text(document, "/url"));
            let fits =
                matches!(scheme, "tcp" | "udp") && matches!(path, "" | "/") && !port.is_empty();
            report.require(
                fits,
                "/url",
                "is no URL with a port and without a path, such as `tcp://192.0.2.1:5555`",
            );
        }
        "SideroLinkConfig" => {
            let Url { scheme, path, .. } = url(text(document, "/apiUrl"));
            let fits = matches!(scheme, "https" | "grpc") && matches!(path, "" | "/");
            report.require(fits, "/apiUrl", "is no `https` or `grpc` URL without a path");
        }
        "WatchdogTimerConfig" => {
            report.require(!text(document, "/device").is_empty(), "/device", "is missing");
            let timeout = duration(document, "/timeout");
            let fits = timeout == 0 || timeout >= WATCHDOG_NANOSECONDS_MIN;
            report.require(fits, "/timeout", "is shorter than 10s");
        }
        "EnvironmentConfig" => {
            for (variable, _) in entries(document, "/variables") {
                let begins = variable
                    .starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
                let fits = begins
                    && variable
                        .chars()
                        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
                let path = format!("/variables/{}", variable.replace('~', "~0").replace('/', "~1"));
                report.require(fits, path, "is no name of an environment variable");
            }
        }
        "OOMConfig" => {
            report.require(
                duration(document, "/sampleInterval") >= 0,
                "/sampleInterval",
                "is negative",
            );
        }
        "ZswapConfig" => {
            let fits = (0..=100).contains(&number(document, "/maxPoolPercent"));
            report.require(fits, "/maxPoolPercent", "is not between 0 and 100");
        }
        "ExtensionServiceConfig" => {
            let empty = list(document, "/configFiles").is_empty()
                && list(document, "/environment").is_empty();
            report.require(!empty, "", "has neither `configFiles` nor `environment`");
            for (index, file) in list(document, "/configFiles").iter().enumerate() {
                for field in ["/content", "/mountPath"] {
                    let set = !text(file, field).is_empty();
                    report.require(set, format!("/configFiles/{index}{field}"), "is missing");
                }
            }
        }
        "RegistryMirrorConfig" => {
            for (index, endpoint) in list(document, "/endpoints").iter().enumerate() {
                let fits = matches!(url(text(endpoint, "/url")).scheme, "http" | "https");
                report.require(
                    fits,
                    format!("/endpoints/{index}/url"),
                    "is no `http` or `https` URL",
                );
            }
        }
        "RegistryAuthConfig" => {
            let set = ["/username", "/auth", "/identityToken"]
                .map(|field| !text(document, field).is_empty());
            let one = set.iter().filter(|set| **set).count() <= 1;
            report.require(one, "", "has more than one of `username`, `auth` and `identityToken`");
        }
        "RegistryTLSConfig" => {
            let ca = text(document, "/ca");
            let fits = ca.is_empty() || ca.contains("-----BEGIN CERTIFICATE-----");
            report.require(fits, "/ca", "is no certificate in PEM");
        }
        _ => {}
    }
}

/// Checks the documents that configure links and addresses.
fn addresses(report: &mut Report, (kind, document): (&str, &Value), name: &str) {
    match kind {
        "VLANConfig" => {
            let fits = (1..=4094).contains(&number(document, "/vlanID"));
            report.require(fits, "/vlanID", "is not between 1 and 4094");
            report.require(!text(document, "/parent").is_empty(), "/parent", "is missing");
        }
        "VRFConfig" => {
            let table = text(document, "/table");
            let fits = !table.is_empty() && !ROUTING_TABLES_RESERVED.contains(&table);
            report.require(fits, "/table", "is missing or reserved: use a number from 1 to 252");
        }
        "BondConfig" => {
            report.require(!list(document, "/links").is_empty(), "/links", "is empty");
            report.require(is_set(document, "/bondMode"), "/bondMode", "is missing");
        }
        "DHCPv4Config" | "DHCPv6Config" => {
            let duid = text(document, "/clientIdentifier") == "duid";
            let raw = !text(document, "/duidRaw").is_empty();
            report.require(
                duid == raw,
                "/duidRaw",
                "is set if and only if `clientIdentifier` is `duid`",
            );
        }
        "Layer2VIPConfig" | "HCloudVIPConfig" => {
            let fits = name.is_empty() || scalar::is_address(name);
            report.require(fits, "/name", "is no IP address");
            report.require(!text(document, "/link").is_empty(), "/link", "is missing");
            let token = kind == "Layer2VIPConfig" || !text(document, "/apiToken").is_empty();
            report.require(token, "/apiToken", "is missing");
        }
        "StaticHostConfig" => {
            report.require(
                name.is_empty() || scalar::is_address(name),
                "/name",
                "is no IP address",
            );
            report.require(!list(document, "/hostnames").is_empty(), "/hostnames", "is empty");
        }
        "BlackholeRouteConfig" => {
            report.require(name.is_empty() || scalar::is_prefix(name), "/name", "is no network");
        }
        _ => {}
    }
}

fn hostname(report: &mut Report, document: &Value, root: &Value) {
    let (auto, name) = (text(document, "/auto"), text(document, "/hostname"));
    report.require(!(auto.is_empty() && name.is_empty()), "", "has neither `auto` nor `hostname`");
    let both = !name.is_empty() && !matches!(auto, "" | "off");
    report.require(!both, "/auto", "is set beside `hostname`: write `auto: off`");
    report.require(auto != "talos-addr", "/auto", "is neither `stable` nor `off`");
    let label = name.split('.').next().unwrap_or_default();
    let fits = name.is_empty() || name.len() <= 253 && (1..=63).contains(&label.len());
    report.require(
        fits,
        "/hostname",
        "is no host name: a label has 1 to 63 characters, a name at most 253",
    );
    let (taken, stable) = ("/machine/network/hostname", "/machine/features/stableHostname");
    let message = "conflicts with the HostnameConfig by which this program names every machine: remove it from the patch";
    report.require_of_main(text(root, taken).is_empty(), taken, message);
    report.require_of_main(!is_true(root, stable), stable, message);
}

fn resolver(report: &mut Report, root: &Value) {
    let network = "/machine/network";
    let set = |field: &str| !list(root, &format!("{network}/{field}")).is_empty();
    let conflict = set("searchDomains")
        || set("nameservers")
        || is_true(root, &format!("{network}/disableSearchDomain"));
    report.require(!conflict, "", "conflicts with `nameservers`, `searchDomains` or `disableSearchDomain` of `machine.network`: use one form");
}

fn time_sync(report: &mut Report, document: &Value, root: &Value) {
    report.require(duration(document, "/bootTimeout") >= 0, "/bootTimeout", "is negative");
    let both = is_set(document, "/ntp") && is_set(document, "/ptp");
    report.require(!both, "", "has both `ntp` and `ptp`");
    let conflict = is_true(root, "/machine/time/disabled")
        || !list(root, "/machine/time/servers").is_empty()
        || duration(root, "/machine/time/bootTimeout") != 0;
    report.require(!conflict, "", "conflicts with `machine.time`: use one form");
}

fn kube_span(report: &mut Report, document: &Value, root: &Value) {
    let mtu = document.pointer("/mtu").and_then(Value::as_i64);
    report.require(mtu.is_none_or(|mtu| mtu >= 1280), "/mtu", "is smaller than 1280");
    report.each(document, "/filters/endpoints", is_subnet, "is no network or address");
    let conflict = is_set(root, "/machine/network/kubespan");
    report.require(!conflict, "", "conflicts with `machine.network.kubespan`: use one form");
}

fn system_volume(report: &mut Report, document: &Value, root: &Value) {
    let name = text(document, "/name");
    let known = name.is_empty() || matches!(name, "STATE" | "EPHEMERAL" | "IMAGECACHE");
    report.require(known, "/name", "is not one of `STATE`, `EPHEMERAL` and `IMAGECACHE`");
    let state = name == "STATE" && entries(document, "/provisioning").next().is_some();
    report.require(!state, "/provisioning", "is not allowed for `STATE`");
    sizes(report, document);
    encryption(report, document);
    let legacy = format!("/machine/systemDiskEncryption/{}", name.to_lowercase());
    let conflict = text(document, "/encryption/provider") == "luks2" && is_set(root, &legacy);
    report.require(
        !conflict,
        "/encryption",
        "conflicts with `machine.systemDiskEncryption`: use one form",
    );
}

fn volume(report: &mut Report, document: &Value, kind: &str) {
    let name = text(document, "/name");
    let fits = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    let long = name.len() > VOLUME_NAME_LETTERS_MAX && kind != "ExistingVolumeConfig";
    report.require(
        fits && !long,
        "/name",
        "is no name of a volume: use at most 34 letters, digits and `-`",
    );
    match kind {
        "ExternalVolumeConfig" => {
            let virtio = text(document, "/filesystemType") == "virtiofs";
            report.require(virtio, "/filesystemType", "is not `virtiofs`");
            let tag = !text(document, "/mount/virtiofs/tag").is_empty();
            return report.require(tag, "/mount/virtiofs/tag", "is missing");
        }
        "ExistingVolumeConfig" => {
            let selector = !text(document, "/discovery/volumeSelector/match").is_empty();
            return report.require(selector, "/discovery/volumeSelector/match", "is missing");
        }
        _ => {}
    }
    let volume_type = match text(document, "/volumeType") {
        "" => "partition",
        other => other,
    };
    let disk = volume_type == "disk";
    let sized = ["/minSize", "/maxSize"]
        .map(|size| !text(document, &format!("/provisioning{size}")).is_empty());
    match volume_type {
        "partition" | "disk" => {
            let selector = !text(document, "/provisioning/diskSelector/match").is_empty();
            report.require(selector, "/provisioning/diskSelector/match", "is missing");
            let grow = is_set(document, "/provisioning/grow");
            let unsized_disk = !sized.contains(&true) && !grow;
            report.require(
                !disk || unsized_disk,
                "/provisioning",
                "cannot have sizes or `grow` for a whole disk",
            );
            report.require(
                disk || sized.contains(&true),
                "/provisioning",
                "has neither `minSize` nor `maxSize`",
            );
            sizes(report, document);
            encryption(report, document);
            let filesystem = text(document, "/filesystem/type");
            let known = matches!(filesystem, "" | "none" | "xfs" | "ext4");
            report.require(known, "/filesystem/type", "is neither `xfs` nor `ext4`");
            let quota =
                is_true(document, "/filesystem/projectQuotaSupport") && filesystem == "ext4";
            report.require(!quota, "/filesystem/projectQuotaSupport", "requires `xfs`");
        }
        "directory" => {
            for part in ["/provisioning", "/encryption", "/filesystem", "/mount"] {
                let set = entries(document, part).next().is_some();
                report.require(!set, part, "is not allowed for a directory");
            }
        }
        _ => report.refuse("/volumeType", "is not one of `partition`, `disk` and `directory`"),
    }
}

fn sizes(report: &mut Report, document: &Value) {
    let (least, most) = ("/provisioning/minSize", "/provisioning/maxSize");
    let size = |path: &str| scalar::bytes(text(document, path));
    let fits = !matches!((size(least), size(most)), (Some(least), Some(most)) if least > most);
    report.require(fits, least, "is greater than `maxSize`");
}

fn encryption(report: &mut Report, document: &Value) {
    if entries(document, "/encryption").next().is_none() {
        return;
    }
    let known = text(document, "/encryption/provider") == "luks2";
    report.require(known, "/encryption/provider", "is not `luks2`");
    encryption_keys(report, document, "/encryption/keys");
    for (index, key) in list(document, "/encryption/keys").iter().enumerate() {
        for (pcr, number) in list(key, "/tpm/options/pcrs").iter().enumerate() {
            let fits = number.as_i64().is_some_and(|number| (0..=23).contains(&number));
            let path = format!("/encryption/keys/{index}/tpm/options/pcrs/{pcr}");
            report.require(fits, path, "is not between 0 and 23");
        }
    }
}

/// Checks the addresses and routes that all links have.
fn link(report: &mut Report, document: &Value) {
    let specified = |text: &str| {
        let address = text.split('/').next().unwrap_or_default();
        !matches!(address, "0.0.0.0" | "::")
    };
    for (index, address) in list(document, "/addresses").iter().enumerate() {
        let text = text(address, "/address");
        let fits = !text.is_empty() && specified(text);
        report.require(
            fits,
            format!("/addresses/{index}/address"),
            "is no address such as `192.0.2.1/24`",
        );
    }
    for (index, route) in list(document, "/routes").iter().enumerate() {
        for field in ["/destination", "/gateway", "/source"] {
            let fits = specified(text(route, field));
            let path = format!("/routes/{index}{field}");
            report.require(
                fits,
                path,
                "is not specified: a default route has a gateway and no destination",
            );
        }
    }
}

fn wireguard(report: &mut Report, document: &Value) {
    let key = is_wireguard_key(text(document, "/privateKey"));
    report.require(key, "/privateKey", WIREGUARD_KEY);
    let port = (0..=65535).contains(&number(document, "/listenPort"));
    report.require(port, "/listenPort", "is not between 0 and 65535");
    for (index, peer) in list(document, "/peers").iter().enumerate() {
        let at = |field: &str| format!("/peers/{index}{field}");
        report.require(is_wireguard_key(text(peer, "/publicKey")), at("/publicKey"), WIREGUARD_KEY);
        let shared = text(peer, "/presharedKey");
        let fits = shared.is_empty() || is_wireguard_key(shared);
        report.require(fits, at("/presharedKey"), WIREGUARD_KEY);
        let interval = "/persistentKeepaliveInterval";
        report.require(duration(peer, interval) >= 0, at(interval), "is negative");
    }
}

fn network_rule(report: &mut Report, document: &Value) {
    let path = "/portSelector/ports";
    let mut ports: Vec<(u16, u16)> = Vec::new();
    for (index, port) in list(document, path).iter().enumerate() {
        let range = match port {
            Value::String(range) => range
                .split_once('-')
                .and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?))),
            number => {
                number.as_u64().and_then(|port| u16::try_from(port).ok()).map(|port| (port, port))
            }
        };
        let (low, high): (u16, u16) = range.unwrap_or((1, 0));
        report.require(low <= high, format!("{path}/{index}"), "ends before it begins");
        let overlaps = ports.iter().any(|(from, to)| low <= *to && *from <= high);
        report.require(!overlaps, format!("{path}/{index}"), "overlaps another range");
        ports.push((low, high));
    }
    report.require(!ports.is_empty(), path, "is empty");
    for (index, rule) in list(document, "/ingress").iter().enumerate() {
        let set = !text(rule, "/subnet").is_empty();
        report.require(set, format!("/ingress/{index}/subnet"), "is missing");
    }
}

fn image_rules(report: &mut Report, document: &Value) {
    for (index, rule) in list(document, "/rules").iter().enumerate() {
        let path = format!("/rules/{index}");
        let (skip, deny) = (is_true(rule, "/skip"), is_true(rule, "/deny"));
        let verifiers =
            usize::from(is_set(rule, "/keyless")) + usize::from(is_set(rule, "/publicKey"));
        let choices = usize::from(skip) + usize::from(deny) + verifiers;
        report.require(
            choices == 1,
            path.as_str(),
            "needs exactly one of `skip`, `deny`, `keyless` and `publicKey`",
        );
        report.require(!text(rule, "/image").is_empty(), format!("{path}/image"), "is missing");
        if is_set(rule, "/keyless") {
            let issuer = !text(rule, "/keyless/issuer").is_empty();
            report.require(issuer, format!("{path}/keyless/issuer"), "is missing");
            let subject = ["/keyless/subject", "/keyless/subjectRegex"]
                .iter()
                .any(|field| !text(rule, field).is_empty());
            report.require(
                subject,
                format!("{path}/keyless"),
                "has neither `subject` nor `subjectRegex`",
            );
        }
        let certificate =
            !is_set(rule, "/publicKey") || !text(rule, "/publicKey/certificate").is_empty();
        report.require(certificate, format!("{path}/publicKey/certificate"), "is missing");
    }
}
