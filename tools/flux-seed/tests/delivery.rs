//! A delivery on a real API server with real Flux and real cosign: the objects that it creates, the
//! artifacts that it rejects, and the objects of others that it leaves alone.

mod lab;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, Published, Test, bin, run, status, until};
use serde_json::{Value, json};
use testing::run::reason;

const RECIPIENT: &str = "/observed/sopsRecipient";

/// A Deployment of the image that was published, and a Secret that only Flux can read.
fn manifests(
    lab: &Lab,
    greeter: &Published,
    recipient: &str,
    replicas: u32,
) -> Test<[(&'static str, String); 2]> {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "greeter", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "greeter"}},
            "template": {
                "metadata": {"labels": {"app": "greeter"}},
                "spec": {"containers": [{"name": "greeter", "image": greeter.reference}]},
            },
        },
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "greeting", "namespace": "default"},
        "stringData": {"text": "hello"},
    });
    let plain = lab.path("secret.yaml");
    std::fs::write(&plain, secret.to_string())?;
    let sops = "encrypt --input-type yaml --output-type yaml --encrypted-regex ^stringData$ --age";
    let mut sops_command = Command::new(bin("sops"));
    // Another working directory, so that sops does not use this repository's .sops.yaml.
    sops_command.current_dir(std::env::temp_dir());
    let sealed = run(sops_command.args(sops.split(' ')).arg(recipient).arg(plain))?;
    Ok([("greeter.yaml", deployment.to_string()), ("greeting.yaml", sealed)])
}

fn borrowed<'a>(files: &'a [(&'static str, String); 2]) -> [(&'static str, &'a str); 2] {
    [(files[0].0, &files[0].1), (files[1].0, &files[1].1)]
}

/// Published artifacts and the documents of their delivery.
struct Release {
    greeter: Published,
    recipient: String,
    documents: Vec<Value>,
}

impl Release {
    fn new(lab: &Lab) -> Test<Self> {
        let greeter = lab.push("zabronax/greeter:1", &[("greeter", "a binary")])?;
        let nothing = Published { public_key: "a key".to_owned(), ..greeter.clone() };
        let before = lab.flux_seed("plan -q", &lab.documents(&nothing, &greeter)?).success();
        let recipient =
            status(&before)?.pointer(RECIPIENT).and_then(Value::as_str).ok_or("one")?.to_owned();
        let manifests = manifests(lab, &greeter, &recipient, 1)?;
        let deployments = lab.publish(&borrowed(&manifests), "cosign")?;
        let documents = lab.documents(&deployments, &greeter)?;
        Ok(Self { greeter, recipient, documents })
    }
}

/// Whether an entry of the audit log is a read.
fn reads(entry: &Value) -> bool {
    ["get", "list", "watch"].iter().any(|verb| entry["verb"] == *verb)
}

/// Lists every object of some kinds with its resourceVersion, which changes at every write.
fn versions(lab: &Lab) -> Test<String> {
    let kinds = "crd,ns,clusterrole,clusterrolebinding,resourcequota,sa,secret,svc,networkpolicy";
    let columns = "-o custom-columns=K:.kind,N:.metadata.name,V:.metadata.resourceVersion";
    Ok(lab.kubectl(&format!("get {kinds} -A {columns}"))?
        + &lab.kubectl(&format!("get ocirepository,kustomization -A {columns}"))?)
}

/// All parts share one cluster, because its start takes most of the time. Each part continues from the
/// state that the part before it has left.
#[test]
fn what_was_signed_is_delivered_and_nothing_else_and_all_of_it_goes_again() -> Test {
    let mut lab = Lab::start()?;
    let release = Release::new(&lab)?;
    what_is_in_the_way_is_named_and_nothing_is_changed(&lab, &release.documents)?;
    a_plan_reads(&lab, &release.documents)?;
    lab.play();
    let documents =
        a_signed_artifact_is_delivered_however_often_cut_short(&lab, &release.documents)?;
    it_only_reads_when_nothing_has_changed(&lab, &documents)?;
    a_wait_takes_few_requests_and_ends_with_the_change(&lab, &documents)?;
    what_runs_is_proven_and_what_others_add_is_named(&lab, &documents)?;
    its_controllers_move_to_another_network_and_back(&lab, &documents)?;
    a_registry_of_a_private_authority_is_trusted_by_flux(&mut lab, &documents)?;
    destroy_leaves_what_others_made_however_often_cut_short(&lab, &documents)?;
    a_wrongly_signed_artifact_is_refused_and_the_last_good_one_keeps_running(&lab, &release)
}

fn what_is_in_the_way_is_named_and_nothing_is_changed(lab: &Lab, documents: &[Value]) -> Test {
    lab.kubectl("create namespace flux-system")?;
    let blocked = lab.flux_seed("apply", documents).code(100);
    assert_eq!(reason(&status(&blocked)?), "Conflict");
    let message = status(&blocked)?["conditions"][0]["message"].to_string();
    assert!(message.contains("Namespace flux-system, made by kubectl"), "{message}");
    assert_eq!(lab.get("crd")["items"], json!([]));
    let (asked, _) = lab.asked(0)?;
    assert!(asked.iter().all(reads), "only reads");
    let destroyed = lab.flux_seed("destroy", documents).success();
    assert_eq!(reason(&status(&destroyed)?), "Destroyed");
    assert_ne!(lab.get("ns flux-system"), Value::Null, "a foreign Namespace stays");
    lab.kubectl("delete namespace flux-system")?;
    Ok(())
}

fn a_plan_reads(lab: &Lab, documents: &[Value]) -> Test {
    let (_, from) = lab.asked(0)?;
    let planned = lab.flux_seed("plan --check", documents).code(3);
    let steps = status(&planned)?["plan"].as_array().map(Vec::len);
    assert_eq!(steps, Some(22), "18 objects of Flux, 2 Secrets, a source and a Kustomization");
    let (asked, _) = lab.asked(from)?;
    assert!(!asked.is_empty() && asked.iter().all(reads), "a plan reads");
    Ok(())
}

/// Returns the documents with their new status.
fn a_signed_artifact_is_delivered_however_often_cut_short(
    lab: &Lab,
    documents: &[Value],
) -> Test<Vec<Value>> {
    for milliseconds in [150, 300, 450, 600, 900, 1200, 2000] {
        lab.cut_short("apply", documents, milliseconds)?;
    }
    let first = lab.flux_seed("apply", documents).success();
    let applied = status(&first)?;
    assert_eq!(reason(&applied), "Delivered");
    assert_eq!(
        applied["observed"]["workloads"],
        json!([{"object": "Deployment default/greeter", "ready": "1/1"}])
    );
    let secret = lab.get("secret greeting");
    assert_eq!(secret["data"]["text"], "aGVsbG8=", "decrypted by Flux with the derived identity");
    testing::run::documents(&first)
}

fn it_only_reads_when_nothing_has_changed(lab: &Lab, documents: &[Value]) -> Test {
    let (before, (_, from)) = (versions(lab)?, lab.asked(0)?);
    let again = lab.flux_seed("apply", documents).success();
    let (asked, _) = lab.asked(from)?;
    assert!(!asked.is_empty());
    for entry in &asked {
        assert!(reads(entry), "{} {}", entry["verb"], entry["requestURI"]);
    }
    assert_eq!(versions(lab)?, before);
    assert_eq!(testing::run::documents(&again)?, documents, "the same bytes");
    lab.flux_seed("plan --check -q", documents).success();
    Ok(())
}

/// Time for which nothing changes while `apply` waits.
const QUIET: Duration = Duration::from_secs(15);

// hazard: A wait of minutes asks a distant API server a hundred times for each second.
// class: A wait is paid by its length instead of by what happens.
// members: the Ready condition, workloads, pods, events, and objects that are being deleted
// now: everything that the last look read is watched; a look follows each change, at the latest after 10 s
fn a_wait_takes_few_requests_and_ends_with_the_change(lab: &Lab, documents: &[Value]) -> Test {
    // A paused rollout does not begin. Flux removes the fields that kubectl manages under its own name.
    let patch = |is_paused: bool| {
        let template = json!({"metadata": {"annotations": {"changed-by": "a-person"}}});
        let fields = json!({"spec": {"paused": is_paused, "template": template}});
        lab.kubectl(&format!(
            "-n default patch deployment greeter --field-manager=a-person --type=merge -p {fields}"
        ))
        .map_err(|error| error.to_string())
    };
    patch(true)?;
    let (_, from) = lab.asked(0)?;
    let (changed, ended) = thread::scope(|scope| {
        let change = scope.spawn(|| {
            thread::sleep(QUIET);
            patch(false).map(|_| Instant::now())
        });
        lab.flux_seed("apply -q", documents).success();
        let ended = Instant::now();
        (change.join(), ended)
    });
    let changed = changed.map_err(|_| "a panic")??;
    let seconds = ended.duration_since(changed).as_secs_f64();
    let (asked, _) = lab.asked(from)?;
    let watches = asked.iter().filter(|entry| entry["verb"] == "watch").count();
    let count = asked.len();
    #[expect(clippy::print_stderr, reason = "the figures are measured here")]
    {
        eprintln!(
            "a wait of {QUIET:?}: {count} requests, {watches} of them watches; {seconds:.1} s from the change to the end"
        );
    }
    assert!(watches > 0 && count < 250, "{count} requests, {watches} watches");
    assert!(seconds < 5.0, "{seconds} s after the change");
    Ok(())
}

fn what_runs_is_proven_and_what_others_add_is_named(lab: &Lab, documents: &[Value]) -> Test {
    let proven = lab.flux_seed("verify", documents).success();
    assert_eq!(reason(&status(&proven)?), "Verified");
    // `artifact-attest` has not written these documents, so they state no provenance.
    let drawn = picture(lab, documents, 0)?;
    for (part, class) in [
        ("Kustomization<br/>flux-system/prod<br/>as declared", "proven"),
        ("<br/>verified by Flux", "proven"),
        ("Deployment<br/>flux-system/flux<br/>container source-controller", "proven"),
        ("Deployment<br/>default/greeter<br/>container greeter", "proven"),
        ("<br/>runs Artifact/greeter", "proven"),
        ("Provenance<br/>missing<br/>Artifact/greeter does not state it", "broken"),
    ] {
        assert!(
            drawn.lines().any(|line| line.contains(part) && line.ends_with(class)),
            "{part}: {drawn}"
        );
    }

    // Flux reconciles again at every interval. This is neither drift nor a reason to fail `verify`.
    for (verb, asked) in [("verify -q", "once"), ("plan --check -q", "twice")] {
        let asked = format!("reconcile.fluxcd.io/requestedAt={asked}");
        for kind in ["ocirepository", "kustomization"] {
            lab.kubectl(&format!("-n flux-system annotate --overwrite {kind} prod {asked}"))?;
        }
        lab.flux_seed(verb, documents).success();
    }

    // An image that the attested manifest pins and whose artifact is not in the stream is accepted and
    // listed as a third-party image.
    let without: Vec<_> = documents
        .iter()
        .filter(|document| document["metadata"]["name"] != "greeter")
        .cloned()
        .collect();
    let listed = status(&lab.flux_seed("verify", &without).success())?;
    let object = &listed["observed"]["thirdParty"][0]["object"];
    assert_eq!(*object, "Deployment default/greeter", "{listed}");

    what_others_add_is_drift_and_is_taken_away(lab, documents)?;

    lab.kubectl(
        "-n flux-system patch kustomization prod --type=merge -p {\"spec\":{\"suspend\":true}}",
    )?;
    let drifted = lab.flux_seed("plan --check", documents).code(3);
    let steps = status(&drifted)?["plan"].take();
    let mut steps_of_plan = steps.as_array().into_iter().flatten();
    let updated = steps_of_plan.find(|step| step["action"] == "update");
    let changed = updated.map(|step| &step["changed"]);
    assert_eq!(changed, Some(&json!(["spec.suspend"])), "{steps}");
    lab.flux_seed("apply", documents).success();
    lab.flux_seed("verify -q", documents).success();
    Ok(())
}

/// Returns the picture in Mermaid of a run of `verify` that ends with `code`.
fn picture(lab: &Lab, documents: &[Value], code: i32) -> Test<String> {
    let run = lab.flux_seed("verify -q --output mermaid", documents).code(code);
    Ok(String::from_utf8(run.get_output().stdout.clone())?)
}

/// Valid public key of another signer, in base64. Flux accepts an artifact that one of several keys verifies.
const FOREIGN_KEY: &str = "LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0KTUZrd0V3WUhLb1pJemowQ0FRWUlLb1pJemowREFRY0RRZ0FFd1M1cHM2RkNySjNnOUczT1NtSU90UjRPb1BXSwo2aVFsNDM1MThLZ2dsUGFTeDVhZ0FhNVBrM0kvcVU2QUhQL0I0UEZmVVl1cVA4OENGOVlZck5CeDF3PT0KLS0tLS1FTkQgUFVCTElDIEtFWS0tLS0tCg==";

// hazard: A second trusted key or a patch beside the declared state is no drift, and Flux delivers an
// artifact that the project never signed.
// class: Only declared fields are compared.
// members: keys and `immutable` of Secrets; `spec.patches`, `images`, `postBuild`, `kubeConfig` of the
// Kustomization; `insecure`, `verify` of the source; sidecars, volumes, variables of controllers;
// writers that call themselves `flux-seed`
// now: `plan --check` exits with 3 and says `remove spec.patches, added by kubectl-patch`; `apply` removes it
fn what_others_add_is_drift_and_is_taken_away(lab: &Lab, documents: &[Value]) -> Test {
    // A dry run would show none of these changes, because every declared field keeps its value.
    lab.kubectl("-n flux-system set env deployment/flux SPY=1")?;
    lab.kubectl(&format!("-n flux-system patch secret prod-cosign --type=merge -p {{\"data\":{{\"evil.pub\":\"{FOREIGN_KEY}\"}}}}"))?;
    lab.kubectl("-n flux-system patch secret prod-sops --type=merge --field-manager=flux-seed -p {\"data\":{\"evil.agekey\":\"RVZJTA==\"}}")?;
    lab.kubectl("-n flux-system patch kustomization prod --type=merge -p {\"spec\":{\"images\":[{\"name\":\"x\"}]}}")?;
    lab.kubectl("-n flux-system patch ocirepository prod --type=merge -p {\"spec\":{\"ignore\":\"x.yaml\"}}")?;
    // A restart by a person is not drift.
    lab.kubectl("-n flux-system rollout restart deployment/flux")?;
    lab.kubectl("-n flux-system annotate kustomization prod note=theirs")?;
    let tampered = lab.flux_seed("verify", documents).code(100);
    let message = status(&tampered)?["conditions"][0]["message"].to_string();
    assert!(message.contains("[name=SPY]") && message.contains("kubectl-set"), "{message}");
    let drawn = picture(lab, documents, 100)?;
    for part in [
        "Installation<br/>Flux 2.9.5",
        "Kustomization<br/>flux-system/prod",
        "Artifact<br/>deployments",
    ] {
        let is_broken = |line: &str| line.contains(part) && line.ends_with(":::broken");
        assert!(drawn.lines().any(is_broken), "{part}: {drawn}");
    }
    let drifted = status(&lab.flux_seed("plan --check", documents).code(3))?;
    let steps = drifted["plan"].to_string();
    for field in [
        "env[name=SPY], added by kubectl-set",
        "data.evil.pub, added by kubectl-patch",
        "data.evil.agekey, added by flux-seed",
        "spec.images, added by kubectl-patch",
        "spec.ignore, added by kubectl-patch",
    ] {
        assert!(steps.contains(field), "{field}: {steps}");
    }
    assert!(!steps.contains("restartedAt") && !steps.contains("RVZJTA"), "{steps}");
    assert!(!steps.contains(FOREIGN_KEY), "{steps}");
    lab.flux_seed("apply", documents).success();
    let keys = lab.get("-n flux-system secret prod-cosign")["data"].clone();
    assert_eq!(keys.as_object().map(serde_json::Map::len), Some(1), "one trusted key");
    assert!(lab.get("-n flux-system kustomization prod")["spec"]["images"].is_null());
    let template = lab.get("-n flux-system deployment flux");
    let restarted = &template["spec"]["template"]["metadata"]["annotations"];
    assert!(restarted["kubectl.kubernetes.io/restartedAt"].is_string(), "a restart stays");
    lab.flux_seed("plan --check -q", documents).success();
    lab.flux_seed("verify -q", documents).success();
    Ok(())
}

/// In the pod network each controller has a Deployment, and in the network of the node all controllers
/// have one pod. The Deployments of the former network are removed.
fn its_controllers_move_to_another_network_and_back(lab: &Lab, documents: &[Value]) -> Test {
    let both: &[&str] = &["kustomize-controller", "source-controller"];
    for (network, deployments, strategy) in
        [("pod", both, "RollingUpdate"), ("host", &["flux"], "Recreate")]
    {
        let mut documents = documents.to_owned();
        for document in documents.iter_mut().filter(|document| document["kind"] == "Delivery") {
            document["spec"]["flux"]["network"] = network.into();
        }
        let moved = lab.flux_seed("apply", &documents).success();
        assert_eq!(reason(&status(&moved)?), "Delivered");
        let running = lab.get("-n flux-system deployments");
        let running: Vec<_> = running["items"].as_array().into_iter().flatten().collect();
        let names: Vec<_> = running.iter().map(|live| &live["metadata"]["name"]).collect();
        assert_eq!(names, deployments);
        assert_eq!(running[0]["spec"]["strategy"]["type"], strategy);
        let services = lab.get("-n flux-system services")["items"].clone();
        assert_eq!(services.as_array().map(Vec::len), Some(usize::from(network == "pod")));
        lab.flux_seed("plan --check", &documents).success();
    }
    Ok(())
}

/// The registry has the same content at both addresses.
fn a_registry_of_a_private_authority_is_trusted_by_flux(
    lab: &mut Lab,
    documents: &[Value],
) -> Test {
    let address = lab.private_registry()?;
    let mut moved = documents.to_vec();
    moved[0]["spec"]["endpoints"]["registry"]["url"] = format!("https://{address}/zabronax").into();
    let reference = moved[3]["status"]["observed"]["reference"].as_str().ok_or("one")?;
    let (_, name) = reference.split_once('/').ok_or("a host")?;
    moved[3]["status"]["observed"]["reference"] = format!("{address}/{name}").into();
    let refused = lab.flux_seed("apply", &moved).code(100);
    let message = status(&refused)?["conditions"][0]["message"].to_string();
    assert!(message.contains("certificate"), "{message}");

    let authority = std::fs::read_to_string(lab.path("ca.crt"))?;
    moved[0]["spec"]["endpoints"]["registry"]["certificateAuthority"] = authority.into();
    let applied = lab.flux_seed("apply", &moved).success();
    assert_eq!(reason(&status(&applied)?), "Delivered");
    let source = lab.get("-n flux-system ocirepository prod");
    assert!(source["spec"]["url"].to_string().contains(&address), "{source}");
    assert_eq!(source["spec"]["insecure"], Value::Null);
    lab.flux_seed("verify", &moved).success();
    lab.flux_seed("plan --check", &moved).success();

    lab.flux_seed("apply", documents).success();
    assert_eq!(lab.get("-n flux-system secret prod-registry-authority"), Value::Null);
    Ok(())
}

fn destroy_leaves_what_others_made_however_often_cut_short(lab: &Lab, documents: &[Value]) -> Test {
    let map = |name: &str, namespace: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}});
    lab.by_hand(&map("theirs", "flux-system"))?;
    lab.by_hand(&map("theirs", "default"))?;
    lab.by_hand(&json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
        "metadata": {"name": "theirs", "namespace": "default"},
        "spec": {"interval": "1h", "url": "http://127.0.0.1:1/x", "suspend": true},
    }))?;
    let planned = lab.flux_seed("plan --destroy", documents).success();
    let planned = status(&planned)?["plan"].take();
    let mut steps = planned.as_array().into_iter().flatten();
    assert_eq!(steps.next().map(|step| &step["action"]), Some(&json!("suspend")), "{planned}");
    let first = steps.find(|step| step["action"] == "remove").map(|step| &step["kind"]);
    assert_eq!(first, Some(&json!("Deployment")), "delivered objects are removed before Flux");

    for milliseconds in [200, 400, 800, 1600, 2400] {
        lab.cut_short("destroy", documents, milliseconds)?;
    }
    let destroyed = lab.flux_seed("destroy", documents).success();
    let destroyed = status(&destroyed)?;
    assert_eq!(reason(&destroyed), "Destroyed");
    let message = destroyed["conditions"][0]["message"].to_string();
    assert!(message.contains("ConfigMap flux-system/theirs"), "{message}");
    let needed = "Deployment flux-system/flux (is needed by GitRepository default/theirs)";
    assert!(message.contains(needed), "{message}");
    for removed in [
        "deployment greeter",
        "secret greeting",
        "-n flux-system ocirepository prod",
        "-n flux-system kustomization prod",
        "-n flux-system secret prod-sops",
    ] {
        assert_eq!(lab.get(removed), Value::Null, "{removed}");
    }
    for left in [
        "configmap theirs",
        "-n flux-system configmap theirs",
        "gitrepositories theirs",
        "-n flux-system deployment flux",
        "crd ocirepositories.source.toolkit.fluxcd.io",
        "clusterrole cluster-admin",
    ] {
        assert_ne!(lab.get(left), Value::Null, "{left}");
    }

    lab.kubectl("-n flux-system delete configmap theirs")?;
    // The controllers are still there, so that its finalizer does not hold the object.
    lab.kubectl("delete gitrepository theirs --wait=false")?;
    until("the GitRepository", || lab.get("gitrepository theirs").is_null())?;
    let destroyed = lab.flux_seed("destroy", documents).success();
    assert_eq!(status(&destroyed)?["conditions"][0]["message"], "nothing is left of it");
    assert_eq!(lab.get("ns flux-system"), Value::Null);
    assert_eq!(lab.get("crd")["items"], json!([]));
    Ok(())
}

fn a_wrongly_signed_artifact_is_refused_and_the_last_good_one_keeps_running(
    lab: &Lab,
    release: &Release,
) -> Test {
    let Release { greeter, recipient, documents } = release;
    lab.flux_seed("apply -q", documents).success();
    let good =
        lab.get("-n flux-system kustomization prod")["status"]["lastAppliedRevision"].clone();

    let manifests = manifests(lab, greeter, recipient, 2)?;
    let wrong = lab.publish(&borrowed(&manifests), "another")?;
    assert_ne!(good, json!(wrong.digest));
    let documents = lab.documents(&wrong, greeter)?;
    let refused = lab.flux_seed("apply", &documents).code(100);
    assert_eq!(reason(&status(&refused)?), "SignatureInvalid");
    let message = status(&refused)?["conditions"][0]["message"].to_string();
    assert!(message.contains("failed to verify the signature"), "Flux's own words: {message}");
    let kustomization = lab.get("-n flux-system kustomization prod");
    assert_eq!(kustomization["status"]["lastAppliedRevision"], good);
    assert_eq!(lab.get("deployment greeter")["status"]["readyReplicas"], 1);

    // Now sign the same digest with the right key, while Flux is still at an attempt that began
    // earlier.
    lab.sign(&wrong, "cosign")?;
    let source = lab.get("-n flux-system ocirepository prod");
    let mut conditions = source["status"]["conditions"].as_array().into_iter().flatten();
    let (op, position) = match conditions.position(|condition| condition["type"] == "Reconciling") {
        Some(index) => ("replace", index.to_string()),
        None => ("add", "-".to_owned()),
    };
    let at_work = json!({
        "type": "Reconciling", "status": "True", "reason": "Progressing", "message": "",
        "lastTransitionTime": "2026-11-01T00:00:00Z",
        "observedGeneration": source["metadata"]["generation"],
    });
    let at = format!("/status/conditions/{position}");
    let patch = json!([{"op": op, "path": at, "value": at_work}]);
    lab.kubectl(&format!(
        "-n flux-system patch ocirepository prod --subresource=status --type=json -p {patch}"
    ))?;
    let applied = lab.flux_seed("apply", &documents).success();
    assert_eq!(status(&applied)?["observed"]["workloads"][0]["ready"], "2/2");
    Ok(())
}
