//! Tests with real registries, Nix and Git. cosign and crane judge the result.

mod support;

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::proxy::{Proxy, request};
use support::{OURS, Result, Sandbox, Server, THEIRS, Test, digest, ready, reference, text, tool};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Returns the digests of the referrers of the artifact that `document` published.
fn referrers(registry: &str, repository: &str, document: &Value) -> Result<Vec<String>> {
    let digest = digest(document)?;
    let native =
        request(registry, &format!("GET /v2/test/{repository}/referrers/{digest}"), "", b"")?;
    let index = if native.0 == 200 {
        native.1
    } else {
        let tag = digest.replace(':', "-");
        request(registry, &format!("GET /v2/test/{repository}/manifests/{tag}"), "", b"")?.1
    };
    let index: Value = serde_json::from_str(&index)?;
    let entries = index["manifests"].as_array().ok_or("no list")?;
    let mut digests: Vec<_> = entries.iter().map(|entry| entry["digest"].to_string()).collect();
    digests.sort();
    Ok(digests)
}

fn tags(registry: &str, repository: &str) -> Result<Vec<String>> {
    let (status, list) =
        request(registry, &format!("GET /v2/test/{repository}/tags/list"), "", b"")?;
    let list: Value = if status == 404 { json!({}) } else { serde_json::from_str(&list)? };
    let list = list["tags"].as_array().cloned().unwrap_or_default();
    Ok(list.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect())
}

#[test]
fn two_clones_publish_the_same_bytes_to_both_kinds_of_registry_and_a_second_run_only_reads() -> Test
{
    let folder = tempfile::tempdir()?;
    let docker = Server::docker("127.75.0.10:5000", folder.path(), true)?;
    let ggcr = Server::ggcr("127.75.0.11:5000")?;
    let mut seen = Vec::new();
    for (server, address) in [(&docker, "127.75.0.12:5000"), (&ggcr, "127.75.0.13:5000")] {
        let proxy = Proxy::start(address, &server.1)?;
        let sandbox = Sandbox::new(address)?;
        let input = sandbox.documents("tiny");

        let plan = sandbox.expect(3, "plan --check", &input)?;
        assert_eq!(plan[1]["status"]["observed"]["digest"], "known after apply");
        assert_eq!(proxy.counted().1, 0, "a plan writes nothing");

        let applied = sandbox.expect(0, "apply", &input)?;
        assert_eq!(ready(&applied[1]), ["True", "Published"]);
        assert_eq!(applied[1]["status"]["observed"]["reproducible"], true);

        proxy.cut_after(None, false);
        let again = sandbox.expect(0, "apply", &text(&applied))?;
        assert_eq!(text(&again), text(&applied));
        assert_eq!(proxy.counted().1, 0, "a second run writes nothing");
        sandbox.expect(0, "plan --check", &input)?;
        sandbox.expect(0, "verify", &text(&applied))?;

        sandbox.cosign(&applied[1], &["verify"])?;
        for kind in ["slsaprovenance1", "cyclonedx"] {
            sandbox.cosign(&applied[1], &["verify-attestation", "--type", kind])?;
        }
        let reference = reference(&applied[1])?;
        tool("crane", &["--insecure", "validate", "--remote", reference], folder.path())?;
        let config: Value = serde_json::from_str(&tool(
            "crane",
            &["--insecure", "config", reference],
            folder.path(),
        )?)?;
        assert_eq!(config["config"]["User"], "65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/tiny"]));
        seen.push((
            digest(&applied[1])?.to_owned(),
            applied[1]["status"]["evidence"].clone(),
            referrers(address, "tiny", &applied[1])?,
        ));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].2.len(), 3);
    Ok(())
}

#[test]
fn manifests_are_published_with_the_attested_image_in_them() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.20:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.with_manifests("tiny");
    let plan = sandbox.expect(3, "plan --check", &input)?;
    assert_eq!(plan[2]["status"]["observed"]["reference"], "known after apply");

    let applied = sandbox.expect(0, "apply", &input)?;
    sandbox.expect(0, "verify", &text(&applied))?;
    sandbox.cosign(&applied[2], &["verify"])?;
    sandbox.cosign(&applied[2], &["verify-attestation", "--type", "slsaprovenance1"])?;

    let manifest =
        tool("crane", &["--insecure", "manifest", reference(&applied[2])?], folder.path())?;
    let manifest: Value = serde_json::from_str(&manifest)?;
    let layer = manifest["layers"][0]["digest"].as_str().ok_or("no layer")?;
    let layer = format!("{}/test/manifests@{layer}", server.1);
    let unpack = format!("crane --insecure blob {layer} | tar -xzO tiny.yaml");
    let path = support::path().into_string().map_err(|_| "a strange PATH")?;
    let published = tool("env", &[&format!("PATH={path}"), "sh", "-c", &unpack], folder.path())?;
    assert!(
        published.contains(&format!("image: {}}}] # pinned", reference(&applied[1])?)),
        "{published}"
    );
    Ok(())
}

#[test]
fn an_unattested_image_is_an_error_before_anything_is_published() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.21:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    sandbox.write("manifests/other.yaml", "---\nspec: {containers: [{image: 'nginx:1'}]}\n")?;
    let run = sandbox.run("apply", &sandbox.with_manifests("tiny"))?;
    assert_eq!(run.status.code(), Some(2));
    let said = String::from_utf8(run.stderr)?;
    assert!(said.contains("other.yaml:2: `nginx:1` is neither pinned"), "{said}");
    assert_eq!(tags(&server.1, "tiny")?, [] as [String; 0]);
    Ok(())
}

#[test]
fn uncommitted_changes_are_not_published() -> Test {
    let sandbox = Sandbox::new("127.75.0.22:5000")?; // no registry is needed
    sandbox.write("sources/tiny/new", "")?;
    let run = sandbox.expect(100, "apply", &sandbox.documents("tiny"))?;
    assert_eq!(ready(&run[1]), ["False", "NotCommitted"]);
    Ok(())
}

#[test]
fn a_build_that_is_not_reproducible_is_neither_published_nor_signed() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.23:5000", folder.path(), true)?;
    let proxy = Proxy::start("127.75.0.24:5000", &server.1)?;
    let sandbox = Sandbox::new("127.75.0.24:5000")?;
    for (attribute, reason) in [("flaky", "NotReproducible"), ("broken", "BuildFailed")] {
        let attribute = format!("./sources/tiny, attribute: {attribute}");
        let input = sandbox.documents("tiny").replace("./sources/tiny", &attribute);
        let run = sandbox.expect(100, "apply", &input)?;
        assert_eq!(ready(&run[1]), ["False", reason]);
    }
    assert_eq!(proxy.counted().1, 0);
    Ok(())
}

#[test]
fn a_second_build_is_not_repeated_by_a_run_with_the_same_key() -> Test {
    let folder = tempfile::tempdir()?;
    let _server = Server::docker("127.75.0.14:5000", folder.path(), true)?;
    let sandbox = Sandbox::new("127.75.0.14:5000")?;
    let rebuilt = |key: &str, repository: &str| -> Result<bool> {
        let run = sandbox.run_as(key, "apply --log-format json", &sandbox.documents(repository))?;
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let steps = String::from_utf8(run.stderr)?;
        let is_rebuild = |line: &&str| line.contains("\"step\":\"rebuild ");
        let step = steps.lines().find(is_rebuild).ok_or("no such step")?;
        Ok(serde_json::from_str::<Value>(step)?["detail"] == "bit-identical")
    };
    assert!(rebuilt(OURS, "one")?);
    assert!(!rebuilt(OURS, "two")?, "recorded in the cache");
    assert!(rebuilt(THEIRS, "three")?, "a record of another key proves nothing");
    let remembered = fs::read_dir(sandbox.outside(".cache/artifact-attest/rebuilt"))?;
    for file in remembered {
        fs::write(file?.path(), "0".repeat(64))?;
    }
    assert!(rebuilt(OURS, "four")?, "a forged record proves nothing");
    Ok(())
}

/// An orphaned build would block the next build of the same derivation.
#[test]
fn a_killed_run_ends_its_build() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.15:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let endless = "./sources/tiny, attribute: endless";
    let input = sandbox.documents("tiny").replace("./sources/tiny", endless);
    let mut run = sandbox
        .command(OURS, "apply -q", &input)?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let command_line = |id: u32| fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let build = until("a build", || {
        children(run.id()).into_iter().find(|child| command_line(*child).starts_with(b"nix-store"))
    })?;
    until("its builder", || (children(build).len() > 1).then_some(()))?; // the builder and the script that kills the build
    run.kill()?;
    run.wait()?;
    until("the end of the build", || command_line(build).is_empty().then_some(()))
}

fn children(id: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

fn until<T>(what: &str, mut observe: impl FnMut() -> Option<T>) -> Result<T> {
    for _ in 0..600 {
        if let Some(found) = observe() {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{what}: not after 30 s").into())
}

/// Cuts the connection between `address` and `registry` before each write in turn. Calls `emptied`
/// first, which empties the registry.
fn cut_off(
    registry: &str,
    mut emptied: impl FnMut() -> Test,
    address: &str,
    answer_lost: bool,
) -> Test {
    let proxy = Proxy::start(address, registry)?;
    let sandbox = Sandbox::new(address)?;
    let input = sandbox.documents("tiny");
    for writes in 0.. {
        emptied()?;
        proxy.cut_after(Some(writes), answer_lost);
        let run = sandbox.run("apply", &input)?;
        proxy.cut_after(None, false);
        let tagged = tags(registry, "tiny")?.iter().any(|tag| !tag.starts_with("sha256-"));
        if run.status.code() == Some(0) {
            assert!(writes > 15, "cut off {writes} times");
            return Ok(());
        }
        assert_eq!(run.status.code(), Some(111), "after {writes} writes");
        if tagged {
            sandbox.expect(0, "verify", &input)?;
        }
        let applied = sandbox.expect(0, "apply", &input)?;
        sandbox.expect(0, "verify", &text(&applied))?;
        assert_eq!(referrers(registry, "tiny", &applied[1])?.len(), 3, "after {writes} writes");
    }
    Ok(())
}

#[test]
fn a_run_interrupted_before_any_write_leaves_nothing_unsigned_and_the_next_run_completes_it() -> Test
{
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.30:5000", folder.path(), true)?;
    let kept = folder.path().join("registry");
    let emptied = || {
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        Ok(())
    };
    cut_off(&server.1, emptied, "127.75.0.31:5000", false)
}

#[test]
fn a_run_that_loses_any_response_leaves_nothing_unsigned_and_the_next_run_completes_it() -> Test {
    let registry = "127.75.0.32:5000";
    let mut server = None; // keeps its contents in memory
    let emptied = || {
        drop(server.take());
        server = Some(Server::ggcr(registry)?);
        Ok(())
    };
    cut_off(registry, emptied, "127.75.0.33:5000", true)
}

#[test]
fn an_interrupted_destroy_is_completed_by_the_next_run() -> Test {
    let folder = tempfile::tempdir()?;
    let docker = Server::docker("127.75.0.40:5000", folder.path(), true)?;
    let ggcr = Server::ggcr("127.75.0.41:5000")?;
    for (server, address) in [(&docker, "127.75.0.42:5000"), (&ggcr, "127.75.0.43:5000")] {
        let proxy = Proxy::start(address, &server.1)?;
        let sandbox = Sandbox::new(address)?;
        for writes in 0.. {
            let repository = format!("tiny-{writes}");
            let applied = text(&sandbox.expect(0, "apply", &sandbox.documents(&repository))?);
            sandbox.expect(3, "plan --check --destroy", &applied)?;
            proxy.cut_after(Some(writes), false);
            let run = sandbox.run("destroy", &applied)?;
            proxy.cut_after(None, false);
            let gone = sandbox.expect(0, "destroy", &applied)?;
            assert_eq!(ready(&gone[1]), ["False", "Destroyed"]);
            assert_eq!(tags(&server.1, &repository)?, [] as [String; 0], "after {writes} writes");
            sandbox.expect(0, "plan --check --destroy", &text(&gone))?;
            if run.status.code() == Some(0) {
                assert!(writes >= 4, "{writes}");
                break;
            }
            assert_eq!(run.status.code(), Some(111), "after {writes} writes");
        }
    }
    Ok(())
}

#[test]
fn destroy_leaves_foreign_signatures_and_reports_a_registry_with_deletion_disabled() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.44:5000", folder.path(), false)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    let theirs = sandbox.expect_as(THEIRS, 0, "apply", &input)?;
    let gone = sandbox.expect(0, "destroy", &text(&theirs))?;
    assert_eq!(
        gone[1]["status"]["conditions"][0]["message"],
        "manifests left in place, which other documents or other keys published: 1"
    );
    sandbox.expect_as(THEIRS, 0, "verify", &text(&theirs))?;

    let run = sandbox.expect_as(THEIRS, 100, "destroy", &text(&theirs))?;
    assert_eq!(ready(&run[1]), ["False", "DeletionOff"]);
    Ok(())
}

#[test]
fn a_foreign_signature_proves_nothing() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.50:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    let theirs = sandbox.expect_as(THEIRS, 0, "apply", &input)?;
    let run = sandbox.expect(100, "verify", &text(&theirs))?;
    assert_eq!(ready(&run[1]), ["False", "VerificationFailed"]);

    // Both signatures stay, and each verifies with its own key.
    let ours = sandbox.expect(0, "apply", &input)?;
    sandbox.expect(0, "verify", &text(&ours))?;
    sandbox.expect_as(THEIRS, 0, "verify", &text(&theirs))?;
    assert_eq!(referrers(&server.1, "tiny", &ours[1])?.len(), 6);
    Ok(())
}

#[test]
fn verify_reports_a_moved_tag_and_apply_repairs_it() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.51:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    let applied = sandbox.expect(0, "apply", &input)?;
    let observed = &applied[1]["status"]["observed"];
    let tag = observed["tag"].as_str().ok_or("no tag")?;

    // Move our tag to another digest: the same image, with one more annotation.
    let mut forged: Value = serde_json::from_str(&tool(
        "crane",
        &["--insecure", "manifest", reference(&applied[1])?],
        folder.path(),
    )?)?;
    forged["annotations"]["more"] = json!("x");
    let line = format!("PUT /v2/test/tiny/manifests/{tag}");
    assert_eq!(request(&server.1, &line, MANIFEST, forged.to_string().as_bytes())?.0, 201);
    let run = sandbox.expect(100, "verify", &text(&applied))?;
    assert_eq!(ready(&run[1]), ["False", "VerificationFailed"]);
    assert_eq!(text(&sandbox.expect(0, "apply", &input)?), text(&applied));
    sandbox.expect(0, "verify", &text(&applied))?;
    Ok(())
}

#[test]
fn verify_reports_a_flipped_byte() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.52:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let applied = sandbox.expect(0, "apply", &sandbox.documents("tiny"))?;
    let blobs = folder.path().join("registry/docker/registry/v2/blobs/sha256");
    let mut flipped = 0;
    for folder in fs::read_dir(&blobs)?.flatten() {
        for blob in fs::read_dir(folder.path())?.flatten() {
            let data = blob.path().join("data");
            let before = fs::read(&data)?;
            if before == b"{}" {
                continue; // the configuration of every referrer, which is never read
            }
            let mut after = before.clone();
            let middle = after.len() / 2;
            after[middle] ^= 1;
            support::writable(&data)?;
            fs::write(&data, after)?;
            let run = sandbox.run("verify", &text(&applied))?;
            // The list of referrers is not signed. A flip in the list hides an entry, or changes a
            // field that the program does not trust.
            let index =
                String::from_utf8_lossy(&before).contains("image.index.v1+json\",\"manifests");
            assert!(index || run.status.code() == Some(100), "{}: {}", data.display(), run.status);
            flipped += 1;
            fs::write(&data, before)?;
        }
    }
    assert!(flipped >= 10, "{flipped}"); // image: 3, bundles: 3, their manifests: 3, index: 1
    sandbox.expect(0, "verify", &text(&applied))?;
    Ok(())
}

#[test]
fn verify_reports_a_missing_provenance_and_apply_restores_it() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.53:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let input = sandbox.documents("tiny");
    let applied = sandbox.expect(0, "apply", &input)?;
    let tag = digest(&applied[1])?.replace(':', "-");
    let list = format!("/v2/test/tiny/manifests/{tag}");
    let index: Value =
        serde_json::from_str(&request(&server.1, &format!("GET {list}"), "", b"")?.1)?;

    // Remove our provenance from the list, as a cleaning job or an attacker could.
    let mut poorer = index.clone();
    let entries = poorer["manifests"].as_array_mut().ok_or("no list")?;
    entries.retain(|entry| !entry.to_string().contains("slsa.dev/provenance"));
    let put = |index: &Value| {
        let kind = "application/vnd.oci.image.index.v1+json";
        request(&server.1, &format!("PUT {list}"), kind, index.to_string().as_bytes())
    };
    assert_eq!(put(&poorer)?.0, 201);
    let run = sandbox.expect(100, "verify", &text(&applied))?;
    assert_eq!(ready(&run[1]), ["False", "VerificationFailed"]);

    // A second `apply` restores the provenance with the same bytes.
    assert_eq!(text(&sandbox.expect(0, "apply", &input)?), text(&applied));
    assert_eq!(referrers(&server.1, "tiny", &applied[1])?.len(), 3);
    Ok(())
}
