//! `plan` and `verify` need the public key alone.

use serde_json::Value;

use crate::stub::{KEY, Registry, Sandbox, Test, reason, serve, text, written};

/// Returns `project` with `keys` (PEM) as its verification keys.
fn naming(project: &str, keys: &[&str]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| Value::from(*key).to_string()).collect();
    let named = format!("spec:\n  verificationKeys: {{artifacts: [{}]}}\n", keys.join(", "));
    project.replacen("spec:\n", &named, 1)
}

// hazard: `plan` and `verify` need the key that can sign anything, so a pull request's job holds it.
// class: Read-only work holds a secret that can write.
// members: `plan --destroy`, the record of second builds, keys from before a rotation
// now: they read `verificationKeys` of the Project; with neither those nor a secret the error names
// what is missing, and nothing is called missing or proven
#[test]
fn plan_and_verify_need_no_signing_key() -> Test {
    let registry = Registry::default();
    let shared = registry.clone();
    let server = serve(move |request| Some(shared.answer(request)))?;
    let sandbox = Sandbox::new(&server.address)?;
    let applied = sandbox.expect(0, "apply", &sandbox.one())?;
    let key = applied[1]["status"]["observed"]["publicKey"].as_str().ok_or("no key")?.to_owned();
    let named = naming(&sandbox.project(""), &[&key]) + &applied[1].to_string();
    let run = |key: &str, verb: &str, input: &str| {
        sandbox.run(verb, input, &[("ARTIFACT_ATTEST_KEY", key)])
    };

    // Every read of an empty key fails, so success proves that no key is read.
    for (verb, code) in [("verify", 0), ("plan --check", 0), ("plan --check --destroy", 3)] {
        let run = run("", verb, &named)?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(code), "{verb}: {said}");
    }
    let failed = run("", "apply", &named)?;
    assert_eq!(failed.status.code(), Some(100));
    // Without the public key, the result is an error, and nothing is reported as missing.
    for verb in ["verify", "plan --check", "plan --check --destroy"] {
        let failed = run("", verb, &text(&applied))?;
        assert_eq!(failed.status.code(), Some(100), "{verb}");
        assert!(written(&failed)?[1]["status"]["plan"].is_null(), "{verb}: no plan is known");
    }

    // The signing key must be the Project's first verification key.
    let foreign = "HxAdHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
    let failed = run(foreign, "apply", &named)?;
    assert_eq!((failed.status.code(), reason(&written(&failed)?[1])), (Some(100), "ForeignKey"));

    // After a rotation, `apply` signs again, and `destroy` removes the bundles of both keys.
    let second = run(foreign, "apply", &sandbox.one())?;
    let second = written(&second)?[1]["status"]["observed"]["publicKey"].clone();
    let second = second.as_str().ok_or("no key")?;
    let both = naming(&sandbox.project(""), &[second, &key]) + &applied[1].to_string();
    assert_eq!(run(foreign, "destroy", &both)?.status.code(), Some(0));
    assert_eq!(registry.named("test/shared"), [] as [String; 0]);
    assert_eq!(run(KEY, "plan --check --destroy", &named)?.status.code(), Some(0));
    Ok(())
}
