//! Secrets of the cluster: those that Flux reads, and those that the Delivery declares for workloads.

use std::collections::BTreeMap;

use age::secrecy::ExposeSecret as _;
use contract::{Cloud, Forge, Project, Registry};
use data_encoding::BASE64;
use documents::{Declared, Deferred};
use secrets::{Reference, Secret};
use serde_json::{Value, json};

use crate::Error;
use crate::artifact::Artifact;
use crate::clients::registry;
use crate::object::NAMESPACE;
use crate::spec::{Delivery, SecretValue, TokenEndpoint, WorkloadSecret};

/// Name of the Secret with which the kubelet pulls the images of Flux's controllers.
pub(crate) const FLUX_IMAGES: &str = "flux-images";

const OPAQUE: &str = "Opaque";

/// Renders the Secrets that Flux reads: credentials and the authority of registries, its age identities,
/// and the public keys of the artifact's signature. `registry` is the one of the artifact.
pub(crate) fn of_flux(
    document: &Declared<Delivery>,
    (flux, registry): (&Registry, Option<&Registry>),
    sops: &[(&'static str, age::x25519::Identity)],
    artifact: &Deferred<Artifact>,
) -> Result<Vec<Value>, Error> {
    let mut secrets = Vec::new();
    if document.spec.flux.is_some() {
        let pull = registry::credentials(flux)?;
        secrets.extend(pull.map(|login| docker_config((NAMESPACE, FLUX_IMAGES), flux, &login)));
    }
    let login = registry.map(registry::credentials).transpose()?.flatten();
    if let (Some(registry), Some(login)) = (registry, login) {
        secrets.push(docker_config((NAMESPACE, &registry_secret(document)), registry, &login));
    }
    // https://fluxcd.io/flux/components/source/ocirepositories/#tls-certificates
    let authority = registry.and_then(|registry| registry.certificate_authority.as_deref());
    secrets.extend(authority.map(|pem| {
        let place = (NAMESPACE, &*authority_secret(document));
        secret(place, OPAQUE, [("ca.crt", pem.as_bytes())])
    }));
    let identities: Vec<_> =
        sops.iter().map(|(name, identity)| (*name, identity.to_string())).collect();
    let texts = identities.iter().map(|(name, text)| (*name, text.expose_secret().as_bytes()));
    secrets.push(secret((NAMESPACE, &sops_secret(document)), OPAQUE, texts));
    let mut cosign = secret((NAMESPACE, &cosign_secret(document)), OPAQUE, []);
    cosign["data"] = match artifact {
        Deferred::Value(artifact) => public_keys(&artifact.public_keys),
        Deferred::AfterApply => json!({"cosign.pub": null}),
    };
    secrets.push(cosign);
    Ok(secrets)
}

/// Returns the data of the Secret with the public keys. Flux accepts a signature that one of its keys
/// with the ending `.pub` verifies
/// (<https://fluxcd.io/flux/components/source/ocirepositories/#public-keys-verification>).
fn public_keys(keys: &[String]) -> Value {
    let name = |index: usize| match index {
        0 => "cosign.pub".to_owned(),
        _ => format!("cosign-{}.pub", index + 1),
    };
    let keys = keys.iter().enumerate();
    keys.map(|(index, key)| (name(index), BASE64.encode(key.as_bytes())))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect()
}

/// Renders the Secrets of workloads.
pub(crate) fn of_workloads(
    document: &Declared<Delivery>,
    project: &Project,
) -> Result<Vec<Value>, Error> {
    document.spec.secrets.iter().map(|secret| of_workload(secret, project)).collect()
}

fn of_workload(declared: &WorkloadSecret, project: &Project) -> Result<Value, Error> {
    let place = (declared.namespace.as_str(), declared.name.as_str());
    if declared.image_pull {
        let registry = project.endpoints.registry.as_ref();
        let login = registry.map(registry::credentials).transpose()?.flatten();
        let (Some(registry), Some(login)) = (registry, login) else {
            return Err(missing(declared, "registry"));
        };
        return Ok(docker_config(place, registry, &login));
    }
    let mut values = Vec::new();
    for (key, value) in &declared.data {
        values.push((key.as_str(), resolve(declared, value, project)?));
    }
    Ok(secret(place, OPAQUE, values.iter().map(|(key, value)| (*key, value.expose()))))
}

fn resolve(
    declared: &WorkloadSecret,
    value: &SecretValue,
    project: &Project,
) -> Result<Secret, Error> {
    match value {
        SecretValue::Reference(reference) => {
            let mut reference = reference.clone();
            // The root is guarded unless every endpoint is on this machine.
            if project.root.is_guarded() {
                reference.guard();
            }
            Ok(reference.resolve()?)
        }
        SecretValue::Endpoint { endpoint } => {
            let (name, token) = token(*endpoint, project);
            Ok(token.ok_or_else(|| missing(declared, name))?.resolve()?)
        }
    }
}

/// Returns the name of an endpoint in a Project, and its token if the Project declares the endpoint.
fn token(endpoint: TokenEndpoint, project: &Project) -> (&'static str, Option<&Reference>) {
    match endpoint {
        TokenEndpoint::Cloud => {
            let cloud = project.endpoints.cloud.as_ref();
            ("cloud", cloud.map(|Cloud::Hetzner { token, .. }| token))
        }
        TokenEndpoint::Forge => {
            let forge = project.endpoints.forge.as_ref();
            let token = |forge| match forge {
                &Forge::Github { ref token, .. } | &Forge::Gitea { ref token, .. } => token,
            };
            ("forge", forge.map(token))
        }
    }
}

fn missing(declared: &WorkloadSecret, endpoint: &'static str) -> Error {
    let secret = format!("{}/{}", declared.namespace, declared.name);
    Error::EndpointMissing { secret, endpoint }
}

fn docker_config(place: (&str, &str), registry: &Registry, auth: &str) -> Value {
    let config = json!({"auths": {registry.url.host(): {"auth": auth}}});
    let config = Secret::new(config.to_string().into_bytes());
    secret(place, "kubernetes.io/dockerconfigjson", [(".dockerconfigjson", config.expose())])
}

fn secret<'a>(
    (namespace, name): (&str, &str),
    secret_type: &str,
    data: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Value {
    let data = data.into_iter().map(|(key, bytes)| (key, BASE64.encode(bytes)));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": secret_type,
        "data": data.collect::<BTreeMap<_, _>>(),
    })
}

pub(crate) fn sops_secret(document: &Declared<Delivery>) -> String {
    format!("{}-sops", document.name)
}

pub(crate) fn cosign_secret(document: &Declared<Delivery>) -> String {
    format!("{}-cosign", document.name)
}

pub(crate) fn authority_secret(document: &Declared<Delivery>) -> String {
    format!("{}-registry-authority", document.name)
}

pub(crate) fn registry_secret(document: &Declared<Delivery>) -> String {
    format!("{}-registry", document.name)
}
