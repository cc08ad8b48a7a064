//! Logins, token services and rate limits of a registry.

mod support;

use support::proxy::Proxy;
use support::{Sandbox, Server, Test, ready, text};

/// Adds a token to the registry in `documents`.
fn with_token(documents: &str, token: &str) -> String {
    documents.replace("/test'}", &format!("/test', token: {{env: {token}}}}}"))
}

#[test]
fn only_the_right_password_gives_access() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker_with_password("127.75.0.70:5000", folder.path())?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    for wrong in [input.clone(), with_token(&input, "WRONG")] {
        let run = sandbox.expect(100, "apply", &wrong)?;
        assert_eq!(ready(&run[1]), ["False", "Unauthorized"]);
    }
    let applied = sandbox.expect(0, "apply", &with_token(&input, "PASSWORD"))?;
    sandbox.expect(0, "verify", &text(&applied))?;
    sandbox.expect(0, "destroy", &text(&applied))?;
    Ok(())
}

#[test]
fn a_token_is_fetched_from_the_registrys_realm() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.71:5000", folder.path(), true)?;
    let proxy = Proxy::start("127.75.0.72:5000", &server.1)?;
    proxy.guard();
    let sandbox = Sandbox::new("127.75.0.72:5000")?;
    let input = sandbox.documents("tiny");
    for wrong in [input.clone(), with_token(&input, "WRONG")] {
        let run = sandbox.expect(100, "apply", &wrong)?;
        assert_eq!(ready(&run[1]), ["False", "Unauthorized"]);
    }
    let applied = sandbox.expect(0, "apply", &with_token(&input, "PASSWORD"))?;
    sandbox.expect(0, "verify", &text(&applied))?;
    Ok(())
}

/// Incident in other tools: they took a rate-limited list for an empty one, and signed again at
/// every run.
#[test]
fn a_rate_limited_list_of_referrers_is_not_taken_for_an_empty_one() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.73:5000", folder.path(), true)?;
    let proxy = Proxy::start("127.75.0.74:5000", &server.1)?;
    let sandbox = Sandbox::new("127.75.0.74:5000")?;
    let input = sandbox.documents("tiny");
    let applied = sandbox.expect(0, "apply", &input)?;
    for (answer, reason) in
        [("429 Too Many Requests", "RateLimited"), ("503 Service Unavailable", "Unreachable")]
    {
        proxy.cut_after(None, false);
        proxy.answer("/referrers/", answer);
        for verb in ["plan", "apply", "verify", "destroy"] {
            let run = sandbox.expect(111, verb, &text(&applied))?;
            assert_eq!(ready(&run[1]), ["False", reason]);
        }
        assert_eq!(proxy.counted().1, 0);
    }
    Ok(())
}

#[test]
fn a_rotation_signs_again_and_destroy_removes_the_former_keys_bundles() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.75:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    let first = sandbox.expect(0, "apply", &input)?;
    let rotated = "  generations: {artifact-attest/signing: 2}\n  endpoints:";
    let rotated = input.replace("  endpoints:", rotated);
    sandbox.expect(100, "verify", &rotated)?;

    let second = sandbox.expect(0, "apply", &rotated)?;
    let digest = |document: &serde_json::Value| document["status"]["observed"]["digest"].clone();
    assert_eq!(digest(&first[1]), digest(&second[1]), "the same image, signed by another key");
    sandbox.cosign(&second[1], &["verify"])?;
    sandbox.expect(0, "destroy", &text(&second))?;
    let none = sandbox.expect(0, "plan --check --destroy", &input)?;
    assert_eq!(none[1]["status"]["plan"], serde_json::json!([]));
    Ok(())
}
