//! Several Deliveries of one cluster, and Secrets for workloads.

use serde_json::{Value, json};
use testing::Test;
use testing::documents::document;
use testing::run::{documents, status, stderr};

use crate::cluster::Cluster;
use crate::run;

const TOKEN: &str = "Secret kube-system/hcloud";

/// Returns the documents of the Deliveries `prod`, which installs Flux and creates a Secret, and `apps`.
fn two(cluster: &Cluster) -> Test<Vec<Value>> {
    let mut documents = crate::documents(cluster)?;
    let data = json!({"token": {"env": "ROOT"}, "user": {"env": "ROOT"}});
    documents[3]["spec"]["path"] = "./infrastructure".into();
    documents[3]["spec"]["secrets"] =
        json!([{"namespace": "kube-system", "name": "hcloud", "data": data}]);
    let apps = json!({
        "cluster": "prod", "dependsOn": ["prod"], "artifact": "deployments", "path": "./apps",
        "timeoutSeconds": 5,
        "secrets": [{"namespace": "shop", "name": "key", "data": {"key": {"env": "ROOT"}}}],
    });
    // The order of the documents does not decide the order of the work.
    documents.insert(3, document("Delivery", "apps", apps));
    Ok(documents)
}

/// Returns the Delivery called `name`.
fn delivery<'a>(documents: &'a [Value], name: &str) -> &'a Value {
    let is_named =
        |document: &&Value| document["kind"] == "Delivery" && document["metadata"]["name"] == name;
    documents.iter().find(is_named).expect("the Delivery is in the stream")
}

#[test]
fn deliveries_of_one_cluster_are_applied_in_their_order_and_removed_in_the_reverse_order() -> Test {
    let cluster = Cluster::start()?;
    let two = two(&cluster)?;
    let applied = documents(&run("apply", &two).success())?;
    for name in ["prod", "apps"] {
        let reason = &delivery(&applied, name)["status"]["conditions"][0]["reason"];
        assert_eq!(reason, "Delivered", "{name}");
    }
    let writes = cluster.take_writes();
    let position = |write: &str| {
        let found = writes.iter().position(|other| other == write);
        found.unwrap_or_else(|| panic!("{write}: {writes:?}"))
    };
    assert!(position(&format!("PATCH {TOKEN}")) < position("PATCH Kustomization flux-system/prod"));
    assert!(position("PATCH Kustomization flux-system/prod") < position("PATCH Namespace shop"));
    assert!(position("PATCH Secret shop/key") < position("PATCH Kustomization flux-system/apps"));
    let apps = cluster.object("Kustomization flux-system/apps").ok_or("applied")?;
    assert_eq!(apps["spec"]["dependsOn"], json!([{"name": "prod"}]));

    run("apply", &two).success();
    assert_eq!(cluster.take_writes(), [""; 0]);
    run("plan --check", &two).success();

    run("destroy", &two).success();
    let writes = cluster.take_writes();
    let removed = |name: &str| writes.iter().position(|write| *write == format!("DELETE {name}"));
    assert!(
        removed("Kustomization flux-system/apps") < removed("Deployment default/infrastructure")
    );
    assert_eq!(cluster.objects(), ["Namespace kube-system"]);
    Ok(())
}

#[test]
fn installation_stays_while_another_delivery_needs_it() -> Test {
    let cluster = Cluster::start()?;
    let two = two(&cluster)?;
    run("apply", &two).success();
    let mut first = two.clone();
    first.remove(3);
    let destroyed = run("destroy", &first).success();
    let message = status(&destroyed)?["conditions"][0]["message"].to_string();
    let needed =
        "Deployment flux-system/kustomize-controller (is needed by Kustomization flux-system/apps";
    assert!(message.contains(needed), "{message}");
    let left = cluster.objects();
    for object in ["Deployment flux-system/source-controller", "Deployment default/apps"] {
        assert!(left.contains(&object.to_owned()), "{object}: {left:?}");
    }
    assert!(!left.contains(&"Deployment default/infrastructure".to_owned()), "{left:?}");
    run("destroy", &two).success();
    assert_eq!(cluster.objects(), ["Namespace kube-system"]);
    Ok(())
}

#[test]
fn secrets_have_the_declared_values_and_a_secret_that_is_no_longer_declared_is_removed() -> Test {
    let cluster = Cluster::start()?;
    let mut two = two(&cluster)?;
    let applied = run("apply", &two).success();
    let secret = cluster.object(TOKEN).ok_or("created")?;
    let root = data_encoding::BASE64.encode(testing::documents::ROOT.as_bytes());
    assert_eq!(secret["data"], json!({"token": root, "user": root}));
    let output = String::from_utf8(applied.get_output().stdout.clone())? + &stderr(&applied);
    assert!(!output.contains(&root) && !output.contains(testing::documents::ROOT));

    cluster.edit(TOKEN, |live| live["data"]["token"] = "b2xk".into());
    let drift = stderr(&run("plan --check", &two).code(3));
    assert!(drift.contains(&format!("change {TOKEN}: data.token")), "{drift}");
    cluster.take_writes();
    run("apply", &two).success();
    assert_eq!(cluster.take_writes(), [format!("PATCH {TOKEN}")]);

    two[3]["spec"]["secrets"] = json!([]);
    run("apply", &two).success();
    assert_eq!(cluster.take_writes(), ["DELETE Secret shop/key"]);
    Ok(())
}

#[test]
fn namespace_of_another_owner_is_used_as_it_is_and_stays() -> Test {
    let cluster = Cluster::start()?;
    let two = two(&cluster)?;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let metadata = json!({"name": "shop", "labels": labels});
    cluster.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    run("apply", &two).success();
    assert!(!cluster.take_writes().contains(&"PATCH Namespace shop".to_owned()));
    run("destroy", &two).success();
    assert_eq!(cluster.objects(), ["Namespace kube-system", "Namespace shop"]);
    Ok(())
}

#[test]
fn secret_with_the_token_of_an_endpoint_that_is_not_declared_is_an_error_before_any_write() -> Test
{
    let cluster = Cluster::start()?;
    let mut two = two(&cluster)?;
    two[4]["spec"]["secrets"][0]["data"] = json!({"token": {"endpoint": "cloud"}});
    let run = run("apply", &two);
    let said = stderr(&run.code(100));
    assert!(
        said.contains("the Secret kube-system/hcloud needs the credentials of `endpoints.cloud`"),
        "{said}"
    );
    assert_eq!(cluster.take_writes(), [""; 0]);
    Ok(())
}

#[test]
fn delivery_without_flux_fails_on_a_cluster_without_flux() -> Test {
    let cluster = Cluster::start()?;
    let mut one = two(&cluster)?;
    one.remove(4);
    one[3]["spec"]["dependsOn"] = json!([]);
    let run = run("apply", &one).code(111);
    let said = stderr(&run);
    assert!(said.contains("Flux is not installed in cluster prod"), "{said}");
    assert_eq!(cluster.take_writes(), [""; 0]);
    Ok(())
}
