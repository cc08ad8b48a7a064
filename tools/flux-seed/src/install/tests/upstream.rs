//! Compares `render` with upstream's templates, which kustomize builds.

use std::fs;

use super::assemble::{Inputs, Test, kustomize, sorted};
use super::{combinations, rendered};
use crate::spec::{Component, Network, Version};

/// Upstream's template (flux2 v2.9.5, `pkg/manifestgen/install/templates.go`) with the values of one
/// installation.
fn kustomization(components: &[Component]) -> String {
    let receives = components.contains(&Component::NotificationController);
    let events = match receives {
        true => "http://notification-controller.$(RUNTIME_NAMESPACE).svc.cluster.local./",
        false => "",
    };
    let mut text = "---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: flux-system
transformers: [labels.yaml]
resources:
- namespace.yaml
- ../policies
- roles
"
    .to_owned();
    for component in components {
        text += &format!("- ../bases/{component}\n");
    }
    text += "patches:\n- path: node-selector.yaml\n  target: {kind: Deployment}\n";
    for &component in components {
        let args = match component {
            Component::NotificationController => {
                vec![
                    (0, "--watch-all-namespaces=true".to_owned()),
                    (1, "--log-level=info".to_owned()),
                ]
            }
            _ => vec![
                (0, format!("--events-addr={events}")),
                (1, "--watch-all-namespaces=true".to_owned()),
                (2, "--log-level=info".to_owned()),
            ],
        };
        text += &format!(
            "- target: {{group: apps, version: v1, kind: Deployment, name: {component}}}\n  patch: |-\n"
        );
        let address =
            "--storage-adv-addr=source-controller.$(RUNTIME_NAMESPACE).svc.cluster.local.";
        let storage = (component == Component::SourceController).then(|| (6, address.to_owned()));
        for (index, value) in args.into_iter().chain(storage) {
            text += &format!(
                "    - {{op: replace, path: /spec/template/spec/containers/0/args/{index}, value: \"{value}\"}}\n"
            );
        }
    }
    text += "images:\n";
    for component in components {
        text += &format!(
            "- {{name: fluxcd/{component}, newName: registry.example.org/fluxcd/{component}}}\n"
        );
    }
    text
}

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
spec: {template: {spec: {nodeSelector: {kubernetes.io/os: linux}, imagePullSecrets: [{name: pull}]}}}
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
