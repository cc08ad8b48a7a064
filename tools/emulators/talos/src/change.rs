//! What a new configuration changes, and whether a node must reboot for it.

use serde_json::Value;

use crate::config::Configuration;

/// Fields of `machine` that Talos takes over while it runs.
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

/// What has to start again for a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) etcd: bool,
    pub(crate) control_plane: bool,
    pub(crate) kubelet: bool,
}

/// Whether `next` needs a reboot of a node that runs `now`.
pub(crate) fn needs_reboot(now: &Configuration, next: &Configuration) -> bool {
    now.kind != next.kind || without_live(&now.main) != without_live(&next.main)
}

/// The v1alpha1 document without all that may change on a living node.
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

/// Whether the Talos API trusts somebody else, or says something else of itself.
pub(crate) fn touches_api(now: &Configuration, next: &Configuration) -> bool {
    let differs = |it: &str| now.main["machine"].get(it) != next.main["machine"].get(it);
    ["ca", "acceptedCAs", "certSANs"].into_iter().any(differs) || now.hostname() != next.hostname()
}

/// What has to start again when `next` takes the place of `now` without a reboot.
pub(crate) fn touched(now: &Configuration, next: &Configuration) -> Touched {
    let differs = |pointer: &str| now.main.pointer(pointer) != next.main.pointer(pointer);
    let kubelet = ["kubelet", "nodeLabels", "nodeTaints", "nodeAnnotations", "registries"];
    let mirrors =
        |it: &Configuration| it.others("RegistryMirrorConfig").cloned().collect::<Vec<_>>();
    Touched {
        etcd: differs("/cluster/etcd"),
        control_plane: differs("/cluster") || differs("/machine/certSANs"),
        kubelet: kubelet.iter().any(|it| differs(&format!("/machine/{it}")))
            || ["ca", "acceptedCAs", "network", "token", "controlPlane"]
                .iter()
                .any(|it| differs(&format!("/cluster/{it}")))
            || mirrors(now) != mirrors(next),
    }
}

/// The lines that differ, as a dry run shows them: `-` what is there, `+` what would be.
pub(crate) fn difference(now: &[u8], next: &[u8]) -> String {
    let (now, next) = (String::from_utf8_lossy(now), String::from_utf8_lossy(next));
    let (now, next): (Vec<&str>, Vec<&str>) = (now.lines().collect(), next.lines().collect());
    if now == next {
        return "No changes.".to_owned();
    }
    let head = now.iter().zip(&next).take_while(|(a, b)| a == b).count();
    let tail = now[head..].iter().rev().zip(next[head..].iter().rev());
    let tail = tail.take_while(|(a, b)| a == b).count();
    let mut out = vec!["--- a".to_owned(), "+++ b".to_owned()];
    let (gone, come) = (&now[head..now.len() - tail], &next[head..next.len() - tail]);
    out.push(format!("@@ -{},{} +{},{} @@", head + 1, gone.len(), head + 1, come.len()));
    out.extend(gone.iter().map(|line| format!("-{line}")));
    out.extend(come.iter().map(|line| format!("+{line}")));
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL_PLANE: &str = include_str!("../tests/fixtures/v1.13/base-controlplane.yaml");

    fn read(text: &str) -> std::sync::Arc<Configuration> {
        Configuration::read(text.as_bytes()).expect("a configuration")
    }

    #[test]
    fn a_label_of_the_node_needs_no_reboot_and_restarts_the_kubelet_only() {
        let (now, next) = (
            read(CONTROL_PLANE),
            read(&CONTROL_PLANE.replace("balancers: \"\"", "balancers: \"x\"")),
        );
        assert!(!needs_reboot(&now, &next));
        assert_eq!(touched(&now, &next), Touched { kubelet: true, ..Touched::default() });
    }

    #[test]
    fn a_feature_that_talos_reads_only_at_boot_needs_a_reboot() {
        let next =
            read(&CONTROL_PLANE.replace("diskQuotaSupport: true", "diskQuotaSupport: false"));
        assert!(needs_reboot(&read(CONTROL_PLANE), &next));
    }

    #[test]
    fn a_dry_run_shows_the_lines_that_differ_and_no_others() {
        assert_eq!(difference(b"a\nb\nc\n", b"a\nx\nc\n"), "--- a\n+++ b\n@@ -2,1 +2,1 @@\n-b\n+x");
        assert_eq!(difference(b"a\n", b"a\n"), "No changes.");
    }

    #[test]
    fn a_node_refuses_what_it_could_not_start_with() {
        let refused = |from: &str, to: &str| {
            let text = CONTROL_PLANE.replace(from, to);
            Configuration::read(text.as_bytes()).err().map(|it| it.to_string()).unwrap_or_default()
        };
        assert!(refused("type: controlplane", "type: router").contains("machine.type"));
        assert!(refused("version: v1alpha1", "version: v1beta1").contains("v1beta1"));
        assert!(refused("key: LS0tLS1CRUdJTiBFRDI1NTE5", "key: ").contains("machine.ca"));
        assert!(refused("https://base:6443", "base").contains("endpoint"));
        assert!(refused("machine:", "machine: [").contains("not YAML"));
    }

    #[test]
    fn user_data_may_be_packed_or_no_configuration_at_all() {
        let encoded = data_encoding::BASE64.encode(CONTROL_PLANE.as_bytes());
        for user_data in [CONTROL_PLANE, encoded.as_str()] {
            let read = crate::config::from_user_data(user_data)
                .expect("a configuration")
                .expect("a right one");
            assert_eq!(read.bytes, CONTROL_PLANE.as_bytes());
        }
        assert!(crate::config::from_user_data("#cloud-config\nhostname: x\n").is_none());
    }
}
