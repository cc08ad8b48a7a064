//! Values that two machines cannot share. Talos accepts them on each machine, so `rules` does not find them.

use serde_json::Value;

use super::Refusal;

/// Documents of links to which an address is bound. Bridges and dummy links are left out, because each machine may have
/// the same address inside itself.
const LINKS: [&str; 4] = ["BondConfig", "LinkConfig", "VLANConfig", "WireguardConfig"];

/// Returns every static address of a machine in its merged configuration.
pub(crate) fn addresses(documents: &[Value]) -> Vec<Refusal> {
    let mut found = Vec::new();
    for (document, value) in documents.iter().enumerate() {
        let paths = match value["kind"].as_str() {
            None => of_machine(value),
            Some(kind) if LINKS.contains(&kind) => of_link(value),
            Some(_) => Vec::new(),
        };
        found.extend(paths.into_iter().map(|path| Refusal {
            document,
            path,
            message: "is the address of one machine, but several machines get this patch: write the patch for a pool with `count: 1`".to_owned(),
        }));
    }
    found
}

/// Returns the paths of the addresses in a document of a link. Every machine has the address of `lo`.
fn of_link(link: &Value) -> Vec<String> {
    if link["name"] == "lo" { Vec::new() } else { items(&link["addresses"], "/addresses") }
}

/// Returns the paths of the addresses in the document with `machine`.
fn of_machine(root: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    let interfaces = root["machine"]["network"]["interfaces"].as_array().into_iter().flatten();
    for (index, interface) in interfaces.enumerate() {
        if interface["interface"] == "lo" || interface["dummy"] == true {
            continue;
        }
        let path = format!("/machine/network/interfaces/{index}");
        paths.extend(of_interface(interface, &path));
        let vlans = interface["vlans"].as_array().into_iter().flatten();
        for (number, vlan) in vlans.enumerate() {
            paths.extend(of_interface(vlan, &format!("{path}/vlans/{number}")));
        }
    }
    let arguments = &root["machine"]["kubelet"]["extraArgs"];
    if !arguments["node-ip"].is_null() {
        paths.push("/machine/kubelet/extraArgs/node-ip".to_owned());
    }
    paths
}

fn of_interface(interface: &Value, path: &str) -> Vec<String> {
    let mut paths = items(&interface["addresses"], &format!("{path}/addresses"));
    if interface["cidr"].as_str().is_some_and(|text| !text.is_empty()) {
        paths.push(format!("{path}/cidr"));
    }
    paths
}

fn items(list: &Value, path: &str) -> Vec<String> {
    let count = list.as_array().map_or(0, Vec::len);
    (0..count).map(|index| format!("{path}/{index}")).collect()
}
