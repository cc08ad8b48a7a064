//! Adoption of a Flux that upstream's own manifests installed, on a real API server with real Flux.
//!
//! The manifests are those of the release, which a test of the library compares with upstream's modules.
//! kubectl applies them as `flux install` does: by server-side apply with the manager `flux`
//! (flux2 v2.9.5, internal/utils/apply.go).

mod lab;

use std::fs;
use std::path::Path;

use lab::{Lab, Published, Test, status, until};
use serde_json::{Value, json};
use testing::run::{reason, stderr};

/// Controllers that `flux install` installs by default (flux2 v2.9.5,
/// pkg/manifestgen/install/options.go).
const DEFAULT: [&str; 4] =
    ["source-controller", "kustomize-controller", "helm-controller", "notification-controller"];

/// Release of the existing installation, which is older than the declared one.
const BEFORE: &str = "2.9.4";

/// A Deployment called `name` of the image that was published.
fn deployment(name: &str, image: &Published) -> String {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": name, "image": image.reference}]},
            },
        },
    });
    deployment.to_string()
}

/// Writes the manifests that upstream's template renders for the default controllers.
fn upstream(folder: &Path) -> Test {
    let release = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/install").join(BEFORE);
    let parts = DEFAULT.into_iter().chain(["policies", "rbac"]);
    for part in parts {
        let lines = fs::read_to_string(release.join(format!("{part}.jsonl")))?;
        let folder = if part == "rbac" { folder.join("roles") } else { folder.to_owned() };
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{part}.yaml")), lines.replace('\n', "\n---\n"))?;
    }
    let roles = json!({"namespace": "flux-system", "nameSuffix": "-flux-system", "resources": ["rbac.yaml"]});
    fs::write(folder.join("roles/kustomization.yaml"), roles.to_string())?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "flux-system", "labels": {"pod-security.kubernetes.io/warn": "restricted"}}});
    fs::write(folder.join("namespace.yaml"), namespace.to_string())?;
    let args = |name: &str| {
        let events = "http://notification-controller.flux-system.svc.cluster.local./";
        let (at, watch) = match name {
            "notification-controller" => (0, vec![]),
            _ => (
                1,
                vec![json!({"op": "replace", "path": "/spec/template/spec/containers/0/args/0",
                "value": format!("--events-addr={events}")})],
            ),
        };
        let all = json!({"op": "replace", "path": format!("/spec/template/spec/containers/0/args/{at}"),
            "value": "--watch-all-namespaces=true"});
        let patch: Vec<_> = watch.into_iter().chain([all]).collect();
        json!({"target": {"kind": "Deployment", "name": name}, "patch": json!(patch).to_string()})
    };
    let resources: Vec<_> =
        ["namespace.yaml".to_owned(), "roles".to_owned(), "policies.yaml".to_owned()]
            .into_iter()
            .chain(DEFAULT.map(|name| format!("{name}.yaml")))
            .collect();
    let images: Vec<_> = DEFAULT
        .map(|name| json!({"name": format!("fluxcd/{name}"), "newName": format!("ghcr.io/fluxcd/{name}")}))
        .into();
    let labels = json!({
        "app.kubernetes.io/instance": "flux-system", "app.kubernetes.io/part-of": "flux",
        "app.kubernetes.io/version": format!("v{BEFORE}"),
    });
    let kustomization = json!({
        "namespace": "flux-system", "resources": resources, "images": images,
        "patches": DEFAULT.map(args), "labels": [{"pairs": labels, "includeTemplates": true}],
    });
    Ok(fs::write(folder.join("kustomization.yaml"), kustomization.to_string())?)
}

/// A cluster with an existing Flux that delivers `theirs`, and the documents of a Delivery of `ours`.
struct Scene {
    lab: Lab,
    documents: Vec<Value>,
}

impl Scene {
    fn start() -> Test<Self> {
        let mut lab = Lab::start()?;
        for image in ["fluxcd/helm-controller:v1.6.4", "fluxcd/notification-controller:v1.9.4"] {
            lab.push(image, &[("a-binary", image)])?;
        }
        let folder = lab.path("upstream");
        fs::create_dir_all(&folder)?;
        upstream(&folder)?;
        lab.play();
        let apply = format!("apply --server-side --field-manager=flux -k {}", folder.display());
        // kubectl applies all objects at once, so the definitions may not be served yet.
        until("upstream's manifests", || lab.kubectl(&apply).is_ok())?;
        let image = lab.push("zabronax/greeter:1", &[("greeter", "a binary")])?;
        let theirs =
            lab.push("zabronax/theirs:1", &[("theirs.yaml", &deployment("theirs", &image))])?;
        let (repository, digest) = theirs.reference.split_once('@').ok_or("a digest")?;
        let metadata = json!({"name": "theirs", "namespace": "flux-system"});
        let source = json!({"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "OCIRepository",
            "metadata": metadata, "spec": {"interval": "1h", "insecure": true,
                "url": format!("oci://{repository}"), "ref": {"digest": digest}}});
        let kustomization = json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "kind": "Kustomization", "metadata": metadata, "spec": {"interval": "1h", "prune": true,
                "sourceRef": {"kind": "OCIRepository", "name": "theirs"}}});
        until("the kinds of Flux", || lab.by_hand(&source).is_ok())?;
        lab.by_hand(&kustomization)?;
        until("their workload", || lab.get("deployment theirs")["status"]["readyReplicas"] == 1)?;
        let ours = lab.publish(&[("ours.yaml", &deployment("ours", &image))], "cosign")?;
        let documents = lab.documents(&ours, &image)?;
        Ok(Self { lab, documents })
    }

    /// Returns the documents with these settings of `flux`.
    fn with(&self, network: &str, components: &[&str], adopt: bool) -> Vec<Value> {
        let mut documents = self.documents.clone();
        for document in documents.iter_mut().filter(|document| document["kind"] == "Delivery") {
            document["spec"]["flux"] = json!({
                "version": "2.9.5", "network": network, "components": components, "adopt": adopt,
            });
        }
        documents
    }

    /// Lists what an adoption must not create again, each with its UID.
    fn uids(&self) -> Test<String> {
        let columns = "-o custom-columns=K:.kind,N:.metadata.name,U:.metadata.uid";
        let mut all =
            self.lab.kubectl(&format!("get crd,ns,clusterrole,clusterrolebinding {columns}"))?;
        all += &self.lab.kubectl(&format!(
            "-n default get deployment,replicaset,pod -l app=theirs {columns}"
        ))?;
        for kind in ["ocirepository", "kustomization"] {
            all += &self.lab.kubectl(&format!("-n flux-system get {kind} theirs {columns}"))?;
        }
        Ok(all)
    }

    fn names(&self, kind: &str) -> Vec<String> {
        let items = self.lab.get(&format!("-n flux-system {kind}"))["items"].take();
        let items = items.as_array().into_iter().flatten();
        items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    /// Applies the documents, and checks that their workload and Flux's objects have kept their UIDs.
    fn adopt(&self, documents: &[Value]) -> Test<Value> {
        let before = self.uids()?;
        let applied = self.lab.flux_seed("apply", documents).success();
        assert_eq!(reason(&status(&applied)?), "Delivered");
        assert_eq!(self.uids()?, before);
        // The adopted Flux delivers both.
        assert_eq!(self.lab.get("deployment ours")["status"]["readyReplicas"], 1);
        self.lab.kubectl("-n flux-system annotate --overwrite kustomization theirs reconcile.fluxcd.io/requestedAt=now")?;
        until("their delivery", || {
            let live = self.lab.get("-n flux-system kustomization theirs");
            live["status"]["lastHandledReconcileAt"] == "now"
                && live["status"]["conditions"][0]["status"] == "True"
        })?;
        assert_eq!(self.uids()?, before);
        self.lab.flux_seed("plan --check -q", documents).success();
        self.lab.flux_seed("verify -q", documents).success();
        status(&applied)
    }
}

#[test]
fn flux_of_upstreams_manifests_is_upgraded_in_place_and_workloads_keep_their_pods() -> Test {
    let scene = Scene::start()?;
    let lab = &scene.lab;
    let refused = lab.flux_seed("apply", &scene.with("pod", &DEFAULT, false)).code(100);
    let said = stderr(refused.get_output());
    assert_eq!(reason(&status(&refused)?), "Conflict");
    assert!(
        said.contains("source-controller, made by flux") && said.contains("`flux.adopt: true`"),
        "{said}"
    );

    // A controller of the former release would run beside the others.
    let some = scene.with("pod", &DEFAULT[..3], true);
    let refused = lab.flux_seed("apply", &some).code(100);
    let message = status(&refused)?["conditions"][0]["message"].to_string();
    let expected =
        "Deployment flux-system/notification-controller, made by flux, is not in `flux.components`";
    assert!(message.contains(expected), "{message}");

    let (_, from) = lab.asked(0)?;
    let documents = scene.with("pod", &DEFAULT, true);
    let planned = lab.flux_seed("plan", &documents).success();
    let shown = stderr(planned.get_output());
    assert!(
        shown.contains("adopt Deployment flux-system/source-controller, made by flux"),
        "{shown}"
    );
    let steps = status(&planned)?["plan"].take();
    let removes = steps.as_array().into_iter().flatten().filter(|step| step["action"] == "remove");
    assert_eq!(removes.count(), 0, "{steps}");
    let (asked, _) = lab.asked(from)?;
    // A field that differs is compared with a dry run of the declaration.
    let is_dry = |entry: &Value| {
        entry["requestURI"].as_str().is_some_and(|target| target.contains("dryRun=All"))
    };
    let reads = |entry: &Value| entry["verb"] == "get" || entry["verb"] == "list" || is_dry(entry);
    assert!(asked.iter().all(reads), "{asked:?}");

    scene.adopt(&documents)?;
    assert_eq!(scene.names("deployments").len(), 4);
    let controller = lab.get("-n flux-system deployment source-controller");
    assert_eq!(controller["metadata"]["labels"]["app.kubernetes.io/version"], "v2.9.5");
    // The field is not needed any more.
    lab.flux_seed("plan --check -q", &scene.with("pod", &DEFAULT, false)).success();
    Ok(())
}

#[test]
fn flux_of_upstreams_manifests_moves_into_one_pod_of_the_node() -> Test {
    let scene = Scene::start()?;
    let documents = scene.with("host", &DEFAULT, true);
    scene.adopt(&documents)?;
    assert_eq!(scene.names("deployments"), ["flux"]);
    assert_eq!(scene.names("services"), [""; 0]);
    assert_eq!(scene.names("serviceaccounts"), ["default", "kustomize-controller"]);
    Ok(())
}
