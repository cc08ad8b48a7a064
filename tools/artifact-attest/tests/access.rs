//! What a registry says before it lets us, and what we make of it.

mod support;

use support::proxy::Proxy;
use support::{Sandbox, Server, Test, ready, text};

/// `documents` of somebody who has a token.
fn with_token(documents: &str, token: &str) -> String {
    documents.replace("/test'}", &format!("/test', token: {{env: {token}}}}}"))
}

#[test]
fn a_password_is_asked_for_and_only_the_right_one_opens() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker_with_password("127.75.0.70:5000", folder.path())?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    for wrong in [input.clone(), with_token(&input, "WRONG")] {
        let run = sandbox.expect(100, "apply", &wrong)?;
        assert_eq!(ready(&run[1]), ["False", "Denied"]);
    }
    let applied = sandbox.expect(0, "apply", &with_token(&input, "PASSWORD"))?;
    sandbox.expect(0, "verify", &text(&applied))?;
    sandbox.expect(0, "destroy", &text(&applied))?;
    Ok(())
}

#[test]
fn a_token_is_fetched_from_where_the_registry_says() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.71:5000", folder.path(), true)?;
    let proxy = Proxy::start("127.75.0.72:5000", &server.1)?;
    proxy.guard();
    let sandbox = Sandbox::new("127.75.0.72:5000")?;
    let input = sandbox.documents("tiny");
    for wrong in [input.clone(), with_token(&input, "WRONG")] {
        let run = sandbox.expect(100, "apply", &wrong)?;
        assert_eq!(ready(&run[1]), ["False", "Denied"]);
    }
    let applied = sandbox.expect(0, "apply", &with_token(&input, "PASSWORD"))?;
    sandbox.expect(0, "verify", &text(&applied))?;
    Ok(())
}

/// Others took a list that was throttled for one without signatures, and signed again, and again.
#[test]
fn a_list_that_cannot_be_had_is_not_an_empty_one() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.73:5000", folder.path(), true)?;
    let proxy = Proxy::start("127.75.0.74:5000", &server.1)?;
    let sandbox = Sandbox::new("127.75.0.74:5000")?;
    let input = sandbox.documents("tiny");
    let applied = sandbox.expect(0, "apply", &input)?;
    for answer in ["429 Too Many Requests", "503 Service Unavailable"] {
        proxy.cut_after(None, false);
        proxy.answer("/referrers/", answer);
        for verb in ["plan", "apply", "verify", "destroy"] {
            let run = sandbox.expect(111, verb, &text(&applied))?;
            assert_eq!(ready(&run[1]), ["False", "Busy"]);
        }
        assert_eq!(proxy.counted().1, 0);
    }
    Ok(())
}

#[test]
fn what_a_retired_key_signed_is_signed_again_and_destroyed_as_ours() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.75:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    let first = sandbox.expect(0, "apply", &input)?;
    let rotated = "  generations: {artifact-attest/signing: 2}\n  endpoints:";
    let rotated = input.replace("  endpoints:", rotated);
    sandbox.expect(100, "verify", &rotated)?;

    let second = sandbox.expect(0, "apply", &rotated)?;
    let digest = |it: &serde_json::Value| it["status"]["observed"]["digest"].clone();
    assert_eq!(digest(&first[1]), digest(&second[1]), "the same image, signed by another key");
    sandbox.cosign(&second[1], &["verify"])?;
    sandbox.expect(0, "destroy", &text(&second))?;
    let none = sandbox.expect(0, "plan --check --destroy", &input)?;
    assert_eq!(none[1]["status"]["plan"], serde_json::json!([]));
    Ok(())
}
