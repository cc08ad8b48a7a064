//! Validations of Deliveries that their types cannot express.

use contract::facts::project_of_cluster;
use documents::{Declared, Stream};

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
        let project = project_of_cluster(stream, delivery.spec.cluster.as_str());
        if let Some(project) = project.map(str::to_owned) {
            stream.require_exists(delivery, "/spec/cluster", "Project", &project);
        }
    }
}
