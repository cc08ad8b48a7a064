//! Talos's documents for the declared registries.
//!
//! Talos v1.13.9 writes mirrors and TLS as containerd's `hosts.toml` files, which containerd reads for each
//! image (`GenerateHosts` in `internal/pkg/containers/cri/containerd/hosts.go`). Credentials become a part
//! of containerd's own configuration (`GenerateCRIConfig` in `containerd.go` there), which containerd reads when it
//! starts. Nothing starts containerd again: the service `cri` has no `APIRestartAllowed`
//! (`internal/app/machined/pkg/system/services/cri.go`). So only a reboot activates other credentials, although
//! the mode `AUTO` answers `NO_REBOOT`.

use contract::Project;
use documents::Declared;
use secrets::Reference;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::config::Patch;
use crate::pki::sha256_hex;
use crate::spec::{Registries, RegistryAuth, RegistryConfig};

/// Text in the place of a secret, where only the form of a document matters.
const PLACEHOLDER: &str = "secret";

/// Returns the documents of `registries` with the secrets, as a patch.
pub(crate) fn resolve(
    registries: &Registries,
    project: &Declared<Project>,
) -> Result<Patch, Error> {
    let resolve = |reference: &Reference| {
        let mut reference = reference.clone();
        // A published password must not protect images of a project that is not on this machine alone.
        if project.spec.root.is_guarded() {
            reference.guard();
        }
        Ok(reference.resolve()?.text()?.to_owned())
    };
    documents(registries, &resolve).map(Patch::from_documents)
}

/// Returns the documents of `registries` without the secrets, as a patch.
pub(crate) fn without_secrets(registries: &Registries) -> Patch {
    let resolve = |_: &Reference| Ok::<_, std::convert::Infallible>(PLACEHOLDER.to_owned());
    let Ok(documents) = documents(registries, &resolve);
    Patch::from_documents(documents)
}

fn documents<E>(
    registries: &Registries,
    resolve: &impl Fn(&Reference) -> Result<String, E>,
) -> Result<Vec<Value>, E> {
    let mut documents = Vec::new();
    for (name, mirror) in &registries.mirrors {
        let endpoints = mirror.endpoints.iter().map(|url| {
            let mut endpoint = json!({"url": url.as_str()});
            if mirror.override_path {
                endpoint["overridePath"] = true.into();
            }
            endpoint
        });
        let mut document = document("RegistryMirrorConfig", name.as_str());
        document["endpoints"] = endpoints.collect();
        if mirror.skip_fallback {
            document["skipFallback"] = true.into();
        }
        documents.push(document);
    }
    for (endpoint, RegistryConfig { auth, tls }) in &registries.config {
        if let Some(auth) = auth {
            let mut document = document("RegistryAuthConfig", endpoint.as_str());
            let RegistryAuth { username, password, auth, identity_token } = auth;
            if let Some(username) = username {
                document["username"] = username.as_str().into();
            }
            let secrets =
                [("password", password), ("auth", auth), ("identityToken", identity_token)];
            for (field, reference) in secrets {
                if let Some(reference) = reference {
                    document[field] = resolve(reference)?.into();
                }
            }
            documents.push(document);
        }
        if let Some(tls) = tls {
            let mut document = document("RegistryTLSConfig", endpoint.as_str());
            if let Some(ca) = &tls.ca {
                document["ca"] = ca.as_str().into();
            }
            if tls.insecure_skip_verify {
                document["insecureSkipVerify"] = true.into();
            }
            documents.push(document);
        }
    }
    Ok(documents)
}

fn document(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "v1alpha1", "kind": kind, "name": name})
}

/// Returns the digest of the credentials in a machine's configuration: those of `RegistryAuthConfig`
/// documents, and those of a patch in `machine.registries`.
pub(crate) fn credentials(configuration: &[u8]) -> String {
    let options = serde_saphyr::options! { with_snippet: false };
    let text = String::from_utf8_lossy(configuration);
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(&text, options).unwrap_or_default();
    let mut found = Map::new();
    for document in &documents {
        if document["kind"] == "RegistryAuthConfig" {
            let name = document["name"].as_str().unwrap_or_default();
            found.insert(format!("document {name}"), document.clone());
        }
        let config = document.pointer("/machine/registries/config").and_then(Value::as_object);
        for (host, config) in config.into_iter().flatten() {
            if let Some(auth) = config.get("auth") {
                found.insert(format!("field {host}"), auth.clone());
            }
        }
    }
    sha256_hex(Value::Object(found).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Common};
    use crate::pki::Bundle;
    use crate::spec::Role;

    fn registries(text: &str) -> Registries {
        serde_saphyr::from_str(text).expect("registries")
    }

    fn rendered(registries: &Registries, password: &str) -> String {
        let resolve = |_: &Reference| Ok::<_, std::convert::Infallible>(password.to_owned());
        let Ok(documents) = documents(registries, &resolve);
        let (bundle, role) = (Bundle::default(), Role::Worker);
        let common = Common {
            cluster: "c",
            endpoint: "https://endpoint:6443",
            kubernetes: "1.36.3",
            bundle: &bundle,
        };
        let generated = config::generate(&common, role);
        let patch = Patch::from_documents(documents);
        let documents = config::patched(generated, &[patch]).expect("a configuration");
        config::render(&documents).to_string()
    }

    const DECLARED: &str = "
mirrors:
  docker.io: {endpoints: [https://mirror.example.org, 'http://127.0.0.1:5000/v2/hub'], skipFallback: true}
  '*': {endpoints: ['https://all.example.org/v2/proxy'], overridePath: true}
config:
  ghcr.io: {auth: {username: robot, password: {env: TOKEN}}}
  mirror.example.org: {auth: {identityToken: {env: TOKEN}}, tls: {insecureSkipVerify: true}}
";

    #[test]
    fn registries_become_documents_of_talos() {
        let text = rendered(&registries(DECLARED), "word");
        let expected = "---
apiVersion: v1alpha1
kind: RegistryMirrorConfig
name: '*'
endpoints:
    - url: https://all.example.org/v2/proxy
      overridePath: true
---
apiVersion: v1alpha1
kind: RegistryMirrorConfig
name: docker.io
endpoints:
    - url: https://mirror.example.org
    - url: http://127.0.0.1:5000/v2/hub
skipFallback: true
---
apiVersion: v1alpha1
kind: RegistryAuthConfig
name: ghcr.io
username: robot
password: word
---
apiVersion: v1alpha1
kind: RegistryAuthConfig
name: mirror.example.org
identityToken: word
---
apiVersion: v1alpha1
kind: RegistryTLSConfig
name: mirror.example.org
insecureSkipVerify: true
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_digest_changes_with_credentials_alone() {
        let declared = registries(DECLARED);
        let of = |text: &str| credentials(text.as_bytes());
        let first = of(&rendered(&declared, "one"));
        assert_eq!(first, of(&rendered(&declared, "one")));
        assert_ne!(first, of(&rendered(&declared, "two")));
        let mut other = declared.clone();
        other.mirrors.clear();
        assert_eq!(first, of(&rendered(&other, "one")), "a mirror holds no credentials");
        other.config.clear();
        assert_eq!(of(&rendered(&other, "one")), of("version: v1alpha1\n"));
        let field =
            "machine: {registries: {config: {ghcr.io: {auth: {username: a, password: b}}}}}";
        assert_ne!(of(field), of("version: v1alpha1\n"));
    }

    #[test]
    fn no_debug_output_shows_a_secret() {
        let text = format!("{:?}", without_secrets(&registries(DECLARED)));
        assert!(text.contains(PLACEHOLDER) && !text.contains("TOKEN"), "{text}");
    }
}
