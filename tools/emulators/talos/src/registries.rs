//! Configuration of containerd for registries: mirrors and TLS, which containerd reads for each image, and
//! credentials, which containerd reads when it starts.
//!
//! As in Talos v1.13.9, `internal/pkg/containers/cri/containerd/hosts.go` and `containerd.go`. Client
//! certificates are left out.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::config::Configuration;
use crate::directory::MachineDirectory;
use crate::error::Error;

/// Folder of containerd's `hosts.toml` files in the machine's directory.
const HOSTS: &str = "node/hosts";

/// Mirror of a registry.
#[derive(Debug, Default)]
struct Mirror {
    /// URLs, each with whether its path is used as it is.
    endpoints: Vec<(String, bool)>,
    skips_fallback: bool,
}

/// TLS of an endpoint.
#[derive(Debug, Default)]
struct Tls {
    ca: Option<String>,
    skips_verification: bool,
}

/// Files of one registry: paths below [`HOSTS`] and their contents.
type Files = Vec<(String, String)>;

/// Writes the files that containerd reads for each image, and removes the others. Registries in `plain`
/// speak HTTP.
pub(crate) fn write(
    directory: &MachineDirectory,
    plain: &[String],
    config: &Configuration,
) -> Result<(), Error> {
    let folder = directory.text(HOSTS);
    let wanted = files(&folder, plain, config);
    let entries = std::fs::read_dir(directory.at(HOSTS)).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !wanted.iter().any(|(path, _)| path.split('/').next() == Some(name.as_str())) {
            directory.remove(&format!("{HOSTS}/{name}"));
        }
    }
    for (path, contents) in wanted {
        directory.write(&format!("{HOSTS}/{path}"), contents)?;
    }
    Ok(())
}

/// Returns the part of containerd's configuration that names the folder and holds the credentials.
pub(crate) fn containerd(plugin: &str, folder: &str, config: &Configuration) -> String {
    let mut text = format!("  [plugins.{plugin}.registry]\n    config_path = {}\n", json!(folder));
    for (host, auth) in credentials(config) {
        let host = json!(default_host(&host));
        let _ = writeln!(text, "  [plugins.{plugin}.registry.configs.{host}.auth]");
        for (field, key) in [
            ("username", "username"),
            ("password", "password"),
            ("auth", "auth"),
            ("identityToken", "identitytoken"),
        ] {
            if let Some(value) = auth[field].as_str() {
                let _ = writeln!(text, "    {key} = {}", json!(value));
            }
        }
    }
    text
}

/// Returns the path of the folder that containerd searches for `hosts.toml` files.
pub(crate) fn folder(directory: &MachineDirectory) -> String {
    directory.text(HOSTS)
}

fn files(folder: &str, plain: &[String], config: &Configuration) -> Files {
    let mut files = Files::new();
    let tls = tls(config);
    let tls_of = |host: &str| tls.iter().find(|(name, _)| name == host).map(|(_, tls)| tls);
    let mut directories = Vec::new();
    for host in plain {
        let endpoints = vec![(format!("http://{host}"), false)];
        let mirror = Mirror { endpoints, skips_fallback: false };
        directories.push(directory_of(host));
        files.push((
            format!("{}/hosts.toml", directory_of(host)),
            hosts(&mirror, |_, _| String::new()),
        ));
    }
    for (name, mirror) in mirrors(config) {
        let directory = directory_of(&name);
        if directories.contains(&directory) {
            continue;
        }
        let mut certificates = Files::new();
        let text = hosts(&mirror, |host, indent| {
            tls_of(host).map_or_else(String::new, |tls| {
                tls_lines((folder, &directory), (host, tls), indent, &mut certificates)
            })
        });
        files.push((format!("{directory}/hosts.toml"), text));
        files.extend(certificates);
        directories.push(directory);
    }
    for (host, tls) in tls.iter().filter(|(_, tls)| tls.ca.is_some() || tls.skips_verification) {
        let directory = directory_of(host);
        if directories.contains(&directory) {
            continue;
        }
        let mut certificates = Files::new();
        let server = json!(format!("https://{}", default_host(host)));
        let lines = tls_lines((folder, &directory), (host, tls), "", &mut certificates);
        files.push((format!("{directory}/hosts.toml"), format!("server = {server}\n{lines}")));
        files.extend(certificates);
    }
    files
}

/// Returns a `hosts.toml`. Without a fallback, the last endpoint takes the place of the registry.
fn hosts(mirror: &Mirror, mut tls: impl FnMut(&str, &str) -> String) -> String {
    let mut entries: Vec<_> = mirror.endpoints.iter().collect();
    let server = if mirror.skips_fallback { entries.pop() } else { None };
    let mut lines = |(url, is_whole): &(String, bool), indent: &str| {
        let host = url.split("://").nth(1).and_then(|rest| rest.split('/').next());
        let whole =
            if *is_whole { format!("{indent}override_path = true\n") } else { String::new() };
        format!("{indent}capabilities = [\"pull\", \"resolve\"]\n{whole}")
            + &tls(host.unwrap_or_default(), indent)
    };
    let mut text = String::new();
    if let Some(entry) = server {
        let _ = write!(text, "server = {}\n{}", json!(entry.0), lines(entry, ""));
    }
    if !entries.is_empty() {
        text += "[host]\n";
    }
    for entry in entries {
        let _ = write!(text, "  [host.{}]\n{}", json!(entry.0), lines(entry, "    "));
    }
    text
}

fn tls_lines(
    (folder, directory): (&str, &str),
    (host, tls): (&str, &Tls),
    indent: &str,
    certificates: &mut Files,
) -> String {
    let mut lines = String::new();
    if let Some(ca) = &tls.ca {
        let path = format!("{directory}/{host}-ca.crt");
        let _ = writeln!(lines, "{indent}ca = {}", json!(format!("{folder}/{path}")));
        certificates.push((path, ca.clone()));
    }
    if tls.skips_verification {
        let _ = writeln!(lines, "{indent}skip_verify = true");
    }
    lines
}

/// Returns the name of a registry's folder.
fn directory_of(host: &str) -> String {
    match host.rsplit_once(':') {
        _ if host == "*" => "_default".to_owned(),
        Some((host, port)) => format!("{host}_{port}_"),
        None => host.to_owned(),
    }
}

fn default_host(host: &str) -> &str {
    if host == "docker.io" { "registry-1.docker.io" } else { host }
}

/// Returns the fields of `machine.registries` below `pointer`, by their keys.
fn fields<'a>(
    config: &'a Configuration,
    pointer: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let fields = config.main.pointer(pointer).and_then(Value::as_object);
    fields.into_iter().flatten()
}

/// Returns the mirrors of `machine.registries` and of `RegistryMirrorConfig` documents.
fn mirrors(config: &Configuration) -> Vec<(String, Mirror)> {
    let is_set = |value: &Value| value.as_bool().unwrap_or_default();
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let old = fields(config, "/machine/registries/mirrors").map(|(name, mirror)| {
        let is_whole = is_set(&mirror["overridePath"]);
        let endpoints = list(&mirror["endpoints"]).into_iter();
        let endpoints = endpoints.filter_map(|url| Some((url.as_str()?.to_owned(), is_whole)));
        let skips_fallback = is_set(&mirror["skipFallback"]);
        (name.clone(), Mirror { endpoints: endpoints.collect(), skips_fallback })
    });
    let new = config.others("RegistryMirrorConfig").filter_map(|mirror| {
        let endpoints = list(&mirror["endpoints"]).into_iter().filter_map(|endpoint| {
            Some((endpoint["url"].as_str()?.to_owned(), is_set(&endpoint["overridePath"])))
        });
        let skips_fallback = is_set(&mirror["skipFallback"]);
        let mirror_of = Mirror { endpoints: endpoints.collect(), skips_fallback };
        Some((mirror["name"].as_str()?.to_owned(), mirror_of))
    });
    old.chain(new).collect()
}

/// Returns the TLS of `machine.registries` and of `RegistryTLSConfig` documents.
fn tls(config: &Configuration) -> Vec<(String, Tls)> {
    let skips = |value: &Value| value["insecureSkipVerify"].as_bool().unwrap_or_default();
    let old = fields(config, "/machine/registries/config").map(|(host, config)| {
        let ca = config["tls"]["ca"].as_str();
        let ca = ca.and_then(|ca| data_encoding::BASE64.decode(ca.as_bytes()).ok());
        let ca = ca.and_then(|ca| String::from_utf8(ca).ok());
        (host.clone(), Tls { ca, skips_verification: skips(&config["tls"]) })
    });
    let new = config.others("RegistryTLSConfig").filter_map(|document| {
        let ca = document["ca"].as_str().filter(|ca| !ca.is_empty()).map(str::to_owned);
        let tls = Tls { ca, skips_verification: skips(document) };
        Some((document["name"].as_str()?.to_owned(), tls))
    });
    old.chain(new).collect()
}

/// Returns the credentials of `machine.registries` and of `RegistryAuthConfig` documents.
fn credentials(config: &Configuration) -> Vec<(String, Value)> {
    let old = fields(config, "/machine/registries/config")
        .filter_map(|(host, config)| Some((host.clone(), config.get("auth")?.clone())));
    let new = config
        .others("RegistryAuthConfig")
        .filter_map(|document| Some((document["name"].as_str()?.to_owned(), document.clone())));
    old.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: &str = include_str!("../tests/fixtures/v1.13/base-controlplane.yaml");

    fn read(documents: &str) -> std::sync::Arc<Configuration> {
        Configuration::read(format!("{WORKER}{documents}").as_bytes()).expect("a configuration")
    }

    fn mirror(name: &str, rest: &str) -> String {
        format!("---\napiVersion: v1alpha1\nkind: RegistryMirrorConfig\nname: {name}\n{rest}\n")
    }

    #[test]
    fn containerd_gets_the_mirrors_of_the_configuration_and_of_the_lab() {
        let endpoints = "endpoints:\n    - url: http://127.77.0.1:5000\n    - url: https://a/v2/hub\n      overridePath: true";
        let config = read(&(mirror("ghcr.io", endpoints) + &mirror("'*'", endpoints)));
        let plain = ["127.77.0.1:5000".to_owned()];
        let files = files("/hosts", &plain, &config);
        let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            ["127.77.0.1_5000_/hosts.toml", "ghcr.io/hosts.toml", "_default/hosts.toml"]
        );
        let first = "[host]\n  [host.\"http://127.77.0.1:5000\"]\n    capabilities = [\"pull\", \"resolve\"]\n";
        assert_eq!(files[0].1, first);
        let second = "  [host.\"https://a/v2/hub\"]\n    capabilities = [\"pull\", \"resolve\"]\n    override_path = true\n";
        assert_eq!(files[1].1, format!("{first}{second}"));
    }

    #[test]
    fn the_last_mirror_takes_the_place_of_the_registry_without_a_fallback() {
        let rest = "endpoints:\n    - url: https://a\n    - url: https://b\nskipFallback: true";
        let files = files("/hosts", &[], &read(&mirror("ghcr.io", rest)));
        let expected = "server = \"https://b\"\ncapabilities = [\"pull\", \"resolve\"]\n[host]\n  [host.\"https://a\"]\n    capabilities = [\"pull\", \"resolve\"]\n";
        assert_eq!(files[0].1, expected);
    }

    #[test]
    fn credentials_are_in_the_configuration_that_containerd_reads_once() {
        let auth = "---\napiVersion: v1alpha1\nkind: RegistryAuthConfig\nname: docker.io\nusername: robot\npassword: word\n";
        let tls = "---\napiVersion: v1alpha1\nkind: RegistryTLSConfig\nname: a:5000\ninsecureSkipVerify: true\n";
        let config = read(&format!("{auth}{tls}"));
        let text = containerd("\"cri\"", "/hosts", &config);
        let expected = "  [plugins.\"cri\".registry]\n    config_path = \"/hosts\"\n  [plugins.\"cri\".registry.configs.\"registry-1.docker.io\".auth]\n    username = \"robot\"\n    password = \"word\"\n";
        assert_eq!(text, expected);
        let files = files("/hosts", &[], &config);
        assert_eq!(
            files,
            [(
                "a_5000_/hosts.toml".to_owned(),
                "server = \"https://a:5000\"\nskip_verify = true\n".to_owned()
            )]
        );
    }
}
