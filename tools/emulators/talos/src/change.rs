//! The effects of a new configuration: components that must restart, and whether the node must reboot.

use serde_json::Value;

use crate::config::Configuration;
use crate::strict;

/// Fields of `machine` that Talos applies without a reboot.
const LIVE: [&str; 18] = [
    "acceptedCAs",
    "ca",
    "certSANs",
    "controlPlane",
    "install",
    "kernel",
    "kubelet",
    "logging",
    "network",
    "nodeAnnotations",
    "nodeLabels",
    "nodeTaints",
    "pods",
    "registries",
    "seccompProfiles",
    "sysctls",
    "sysfs",
    "time",
];
const LIVE_FEATURES: [&str; 5] =
    ["hostDNS", "imageCache", "kubePrism", "kubernetesTalosAPIAccess", "nodeAddressSortAlgorithm"];

/// Components that must restart for a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) etcd: bool,
    pub(crate) control_plane: bool,
    pub(crate) kubelet: bool,
}

/// Whether a node that runs `now` must reboot for `next`.
pub(crate) fn needs_reboot(now: &Configuration, next: &Configuration) -> bool {
    now.kind != next.kind || without_live(&now.main) != without_live(&next.main)
}

/// Returns the v1alpha1 document without the fields that a running node can apply.
fn without_live(main: &Value) -> Value {
    let mut rest = main.clone();
    if let Some(root) = rest.as_object_mut() {
        root.remove("debug");
        root.remove("cluster");
    }
    if let Some(machine) = rest["machine"].as_object_mut() {
        for field in LIVE {
            machine.remove(field);
        }
    }
    if let Some(features) = rest["machine"]["features"].as_object_mut() {
        for field in LIVE_FEATURES {
            features.remove(field);
        }
    }
    rest
}

/// Whether the Talos API must restart: its authorities, its names or its hostname change.
pub(crate) fn touches_api(now: &Configuration, next: &Configuration) -> bool {
    let differs = |field: &str| now.main["machine"].get(field) != next.main["machine"].get(field);
    ["ca", "acceptedCAs", "certSANs"].into_iter().any(differs) || now.hostname() != next.hostname()
}

/// Returns the components that must restart when `next` replaces `now` without a reboot.
pub(crate) fn touched(now: &Configuration, next: &Configuration) -> Touched {
    let differs = |pointer: &str| now.main.pointer(pointer) != next.main.pointer(pointer);
    let kubelet = ["kubelet", "nodeLabels", "nodeTaints", "nodeAnnotations"];
    Touched {
        etcd: differs("/cluster/etcd"),
        control_plane: differs("/cluster") || differs("/machine/certSANs"),
        kubelet: kubelet.iter().any(|field| differs(&format!("/machine/{field}")))
            || ["ca", "acceptedCAs", "network", "token", "controlPlane", "externalCloudProvider"]
                .iter()
                .any(|field| differs(&format!("/cluster/{field}"))),
    }
}

/// Returns the lines that differ, as a dry run shows them: `-` for current lines, `+` for new lines. As in Talos, which
/// compares documents, comments and styles make no difference.
pub(crate) fn difference(now: &[u8], next: &[u8]) -> String {
    let (now, next) = (String::from_utf8_lossy(now), String::from_utf8_lossy(next));
    let same = matches!((strict::decode(&now), strict::decode(&next)),
        (Ok(now), Ok(next)) if now == next);
    if same || now == next {
        return "No changes.".to_owned();
    }
    let lines = |text| str::lines(text).filter(|line| !line.trim_start().starts_with('#'));
    let (now, next): (Vec<&str>, Vec<&str>) = (lines(&now).collect(), lines(&next).collect());
    let head = now.iter().zip(&next).take_while(|(a, b)| a == b).count();
    let tail = now[head..].iter().rev().zip(next[head..].iter().rev());
    let tail = tail.take_while(|(a, b)| a == b).count();
    let mut out = vec!["--- a".to_owned(), "+++ b".to_owned()];
    let (removed, added) = (&now[head..now.len() - tail], &next[head..next.len() - tail]);
    out.push(format!("@@ -{},{} +{},{} @@", head + 1, removed.len(), head + 1, added.len()));
    out.extend(removed.iter().map(|line| format!("-{line}")));
    out.extend(added.iter().map(|line| format!("+{line}")));
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL_PLANE: &str = include_str!("../tests/fixtures/v1.13/base-controlplane.yaml");

    fn with_cloud_provider() -> String {
        CONTROL_PLANE.replace(
            "    clusterName:",
            "    externalCloudProvider:\n        enabled: true\n    clusterName:",
        )
    }

    fn read(text: &str) -> std::sync::Arc<Configuration> {
        Configuration::read(text.as_bytes()).expect("a configuration")
    }

    #[test]
    fn a_changed_node_label_restarts_only_the_kubelet() {
        let (now, next) = (
            read(CONTROL_PLANE),
            read(&CONTROL_PLANE.replace("balancers: \"\"", "balancers: \"x\"")),
        );
        assert!(!needs_reboot(&now, &next));
        assert_eq!(touched(&now, &next), Touched { kubelet: true, ..Touched::default() });
    }

    #[test]
    fn an_external_cloud_provider_restarts_the_kubelet_without_a_reboot() {
        let (now, next) = (read(CONTROL_PLANE), read(&with_cloud_provider()));
        assert!(!needs_reboot(&now, &next));
        assert!(touched(&now, &next).kubelet);
        assert!(next.has_external_cloud_provider() && !now.has_external_cloud_provider());
    }

    // `files/cri_registry_config.go` in Talos v1.13.9 writes the files of containerd, and restarts nothing.
    #[test]
    fn changed_registries_restart_no_component() {
        let auth = "---\napiVersion: v1alpha1\nkind: RegistryAuthConfig\nname: a\nusername: b\npassword: c\n";
        let (now, next) = (read(CONTROL_PLANE), read(&format!("{CONTROL_PLANE}{auth}")));
        assert!(!needs_reboot(&now, &next));
        assert_eq!(touched(&now, &next), Touched::default());
    }

    #[test]
    fn a_feature_that_talos_reads_at_boot_needs_a_reboot() {
        let next =
            read(&CONTROL_PLANE.replace("diskQuotaSupport: true", "diskQuotaSupport: false"));
        assert!(needs_reboot(&read(CONTROL_PLANE), &next));
    }

    #[test]
    fn difference_shows_only_the_lines_that_differ() {
        assert_eq!(difference(b"a\nb\nc\n", b"a\nx\nc\n"), "--- a\n+++ b\n@@ -2,1 +2,1 @@\n-b\n+x");
        assert_eq!(difference(b"a\n", b"a\n"), "No changes.");
        let commented = format!("# a comment\n{CONTROL_PLANE}");
        assert_eq!(difference(CONTROL_PLANE.as_bytes(), commented.as_bytes()), "No changes.");
    }

    #[test]
    fn a_node_refuses_an_invalid_configuration() {
        let refused = |from: &str, to: &str| {
            let text = CONTROL_PLANE.replace(from, to);
            Configuration::read(text.as_bytes())
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(refused("type: controlplane", "type: router").contains("machine.type"));
        assert!(refused("version: v1alpha1", "version: v1beta1").contains("v1beta1"));
        assert!(refused("key: LS0tLS1CRUdJTiBFRDI1NTE5", "key: ").contains("machine.ca"));
        assert!(refused("https://base:6443", "base").contains("endpoint"));
        assert!(refused("machine:", "machine: [").contains("not YAML"));
        assert!(refused("kubelet:v1.36.3", "kubelet:v1.29.0").contains("too old"));
        assert!(refused("auto: stable", "auto: stable\nhostname: a").contains("at the same time"));
    }

    #[test]
    fn user_data_may_be_plain_or_base64_or_hold_no_configuration() {
        let encoded = data_encoding::BASE64.encode(CONTROL_PLANE.as_bytes());
        for user_data in [CONTROL_PLANE, encoded.as_str()] {
            let read = crate::config::from_user_data(user_data)
                .expect("a configuration")
                .expect("a valid one");
            assert_eq!(read.bytes, CONTROL_PLANE.as_bytes());
        }
        assert!(crate::config::from_user_data("#cloud-config\nhostname: x\n").is_none());
    }
}
