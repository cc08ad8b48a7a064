//! Compares `render` with upstream's templates, which kustomize builds.

use std::fs;

use super::assemble::{Inputs, Test, kustomize, sorted};
use super::{combinations, rendered};
use crate::spec::{Component, Network, Version};

/// Upstream's template (flux2 v2.9.5, `pkg/manifestgen/install/templates.go`) with the values of one
/// installation.
fn kustomization(components: &[Component]) -> String {
    let mut events = "";
    if components.contains(&Component::NotificationController) {
        events = "http://notification-controller.$(RUNTIME_NAMESPACE).svc.cluster.local./";
    }
    let mut lines: Vec<String> = HEAD.lines().map(str::to_owned).collect();
    lines.extend(components.iter().map(|component| format!("- ../bases/{component}")));
    lines.push("patches:".to_owned());
    lines.push("- path: node-selector.yaml".to_owned());
    lines.push("  target: {kind: Deployment}".to_owned());
    for &component in components {
        let mut args = vec!["--watch-all-namespaces=true", "--log-level=info"];
        let sent = format!("--events-addr={events}");
        if component != Component::NotificationController {
            args.insert(0, &sent);
        }
        lines.push(format!(
            "- target: {{group: apps, version: v1, kind: Deployment, name: {component}}}"
        ));
        lines.push("  patch: |-".to_owned());
        let address =
            "--storage-adv-addr=source-controller.$(RUNTIME_NAMESPACE).svc.cluster.local.";
        let storage = (component == Component::SourceController).then_some((6, address));
        lines.extend(args.into_iter().enumerate().chain(storage).map(|(index, value)| {
            let path = format!("/spec/template/spec/containers/0/args/{index}");
            format!("    - {{op: replace, path: {path}, value: \"{value}\"}}")
        }));
    }
    lines.push("images:".to_owned());
    lines.extend(components.iter().map(|component| {
        format!("- {{name: fluxcd/{component}, newName: registry.example.org/fluxcd/{component}}}")
    }));
    lines.join("\n")
}

const HEAD: &str = "---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: flux-system
transformers: [labels.yaml]
resources:
- namespace.yaml
- ../policies
- roles";

const ROLES: &str = "---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: flux-system
resources: [../../rbac]
nameSuffix: -flux-system
";

const NODE_SELECTOR: &str = "---
apiVersion: apps/v1
kind: Deployment
metadata: {name: all}
spec: {template: {spec: {nodeSelector: {kubernetes.io/os: linux}, imagePullSecrets: [{name: pull}],
  tolerations: [{key: node.cloudprovider.kubernetes.io/uninitialized, operator: Exists}]}}}
";

const LABELS: &str = r#"---
apiVersion: builtin
kind: LabelTransformer
metadata: {name: labels}
labels:
  app.kubernetes.io/instance: flux-system
  app.kubernetes.io/version: "vVERSION"
  app.kubernetes.io/part-of: flux
fieldSpecs:
  - {path: metadata/labels, create: true}
  - {kind: Deployment, path: spec/template/metadata/labels, create: true}
"#;

const NAMESPACE: &str = "---
apiVersion: v1
kind: Namespace
metadata:
  name: flux-system
  labels: {pod-security.kubernetes.io/warn: restricted, pod-security.kubernetes.io/warn-version: latest}
";

#[test]
#[ignore = "needs Go modules and the lab's kubectl: tasks/test"]
fn render_equals_upstreams_templates_except_for_the_documented_changes() -> Test {
    for version in Version::ALL {
        let inputs = Inputs::of(&version.to_string())?;
        for components in combinations() {
            let at = inputs.folder.path().join("instance");
            fs::create_dir_all(at.join("roles"))?;
            for (name, text) in [
                ("kustomization.yaml", kustomization(&components).as_str()),
                ("roles/kustomization.yaml", ROLES),
                ("node-selector.yaml", NODE_SELECTOR),
                ("labels.yaml", &LABELS.replace("VERSION", &version.to_string())),
                ("namespace.yaml", NAMESPACE),
            ] {
                fs::write(at.join(name), text)?;
            }
            let mut theirs = sorted(kustomize(&at)?);
            // flux-seed leaves out a policy for pods that do not exist, and adds one flag and the period
            // of a probe.
            if !components.contains(&Component::NotificationController) {
                theirs.retain(|id, _| id.name != "allow-webhooks");
            }
            for (id, object) in theirs.iter_mut().filter(|(id, _)| id.kind == "Deployment") {
                let manager =
                    object.pointer_mut("/spec/template/spec/containers/0").ok_or("a container")?;
                manager["readinessProbe"]["periodSeconds"] = 2.into();
                if id.name == "kustomize-controller" {
                    let args = &mut manager["args"];
                    super::super::append(args, ["--no-remote-bases=true".into()]);
                }
            }
            let ours = sorted(rendered(version, Network::Pod, &components, Some("pull")));
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
            for (id, object) in &theirs {
                assert_eq!(&ours[id], object, "{id}");
            }
        }
    }
    Ok(())
}
