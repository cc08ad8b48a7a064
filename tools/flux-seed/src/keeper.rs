//! Programs that apply an object again and again, so that no other program can take it over. Pure.

use contract::labels::DELIVERY;
use serde_json::Value;

use crate::graph::is_applied_by;
use crate::kstatus::text;

/// Returns the program that keeps applying `live`, which would therefore undo an adoption; `None` if no
/// program does.
pub(crate) fn keeper(live: &Value) -> Option<String> {
    let (labels, annotations) = (&live["metadata"]["labels"], &live["metadata"]["annotations"]);
    let delivery = text(labels, DELIVERY);
    if !delivery.is_empty() {
        return Some(format!("Delivery {delivery}"));
    }
    // `flux bootstrap` delivers Flux by a Kustomization of its own.
    let name = text(labels, "kustomize.toolkit.fluxcd.io/name");
    let namespace = text(labels, "kustomize.toolkit.fluxcd.io/namespace");
    if !name.is_empty() && is_applied_by(live, name, namespace) {
        return Some(format!("Kustomization {namespace}/{name}"));
    }
    match text(labels, "app.kubernetes.io/managed-by") {
        // Labels of flux-operator v0.59.0: cmd/cli/trace.go.
        "flux-operator" => {
            let namespace = text(labels, "fluxcd.controlplane.io/namespace");
            let name = text(labels, "fluxcd.controlplane.io/name");
            Some(format!("FluxInstance {namespace}/{name}"))
        }
        // https://helm.sh/docs/chart_best_practices/labels/
        "Helm" => {
            let release = text(annotations, "meta.helm.sh/release-name");
            Some(format!("Helm release {release}"))
        }
        _ => None,
    }
}
