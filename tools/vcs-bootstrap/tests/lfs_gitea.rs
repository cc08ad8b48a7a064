//! Files in Git LFS at a real Gitea, with the real git-lfs. They need `gitea` (see `gitea.rs`) and `git-lfs`.

mod common;
#[path = "common/drain.rs"]
mod drain;
#[path = "common/gitea.rs"]
mod gitea;
#[path = "common/lfs.rs"]
mod lfs;

use std::fs;

use common::{Sandbox, Test, ready, status, stderr};
use gitea::Gitea;
use testing::git::git;
use testing::proxy::Fault;

const SPEC: &str = "owner: owner, history: {push: fastForward}";

/// Commits `file` as a user of git-lfs does.
fn commit(sandbox: &Sandbox, file: &str, content: &[u8]) -> Test<String> {
    sandbox.git(&["lfs", "install", "--local", "--skip-repo"])?;
    fs::write(
        sandbox.path().join(".gitattributes"),
        "*.bin filter=lfs diff=lfs merge=lfs -text\n",
    )?;
    fs::write(sandbox.path().join(file), content)?;
    sandbox.git(&["add", "--", ".gitattributes", file])?;
    assert_eq!(fs::read(lfs::stored(sandbox, content))?, content, "git-lfs keeps the content");
    sandbox.commit(file)
}

/// Returns `file` of a fresh clone by git and git-lfs.
fn cloned(gitea: &Gitea, name: &str, file: &str) -> Test<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let host = gitea.proxy.address;
    let url = format!("http://x-access-token:{}@{host}/owner/{name}.git", gitea.token);
    git(folder.path(), &["clone", "--quiet", "--no-checkout", &url, "clone"])?;
    let clone = folder.path().join("clone");
    git(&clone, &["lfs", "install", "--local", "--skip-repo"])?;
    git(&clone, &["checkout", "--quiet", "main"])?;
    Ok(fs::read(clone.join(file))?)
}

/// Returns the writes to the LFS server, in order.
fn uploads(writes: &[String]) -> Vec<&str> {
    let paths = writes.iter().filter_map(|line| line.split_once("/info/lfs/"));
    paths.map(|(_, path)| path.split('/').next().unwrap_or_default()).collect()
}

#[test]
fn a_fresh_clone_has_the_contents_and_a_second_run_uploads_nothing() -> Test {
    let gitea = Gitea::start_with_lfs()?;
    let sandbox = Sandbox::new(&gitea.endpoint(), &gitea.token)?;
    sandbox.declare("plain", SPEC)?;
    sandbox.run("apply").success();
    assert_eq!(uploads(&gitea.proxy.take_writes()), [""; 0], "no pointer, no request");

    let contents: Vec<u8> = (0_u32..1_000_000).flat_map(u32::to_le_bytes).collect();
    commit(&sandbox, "model.bin", &contents)?;
    sandbox.declare("models", SPEC)?;
    sandbox.run("plan --check").code(3);
    assert_eq!(gitea.proxy.take_writes(), [""; 0], "a plan writes nothing");
    sandbox.run("apply").success();
    let writes = gitea.proxy.take_writes();
    assert_eq!(uploads(&writes), ["objects", "objects", "objects", "verify"], "{writes:?}");
    assert!(cloned(&gitea, "models", "model.bin")? == contents, "the clone has the content");
    gitea.proxy.take_writes();
    for verb in ["plan --check", "apply", "verify"] {
        sandbox.run(verb).success();
    }
    assert_eq!(gitea.proxy.take_writes(), [""; 0]);

    // Another repository of the same owner gets the object without a transfer.
    sandbox.declare("copy", SPEC)?;
    sandbox.run("apply").success();
    assert_eq!(uploads(&gitea.proxy.take_writes()), ["objects"]);
    assert!(cloned(&gitea, "copy", "model.bin")? == contents, "the clone has the content");

    // A receipt covers the history alone, so that the objects are not lost with the repository.
    let url = format!("http://{}/owner/models.git", gitea.proxy.address);
    sandbox.declare("models", &format!("{SPEC}, onDestroy: delete"))?;
    drain::write(&sandbox, "models", url, &gitea.token)?;
    let run = sandbox.run("destroy").code(100);
    assert_eq!(ready(&status(&run)?), ("False", "NotCovered"), "{}", stderr(&run));
    assert!(stderr(&run).contains("files in Git LFS, for example model.bin"), "{}", stderr(&run));
    Ok(())
}

#[test]
fn an_upload_that_was_interrupted_at_any_write_is_finished_by_the_next_run() -> Test {
    let gitea = Gitea::start_with_lfs()?;
    let sandbox = Sandbox::new(&gitea.endpoint(), &gitea.token)?;
    sandbox.declare("whole", SPEC)?;
    commit(&sandbox, "model.bin", b"of the first run")?;
    sandbox.run("apply").success();
    let writes = gitea.proxy.take_writes();
    let first = writes.iter().position(|line| line.contains("/info/lfs/")).ok_or("an upload")?;
    let count = uploads(&writes).len();
    for write in first..=first + count {
        let name = format!("cut-{write}");
        // A content of its own, because Gitea has those of other repositories already.
        let content = format!("of {name}").into_bytes();
        commit(&sandbox, "model.bin", &content)?;
        sandbox.declare(&name, SPEC)?;
        gitea.proxy.set_fault(Some(Fault::LostOnce(write)));
        let applied = sandbox.run("apply").success();
        assert_eq!(ready(&status(&applied)?), ("True", "AsDeclared"), "{name}");
        assert!(cloned(&gitea, &name, "model.bin")? == content, "{name}");
        gitea.proxy.take_writes();
        sandbox.run("apply").success();
        assert_eq!(gitea.proxy.take_writes(), [""; 0], "{name} rests");
    }
    Ok(())
}

#[test]
fn a_gitea_without_an_lfs_server_gets_no_pointer() -> Test {
    let gitea = Gitea::start()?;
    let sandbox = Sandbox::new(&gitea.endpoint(), &gitea.token)?;
    commit(&sandbox, "model.bin", b"content")?;
    sandbox.declare("models", SPEC)?;
    let run = sandbox.run("apply").code(100);
    let said = stderr(&run);
    assert_eq!(ready(&status(&run)?), ("False", "UnsupportedByForge"), "{said}");
    assert!(said.contains("LFS_START_SERVER"), "{said}");
    let writes = gitea.proxy.take_writes();
    assert!(!writes.iter().any(|line| line.contains("git-receive-pack")), "{writes:?}");
    Ok(())
}
