//! The network of pods, and the names in the certificates of control planes.

use serde_json::{Value, json};

use super::*;

/// Returns a Cluster with these fields of `network`.
fn spec(network: &Value) -> Cluster {
    let spec = json!({
        "project": "holistic",
        "talos": "v1.13.9",
        "kubernetes": "v1.36.3",
        "certificates": {"notBefore": "2026-11-01"},
        "network": network,
        "pools": [{
            "name": "control", "role": "controlplane", "count": 1, "type": "cax11", "locations": ["fsn1"],
        }],
    });
    serde_json::from_value(spec).expect("a Cluster")
}

/// Returns the plugin in the configuration of a machine with this patch.
fn cni(spec: &Cluster, role: Role, patch: &str) -> Value {
    let bundle = pki::Bundle::default();
    let common = Common { cluster: "c", endpoint: "e", kubernetes: "1.36.3", bundle: &bundle };
    let patches = [settings(spec, "c-1", role), Patch::parse(patch).expect("a patch")];
    let documents = config::generate(&common, role);
    let mut documents = config::patched(documents, &patches).expect("a configuration");
    without_unused_flannel(&mut documents[0], spec);
    documents[0]["cluster"]["network"]["cni"].clone()
}

// hazard: Pods on different machines cannot communicate, because flanneld uses the public interface.
// class: A default of another program does not fit the cloud.
// members: the address of a kubelet, the addresses that etcd advertises
// now: flanneld takes the interface of the route to the network's gateway
#[test]
fn flanneld_takes_the_interface_of_the_private_network() {
    for role in [Role::Controlplane, Role::Worker] {
        for (network, argument) in [
            (json!({}), "--iface-can-reach=10.0.0.1"),
            (
                json!({"range": "192.168.0.0/16", "nodes": "192.168.4.0/24"}),
                "--iface-can-reach=192.168.0.1",
            ),
            (json!({"range": "10.8.0.0/24", "nodes": "10.8.0.0/24"}), "--iface-can-reach=10.8.0.1"),
        ] {
            let expected = json!({"name": "flannel", "flannel": {"extraArgs": [argument]}});
            assert_eq!(cni(&spec(&network), role, "machine: {}"), expected);
        }
    }
}

#[test]
fn another_network_plugin_gets_no_arguments_of_flanneld() {
    let spec_without = spec(&json!({"cni": "none"}));
    let none = json!({"name": "none"});
    assert_eq!(cni(&spec_without, Role::Worker, "machine: {}"), none);
    let default = spec(&json!({}));
    let patched = |patch| cni(&default, Role::Controlplane, patch);
    assert_eq!(patched("cluster: {network: {cni: {name: none}}}"), none);
    let custom = "cluster: {network: {cni: {name: custom, urls: [https://example.org/cni.yaml]}}}";
    let custom = patched(custom);
    assert_eq!(custom, json!({"name": "custom", "urls": ["https://example.org/cni.yaml"]}));
    let more = patched("cluster: {network: {cni: {flannel: {extraArgs: [--v=2]}}}}");
    assert_eq!(more["flannel"]["extraArgs"], json!(["--iface-can-reach=10.0.0.1", "--v=2"]));
}

#[test]
fn external_cloud_provider_is_configured_on_machines_of_every_role() {
    let configured = |declared: bool, patch: &str, role| {
        let mut document = spec(&json!({}));
        document.external_cloud_provider = declared;
        let bundle = pki::Bundle::default();
        let common = Common { cluster: "c", endpoint: "e", kubernetes: "1.36.3", bundle: &bundle };
        let patches = [settings(&document, "c-1", role), Patch::parse(patch).expect("a patch")];
        let documents = config::patched(config::generate(&common, role), &patches);
        let documents = documents.expect("a configuration");
        documents[0].pointer("/cluster/externalCloudProvider/enabled").cloned()
    };
    let patch = "cluster: {externalCloudProvider: {enabled: true}}";
    for role in [Role::Controlplane, Role::Worker] {
        assert_eq!(configured(true, "machine: {}", role), Some(json!(true)));
        assert_eq!(configured(false, "machine: {}", role), None);
        assert_eq!(configured(false, patch, role), Some(json!(true)));
        assert_eq!(configured(true, patch, role), Some(json!(true)));
    }
}

#[test]
fn host_of_an_endpoint_has_no_scheme_and_no_port() {
    for (endpoint, expected) in [
        ("https://203.0.113.7:6443", "203.0.113.7"),
        ("https://prod.example.org:6443/", "prod.example.org"),
        ("https://prod.example.org", "prod.example.org"),
        ("https://[2001:db8::1]:6443", "2001:db8::1"),
    ] {
        assert_eq!(host(endpoint), expected);
    }
}
