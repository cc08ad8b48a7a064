//! `destroy` removes only publications of its own document.

use std::collections::BTreeSet;

use serde_json::json;

use crate::stub::{INDEX, Registry, Sandbox, Test, published, reason, serve, text};

/// Returns a registry, and a folder whose documents publish to it.
fn bench() -> Result<(Registry, Sandbox), Box<dyn std::error::Error>> {
    let registry = Registry::default();
    let shared = registry.clone();
    let server = serve(move |request| Some(shared.answer(request)))?;
    let sandbox = Sandbox::new(&server.address)?;
    Ok((registry, sandbox))
}

// hazard: `destroy` of one document deletes what another document published in the same repository.
// class: Whatever our key signed is taken for this document's own.
// members: bytes that two documents publish alike, tags and signatures of others, older versions
// now: a manifest goes when every signed provenance names this document; what stays is counted
#[test]
fn destroy_leaves_publications_of_another_document_in_the_same_repository() -> Test {
    let (registry, sandbox) = bench()?;
    let project = sandbox.project("");
    let [a, b] = ["a", "b"].map(|name| project.clone() + &sandbox.artifact(name, name, "shared"));
    let of_b = sandbox.expect(0, "apply", &b)?;
    let before: BTreeSet<_> = registry.named("test/shared").into_iter().collect();

    // Publish two versions of `a`, each with its tag, its bundles, and their list.
    sandbox.expect(0, "apply", &a)?;
    sandbox.write("a/map.yaml", "kind: ConfigMap\ndata: {of: a, version: '2'}\n")?;
    sandbox.commit("another version")?;
    let of_a = sandbox.expect(0, "apply", &a)?;
    assert!(registry.names("test/shared").len() >= before.len() * 3 - 2);

    let planned = sandbox.expect(3, "plan --check --destroy", &text(&of_a))?;
    let steps = planned[1]["status"]["plan"].to_string();
    assert!(!steps.contains(published(&of_b[1])?), "{steps}");
    let gone = sandbox.expect(0, "destroy", &text(&of_a))?;
    assert_eq!(reason(&gone[1]), "Destroyed");
    let message = &gone[1]["status"]["conditions"][0]["message"];
    assert_eq!(
        message,
        "manifests left in place, which other documents or other keys published: 1"
    );
    let after: BTreeSet<_> = registry.named("test/shared").into_iter().collect();
    assert_eq!(after, before, "every tag and manifest of `b`, and no other");
    sandbox.expect(0, "verify", &text(&of_b))?;
    sandbox.expect(0, "plan --check", &text(&of_b))?;
    sandbox.expect(0, "plan --check --destroy", &text(&gone))?;
    Ok(())
}

#[test]
fn destroy_leaves_bytes_that_another_document_publishes_too() -> Test {
    let (registry, sandbox) = bench()?;
    let project = sandbox.project("");
    let [a, b] = ["a", "b"].map(|name| project.clone() + &sandbox.artifact(name, "a", "shared"));
    let of_a = sandbox.expect(0, "apply", &a)?;
    let of_b = sandbox.expect(0, "apply", &b)?;
    assert_eq!(published(&of_a[1])?, published(&of_b[1])?, "the same bytes");
    assert_eq!(registry.listed("test/shared", published(&of_a[1])?).len(), 3);

    sandbox.expect(0, "destroy", &text(&of_a))?;
    sandbox.expect(0, "verify", &text(&of_b))?;
    assert_eq!(registry.listed("test/shared", published(&of_b[1])?).len(), 2, "two of `b`");
    sandbox.expect(100, "verify", &text(&of_a))?;
    sandbox.expect(0, "plan --check --destroy", &text(&of_a))?;

    sandbox.expect(0, "destroy", &text(&of_b))?;
    assert_eq!(registry.named("test/shared"), [] as [String; 0]);
    Ok(())
}

#[test]
fn destroy_leaves_tags_lists_and_signatures_of_other_writers() -> Test {
    let (registry, sandbox) = bench()?;
    let of_a = sandbox.expect(0, "apply", &sandbox.one())?;
    let foreign = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string();
    let absent = format!("sha256-{}", "7".repeat(64));
    let signature = format!("{}.sig", published(&of_a[1])?.replace(':', "-"));
    for tag in ["latest", absent.as_str(), signature.as_str()] {
        let tagged = foreign.replace("[]", &format!("[],\"annotations\":{{\"of\":\"{tag}\"}}"));
        registry.put("test/shared", tag, INDEX, tagged.as_bytes());
    }
    sandbox.expect(0, "destroy", &text(&of_a))?;
    let mut left = registry.names("test/shared");
    left.retain(|name| !name.contains(':'));
    left.sort();
    let mut expected = vec!["latest".to_owned(), absent, signature];
    expected.sort();
    assert_eq!(left, expected);
    Ok(())
}
