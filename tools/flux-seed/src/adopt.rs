//! Rules for the adoption of a Flux that another program installed. Pure.
//!
//! An adoption changes the owner of objects by server-side apply, so that each keeps its UID, and the
//! workloads that Flux has delivered keep running. Definitions and Kustomizations are never deleted.

use serde_json::Value;

use crate::keeper::keeper;
use crate::object::Identity;
use crate::plan::Owner;
use crate::spec::{Component, Flux, Network};

/// Returns the owner of a declared object of the installation that is not ours.
pub(crate) fn owner(live: &Value) -> Owner {
    if keeper(live).is_none() { Owner::Adoptable } else { Owner::Foreign }
}

/// Returns the owner of an object that the installation does not declare and that another program
/// installed for `component`, which is `None` for a controller that this program does not know.
pub(crate) fn beside(
    flux: &Flux,
    id: &Identity,
    component: Option<Component>,
    live: &Value,
) -> Owner {
    let is_selected = component.is_some_and(|component| flux.components.contains(&component));
    match owner(live) {
        // The declared pod has the controller, and both would act on the same objects.
        Owner::Adoptable if is_selected => Owner::Adoptable,
        // In the network of the node, artifacts are served on the loopback address of the declared pod,
        // so that another controller could not fetch them.
        _ if id.kind == "Deployment" && (component.is_some() || flux.network == Network::Host) => {
            Owner::Unselected
        }
        _ => Owner::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(manager: &str, labels: &Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {
            "name": "helm-controller", "namespace": "flux-system", "labels": labels,
            "managedFields": [{"manager": manager, "operation": "Apply"}]}})
    }

    fn flux(network: &str, components: &[&str]) -> Flux {
        let flux = json!({"version": "2.9.5", "network": network, "components": components});
        serde_json::from_value(flux).expect("valid")
    }

    #[test]
    fn object_that_another_program_keeps_applying_is_not_adopted() {
        let kustomization = json!({
            "kustomize.toolkit.fluxcd.io/name": "flux-system",
            "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
        });
        let operator = json!({
            "app.kubernetes.io/managed-by": "flux-operator",
            "fluxcd.controlplane.io/name": "flux",
            "fluxcd.controlplane.io/namespace": "flux-system",
        });
        for (manager, labels, expected) in [
            ("kustomize-controller", &kustomization, "Kustomization flux-system/flux-system"),
            ("flux-operator", &operator, "FluxInstance flux-system/flux"),
            ("helm", &json!({"app.kubernetes.io/managed-by": "Helm"}), "Helm release "),
        ] {
            let live = live(manager, labels);
            assert_eq!(keeper(&live).as_deref(), Some(expected));
            assert_eq!(owner(&live), Owner::Foreign);
        }
    }

    #[test]
    fn object_of_the_flux_command_or_of_kubectl_is_adopted() {
        // `flux bootstrap` also labels objects, and a person may copy the labels.
        let copied = json!({"kustomize.toolkit.fluxcd.io/name": "flux-system"});
        for (manager, labels) in
            [("flux", &json!({})), ("kubectl-client-side-apply", &json!({})), ("kubectl", &copied)]
        {
            assert_eq!(owner(&live(manager, labels)), Owner::Adoptable);
        }
    }

    #[test]
    fn controller_beside_the_declared_ones_is_removed_if_selected_and_a_conflict_if_not() {
        let both = ["source-controller", "kustomize-controller"];
        let all = ["source-controller", "kustomize-controller", "helm-controller"];
        let live = live("flux", &json!({}));
        let id = Identity::of(&live);
        let helm = Some(Component::HelmController);
        assert_eq!(beside(&flux("host", &all), &id, helm, &live), Owner::Adoptable);
        for network in ["pod", "host"] {
            assert_eq!(beside(&flux(network, &both), &id, helm, &live), Owner::Unselected);
        }
        // A controller that this program cannot install needs the Service of source-controller.
        assert_eq!(beside(&flux("pod", &both), &id, None, &live), Owner::Foreign);
        assert_eq!(beside(&flux("host", &both), &id, None, &live), Owner::Unselected);
    }
}
