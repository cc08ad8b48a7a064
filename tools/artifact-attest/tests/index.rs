//! An index of images for several platforms, with a real registry, Nix and Git. crane and cosign judge the result.

mod support;

use serde_json::{Value, json};
use support::proxy::request;
use support::{Result, Sandbox, Server, Test, digest, ready, reference, text, tool};

/// Packages for two systems. Those for `aarch64-linux` are built on this machine, as by a cross-compiler.
const FLAKE: &str = r#"{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  outputs = { self, nixpkgs }: let
    pkgs = nixpkgs.legacyPackages.x86_64-linux;
    of = version: machine: pkgs.runCommand "tiny-${version}" { inherit version; } ''
      mkdir -p $out/bin
      { printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0'; printf '${machine}\0'; head -c 200 /dev/zero; } > $out/bin/tiny
      chmod +x $out/bin/tiny
    '';
  in {
    packages.x86_64-linux.default = of "1.0" "\\76";
    packages.aarch64-linux.default = of "1.0" "\\267";
    packages.aarch64-linux.newer = of "1.1" "\\267";
    packages.aarch64-linux.wrong = of "1.0" "\\76";
  };
}
"#;

fn artifact(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: holistic/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\nspec:\n  project: test\n  source: https://example.org/test/test\n  sourceCheck: skip\n{spec}"
    )
}

fn image(name: &str, system: &str, attribute: &str) -> String {
    artifact(
        name,
        &format!(
            "  build: {{flake: ./sources/tiny, system: {system}, attribute: {attribute}}}\n  image: {{repository: tiny, entrypoint: [/bin/tiny]}}\n"
        ),
    )
}

fn index(more: &str) -> String {
    artifact("tiny", &format!("  index: {{repository: tiny, images: [amd64, arm64]}}\n{more}"))
}

fn sandbox(registry: &str) -> Result<Sandbox> {
    let sandbox = Sandbox::new(registry)?;
    sandbox.write("sources/tiny/flake.nix", FLAKE)?;
    sandbox.commit("two systems")?;
    Ok(sandbox)
}

/// Returns the documents with an index that comes first, because the order of documents is free.
fn documents(sandbox: &Sandbox) -> String {
    let project = sandbox.documents("tiny");
    let project = project.split("---\n").nth(1).unwrap_or_default();
    let tags = "  tags: ['v{version}', latest]\n";
    format!("---\n{project}")
        + &index(tags)
        + &image("amd64", "x86_64-linux", "default")
        + &image("arm64", "aarch64-linux", "default")
}

fn manifest(registry: &str, name: &str) -> Result<Value> {
    let (status, body) =
        request(registry, &format!("GET /v2/test/tiny/manifests/{name}"), "", b"")?;
    assert_eq!(status, 200, "{name}: {body}");
    Ok(serde_json::from_str(&body)?)
}

#[test]
fn an_index_is_published_signed_and_removed_with_its_images() -> Test {
    let folder = tempfile::tempdir()?;
    for server in [
        Server::docker("127.75.0.60:5000", folder.path(), true)?,
        Server::strict("127.75.0.61:5000")?,
    ] {
        let sandbox = sandbox(&server.1)?;
        let input = documents(&sandbox);
        let plan = sandbox.expect(3, "plan --check", &input)?;
        assert_eq!(plan[1]["status"]["observed"]["digest"], "known after apply");

        let applied = sandbox.expect(0, "apply", &input)?;
        let [_, index, amd64, arm64] = applied.as_slice() else { return Err("documents".into()) };
        assert_eq!(ready(index), ["True", "Published"]);
        let observed = &index["status"]["observed"];
        assert_eq!(observed["tags"], json!(["v1.0", "latest"]));
        assert_eq!(observed["commit"], amd64["status"]["observed"]["commit"]);
        assert_eq!(arm64["status"]["observed"]["platform"], "linux/arm64");

        // The clients' own choice of a platform.
        for (platform, image) in [("linux/amd64", amd64), ("linux/arm64", arm64)] {
            let line = ["--insecure", "digest", "--platform", platform, reference(index)?];
            assert_eq!(tool("crane", &line, folder.path())?.trim(), digest(image)?);
            let size = &image["status"]["observed"]["size"];
            let listed = manifest(&server.1, "latest")?["manifests"].clone();
            assert!(listed.as_array().is_some_and(|all| {
                all.iter().any(|entry| {
                    entry["digest"] == image["status"]["observed"]["digest"]
                        && entry["size"] == *size
                })
            }));
        }
        tool("crane", &["--insecure", "validate", "--remote", reference(index)?], folder.path())?;
        for document in [index, amd64, arm64] {
            sandbox.cosign(document, &["verify"])?;
            let kind = ["verify-attestation", "--type", "slsaprovenance1"];
            sandbox.cosign(document, &kind)?;
        }
        sandbox.cosign(index, &["verify", "--new-bundle-format=false"])?; // the form of older verifiers

        let again = sandbox.expect(0, "apply", &text(&applied))?;
        assert_eq!(text(&again), text(&applied));
        sandbox.expect(0, "plan --check", &input)?;
        sandbox.expect(0, "verify", &text(&applied))?;

        // A removal ends with an empty repository, in the order that strict registries demand.
        sandbox.expect(0, "destroy", &text(&applied))?;
        for document in [index, amd64, arm64] {
            let at = format!("GET /v2/test/tiny/manifests/{}", digest(document)?);
            assert_eq!(request(&server.1, &at, "", b"")?.0, 404);
        }
        sandbox.expect(0, "plan --check --destroy", &text(&applied))?;
    }
    Ok(())
}

/// The last job of a workflow whose images were built on other machines.
#[test]
fn an_index_needs_no_build_of_images_that_other_machines_published() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.62:5000", folder.path(), true)?;
    let sandbox = sandbox(&server.1)?;
    let input = documents(&sandbox);
    let without = |name: &str| {
        let documents =
            input.split("---\n").filter(|one| !one.contains(&format!("{{name: {name}}}")));
        documents.collect::<Vec<_>>().join("---\n")
    };
    for (job, other) in [("amd64", "arm64"), ("arm64", "amd64")] {
        let documents = without(other).replace(&index("  tags: ['v{version}', latest]\n"), "");
        let applied = sandbox.expect(0, "apply", &documents)?;
        assert_eq!(applied.len(), 2, "{job}");
    }
    let output = sandbox.run("apply", &input)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("build "), "{said}");
    Ok(())
}

#[test]
fn verify_reports_an_index_that_lacks_an_image_and_a_moved_tag() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.63:5000", folder.path(), true)?;
    let sandbox = sandbox(&server.1)?;
    let applied = sandbox.expect(0, "apply", &documents(&sandbox))?;
    let arm64 = digest(&applied[3])?;
    let (status, _) =
        request(&server.1, &format!("DELETE /v2/test/tiny/manifests/{arm64}"), "", b"")?;
    assert_eq!(status, 202);
    let verified = sandbox.expect(100, "verify", &text(&applied))?;
    assert_eq!(ready(&verified[3]), ["False", "VerificationFailed"]);
    assert_eq!(ready(&verified[1]), ["False", "DependencyNotReady"]);
    sandbox.expect(0, "apply", &text(&applied))?;
    sandbox.expect(0, "verify", &text(&applied))?;

    // A foreign index with one image takes the tag.
    let mut listed = manifest(&server.1, "latest")?;
    listed["manifests"].as_array_mut().ok_or("no list")?.pop();
    let body = serde_json::to_vec(&listed)?;
    let kind = "application/vnd.oci.image.index.v1+json";
    let (status, _) = request(&server.1, "PUT /v2/test/tiny/manifests/latest", kind, &body)?;
    assert_eq!(status, 201);
    sandbox.expect(100, "verify", &text(&applied))?;
    let plan = sandbox.expect(3, "plan --check", &text(&applied))?;
    assert_eq!(plan[1]["status"]["plan"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn an_index_of_other_documents_is_checked_before_anything_is_read() -> Test {
    let sandbox = sandbox("127.75.0.64:9")?; // nothing listens there
    let project = sandbox.documents("other");
    let two =
        image("amd64", "x86_64-linux", "default") + &image("arm64", "aarch64-linux", "default");
    let manifests =
        artifact("m", "  manifests: {path: ./manifests, repository: tiny, images: [tiny]}\n");
    for (documents, field, says) in [
        (
            project.clone() + &artifact("i", "  index: {repository: tiny, images: []}\n"),
            "spec.index.images",
            "at least one",
        ),
        (
            project.clone() + &artifact("i", "  index: {repository: tiny, images: [tiny]}\n"),
            "spec.index.images.0",
            "the repository `other`",
        ),
        (
            project.clone()
                + &two
                + &artifact("i", "  index: {repository: tiny, images: [amd64, amd64]}\n"),
            "spec.index.images.1",
            "one image for each system",
        ),
        (
            project.clone()
                + &manifests
                + &artifact("i", "  index: {repository: tiny, images: [m]}\n"),
            "spec.index.images.0",
            "is not an image",
        ),
        (
            project.clone() + &artifact("i", "  index: {repository: tiny, images: [i]}\n"),
            "spec.index.images.0",
            "",
        ),
        (
            project.clone() + &artifact("i", "  index: {repository: tiny, images: [absent]}\n"),
            "spec.index.images.0",
            "absent",
        ),
        (
            project
                + &two
                + &artifact("i", "  index: {repository: tiny, images: [amd64]}\n  rebuild: skip\n"),
            "spec",
            "`index` alone",
        ),
    ] {
        let output = sandbox.run("apply", &documents)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{documents}\n{said}");
        assert!(said.contains(field) && said.contains(says), "{field}, {says}: {said}");
    }
    Ok(())
}

#[test]
fn images_with_several_versions_or_the_wrong_program_are_not_published() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.65:5000", folder.path(), true)?;
    let sandbox = sandbox(&server.1)?;
    let input = documents(&sandbox);
    let arm64 = image("arm64", "aarch64-linux", "default");
    let newer = input.replace(&arm64, &image("arm64", "aarch64-linux", "newer"));
    let output = sandbox.run("apply", &newer)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(100), "{said}");
    assert!(said.contains("the versions of the images differ: 1.0, 1.1"), "{said}");

    let wrong = input.replace(&arm64, &image("arm64", "aarch64-linux", "wrong"));
    let output = sandbox.run("apply", &wrong)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(100), "{said}");
    let why = "is a program for x86_64-linux, and `build.system` is aarch64-linux";
    assert!(said.contains(why), "{said}");
    let latest = request(&server.1, "GET /v2/test/tiny/manifests/latest", "", b"")?;
    assert_eq!(latest.0, 404, "no index without its images");
    Ok(())
}
