//! What Talos derives from a machine configuration for the control plane of its node: files and
//! command lines of etcd, the API server, the controller manager and the scheduler.
//!
//! **Invariant:** every authority, key and token is the configuration's own; only leaf certificates
//! are issued here, below them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::config::{Configuration, ControlPlane};
use crate::pki::{Authority, Leaf, Usage};
use crate::place::Place;
use crate::process::Program;
use crate::trouble::Trouble;

/// What there is to know of a machine, for those that write its files.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) place: Place,
    pub(crate) binaries: PathBuf,
    pub(crate) address: Ipv4Addr,
    pub(crate) hostname: String,
    pub(crate) kubeprism: SocketAddr,
}

/// Writes all files of a control plane into the machine's directory.
pub(crate) fn write(
    setting: &Setting,
    config: &Configuration,
    own: &ControlPlane,
) -> Result<(), Trouble> {
    let place = &setting.place;
    authority(
        place,
        "ca",
        &config.cluster,
        &config.accepted("/cluster/acceptedCAs", &config.cluster),
    )?;
    authority(place, "aggregator-ca", &own.aggregator, &own.aggregator.pem)?;
    authority(place, "etcd-ca", &own.etcd, &own.etcd.pem)?;
    place.write("pki/service-account.key", &own.service_account_pem)?;

    let (_, first_service, _) = config.services();
    let domain = config.dns_domain();
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
            .map(str::to_owned)
            .to_vec();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(setting.hostname.clone());
    let here = [setting.address, Ipv4Addr::LOCALHOST].map(IpAddr::V4);
    let mut server = Leaf {
        organizations: vec!["kube-master".to_owned()],
        addresses: vec![here[0], here[1], first_service.into(), setting.kubeprism.ip()],
        names,
        usage: Usage::Server,
        ..Leaf::client("kube-apiserver", &[])
    };
    let mut more = config.texts("/cluster/apiServer/certSANs");
    more.push(config.endpoint_host().to_owned());
    for name in more {
        match name.parse::<IpAddr>() {
            Ok(address) => server.addresses.push(address),
            Err(_) => server.names.push(name),
        }
    }
    once(&mut server.addresses);
    once(&mut server.names);
    issue(place, "apiserver", &config.cluster, &server)?;
    let masters = ["system:masters"];
    issue(
        place,
        "apiserver-kubelet-client",
        &config.cluster,
        &Leaf::client("apiserver-kubelet-client", &masters),
    )?;
    issue(place, "front-proxy-client", &own.aggregator, &Leaf::client("front-proxy-client", &[]))?;

    let member = Leaf {
        addresses: vec![here[0], here[1]],
        names: vec![setting.hostname.clone(), "localhost".to_owned()],
        usage: Usage::Both,
        ..Leaf::client(&setting.hostname, &[])
    };
    issue(place, "etcd-server", &own.etcd, &member)?;
    issue(place, "etcd-peer", &own.etcd, &member)?;
    issue(place, "etcd-client", &own.etcd, &Leaf::client("kube-apiserver", &[]))?;

    for (file, user, group) in [
        ("admin", "talos:admin", "system:masters"),
        ("controller-manager", "system:kube-controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler", "system:kube-scheduler"),
    ] {
        let issued = config.cluster.issue(&Leaf::client(user, &[group]))?;
        let server = format!("https://{}:6443", setting.address);
        let user = json!({
            "client-certificate-data": BASE64.encode(issued.certificate_pem.as_bytes()),
            "client-key-data": BASE64.encode(issued.key_pem.as_bytes()),
        });
        place.write_json(
            &format!("kubernetes/{file}.kubeconfig"),
            &kubeconfig(&server, &config.cluster.pem, &user),
        )?;
    }
    place.write_json("kubernetes/encryption.json", &encryption(config))?;
    place.write_json("kubernetes/admission.json", &admission(config))?;
    let policy = config.main.pointer("/cluster/apiServer/auditPolicy").cloned();
    let policy = policy.unwrap_or_else(|| {
        json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]})
    });
    place.write_json("kubernetes/audit-policy.json", &policy)
}

/// A kubeconfig for one user of one cluster.
pub(crate) fn kubeconfig(server: &str, authority: &str, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {
            "server": server, "certificate-authority-data": BASE64.encode(authority.as_bytes())}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "default", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "default",
    })
}

fn once<T: Ord>(list: &mut Vec<T>) {
    list.sort();
    list.dedup();
}

fn authority(
    place: &Place,
    name: &str,
    authority: &Authority,
    accepted: &str,
) -> Result<(), Trouble> {
    place.write(&format!("pki/{name}.crt"), &authority.pem)?;
    place.write(&format!("pki/{name}-accepted.crt"), accepted)?;
    authority.key_pem.as_ref().map_or(Ok(()), |key| place.write(&format!("pki/{name}.key"), key))
}

fn issue(place: &Place, name: &str, authority: &Authority, leaf: &Leaf) -> Result<(), Trouble> {
    let issued = authority.issue(leaf)?;
    place.write(&format!("pki/{name}.crt"), issued.certificate_pem)?;
    place.write(&format!("pki/{name}.key"), issued.key_pem)
}

/// How Secrets are kept in etcd: encrypted with the configuration's key.
fn encryption(config: &Configuration) -> Value {
    let provider = |kind: &str, name: &str, key: &str| json!({kind: {"keys": [{"name": name, "secret": key}]}});
    let secretbox = config.text("/cluster/secretboxEncryptionSecret");
    let aescbc = config.text("/cluster/aescbcEncryptionSecret");
    let mut providers = Vec::new();
    providers.extend(secretbox.map(|key| provider("secretbox", "key2", key)));
    providers.extend(aescbc.map(|key| provider("aescbc", "key1", key)));
    providers.push(json!({"identity": {}}));
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    })
}

fn admission(config: &Configuration) -> Value {
    let plugins = config.main.pointer("/cluster/apiServer/admissionControl").cloned();
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": plugins.unwrap_or_else(|| json!([])),
    })
}

/// etcd, as the first member or as one more; `cluster` is `name=peer-url,…`.
pub(crate) fn etcd(
    setting: &Setting,
    config: &Configuration,
    cluster: &str,
    state: &str,
) -> Program {
    let (place, address) = (&setting.place, setting.address);
    let (client, peer) = (format!("https://{address}:2379"), peer_url(address));
    let mut arguments = Arguments::default();
    arguments.set("name", &setting.hostname);
    arguments.set("data-dir", place.text("etcd"));
    arguments.set("listen-client-urls", &client);
    arguments.set("advertise-client-urls", &client);
    arguments.set("listen-peer-urls", &peer);
    arguments.set("initial-advertise-peer-urls", &peer);
    arguments.set("initial-cluster", cluster);
    arguments.set("initial-cluster-state", state);
    for (prefix, name) in [("", "etcd-server"), ("peer-", "etcd-peer")] {
        arguments.set(&format!("{prefix}client-cert-auth"), "true");
        arguments.set(&format!("{prefix}trusted-ca-file"), place.text("pki/etcd-ca.crt"));
        arguments.set(&format!("{prefix}cert-file"), place.text(&format!("pki/{name}.crt")));
        arguments.set(&format!("{prefix}key-file"), place.text(&format!("pki/{name}.key")));
    }
    // A member elects itself after a random part of the timeout. The first has etcd's own, and
    // nothing to wait for; later many share two cores, where a slow heartbeat is no lost leader.
    let (heartbeat, election) = if state == "new" { ("100", "1000") } else { ("250", "2500") };
    arguments.set("heartbeat-interval", heartbeat);
    arguments.set("election-timeout", election);
    arguments.set("unsafe-no-fsync", "true");
    arguments.set("log-level", "warn");
    arguments.add(config.extra_arguments("/cluster/etcd/extraArgs"));
    // The module's binary is called `server`; a package calls it `etcd`.
    let packaged = setting.binaries.join("etcd");
    let path = if packaged.is_file() { packaged } else { setting.binaries.join("server") };
    Program { name: "etcd", path, arguments: arguments.list(), environment: Vec::new() }
}

pub(crate) fn peer_url(address: Ipv4Addr) -> String {
    format!("https://{address}:2380")
}

/// The API server.
pub(crate) fn api_server(setting: &Setting, config: &Configuration) -> Program {
    let (place, address) = (&setting.place, setting.address);
    let (services, ..) = config.services();
    let mut arguments = Arguments::default();
    for (flag, value) in [
        ("allow-privileged", "true"),
        ("anonymous-auth", "false"),
        ("authorization-mode", "Node,RBAC"),
        ("audit-log-format", "json"),
        // Two files of so many megabytes, no more.
        ("audit-log-maxbackup", "4"),
        ("audit-log-maxsize", "256"), // MB: `lab status` counts writes in it, and must not lose any
        ("enable-admission-plugins", "NodeRestriction"),
        ("enable-bootstrap-token-auth", "true"),
        // There is no network on which its address could be a service's endpoint.
        ("endpoint-reconciler-type", "none"),
        ("kubelet-preferred-address-types", "InternalIP"),
        ("profiling", "false"),
        ("requestheader-allowed-names", "front-proxy-client"),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        ("requestheader-group-headers", "X-Remote-Group"),
        ("requestheader-username-headers", "X-Remote-User"),
        ("secure-port", "6443"),
        ("tls-min-version", "VersionTLS12"),
    ] {
        arguments.set(flag, value);
    }
    for (flag, file) in [
        ("admission-control-config-file", "kubernetes/admission.json"),
        ("audit-log-path", "audit.log"),
        ("audit-policy-file", "kubernetes/audit-policy.json"),
        ("client-ca-file", "pki/ca-accepted.crt"),
        ("encryption-provider-config", "kubernetes/encryption.json"),
        ("etcd-cafile", "pki/etcd-ca.crt"),
        ("etcd-certfile", "pki/etcd-client.crt"),
        ("etcd-keyfile", "pki/etcd-client.key"),
        ("kubelet-client-certificate", "pki/apiserver-kubelet-client.crt"),
        ("kubelet-client-key", "pki/apiserver-kubelet-client.key"),
        ("proxy-client-cert-file", "pki/front-proxy-client.crt"),
        ("proxy-client-key-file", "pki/front-proxy-client.key"),
        ("requestheader-client-ca-file", "pki/aggregator-ca.crt"),
        // One file for both: the public half is in the private key.
        ("service-account-key-file", "pki/service-account.key"),
        ("service-account-signing-key-file", "pki/service-account.key"),
        ("tls-cert-file", "pki/apiserver.crt"),
        ("tls-private-key-file", "pki/apiserver.key"),
    ] {
        arguments.set(flag, place.text(file));
    }
    arguments.set("api-audiences", &config.endpoint);
    arguments.set("service-account-issuer", &config.endpoint);
    arguments.set("advertise-address", address.to_string());
    arguments.set("bind-address", address.to_string());
    arguments.set("etcd-servers", format!("https://{address}:2379"));
    arguments.set("service-cluster-ip-range", services);
    arguments.add(config.extra_arguments("/cluster/apiServer/extraArgs"));
    let arguments = arguments.list();
    let environment = config.map("/cluster/apiServer/env");
    let path = setting.binaries.join("kube-apiserver");
    Program { name: "kube-apiserver", path, arguments, environment }
}

/// The controller manager and the scheduler.
pub(crate) fn controllers(setting: &Setting, config: &Configuration) -> [Program; 2] {
    let (place, address) = (&setting.place, setting.address.to_string());
    let common = |name: &str| {
        let mut arguments = Arguments::default();
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            arguments.set(flag, place.text(&format!("kubernetes/{name}.kubeconfig")));
        }
        arguments.set("bind-address", &address);
        arguments.set("leader-elect", "true");
        arguments.set("profiling", "false");
        arguments
    };
    let mut manager = common("controller-manager");
    manager.set("cluster-name", config.text("/cluster/clusterName").unwrap_or("kubernetes"));
    manager.set("cluster-signing-cert-file", place.text("pki/ca.crt"));
    manager.set("cluster-signing-key-file", place.text("pki/ca.key"));
    manager.set("controllers", "*,tokencleaner");
    // It makes a service account for each of its controllers before it does anything: at 20 calls a
    // second, which is the default, that takes 4.6 s (measured).
    manager.set("kube-api-qps", "200");
    manager.set("kube-api-burst", "400");
    manager.set("root-ca-file", place.text("pki/ca-accepted.crt"));
    manager.set("service-account-private-key-file", place.text("pki/service-account.key"));
    manager.set("use-service-account-credentials", "true");
    manager.add(config.extra_arguments("/cluster/controllerManager/extraArgs"));
    let mut scheduler = common("scheduler");
    scheduler.add(config.extra_arguments("/cluster/scheduler/extraArgs"));
    [("kube-controller-manager", manager), ("kube-scheduler", scheduler)].map(
        |(name, arguments)| Program {
            name,
            path: setting.binaries.join(name),
            arguments: arguments.list(),
            environment: Vec::new(),
        },
    )
}

/// Flags of one program: those of a configuration replace those of the node.
#[derive(Default)]
pub(crate) struct Arguments(Vec<(String, String)>);

impl Arguments {
    pub(crate) fn set(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push((flag.to_owned(), value.into()));
    }

    pub(crate) fn add(&mut self, extra: Vec<(String, String)>) {
        self.0.retain(|(flag, _)| !extra.iter().any(|(other, _)| other == flag));
        self.0.extend(extra);
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0.iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONTROL_PLANE: &str = include_str!("../tests/fixtures/v1.13/base-controlplane.yaml");

    fn setting(place: &Path) -> Setting {
        Setting {
            place: Place(place.to_owned()),
            binaries: PathBuf::from("/binaries"),
            address: Ipv4Addr::new(127, 73, 0, 11),
            hostname: "base-1".to_owned(),
            kubeprism: SocketAddr::from(([127, 0, 0, 1], 7445)),
        }
    }

    #[test]
    fn the_files_of_a_control_plane_hold_the_configurations_own_authorities() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = Configuration::read(CONTROL_PLANE.as_bytes()).expect("a configuration");
        let own = config.control_plane.as_ref().expect("a control plane");
        write(&setting(directory.path()), &config, own).expect("written");
        let read = |path: &str| std::fs::read_to_string(directory.path().join(path)).expect(path);
        assert_eq!(read("pki/ca.crt"), config.cluster.pem);
        assert_eq!(read("pki/etcd-ca.crt"), own.etcd.pem);
        assert_eq!(read("pki/service-account.key"), own.service_account_pem);
        assert!(
            read("kubernetes/encryption.json")
                .contains("45yd2Ke+sytiICojDf8aibTfgt99nzJmO53cjDqrCto=")
        );
        assert!(read("kubernetes/admission.json").contains("PodSecurityConfiguration"));
        let mode = std::fs::metadata(directory.path().join("pki/ca.key")).expect("a key");
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600);
    }

    #[test]
    fn a_flag_of_the_configuration_replaces_the_nodes_own() {
        let text = CONTROL_PLANE.replace(
            "    apiServer:\n",
            "    apiServer:\n        extraArgs:\n            profiling: \"true\"\n            feature-gates: [A=true, B=true]\n",
        );
        let config = Configuration::read(text.as_bytes()).expect("a configuration");
        let arguments = api_server(&setting(Path::new("/machine")), &config).arguments;
        let of = |flag: &str| {
            arguments.iter().filter(|it| it.starts_with(flag)).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of("--profiling"), ["--profiling=true"]);
        assert_eq!(of("--feature-gates"), ["--feature-gates=A=true", "--feature-gates=B=true"]);
        assert_eq!(of("--bind-address"), ["--bind-address=127.73.0.11"]);
        assert_eq!(of("--service-account-issuer"), ["--service-account-issuer=https://base:6443"]);
    }
}
