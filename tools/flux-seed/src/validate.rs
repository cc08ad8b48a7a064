//! Validations of Deliveries that their types cannot express.

use documents::{Declared, Name, Stream};

use crate::spec::{Component, Delivery};

/// Adds every mistake of the declared Deliveries to `stream`.
pub(crate) fn validate(stream: &mut Stream, declared: &[Declared<Delivery>]) {
    for (index, delivery) in declared.iter().enumerate() {
        let components = &delivery.spec.flux.components;
        if Component::all().iter().any(|component| !components.contains(component)) {
            let message = "a delivery needs both: source-controller and kustomize-controller";
            stream.invalid(delivery, "/spec/flux/components", message);
        }
        let is_same = |other: &Declared<Delivery>| other.spec.cluster == delivery.spec.cluster;
        if declared[..index].iter().any(is_same) {
            let message = "another Delivery installs Flux in this cluster";
            stream.invalid(delivery, "/spec/cluster", message);
        }
        if let Some(project) = project_of(stream, &delivery.spec.cluster) {
            stream.require_exists(delivery, "/spec/cluster", "Project", &project);
        }
    }
}

/// Returns the name of the Project of a Cluster.
pub(crate) fn project_of(stream: &Stream, cluster: &Name) -> Option<String> {
    let cluster = stream.document("Cluster", cluster.as_str())?;
    cluster["spec"]["project"].as_str().map(str::to_owned)
}
