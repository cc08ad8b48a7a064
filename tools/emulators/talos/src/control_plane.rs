//! The control plane of a node, derived from its configuration as Talos derives it: files and command lines
//! of etcd, the API server, the controller manager and the scheduler.
//!
//! **Invariant:** every authority, key and token comes from the configuration. Only leaf certificates are
//! issued here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::config::{Configuration, ControlPlane};
use crate::directory::MachineDirectory;
use crate::error::Error;
use crate::pki::{Authority, Leaf, Usage};
use crate::process::Program;

/// Values of a machine from which its files and command lines are derived.
#[derive(Clone)]
pub(crate) struct NodeContext {
    pub(crate) directory: MachineDirectory,
    pub(crate) binaries: PathBuf,
    pub(crate) address: Ipv4Addr,
    pub(crate) hostname: String,
    pub(crate) kubeprism: SocketAddr,
}

/// Writes all files of a control plane into the machine's directory.
pub(crate) fn write(
    context: &NodeContext,
    config: &Configuration,
    control_plane: &ControlPlane,
) -> Result<(), Error> {
    let directory = &context.directory;
    authority(
        directory,
        "ca",
        &config.cluster,
        &config.accepted("/cluster/acceptedCAs", &config.cluster),
    )?;
    authority(
        directory,
        "aggregator-ca",
        &control_plane.aggregator,
        &control_plane.aggregator.pem,
    )?;
    authority(directory, "etcd-ca", &control_plane.etcd, &control_plane.etcd.pem)?;
    directory.write("pki/service-account.key", &control_plane.service_account_pem)?;

    let (_, first_service, _) = config.services();
    let domain = config.dns_domain();
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
            .map(str::to_owned)
            .to_vec();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(context.hostname.clone());
    let here = [context.address, Ipv4Addr::LOCALHOST].map(IpAddr::V4);
    let mut server = Leaf {
        organizations: vec!["kube-master".to_owned()],
        addresses: vec![here[0], here[1], first_service.into(), context.kubeprism.ip()],
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
    issue(directory, "apiserver", &config.cluster, &server)?;
    let masters = ["system:masters"];
    issue(
        directory,
        "apiserver-kubelet-client",
        &config.cluster,
        &Leaf::client("apiserver-kubelet-client", &masters),
    )?;
    issue(
        directory,
        "front-proxy-client",
        &control_plane.aggregator,
        &Leaf::client("front-proxy-client", &[]),
    )?;

    let member = Leaf {
        addresses: vec![here[0], here[1]],
        names: vec![context.hostname.clone(), "localhost".to_owned()],
        usage: Usage::Both,
        ..Leaf::client(&context.hostname, &[])
    };
    issue(directory, "etcd-server", &control_plane.etcd, &member)?;
    issue(directory, "etcd-peer", &control_plane.etcd, &member)?;
    issue(directory, "etcd-client", &control_plane.etcd, &Leaf::client("kube-apiserver", &[]))?;

    for (file, user, group) in [
        ("admin", "talos:admin", "system:masters"),
        ("controller-manager", "system:kube-controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler", "system:kube-scheduler"),
    ] {
        let issued = config.cluster.issue(&Leaf::client(user, &[group]))?;
        let server = format!("https://{}:6443", context.address);
        let user = json!({
            "client-certificate-data": BASE64.encode(issued.certificate_pem.as_bytes()),
            "client-key-data": BASE64.encode(issued.key_pem.as_bytes()),
        });
        directory.write_json(
            &format!("kubernetes/{file}.kubeconfig"),
            &kubeconfig(&server, &config.cluster.pem, &user),
        )?;
    }
    directory.write_json("kubernetes/encryption.json", &encryption(config))?;
    directory.write_json("kubernetes/admission.json", &admission(config))?;
    let policy = config.main.pointer("/cluster/apiServer/auditPolicy").cloned();
    let policy = policy.unwrap_or_else(|| {
        json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]})
    });
    directory.write_json("kubernetes/audit-policy.json", &policy)
}

/// Returns a kubeconfig for one user of one cluster.
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
    directory: &MachineDirectory,
    name: &str,
    authority: &Authority,
    accepted: &str,
) -> Result<(), Error> {
    directory.write(&format!("pki/{name}.crt"), &authority.pem)?;
    directory.write(&format!("pki/{name}-accepted.crt"), accepted)?;
    authority
        .key_pem
        .as_ref()
        .map_or(Ok(()), |key| directory.write(&format!("pki/{name}.key"), key))
}

fn issue(
    directory: &MachineDirectory,
    name: &str,
    authority: &Authority,
    leaf: &Leaf,
) -> Result<(), Error> {
    let issued = authority.issue(leaf)?;
    directory.write(&format!("pki/{name}.crt"), issued.certificate_pem)?;
    directory.write(&format!("pki/{name}.key"), issued.key_pem)
}

/// Returns the encryption of Secrets in etcd, with the keys of the configuration.
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

/// Returns the command line of etcd. `cluster` is `name=peer-url,…`; `state` is `new` for the first member and
/// `existing` for a further member.
pub(crate) fn etcd(
    context: &NodeContext,
    config: &Configuration,
    cluster: &str,
    state: &str,
) -> Program {
    let (directory, address) = (&context.directory, context.address);
    let (client, peer) = (format!("https://{address}:2379"), peer_url(address));
    let mut arguments = Arguments::default();
    arguments.set("name", &context.hostname);
    arguments.set("data-dir", directory.text("etcd"));
    arguments.set("listen-client-urls", &client);
    arguments.set("advertise-client-urls", &client);
    arguments.set("listen-peer-urls", &peer);
    arguments.set("initial-advertise-peer-urls", &peer);
    arguments.set("initial-cluster", cluster);
    arguments.set("initial-cluster-state", state);
    // The flags of Talos v1.13.9, which runs etcd 3.6: etcd 3.7 has no `experimental` flags
    // (`argsForInit` in `services/etcd.go`).
    arguments.set("experimental-initial-corrupt-check", "true");
    arguments.set("experimental-watch-progress-notify-interval", "5s");
    arguments.set("experimental-compact-hash-check-enabled", "true");
    for (prefix, name) in [("", "etcd-server"), ("peer-", "etcd-peer")] {
        arguments.set(&format!("{prefix}auto-tls"), "false");
        arguments.set(&format!("{prefix}client-cert-auth"), "true");
        arguments.set(&format!("{prefix}trusted-ca-file"), directory.text("pki/etcd-ca.crt"));
        arguments.set(&format!("{prefix}cert-file"), directory.text(&format!("pki/{name}.crt")));
        arguments.set(&format!("{prefix}key-file"), directory.text(&format!("pki/{name}.key")));
    }
    // A member starts an election after a random part of the timeout. The first member has etcd's defaults,
    // so that the cluster starts fast. Later members have longer times, because many machines share two
    // cores, and a late heartbeat must not cause an election.
    let (heartbeat, election) = if state == "new" { ("100", "1000") } else { ("250", "2500") };
    arguments.set("heartbeat-interval", heartbeat);
    arguments.set("election-timeout", election);
    arguments.set("unsafe-no-fsync", "true");
    arguments.set("log-level", "warn");
    arguments.add(config.extra_arguments("/cluster/etcd/extraArgs"));
    // Go names the binary of the module `server`; packages name it `etcd`.
    let packaged = context.binaries.join("etcd");
    let path = if packaged.is_file() { packaged } else { context.binaries.join("server") };
    Program { name: "etcd", path, arguments: arguments.list(), environment: Vec::new() }
}

pub(crate) fn peer_url(address: Ipv4Addr) -> String {
    format!("https://{address}:2380")
}

/// Returns the command line of the API server.
pub(crate) fn api_server(context: &NodeContext, config: &Configuration) -> Program {
    let (directory, address) = (&context.directory, context.address);
    let (services, ..) = config.services();
    let mut arguments = Arguments::default();
    for (flag, value) in [
        ("allow-privileged", "true"),
        ("anonymous-auth", "false"),
        ("authorization-mode", "Node,RBAC"),
        ("audit-log-format", "json"),
        // `lab status` counts writes in the audit log, so that rotation must not lose them: five files of
        // 256 MB are more than a lab writes.
        ("audit-log-maxbackup", "4"),
        ("audit-log-maxsize", "256"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("enable-bootstrap-token-auth", "true"),
        // Pods cannot reach the loopback address of the API server as the endpoint of a service.
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
        // One file for both flags, because the private key contains the public key.
        ("service-account-key-file", "pki/service-account.key"),
        ("service-account-signing-key-file", "pki/service-account.key"),
        ("tls-cert-file", "pki/apiserver.crt"),
        ("tls-private-key-file", "pki/apiserver.key"),
    ] {
        arguments.set(flag, directory.text(file));
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
    let path = context.binaries.join("kube-apiserver");
    Program { name: "kube-apiserver", path, arguments, environment }
}

/// Returns the command lines of the controller manager and the scheduler.
pub(crate) fn controllers(context: &NodeContext, config: &Configuration) -> [Program; 2] {
    let (directory, address) = (&context.directory, context.address.to_string());
    let common = |name: &str| {
        let mut arguments = Arguments::default();
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            arguments.set(flag, directory.text(&format!("kubernetes/{name}.kubeconfig")));
        }
        arguments.set("bind-address", &address);
        arguments.set("leader-elect", "true");
        arguments.set("profiling", "false");
        arguments
    };
    let mut manager = common("controller-manager");
    manager.set("cluster-name", config.text("/cluster/clusterName").unwrap_or("kubernetes"));
    manager.set("cluster-signing-cert-file", directory.text("pki/ca.crt"));
    manager.set("cluster-signing-key-file", directory.text("pki/ca.key"));
    manager.set("controllers", "*,tokencleaner");
    // The controller manager first creates a service account for each of its controllers. At the default of
    // 20 calls per second, that takes 4.6 s (measured).
    manager.set("kube-api-qps", "200");
    manager.set("kube-api-burst", "400");
    manager.set("root-ca-file", directory.text("pki/ca-accepted.crt"));
    manager.set("service-account-private-key-file", directory.text("pki/service-account.key"));
    manager.set("use-service-account-credentials", "true");
    manager.add(config.extra_arguments("/cluster/controllerManager/extraArgs"));
    let mut scheduler = common("scheduler");
    scheduler.add(config.extra_arguments("/cluster/scheduler/extraArgs"));
    [("kube-controller-manager", manager), ("kube-scheduler", scheduler)].map(
        |(name, arguments)| Program {
            name,
            path: context.binaries.join(name),
            arguments: arguments.list(),
            environment: Vec::new(),
        },
    )
}

/// Flags of one program. A flag of the configuration replaces the node's own flag.
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

    fn context(directory: &Path) -> NodeContext {
        NodeContext {
            directory: MachineDirectory(directory.to_owned()),
            binaries: PathBuf::from("/binaries"),
            address: Ipv4Addr::new(127, 73, 0, 11),
            hostname: "base-1".to_owned(),
            kubeprism: SocketAddr::from(([127, 0, 0, 1], 7445)),
        }
    }

    #[test]
    fn files_of_a_control_plane_hold_the_authorities_of_the_configuration() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = Configuration::read(CONTROL_PLANE.as_bytes()).expect("a configuration");
        let control_plane = config.control_plane.as_ref().expect("a control plane");
        write(&context(directory.path()), &config, control_plane).expect("written");
        let read = |path: &str| std::fs::read_to_string(directory.path().join(path)).expect(path);
        assert_eq!(read("pki/ca.crt"), config.cluster.pem);
        assert_eq!(read("pki/etcd-ca.crt"), control_plane.etcd.pem);
        assert_eq!(read("pki/service-account.key"), control_plane.service_account_pem);
        assert!(
            read("kubernetes/encryption.json")
                .contains("45yd2Ke+sytiICojDf8aibTfgt99nzJmO53cjDqrCto=")
        );
        assert!(read("kubernetes/admission.json").contains("PodSecurityConfiguration"));
        let mode = std::fs::metadata(directory.path().join("pki/ca.key")).expect("a key");
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600);
    }

    #[test]
    fn a_flag_of_the_configuration_replaces_the_flag_of_the_node() {
        let text = CONTROL_PLANE.replace(
            "    apiServer:\n",
            "    apiServer:\n        extraArgs:\n            profiling: \"true\"\n            feature-gates: [A=true, B=true]\n",
        );
        let config = Configuration::read(text.as_bytes()).expect("a configuration");
        let arguments = api_server(&context(Path::new("/machine")), &config).arguments;
        let values = |flag: &str| {
            arguments
                .iter()
                .filter(|argument| argument.starts_with(flag))
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(values("--profiling"), ["--profiling=true"]);
        assert_eq!(values("--feature-gates"), ["--feature-gates=A=true", "--feature-gates=B=true"]);
        assert_eq!(values("--bind-address"), ["--bind-address=127.73.0.11"]);
        assert_eq!(
            values("--service-account-issuer"),
            ["--service-account-issuer=https://base:6443"]
        );
    }
}
