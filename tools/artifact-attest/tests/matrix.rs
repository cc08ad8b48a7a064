//! Every verb on every kind of registry that runs on this machine.

#[path = "../../vcs-bootstrap/tests/common/gitea.rs"]
#[allow(dead_code, reason = "the matrix needs a running server alone")]
mod gitea;
#[path = "hazards/stub.rs"]
#[allow(dead_code, unused_imports, reason = "the matrix needs the sandbox alone")]
mod stub;
mod support;

use std::fs;

use serde_json::Value;
use stub::{Sandbox, Test, reason, text};
use support::{Server, tool};
use testing::proxy::Proxy;

/// Runs every verb against the registry behind `proxy`, with the password of `owner` if there is one.
fn every_verb(name: &str, proxy: &Proxy, password: &str) -> Test {
    let at = proxy.address.to_string();
    let sandbox = Sandbox::new(&at)?;
    fs::write(sandbox.outside("password"), password)?;
    let login =
        format!(", user: owner, token: {{file: '{}'}}", sandbox.outside("password").display());
    let more = if password.is_empty() { "" } else { &login };
    let input =
        sandbox.project(more).replace("/test'", "/owner'") + &sandbox.artifact("a", "a", "shared");
    let run = |code: i32, verb: &str, input: &str| -> Test<(Vec<Value>, usize)> {
        proxy.reset();
        let output = sandbox.run(verb, input, &[])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}, {verb}: {said}");
        Ok((stub::written(&output)?, proxy.counted().1))
    };
    assert_eq!(run(3, "plan --check", &input)?.1, 0, "{name}: a plan writes nothing");
    let (applied, _) = run(0, "apply", &input)?;
    let (again, writes) = run(0, "apply", &text(&applied))?;
    assert_eq!((text(&again), writes), (text(&applied), 0), "{name}: a second run only reads");
    run(0, "plan --check", &input)?;
    run(0, "verify", &text(&applied))?;

    let observed = &applied[1]["status"]["observed"];
    let key = sandbox.outside("cosign.pub");
    fs::write(&key, observed["publicKey"].as_str().ok_or("no key")?)?;
    let reference = observed["reference"].as_str().ok_or("no reference")?;
    let login = sandbox.outside("cosign/config.json");
    fs::create_dir_all(sandbox.outside("cosign"))?;
    let auth = data_encoding::BASE64.encode(format!("owner:{password}").as_bytes());
    fs::write(&login, format!(r#"{{"auths":{{"{at}":{{"auth":"{auth}"}}}}}}"#))?;
    let config = format!("DOCKER_CONFIG={}", sandbox.outside("cosign").display());
    let key = key.display().to_string();
    let line =
        "verify --insecure-ignore-tlog --allow-http-registry --allow-insecure-registry --key";
    let cosign: Vec<_> = [config.as_str(), "cosign"]
        .into_iter()
        .chain(line.split(' '))
        .chain([key.as_str(), reference])
        .collect();
    tool("env", &cosign, &sandbox.outside(""))?;
    // The form that podman, skopeo, policy-controller and a ClusterPolicy of Kyverno read.
    let older = [&cosign[..3], &["--new-bundle-format=false"], &cosign[3..]].concat();
    tool("env", &older, &sandbox.outside(""))?;

    assert_eq!(run(3, "plan --check --destroy", &text(&applied))?.1, 0);
    let (gone, _) = run(0, "destroy", &text(&applied))?;
    assert_eq!(reason(&gone[1]), "Destroyed", "{name}");
    run(0, "plan --check --destroy", &text(&gone))?;
    assert_eq!(run(0, "destroy", &text(&gone))?.1, 0, "{name}: nothing is left to remove");
    Ok(())
}

fn behind(server: &Server) -> Test<Proxy> {
    Ok(Proxy::listen("127.75.1.9:0", server.1.as_str())?)
}

#[test]
fn every_verb_works_with_docker_registry() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.1.1:5000", folder.path(), true)?;
    every_verb("docker-registry", &behind(&server)?, "")
}

#[test]
fn every_verb_works_with_go_containerregistry_with_and_without_referrers() -> Test {
    let server = Server::ggcr("127.75.1.2:5000")?;
    every_verb("ggcr", &behind(&server)?, "")?;
    let server = Server::crane("127.75.1.3:5000")?;
    every_verb("ggcr without referrers", &behind(&server)?, "")
}

#[test]
fn every_verb_works_with_a_strict_registry() -> Test {
    let server = Server::strict("127.75.1.4:5000")?;
    every_verb("ociregistry", &behind(&server)?, "")
}

#[test]
fn every_verb_works_with_giteas_registry() -> Test {
    let gitea = gitea::Gitea::start()?;
    every_verb("gitea", &gitea.proxy, &gitea.token)
}

// The fifth document begins when four others have ended, because four run at a time.
#[test]
fn real_registries_mount_a_blob_from_another_repository_of_the_run() -> Test {
    let folder = tempfile::tempdir()?;
    let servers = [
        ("docker-registry", Server::docker("127.75.2.20:5000", folder.path(), true)?),
        ("go-containerregistry", Server::ggcr("127.75.2.21:5000")?),
        ("ociregistry", Server::strict("127.75.2.22:5000")?),
    ];
    for (name, server) in servers {
        let sandbox = Sandbox::new(&server.1)?;
        let noise: String = (0..40_000_u64).map(|at| (at * at % 1_000_003).to_string()).collect();
        sandbox.write("a/large.yaml", format!("kind: ConfigMap\ndata: {{a: '{noise}'}}\n"))?;
        sandbox.commit("a large file")?;
        let documents = ["first", "second", "third", "fourth", "fifth"];
        let documents = documents.map(|name| sandbox.artifact(name, "a", name));
        let input = sandbox.project("") + &documents.concat();
        let run = sandbox.run("apply", &input, &[])?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{name}: {said}");
        let published: Vec<_> = said.lines().filter(|line| line.contains("blobs sent: ")).collect();
        let last = published.last().ok_or("nothing published")?;
        assert!(last.contains("blobs sent: 1, already there: 1"), "{name}: {said}");
        sandbox.expect(0, "verify", &text(&stub::written(&run)?))?;
    }
    Ok(())
}
