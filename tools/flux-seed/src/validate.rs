//! Validations of Deliveries that their types cannot express.

use std::collections::BTreeSet;

use contract::facts::project_of_cluster;
use documents::{Declared, Stream};

use crate::object::NAMESPACE;
use crate::spec::{Component, Delivery};

/// Adds every mistake of the declared Deliveries to `stream`.
pub(crate) fn validate(stream: &mut Stream, declared: &[Declared<Delivery>]) {
    for (index, delivery) in declared.iter().enumerate() {
        alternatives(stream, delivery);
        components(stream, delivery);
        installation(stream, (index, delivery), declared);
        secrets(stream, delivery);
        let cluster = delivery.spec.cluster.as_ref();
        let (path, project) = match cluster {
            Some(cluster) => ("/spec/cluster", project_of_cluster(stream, cluster.as_str())),
            None => ("/spec/project", delivery.spec.project.as_ref().map(AsRef::as_ref)),
        };
        if let Some(project) = project.map(str::to_owned) {
            stream.require_exists(delivery, path, "Project", &project);
        }
    }
}

/// Requires one of two fields where either is permitted.
fn alternatives(stream: &mut Stream, delivery: &Declared<Delivery>) {
    let spec = &delivery.spec;
    match (&spec.cluster, &spec.kubeconfig) {
        (Some(_), None) => {}
        (None, Some(_)) => {
            if spec.project.is_none() {
                let message = "`kubeconfig` requires `project`, the Project from whose root the secrets derive";
                stream.invalid(delivery, "/spec/kubeconfig", message);
            }
        }
        (Some(_), Some(_)) => {
            let message = "declare either `cluster` or `kubeconfig`, not both";
            stream.invalid(delivery, "/spec/kubeconfig", message);
        }
        (None, None) => {
            let message = "declare `cluster`, the name of a Cluster, or `kubeconfig`, a reference to a secret";
            stream.invalid(delivery, "/spec", message);
        }
    }
    if spec.cluster.is_some() && spec.project.is_some() {
        let message = "the project of a Cluster is in that document: remove `project`";
        stream.invalid(delivery, "/spec/project", message);
    }
    match (&spec.artifact, &spec.source) {
        (Some(_), None) => {}
        (None, Some(source)) => {
            if source.public_keys.is_empty() {
                let message = "needs the public key of at least one signer: Flux delivers signed artifacts only";
                stream.invalid(delivery, "/spec/source/publicKeys", message);
            }
            for (index, key) in source.public_keys.iter().enumerate() {
                let is_pem = key.trim_start().starts_with("-----BEGIN PUBLIC KEY-----");
                if !is_pem {
                    let path = format!("/spec/source/publicKeys/{index}");
                    stream.invalid(
                        delivery,
                        &path,
                        "not a public key in PEM, which begins with `-----BEGIN PUBLIC KEY-----`",
                    );
                }
            }
        }
        (Some(_), Some(_)) => {
            let message = "declare either `artifact` or `source`, not both";
            stream.invalid(delivery, "/spec/source", message);
        }
        (None, None) => {
            let message = "declare `artifact`, the name of an Artifact, or `source`, an artifact by its digest";
            stream.invalid(delivery, "/spec", message);
        }
    }
}

fn components(stream: &mut Stream, delivery: &Declared<Delivery>) {
    let Some(flux) = &delivery.spec.flux else { return };
    if Component::required().iter().any(|component| !flux.components.contains(component)) {
        let message = "a delivery needs both: source-controller and kustomize-controller";
        stream.invalid(delivery, "/spec/flux/components", message);
    }
}

/// Whether both Deliveries deliver to the same cluster.
fn shares_cluster(a: &Delivery, b: &Delivery) -> bool {
    (&a.cluster, &a.kubeconfig) == (&b.cluster, &b.kubeconfig)
}

/// Requires that one Delivery of a cluster installs Flux, and that the others are applied after it.
fn installation(
    stream: &mut Stream,
    (index, delivery): (usize, &Declared<Delivery>),
    declared: &[Declared<Delivery>],
) {
    let installs = |other: &&Declared<Delivery>| {
        other.spec.flux.is_some() && shares_cluster(&other.spec, &delivery.spec)
    };
    if delivery.spec.flux.is_some() {
        if let Some(first) = declared[..index].iter().find(installs) {
            let message = format!(
                "Delivery `{}` installs Flux in this cluster: remove `flux`, and add `dependsOn: [{}]`",
                first.name, first.name
            );
            stream.invalid(delivery, "/spec/flux", &message);
        }
        return;
    }
    let Some(installer) = declared.iter().find(installs) else { return };
    if !depends_on(delivery, installer.name.as_str(), declared) {
        let message = format!(
            "Delivery `{}` installs Flux in this cluster: add `dependsOn: [{}]`",
            installer.name, installer.name
        );
        stream.invalid(delivery, "/spec", &message);
    }
}

/// Whether `delivery` depends on the Delivery called `name`, directly or through others.
fn depends_on(delivery: &Declared<Delivery>, name: &str, declared: &[Declared<Delivery>]) -> bool {
    let mut known = BTreeSet::new();
    let mut next: Vec<&str> = delivery.spec.depends_on.iter().map(AsRef::as_ref).collect();
    while let Some(dependency) = next.pop() {
        if dependency == name {
            return true;
        }
        if known.insert(dependency) {
            let others = declared.iter().filter(|other| other.name.as_str() == dependency);
            next.extend(others.flat_map(|other| other.spec.depends_on.iter().map(AsRef::as_ref)));
        }
    }
    false
}

fn secrets(stream: &mut Stream, delivery: &Declared<Delivery>) {
    let mut known = BTreeSet::new();
    for (index, secret) in delivery.spec.secrets.iter().enumerate() {
        let path = format!("/spec/secrets/{index}");
        if secret.data.is_empty() != secret.image_pull {
            let message = "declare either `data` or `imagePull: true`";
            stream.invalid(delivery, &path, message);
        }
        if secret.namespace.as_str() == NAMESPACE {
            let message = "this Namespace belongs to Flux; a Kustomization there can decrypt its own Secrets with SOPS";
            stream.invalid(delivery, &format!("{path}/namespace"), message);
        }
        if !known.insert((&secret.namespace, &secret.name)) {
            stream.invalid(delivery, &format!("{path}/name"), "another entry declares this Secret");
        }
    }
}
