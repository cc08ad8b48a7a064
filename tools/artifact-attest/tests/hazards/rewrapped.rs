//! A bundle that cosign or Flux rejects counts as missing: `plan --check` reports drift, and
//! `apply` repairs it. Writers to a registry can rewrap our signed statements without our key.

use std::collections::VecDeque;
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};
use testing::run::path;

use crate::stub::{INDEX, Registry, Sandbox, Test, digest, error, published, serve, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A change to every bundle, or to the objects that refer to it.
#[derive(Clone, Copy)]
enum Change {
    /// Change of a bundle's text.
    Bundle(fn(&Value) -> String),
    /// Change of the manifest that attaches the bundle.
    Manifest(fn(&mut Value)),
    /// Change of the artifact's list of referrers.
    List(fn(&mut Value)),
}

/// Returns `bundle` after `change`, as JSON.
fn changed(bundle: &Value, change: impl Fn(&mut Value)) -> String {
    let mut bundle = bundle.clone();
    change(&mut bundle);
    bundle.to_string()
}

fn replaced(bundle: &Value, from: &str, to: &str) -> String {
    let text = bundle.to_string();
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

fn backwards(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().rev().map(|(name, value)| (name.clone(), backwards(value))).collect()
        }
        value => value.clone(),
    }
}

/// Changes, each with whether `verify`, cosign and Flux still accept the bundle.
const CHANGES: [(&str, bool, Change); 45] = {
    use Change::{Bundle, List, Manifest};
    [
        (
            "a bogus key id",
            false,
            Bundle(|b| {
                changed(b, |b| b["dsseEnvelope"]["signatures"][0]["keyid"] = json!("bogus"))
            }),
        ),
        (
            "no verification material",
            false,
            Bundle(|b| {
                changed(b, |b| drop(b.as_object_mut().map(|b| b.remove("verificationMaterial"))))
            }),
        ),
        (
            "empty verification material",
            false,
            Bundle(|b| changed(b, |b| b["verificationMaterial"] = json!({}))),
        ),
        (
            "no material but null",
            false,
            Bundle(|b| changed(b, |b| b["verificationMaterial"] = Value::Null)),
        ),
        (
            "a certificate instead",
            false,
            Bundle(|b| {
                changed(b, |b| {
                    b["verificationMaterial"] = json!({"certificate": {"rawBytes": "MAA="}});
                })
            }),
        ),
        (
            "a chain instead",
            false,
            Bundle(|b| {
                changed(b, |b| {
                    b["verificationMaterial"] =
                        json!({"x509CertificateChain": {"certificates": [{"rawBytes": "MAA="}]}});
                })
            }),
        ),
        (
            "a key and a certificate",
            false,
            Bundle(|b| {
                changed(b, |b| {
                    b["verificationMaterial"]["certificate"] = json!({"rawBytes": "MAA="});
                })
            }),
        ),
        ("an unknown field", false, Bundle(|b| changed(b, |b| b["more"] = json!(1)))),
        (
            "an unknown field within",
            false,
            Bundle(|b| changed(b, |b| b["dsseEnvelope"]["more"] = json!(""))),
        ),
        (
            "a second signature",
            false,
            Bundle(|b| {
                changed(b, |b| {
                    let one = b["dsseEnvelope"]["signatures"][0].clone();
                    b["dsseEnvelope"]["signatures"] = json!([one, one]);
                })
            }),
        ),
        (
            "no signature",
            false,
            Bundle(|b| changed(b, |b| b["dsseEnvelope"]["signatures"] = json!([]))),
        ),
        (
            "null for signatures",
            false,
            Bundle(|b| changed(b, |b| b["dsseEnvelope"]["signatures"] = Value::Null)),
        ),
        (
            "an empty signature",
            false,
            Bundle(|b| changed(b, |b| b["dsseEnvelope"]["signatures"][0]["sig"] = json!(""))),
        ),
        (
            "a signature with a byte more",
            false,
            Bundle(|b| {
                changed(b, |b| {
                    let sig = b["dsseEnvelope"]["signatures"][0]["sig"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned();
                    let mut bytes =
                        data_encoding::BASE64.decode(sig.as_bytes()).unwrap_or_default();
                    bytes.push(0);
                    b["dsseEnvelope"]["signatures"][0]["sig"] =
                        json!(data_encoding::BASE64.encode(&bytes));
                })
            }),
        ),
        (
            "no media type",
            false,
            Bundle(|b| changed(b, |b| drop(b.as_object_mut().map(|b| b.remove("mediaType"))))),
        ),
        (
            "version 0.1",
            false,
            Bundle(|b| replaced(b, "bundle.v0.3+json", "bundle+json;version=0.1")),
        ),
        (
            "version 0.2",
            false,
            Bundle(|b| replaced(b, "bundle.v0.3+json", "bundle+json;version=0.2")),
        ),
        ("version 0.4", false, Bundle(|b| replaced(b, "bundle.v0.3+json", "bundle.v0.4+json"))),
        ("no version", false, Bundle(|b| replaced(b, "bundle.v0.3+json", "bundle.v+json"))),
        (
            "a repeated field",
            false,
            Bundle(|b| {
                replaced(
                    b,
                    "\"dsseEnvelope\":{",
                    "\"dsseEnvelope\":{\"payloadType\":\"application/vnd.in-toto+json\",",
                )
            }),
        ),
        (
            "a message signature beside it",
            false,
            Bundle(|b| changed(b, |b| b["messageSignature"] = json!({"signature": "MAA="}))),
        ),
        (
            "an entry of a log",
            false,
            Bundle(|b| changed(b, |b| b["verificationMaterial"]["tlogEntries"] = json!([{}]))),
        ),
        (
            "another payload type",
            false,
            Bundle(|b| {
                changed(b, |b| b["dsseEnvelope"]["payloadType"] = json!("application/json"))
            }),
        ),
        (
            "another payload",
            false,
            Bundle(|b| changed(b, |b| b["dsseEnvelope"]["payload"] = json!("e30="))),
        ),
        (
            "a hint that is a number",
            false,
            Bundle(|b| changed(b, |b| b["verificationMaterial"]["publicKey"]["hint"] = json!(7))),
        ),
        ("text after its end", false, Bundle(|b| b.to_string() + " x")),
        ("a list around it", false, Bundle(|b| format!("[{b}]"))),
        ("nothing", false, Bundle(|_| "{}".to_owned())),
        ("the envelope alone", false, Bundle(|b| b["dsseEnvelope"].to_string())),
        ("a byte order mark", false, Bundle(|b| format!("\u{feff}{b}"))),
        (
            "two layers",
            false,
            Manifest(|m| {
                let one = m["layers"][0].clone();
                m["layers"] = json!([one, one]);
            }),
        ),
        (
            "a layer of another type",
            false,
            Manifest(|m| m["layers"][0]["mediaType"] = json!("application/json")),
        ),
        ("a layer of another size", false, Manifest(|m| m["layers"][0]["size"] = json!(7))),
        (
            "an entry without a digest",
            false,
            List(|l| {
                l["manifests"].as_array_mut().into_iter().for_each(|all| {
                    all.push(json!({"mediaType": INDEX, "digest": "sha256:zz", "size": 2}));
                });
            }),
        ),
        ("an empty list", false, List(|l| l["manifests"] = json!([]))),
        ("white space", true, Bundle(|b| serde_json::to_string_pretty(b).unwrap_or_default())),
        ("another order", true, Bundle(|b| backwards(b).to_string())),
        (
            "another hint",
            true,
            Bundle(|b| {
                changed(b, |b| b["verificationMaterial"]["publicKey"]["hint"] = json!("bogus"))
            }),
        ),
        (
            "no hint",
            true,
            Bundle(|b| changed(b, |b| b["verificationMaterial"]["publicKey"] = json!({}))),
        ),
        (
            "no entries of a log",
            true,
            Bundle(|b| changed(b, |b| b["verificationMaterial"]["tlogEntries"] = json!([]))),
        ),
        (
            "names of protobuf",
            true,
            Bundle(|b| {
                replaced(b, "\"mediaType\"", "\"media_type\"")
                    .replace("\"dsseEnvelope\"", "\"dsse_envelope\"")
            }),
        ),
        (
            "base64 without padding",
            true,
            Bundle(|b| b.to_string().replace("=\"", "\"").replace("=\"", "\"")),
        ),
        (
            "the older form of version 0.3",
            true,
            Bundle(|b| replaced(b, "bundle.v0.3+json", "bundle+json;version=0.3")),
        ),
        (
            "no annotations",
            true,
            Manifest(|m| drop(m.as_object_mut().map(|m| m.remove("annotations")))),
        ),
        (
            "a list that says nothing of its entries",
            true,
            List(|l| {
                for entry in l["manifests"].as_array_mut().into_iter().flatten() {
                    if let Some(entry) = entry.as_object_mut() {
                        entry.retain(|name, _| {
                            ["mediaType", "digest", "size"].contains(&name.as_str())
                        });
                    }
                }
            }),
        ),
    ]
};

/// Applies `change` to every referrer of `subject` in `repository`.
fn rewrap(registry: &Registry, repository: &str, subject: &str, change: Change) -> Test {
    let tag = subject.replace(':', "-");
    let key = |name: &str| (repository.to_owned(), name.to_owned());
    let list = registry.with(|all| all.manifests[&key(&tag)].1.clone());
    let mut list: Value = serde_json::from_slice(&list)?;
    for entry in list["manifests"].as_array_mut().ok_or("no list")? {
        let name = entry["digest"].as_str().ok_or("no digest")?.to_owned();
        let manifest =
            registry.with(|all| all.manifests.remove(&key(&name))).ok_or("no manifest")?.1;
        let mut manifest: Value = serde_json::from_slice(&manifest)?;
        let layer = manifest["layers"][0]["digest"].as_str().ok_or("no layer")?.to_owned();
        let bundle = registry.with(|all| all.blobs[&layer].clone());
        if let Change::Bundle(change) = change {
            let bundle = change(&serde_json::from_slice(&bundle)?).into_bytes();
            manifest["layers"][0]["digest"] = json!(digest(&bundle));
            manifest["layers"][0]["size"] = json!(bundle.len());
            registry.with(|all| all.blobs.insert(digest(&bundle), bundle));
        }
        if let Change::Manifest(change) = change {
            change(&mut manifest);
        }
        let manifest = manifest.to_string();
        let name = digest(manifest.as_bytes());
        registry.with(|all| {
            all.manifests.insert(key(&name), (MANIFEST.to_owned(), manifest.clone().into_bytes()))
        });
        entry["digest"] = json!(name);
        entry["size"] = json!(manifest.len());
    }
    if let Change::List(change) = change {
        change(&mut list);
    }
    registry.put(repository, &tag, INDEX, list.to_string().as_bytes());
    Ok(())
}

/// Returns a registry with one artifact, published to a separate repository for each change, and
/// the written documents.
fn bench() -> Result<(Registry, Sandbox, Vec<String>), Box<dyn std::error::Error>> {
    let registry = Registry::default();
    let shared = registry.clone();
    // Cosign and Flux accept a signature in the older form in place of any bundle.
    let server = serve(move |request| {
        let is_ours = request.header("user-agent") == "artifact-attest";
        let is_hidden = request.path.strip_suffix(".sig").is_some() && !is_ours;
        let hidden = || error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        Some(if is_hidden { hidden() } else { shared.answer(request) })
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let first =
        sandbox.expect(0, "apply", &(sandbox.project("") + &sandbox.artifact("a", "a", "r0")))?;
    let subject = published(&first[1])?.to_owned();
    let mut all = Vec::new();
    for (index, (_, _, change)) in CHANGES.iter().enumerate() {
        let repository = format!("test/r{}", index + 1);
        registry.with(|all| {
            let manifests = all.manifests.iter().filter(|((known, _), _)| known == "test/r0");
            let copied: Vec<_> = manifests
                .map(|((_, name), value)| ((repository.clone(), name.clone()), value.clone()))
                .collect();
            all.manifests.extend(copied);
        });
        let document = text(&first).replace("r0", &format!("r{}", index + 1));
        sandbox.expect(0, "apply", &document)?; // the older form names its repository
        rewrap(&registry, &repository, &subject, *change)?;
        all.push(document);
    }
    Ok((registry, sandbox, all))
}

// hazard: `verify` succeeds for bundles that cosign and Flux reject.
// class: A check is weaker than the tools that consume the result.
// members: 35 changes of the bundle, of the manifest that refers to it, and of the list
// now: `plan --check` reports drift, `verify` names what is missing, `apply` publishes it again
#[test]
fn a_rewrapped_bundle_is_drift_and_apply_repairs_it() -> Test {
    let (_registry, sandbox, documents) = bench()?;
    for ((name, is_accepted, _), input) in CHANGES.iter().zip(&documents) {
        let run = |verb: &str| sandbox.run(verb, input, &[]).map(|run| run.status.code());
        if *is_accepted {
            assert_eq!(run("plan --check")?, Some(0), "{name}");
            continue;
        }
        assert_eq!(run("plan --check")?, Some(3), "{name}");
        assert_eq!(run("verify")?, Some(100), "{name}");
        assert_eq!(run("apply")?, Some(0), "{name}");
        assert_eq!(run("verify")?, Some(0), "{name}");
    }
    Ok(())
}

#[test]
fn cosign_flux_and_verify_agree_on_every_rewrapped_bundle() -> Test {
    let (_registry, sandbox, documents) = bench()?;
    let all: VecDeque<_> = CHANGES.iter().zip(&documents).collect();
    let first: Value = serde_json::from_str(documents[0].lines().nth(1).ok_or("no document")?)?;
    let key = sandbox.outside("cosign.pub");
    fs::write(&key, first["status"]["observed"]["publicKey"].as_str().ok_or("no key")?)?;
    let (key, left, wrong) = (key.display().to_string(), Mutex::new(all), Mutex::new(Vec::new()));
    let accepts = |program: &str, arguments: &[&str]| {
        let run = Command::new("env")
            .arg(program)
            .args(arguments)
            .env("PATH", path())
            .env("HOME", sandbox.home())
            .output();
        run.map(|run| (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned()))
    };
    let work = || -> std::io::Result<()> {
        loop {
            let next = left.lock().ok().and_then(|mut left| left.pop_front());
            let Some(((name, is_accepted, _), input)) = next else { return Ok(()) };
            let document: Value = serde_json::from_str(input.lines().nth(1).unwrap_or_default())?;
            let reference =
                document["status"]["observed"]["reference"].as_str().unwrap_or_default();
            let cosign = accepts(
                "cosign",
                &[
                    "verify",
                    "--key",
                    &key,
                    "--insecure-ignore-tlog",
                    "--allow-http-registry",
                    "--allow-insecure-registry",
                    reference,
                ],
            )?;
            let flux = accepts("flux-verifier", &[&key, reference])?;
            for (program, (code, said)) in [("cosign", cosign), ("flux-verifier", flux)] {
                if (code == Some(0)) != *is_accepted
                    && let Ok(mut wrong) = wrong.lock()
                {
                    wrong.push(format!("{program}, {name}: {code:?} {said}"));
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let wrong = wrong.into_inner().unwrap_or_default();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
