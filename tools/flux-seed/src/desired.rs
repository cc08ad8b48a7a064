//! Objects that the documents declare: the installation of Flux and its configuration.

use std::collections::BTreeMap;

use age::secrecy::ExposeSecret as _;
use contract::labels::DELIVERY;
use contract::{Project, Registry};
use data_encoding::BASE64;
use documents::{Declared, Deferred};
use remote::registry::Digest;
use secrets::{PhaseKey, Secret};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::clients::registry;
use crate::install::{self, Instance};
use crate::object::{Identity, NAMESPACE, order};
use crate::spec::{Component, Delivery};

/// Item of the phase key from which Flux's age identity is derived.
const SOPS: &str = "sops-age";

/// Registry of Flux's images, unless the Project declares `endpoints.flux`.
const UPSTREAM: &str = "https://ghcr.io/fluxcd";

/// The artifact, from the status of its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// Registry and repository, for example `ghcr.io/zabronax/deployments`.
    pub(crate) repository: String,
    /// Attested digest, `sha256:` and 64 hexadecimal digits.
    pub(crate) digest: String,
    /// Public key of the signature, in PEM.
    pub(crate) public_key: String,
}

/// Declared state of the cluster.
pub(crate) struct Desired {
    /// Declared objects in the order in which they are applied.
    pub(crate) objects: Vec<Value>,
    pub(crate) images: BTreeMap<Component, Deferred<String>>,
    pub(crate) artifact: Deferred<Artifact>,
    /// Age recipient of secrets that Flux can decrypt; `None` for a reader, who cannot derive it.
    pub(crate) sops_recipient: Option<String>,
    pub(crate) source: Identity,
    pub(crate) kustomization: Identity,
}

impl Desired {
    /// Renders the objects of `document`. Secrets are left out without a `key`, because their values
    /// derive from the key or are tokens of the registry, and a reader has neither.
    pub(crate) fn new(
        document: &Declared<Delivery>,
        project: &Project,
        key: Option<&PhaseKey>,
        images: BTreeMap<Component, Deferred<String>>,
        artifact: Deferred<Artifact>,
    ) -> Result<Self, Error> {
        let flux = flux_registry(project)?;
        let registry = project.endpoints.registry.as_ref();
        let mut objects = install::render(&Instance {
            version: document.spec.flux.version,
            network: document.spec.flux.network,
            images: &images,
            pull_secret: registry::has_credentials(&flux).then_some("flux-images"),
        });
        let has_login = registry.is_some_and(registry::has_credentials);
        let (source, kustomization) =
            (source(document, registry, has_login, &artifact), kustomization(document));
        let sops_recipient = match key {
            Some(key) => {
                let sops = sops_identities(document, key);
                objects.extend(secrets(document, (&flux, registry), &sops, &artifact)?);
                Some(sops[0].1.to_public().to_string())
            }
            None => None,
        };
        let identities = (Identity::of(&source), Identity::of(&kustomization));
        objects.extend([source, kustomization]);
        for object in &mut objects {
            object["metadata"]["labels"][DELIVERY] = document.name.as_str().into();
            // Without this annotation, Flux would prune itself if one artifact contained such an object
            // and the next one did not.
            // https://fluxcd.io/flux/components/kustomize/kustomizations/#controlling-the-apply-behavior-of-resources
            object["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/prune"] =
                "disabled".into();
        }
        objects.sort_by(|a, b| {
            let (a, b) = (Identity::of(a), Identity::of(b));
            order(&a).cmp(&order(&b))
        });
        Ok(Self {
            objects,
            images,
            artifact,
            sops_recipient,
            source: identities.0,
            kustomization: identities.1,
        })
    }

    /// Returns the revision that Flux must have applied. It is a digest alone, because the source is
    /// pinned by digest.
    pub(crate) fn revision(&self) -> Deferred<String> {
        self.artifact.value().map(|artifact| artifact.digest.clone()).into()
    }
}

/// Renders the Secrets that Flux reads: credentials of registries, its age identities, and the public
/// key of the artifact's signature.
fn secrets(
    document: &Declared<Delivery>,
    (flux, registry): (&Registry, Option<&Registry>),
    sops: &[(&'static str, age::x25519::Identity)],
    artifact: &Deferred<Artifact>,
) -> Result<Vec<Value>, Error> {
    let mut secrets = Vec::new();
    let pull = registry::credentials(flux)?;
    secrets.extend(pull.map(|login| docker_config("flux-images", flux.url.host(), &login)));
    let login = registry.map(registry::credentials).transpose()?.flatten();
    if let (Some(registry), Some(login)) = (registry, login) {
        secrets.push(docker_config(&registry_secret(document), registry.url.host(), &login));
    }
    let identities: Vec<_> =
        sops.iter().map(|(name, identity)| (*name, identity.to_string())).collect();
    let texts = identities.iter().map(|(name, text)| (*name, text.expose_secret().as_bytes()));
    secrets.push(secret(&sops_secret(document), "Opaque", texts));
    let mut cosign = secret(&cosign_secret(document), "Opaque", []);
    cosign["data"] = match artifact {
        Deferred::Value(artifact) => {
            json!({"cosign.pub": BASE64.encode(artifact.public_key.as_bytes())})
        }
        Deferred::AfterApply => json!({"cosign.pub": null}),
    };
    secrets.push(cosign);
    Ok(secrets)
}

/// Returns Flux's age identities with their names in its Secret, the current one first.
pub(crate) fn sops_identities(
    document: &Declared<Delivery>,
    key: &PhaseKey,
) -> Vec<(&'static str, age::x25519::Identity)> {
    let identity = |generation| key.at(SOPS, generation).age(document.name.as_str(), SOPS);
    let generation = key.generation(SOPS);
    let mut identities = vec![("identity.agekey", identity(generation))];
    if generation > 1 {
        // Files that were encrypted before a rotation must stay readable until `sops updatekeys`.
        identities.push(("previous.agekey", identity(generation - 1)));
    }
    identities
}

/// Returns the registry of the controllers' images.
pub(crate) fn flux_registry(project: &Project) -> Result<Registry, Error> {
    if let Some(flux) = &project.endpoints.flux {
        return Ok(flux.clone());
    }
    let url = UPSTREAM.to_owned().try_into();
    let url = url.map_err(|_| Error::Garbled { request: UPSTREAM.to_owned() })?;
    Ok(Registry { url, user: None, token: None, reader: None })
}

/// Returns the image reference of each controller with its digest. An image whose digest cannot be
/// resolved is known after apply, if `on_error` permits that.
pub(crate) fn images(
    spec: &Delivery,
    project: &Project,
    mut on_error: impl FnMut(Error) -> Result<(), Error>,
) -> Result<BTreeMap<Component, Deferred<String>>, Error> {
    let registry = flux_registry(project)?;
    let mut reader = None;
    let mut images = BTreeMap::new();
    for &component in &spec.flux.components {
        let tag = install::tag(spec.flux.version, component);
        let digest = match spec.flux.digests.get(&component) {
            Some(digest) => Some(digest.to_string()),
            None => match resolve(&mut reader, &registry, component, &tag) {
                Ok(digest) => Some(digest.to_string()),
                Err(failed @ registry::Failed::Unreadable { .. }) => {
                    let image = format!("{}/{component}:{tag}", registry.url.rest());
                    let error = |why, temporary| Error::Image { image, why, temporary };
                    on_error(failed.into_error(error))?;
                    None
                }
                Err(registry::Failed::Interrupted(interrupted)) => return Err(interrupted.into()),
            },
        };
        let image =
            digest.map(|digest| format!("{}/{component}:{tag}@{digest}", registry.url.rest()));
        images.insert(component, image.into());
    }
    Ok(images)
}

/// Resolves the tag of an image. `reader` is the one of all images, so that a run waits once for a
/// registry that does not answer.
fn resolve(
    reader: &mut Option<registry::Reader>,
    registry: &Registry,
    component: Component,
    tag: &str,
) -> Result<Digest, registry::Failed> {
    let reader = match reader {
        Some(reader) => reader,
        None => reader.insert(registry::Reader::open(registry)?),
    };
    reader.digest(component.as_str(), tag)
}

fn source(
    document: &Declared<Delivery>,
    registry: Option<&Registry>,
    login: bool,
    artifact: &Deferred<Artifact>,
) -> Value {
    let artifact = artifact.value();
    let mut spec = json!({
        "interval": format!("{}s", document.spec.interval_seconds.seconds()),
        "timeout": "60s",
        "url": artifact.map(|artifact| format!("oci://{}", artifact.repository)),
        "ref": {"digest": artifact.map(|artifact| &artifact.digest)},
        "verify": {"provider": "cosign", "secretRef": {"name": cosign_secret(document)}},
        "suspend": false,
    });
    if registry.is_some_and(|registry| registry.url.is_plain()) {
        spec["insecure"] = true.into();
    }
    if login {
        spec["secretRef"] = json!({"name": registry_secret(document)});
    }
    json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "OCIRepository",
        "metadata": {"name": document.name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

fn kustomization(document: &Declared<Delivery>) -> Value {
    json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": document.name, "namespace": NAMESPACE},
        "spec": {
            "interval": format!("{}s", document.spec.interval_seconds.seconds()),
            "retryInterval": "15s",
            "timeout": format!("{}s", document.spec.timeout_seconds.seconds()),
            "path": document.spec.path,
            "prune": document.spec.prune,
            "wait": false, // flux-seed itself waits for every object of the inventory
            "force": false,
            "suspend": false,
            "decryption": {"provider": "sops", "secretRef": {"name": sops_secret(document)}},
            "sourceRef": {"kind": "OCIRepository", "name": document.name},
        },
    })
}

fn sops_secret(document: &Declared<Delivery>) -> String {
    format!("{}-sops", document.name)
}

fn cosign_secret(document: &Declared<Delivery>) -> String {
    format!("{}-cosign", document.name)
}

fn registry_secret(document: &Declared<Delivery>) -> String {
    format!("{}-registry", document.name)
}

fn docker_config(name: &str, host: &str, auth: &str) -> Value {
    let config = Secret::new(json!({"auths": {host: {"auth": auth}}}).to_string().into_bytes());
    let data = [(".dockerconfigjson", config.expose())];
    secret(name, "kubernetes.io/dockerconfigjson", data)
}

fn secret<'a>(
    name: &str,
    secret_type: &str,
    data: impl IntoIterator<Item = (&'static str, &'a [u8])>,
) -> Value {
    let data = data.into_iter().map(|(key, bytes)| (key, BASE64.encode(bytes)));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": secret_type,
        "data": data.collect::<BTreeMap<_, _>>(),
    })
}

/// Returns the digest of a text in the form that evidence uses, `sha256:` and 64 hexadecimal digits.
pub(crate) fn sha256(text: &str) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(text)))
}
