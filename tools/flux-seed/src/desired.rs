//! Objects that the documents declare: the installation of Flux and its configuration.

use std::collections::{BTreeMap, BTreeSet};

use contract::labels::DELIVERY;
use contract::{Project, Registry};
use documents::{Declared, Deferred};
use remote::registry::Digest;
use secrets::PhaseKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::artifact::Artifact;
use crate::clients::registry;
use crate::credentials::{self, authority_secret, cosign_secret, registry_secret, sops_secret};
use crate::install::{self, Instance};
use crate::object::{Identity, NAMESPACE, order};
use crate::plan::ActualState;
use crate::spec::{Component, Delivery, Flux};

/// Item of the phase key from which Flux's age identity is derived.
const SOPS: &str = "sops-age";

/// Registry of Flux's images, unless the Project declares `endpoints.flux`.
const UPSTREAM: &str = "https://ghcr.io/fluxcd";

/// Declared state of the cluster.
pub(crate) struct Desired {
    /// Declared objects in the order in which they are applied.
    pub(crate) objects: Vec<Value>,
    /// Objects of Flux's installation; empty if another Delivery installs Flux.
    pub(crate) installation: BTreeSet<Identity>,
    /// Settings of the installation, if it takes over a Flux that another program installed.
    pub(crate) adoption: Option<Flux>,
    /// Namespaces of declared Secrets. They may belong to another owner, and only their absence is
    /// repaired.
    pub(crate) shared: BTreeSet<Identity>,
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
        let registry = registry_of(project, &artifact);
        let mut objects = document.spec.flux.as_ref().map_or_else(Vec::new, |spec| {
            install::render(&Instance {
                version: spec.version,
                network: spec.network,
                images: &images,
                pull_secret: registry::has_credentials(&flux).then_some(credentials::FLUX_IMAGES),
            })
        });
        let installation = objects.iter().map(Identity::of).collect();
        let shared = namespaces(document);
        let namespaced = shared.iter().map(|id| {
            json!({"apiVersion": id.api_version, "kind": id.kind, "metadata": {"name": id.name}})
        });
        objects.extend(namespaced);
        let (source, kustomization) =
            (source(document, registry, &artifact), kustomization(document));
        let sops_recipient = match key {
            Some(key) => {
                let sops = sops_identities(document, key);
                objects.extend(credentials::of_flux(
                    document,
                    (&flux, registry),
                    &sops,
                    &artifact,
                )?);
                objects.extend(credentials::of_workloads(document, project)?);
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
            installation,
            adoption: document.spec.flux.clone().filter(|flux| flux.adopt),
            shared,
            images,
            artifact,
            sops_recipient,
            source: identities.0,
            kustomization: identities.1,
        })
    }

    /// Whether workloads use the object: a declared Secret or its Namespace.
    pub(crate) fn is_of_workload(&self, id: &Identity) -> bool {
        self.shared.contains(id)
            || id.kind == "Secret" && id.namespace.as_deref() != Some(NAMESPACE)
    }

    /// Returns the declared objects that are compared with `actual`: all but the shared Namespaces that
    /// exist.
    pub(crate) fn compared(&self, actual: &ActualState) -> Vec<Value> {
        let exists = |id: &Identity| actual.get(id).is_some_and(|live| !live.is_terminating());
        let is_compared = |object: &&Value| {
            let id = Identity::of(object);
            !(self.shared.contains(&id) && exists(&id))
        };
        self.objects.iter().filter(is_compared).cloned().collect()
    }

    /// Whether `apply` may take the object over from another program.
    pub(crate) fn adopts(&self, id: &Identity) -> bool {
        self.adoption.is_some() && self.installation.contains(id)
    }

    /// Returns the revision that Flux must have applied. It is a digest alone, because the source is
    /// pinned by digest.
    pub(crate) fn revision(&self) -> Deferred<String> {
        self.artifact.value().map(|artifact| artifact.digest.clone()).into()
    }
}

/// Returns the Namespaces of the declared Secrets, without those that every cluster has
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/#initial-namespaces>).
fn namespaces(document: &Declared<Delivery>) -> BTreeSet<Identity> {
    const INITIAL: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
    let names = document.spec.secrets.iter().map(|secret| secret.namespace.as_str());
    let names = names.filter(|name| !INITIAL.contains(name));
    let namespace = |name: &str| Identity {
        api_version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        namespace: None,
        name: name.to_owned(),
    };
    names.map(namespace).collect()
}

/// Returns the Project's registry if the artifact is there. No other registry gets its credentials.
fn registry_of<'a>(project: &'a Project, artifact: &Deferred<Artifact>) -> Option<&'a Registry> {
    let registry = project.endpoints.registry.as_ref()?;
    let is_there = artifact.value().is_none_or(|artifact| {
        let below = artifact.repository.strip_prefix(&registry.url.rest().to_string());
        below.is_some_and(|rest| rest.starts_with('/'))
    });
    is_there.then_some(registry)
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
    Ok(Registry { url, user: None, token: None, reader: None, certificate_authority: None })
}

/// Returns the image reference of each controller with its digest: the declared one, otherwise that of
/// the release. Only the images of a lab are resolved by their tag. An image whose digest cannot be
/// resolved is known after apply, if `on_error` permits that.
pub(crate) fn images(
    spec: &Flux,
    project: &Project,
    mut on_error: impl FnMut(Error) -> Result<(), Error>,
) -> Result<BTreeMap<Component, Deferred<String>>, Error> {
    let registry = flux_registry(project)?;
    let mut reader = None;
    let mut images = BTreeMap::new();
    for &component in &spec.components {
        let install::Image { tag, digest } = install::image(spec.version, component);
        let digest = match spec.digests.get(&component) {
            Some(digest) => Some(digest.clone()),
            // A mirror has the images of the release. A registry on the loopback address belongs to a
            // lab, which builds the controllers itself.
            None if !registry.url.is_loopback() => Some(digest),
            None => match resolve(&mut reader, &registry, component, &tag) {
                Ok(digest) => Some(digest),
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
    if registry.is_some_and(registry::has_credentials) {
        spec["secretRef"] = json!({"name": registry_secret(document)});
    }
    if registry.is_some_and(|registry| registry.certificate_authority.is_some()) {
        spec["certSecretRef"] = json!({"name": authority_secret(document)});
    }
    json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "OCIRepository",
        "metadata": {"name": document.name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

fn kustomization(document: &Declared<Delivery>) -> Value {
    let mut kustomization = json!({
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
    });
    let depends_on = document.spec.depends_on.iter().map(|name| json!({"name": name}));
    let depends_on: Vec<_> = depends_on.collect();
    if !depends_on.is_empty() {
        // Flux keeps the order whenever it applies the manifests again, for example after an outage.
        kustomization["spec"]["dependsOn"] = depends_on.into();
    }
    kustomization
}

/// Returns the digest of a text in the form that evidence uses, `sha256:` and 64 hexadecimal digits.
pub(crate) fn sha256(text: &str) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(text)))
}
