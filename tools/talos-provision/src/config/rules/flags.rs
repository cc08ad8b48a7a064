//! Flags that Talos sets itself. A node accepts a configuration with such a flag, and the component then does
//! not start, without an error that a client could see.
//!
//! The lists are those of Talos v1.13.9 below `internal/app/machined/pkg`: `controllers/k8s/control_plane_static_pod.go`,
//! `controllers/k8s/control_plane.go`, `controllers/k8s/kubelet_spec.go` and `system/services/etcd.go`.

use serde_json::Value;

use super::machine::escaped;
use super::{Report, entries};

/// Flags by the path of the component's `extraArgs`.
const RESERVED: [(&str, &[&str]); 6] = [
    (
        "/cluster/apiServer/extraArgs",
        &[
            "authorization-config",
            "client-ca-file",
            "encryption-provider-config",
            "etcd-cafile",
            "etcd-certfile",
            "etcd-keyfile",
            "etcd-servers",
            "kubelet-client-certificate",
            "kubelet-client-key",
            "proxy-client-cert-file",
            "proxy-client-key-file",
            "requestheader-client-ca-file",
            "service-account-key-file",
            "service-account-signing-key-file",
            "tls-cert-file",
            "tls-private-key-file",
        ],
    ),
    (
        "/cluster/controllerManager/extraArgs",
        &[
            "authentication-kubeconfig",
            "authorization-kubeconfig",
            "cluster-signing-cert-file",
            "cluster-signing-key-file",
            "root-ca-file",
            "service-account-private-key-file",
        ],
    ),
    (
        "/cluster/scheduler/extraArgs",
        &["authentication-kubeconfig", "authorization-kubeconfig", "config", "kubeconfig"],
    ),
    ("/cluster/proxy/extraArgs", &["kubeconfig"]),
    (
        "/cluster/etcd/extraArgs",
        &[
            "auto-tls",
            "cert-file",
            "client-cert-auth",
            "data-dir",
            "experimental-compact-hash-check-enabled",
            "experimental-initial-corrupt-check",
            "experimental-watch-progress-notify-interval",
            "key-file",
            "listen-client-urls",
            "listen-peer-urls",
            "name",
            "peer-auto-tls",
            "peer-cert-file",
            "peer-client-cert-auth",
            "peer-key-file",
            "peer-trusted-ca-file",
            "trusted-ca-file",
        ],
    ),
    (
        "/machine/kubelet/extraArgs",
        &[
            "bootstrap-kubeconfig",
            "cert-dir",
            "config",
            "container-runtime",
            "container-runtime-endpoint",
            "kubeconfig",
        ],
    ),
];

/// Reports reserved flags.
pub(super) fn check(report: &mut Report, root: &Value) {
    for (path, reserved) in RESERVED {
        for (flag, _) in entries(root, path) {
            let is_free = !reserved.contains(&flag.as_str());
            let message = "is a flag that Talos sets itself: the component would not start";
            report.require(is_free, format!("{path}/{}", escaped(flag)), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // hazard: A patch sets a flag that Talos reserves. Every node accepts the configuration, and etcd, the kubelet
    // or the API server never starts.
    // class: A mistake in a document is found after something was changed.
    // members: API server, controller manager, scheduler, kube-proxy, etcd, kubelet
    // now: `plan` ends with exit status 2, and names file, line and column
    #[test]
    fn each_reserved_flag_is_refused_and_every_other_flag_is_free() {
        for (path, reserved) in RESERVED {
            for flag in reserved {
                assert_eq!(refused(path, flag), [format!("{path}/{flag}")]);
            }
            assert_eq!(refused(path, "v"), [""; 0]);
        }
        assert_eq!(refused("/cluster/scheduler/extraArgs", "tls-cert-file"), [""; 0]);
    }

    fn refused(path: &str, flag: &str) -> Vec<String> {
        let mut root = json!({flag: "x"});
        for part in path.rsplit('/').filter(|part| !part.is_empty()) {
            root = json!({part: root});
        }
        let mut report = Report::default();
        check(&mut report, &root);
        report.refusals.into_iter().map(|refusal| refusal.path).collect()
    }
}
