//! Git's own server as the forge of a drain, and repositories with and without commits.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};
use testing::documents::{document, ready};
use testing::git;
use testing::http::{Request, Response};

use crate::Test;
use crate::lab::Lab;

/// Answers one request with git's own server, which demands a login.
pub(crate) fn answer(request: &Request, folder: &Path, stream: &mut TcpStream) -> io::Result<()> {
    if request.header("authorization").is_empty() {
        let demand = Response::new(401, "").with("WWW-Authenticate", "Basic realm=\"forge\"");
        return demand.write(&request.method, stream);
    }
    let path = request.path.trim_start_matches("/forge");
    let (status, output) = git::serve(request, path, folder)?;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let length = output.len().saturating_sub(end + 4);
    write!(stream, "HTTP/1.1 {status} S\r\nContent-Length: {length}\r\n")?;
    stream.write_all(&output)
}

fn run(folder: &Path, line: &str) -> Test<String> {
    git::git(folder, &line.split(' ').collect::<Vec<_>>())
}

/// Adds a commit to the bare repository in `folder`.
fn commit(folder: &Path) -> Test {
    let tree = run(folder, "hash-object -w -t tree /dev/null")?;
    let commit = run(folder, &format!("commit-tree -m commit {}", tree.trim()))?;
    run(folder, &format!("update-ref refs/heads/main {}", commit.trim()))?;
    Ok(())
}

/// Prepares a drain of two repositories: `empty` has no commit, and `full` has one.
fn lab() -> Test<Lab> {
    let mut lab = Lab::start()?;
    let forge = lab.folder.path().join("forge");
    fs::create_dir(&forge)?;
    for name in ["empty", "full"] {
        run(&forge, &format!("init --quiet --bare --initial-branch=main {name}.git"))?;
    }
    commit(&forge.join("full.git"))?;
    lab.server.world().forge = forge;
    let url = lab.server.url.clone();
    let gitea = json!({"gitea": {"url": url, "token": {"env": "FORGE"}}});
    lab.documents[0]["spec"]["endpoints"]["forge"] = gitea;
    for name in ["empty", "full"] {
        lab.documents.insert(1, repository(name, &url));
    }
    lab.drain()["sources"] = json!([{"forge": "empty"}, {"forge": "full"}]);
    Ok(lab)
}

fn repository(name: &str, url: &str) -> Value {
    let repository = document("Repository", name, json!({"project": "holistic"}));
    ready(repository, json!({"observed": {"cloneUrl": format!("{url}/forge/{name}.git")}}))
}

// hazard: A repository without a commit makes the drain fail, or its receipt covers later commits.
// class: A case without a way out.
// members: git refuses a bundle without references
// now: its empty list of references is copied and receipted; the first commit voids the receipt
#[test]
fn repository_without_a_commit_is_drained_as_empty_and_its_receipt_ends_with_a_commit() -> Test {
    let lab = lab()?;
    let forge = lab.folder.path().join("forge");
    let ended = lab.run("apply")?;
    assert_eq!((ended.status, ended.reason()), (Some(0), "Drained"), "{}", ended.said);
    let copied = &ended.drain["status"]["observed"]["copied"];
    assert_eq!(copied[0]["source"], "forge empty", "{copied}");
    assert_eq!((&copied[0]["entries"], &copied[1]["entries"]), (&json!(1), &json!(2)), "{copied}");
    let verified = lab.run("verify")?;
    assert_eq!((verified.status, verified.reason()), (Some(0), "Verified"), "{}", verified.said);

    let to = tempfile::tempdir()?;
    let restored = lab.run(&format!("restore --to {}", to.path().display()))?;
    assert_eq!(restored.status, Some(0), "{}", restored.said);
    let path = |name: &str| to.path().join("forge").join(name);
    assert_eq!(fs::read_to_string(path("empty/refs"))?, "");
    assert!(!path("empty/repository.bundle").exists());
    run(to.path(), "clone --quiet --mirror forge/full/repository.bundle full.git")?;
    let main = run(&forge.join("full.git"), "rev-parse refs/heads/main")?;
    assert_eq!(run(&to.path().join("full.git"), "rev-parse refs/heads/main")?, main);

    commit(&forge.join("empty.git"))?;
    let verified = lab.run("verify")?;
    assert_eq!(
        (verified.status, verified.reason()),
        (Some(111), "VerificationFailed"),
        "{}",
        verified.said
    );
    let again = lab.run("apply")?;
    assert_eq!(again.status, Some(0), "{}", again.said);
    let copied = &again.drain["status"]["observed"]["copied"];
    assert_eq!(copied[0]["entries"], 2, "{copied}");
    Ok(())
}
