//! Published content is the commit's, whatever the clone's configuration says, and others can fetch
//! the commit.

use std::fs;
use std::path::Path;

use crate::stub::{Answer, Registry, Sandbox, Test, git, published, reason, serve, text};

fn bench() -> Result<(Registry, Sandbox), Box<dyn std::error::Error>> {
    let registry = Registry::default();
    let shared = registry.clone();
    let server = serve(move |request| Some(shared.answer(request)))?;
    Ok((registry, Sandbox::new(&server.address)?))
}

// hazard: A smudge filter decrypts files, and they are published in clear text; another clone
// publishes another digest.
// class: What is published depends on the clone's configuration, not on the commit.
// members: line ends, `export-ignore`, `export-subst`, `ident`, replacements, grafts, showSignature
// now: the blobs of the commit, read with plumbing commands; Nix gets a repository without settings
/// Clones with filters, conversions, porcelain settings, replacements and grafts publish the same
/// digest, with the ciphertext that the commit contains.
#[test]
fn every_clone_of_a_commit_publishes_the_same_blobs() -> Test {
    let (registry, sandbox) = bench()?;
    sandbox.write(
        "a/.gitattributes",
        "secret.yaml filter=crypt\nhidden.yaml export-ignore\n*.yaml text ident export-subst\n",
    )?;
    sandbox.write(
        "a/secret.yaml",
        "kind: ConfigMap\ndata: {of: CIPHER, id: $Id$, at: $Format:%H$}\n",
    )?;
    sandbox.write("a/hidden.yaml", "kind: ConfigMap\n")?;
    sandbox.commit("attributes")?;
    let head = sandbox.git(&["rev-parse", "HEAD"])?;
    let applied = sandbox.expect(0, "apply", &sandbox.one())?;
    let clear = published(&applied[1])?.to_owned();
    let blobs: Vec<_> = registry.with(|all| all.blobs.values().cloned().collect());

    for (name, settings) in [
        (
            "crypt",
            &[
                ("filter.crypt.smudge", "sed s/CIPHER/PLAINTEXT/"),
                ("filter.crypt.clean", "sed s/PLAINTEXT/CIPHER/"),
            ][..],
        ),
        ("crlf", &[("core.autocrlf", "true"), ("core.eol", "crlf")]),
        (
            "porcelain",
            &[
                ("log.showSignature", "true"),
                ("log.follow", "true"),
                ("log.decorate", "full"),
                ("alias.log", "!false"),
                ("color.ui", "always"),
                ("color.status", "always"),
                ("status.short", "true"),
                ("status.branch", "true"),
                ("core.quotePath", "false"),
                ("core.pager", "false"),
                ("diff.external", "false"),
                ("diff.noprefix", "true"),
                ("diff.mnemonicPrefix", "true"),
                ("diff.renames", "copies"),
                ("status.relativePaths", "false"),
                ("core.abbrev", "4"),
                ("core.fsmonitor", "/bin/false"),
            ],
        ),
    ] {
        let home = sandbox.home().join(".gitconfig");
        let _ = fs::remove_file(&home); // absent in the first case
        let from = sandbox.clone();
        let to = sandbox.outside(name);
        let mut clone = vec!["clone".to_owned(), "-q".to_owned()];
        for (key, value) in settings {
            clone.extend(["-c".to_owned(), format!("{key}={value}")]);
        }
        clone.extend([from.display().to_string(), to.display().to_string()]);
        let clone: Vec<_> = clone.iter().map(String::as_str).collect();
        git(&from, &clone)?;
        for (key, value) in settings {
            let file = home.display().to_string();
            git(&from, &["config", "--file", &file, key, value])?;
        }
        let run =
            std::process::Command::new("mv").args([&from, &sandbox.outside("kept")]).status()?;
        assert!(run.success());
        fs::rename(&to, &from)?;
        let again = sandbox.run("plan --check", &text(&applied), &[])?;
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert_eq!(again.status.code(), Some(0), "{name}: {said}");
        fs::rename(&from, &to)?;
        fs::rename(sandbox.outside("kept"), &from)?;
    }
    let _ = fs::remove_file(sandbox.home().join(".gitconfig")); // back to the first case

    // A replacement and a graft exist in one clone only.
    let other = sandbox.git(&["commit-tree", "-m", "other", &format!("{head}~1^{{tree}}")])?;
    sandbox.git(&["replace", &head, &other])?;
    fs::write(sandbox.clone().join(".git/info/grafts"), format!("{head}\n"))?;
    sandbox.expect(0, "plan --check", &text(&applied))?;
    assert_eq!(registry.with(|all| all.blobs.len()), blobs.len());
    assert!(!clear.is_empty());
    Ok(())
}

/// Returns every file below a folder, with its content and modification time.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(contents(&path));
        } else if let (Ok(content), Ok(there)) = (fs::read(&path), entry.metadata()) {
            let time = there.modified().unwrap_or(std::time::UNIX_EPOCH);
            all.push((path.display().to_string(), content, time));
        }
    }
    all.sort();
    all
}

/// A changed time with the same content makes Git refresh its index, unless a setting prevents
/// that.
#[test]
fn the_users_repository_is_never_written() -> Test {
    let (_, sandbox) = bench()?;
    let file = fs::File::options().append(true).open(sandbox.clone().join("a/map.yaml"))?;
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9))?;
    let before = contents(&sandbox.clone());
    for verb in ["plan", "apply", "verify", "plan --check", "destroy"] {
        sandbox.expect(0, verb, &sandbox.one())?;
    }
    assert!(contents(&sandbox.clone()) == before);
    Ok(())
}

#[test]
fn every_uncommitted_change_is_reported() -> Test {
    let (_, sandbox) = bench()?;
    for change in ["a/new.yaml", "a/map.yaml"] {
        sandbox.write(change, "kind: ConfigMap\ndata: {of: X}\n")?;
        let run = sandbox.expect(100, "apply", &sandbox.one())?;
        assert_eq!(reason(&run[1]), "NotCommitted", "{change}");
        sandbox.git(&["checkout", "-q", "--", "."])?;
        sandbox.git(&["clean", "-fdq"])?;
    }
    // These bits of the index hide a change from `git status`.
    for bit in ["--assume-unchanged", "--no-assume-unchanged"] {
        sandbox.git(&["update-index", bit, "a/map.yaml"])?;
        sandbox.write("a/map.yaml", "kind: ConfigMap\ndata: {of: X}\n")?;
        assert_eq!(
            reason(&sandbox.expect(100, "apply", &sandbox.one())?[1]),
            "NotCommitted",
            "{bit}"
        );
    }
    Ok(())
}

// hazard: A file that a Kustomization names is not in the archive, which is signed all the same.
// class: A published artifact does not correspond to its commit.
// members: generators, patches, symbolic links, submodules, Git LFS, remote resources, large files
// now: exit status 2, with the file and line of each
#[test]
fn a_file_that_the_commit_lacks_is_reported_with_its_position() -> Test {
    let (registry, sandbox) = bench()?;
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    sandbox.write("lfs/a.yaml", "kind: ConfigMap\n")?;
    sandbox.write("lfs/b.bin", pointer)?;
    sandbox.write("link/a.yaml", "kind: ConfigMap\n")?;
    std::os::unix::fs::symlink("a.yaml", sandbox.clone().join("link/b.yaml"))?;
    sandbox.write("named/kustomization.yaml", "kind: Kustomization\nresources: [a.yaml]\nconfigMapGenerator:\n- {name: a, files: [config.toml]}\n")?;
    sandbox.write("named/a.yaml", "kind: ConfigMap\n")?;
    sandbox.write("sub/a.yaml", "kind: ConfigMap\n")?;
    let head = sandbox.git(&["rev-parse", "HEAD"])?;
    sandbox.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},sub/module")])?;
    fs::create_dir(sandbox.clone().join("sub/module"))?;
    sandbox.git(&["add", "lfs", "link", "named", "sub/a.yaml"])?;
    sandbox.git(&["commit", "-q", "-m", "pointers"])?;
    for (folder, place) in [
        ("lfs", "b.bin: a pointer of Git LFS"),
        ("link", "b.yaml: a symbolic link"),
        ("named", "kustomization.yaml:4: `config.toml` is not a file of the commit"),
        ("sub", "module: a submodule"),
    ] {
        let input = sandbox.project("") + &sandbox.artifact("a", folder, "shared");
        let run = sandbox.run("apply", &input, &[])?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.code() == Some(2) && said.contains(place), "{folder}: {said}");
    }
    assert_eq!(registry.names("test/shared"), [] as [String; 0]);

    // With the named file in the commit, both are published.
    sandbox.write("named/config.toml", "a = 1\n")?;
    sandbox.commit("the file")?;
    sandbox.expect(
        0,
        "apply",
        &(sandbox.project("") + &sandbox.artifact("a", "named", "shared")),
    )?;
    let is_packed = registry.with(|all| {
        let mut layers = all.blobs.values().filter(|blob| blob.starts_with(&[0x1f, 0x8b]));
        layers.any(|blob| {
            let mut text = Vec::new();
            let read = std::io::Read::read_to_end(
                &mut flate2::read::GzDecoder::new(blob.as_slice()),
                &mut text,
            );
            read.is_ok() && String::from_utf8_lossy(&text).contains("config.toml")
        })
    });
    assert!(is_packed);
    Ok(())
}

// hazard: A commit that others cannot fetch is signed as provenance of a public repository.
// class: A published artifact does not correspond to its commit.
// members: unpushed commits, commits of pull requests only, a source that cannot be asked
// now: `NotInSource`, with what to push; `sourceCheck: skip` signs it, and the provenance says so
/// Serves the source's repository over HTTP, as plain files.
#[test]
fn a_commit_that_the_source_lacks_is_not_signed() -> Test {
    let (registry, sandbox) = bench()?;
    let bare = sandbox.outside("source.git");
    let path = bare.display().to_string();
    git(&sandbox.clone(), &["clone", "-q", "--bare", ".", &path])?;
    git(&bare, &["update-server-info"])?;
    let root = bare.clone();
    let files = move |request: &crate::stub::Request| {
        let name = request.path.trim_start_matches("/source.git/").to_owned();
        let found = fs::read(root.join(&name)).ok().filter(|_| !name.contains(".."));
        Some(found.map_or(Answer::new(404, ""), |content| Answer::new(200, content)))
    };
    let source = serve(files)?;
    let url = format!("http://{}/source.git", source.address);
    let skipped = sandbox.one();
    let input =
        skipped.replace("  sourceCheck: skip\n", "").replace("https://example.org/test/test", &url);

    // A commit of this clone alone. The source contains its parent.
    sandbox.write("a/map.yaml", "kind: ConfigMap\ndata: {of: a, version: '2'}\n")?;
    sandbox.commit("unpushed")?;
    sandbox.expect(0, "plan", &input)?;
    let run = sandbox.expect(100, "apply", &input)?;
    assert_eq!(reason(&run[1]), "NotInSource");
    assert_eq!(registry.names("test/shared"), [] as [String; 0], "nothing is signed");

    // After the push, others push as well, so the source has commits that this clone lacks.
    git(&sandbox.clone(), &["push", "-q", &path, "main"])?;
    let ahead = sandbox.outside("ahead");
    git(&bare, &["clone", "-q", ".", &ahead.display().to_string()])?;
    git(&ahead, &["commit", "-q", "--allow-empty", "-m", "ahead"])?;
    git(&ahead, &["push", "-q", "origin", "main"])?;
    git(&bare, &["update-server-info"])?;
    let applied = sandbox.expect(0, "apply", &input)?;

    // A signed commit is verified without the source. Another commit is not signed without the
    // source.
    source.answer(|_| None);
    sandbox.expect(0, "verify", &text(&applied))?;
    sandbox.expect(0, "apply", &text(&applied))?;
    sandbox.write("a/map.yaml", "kind: ConfigMap\ndata: {of: a, version: '3'}\n")?;
    sandbox.commit("offline")?;
    sandbox.expect(0, "plan", &input)?;
    assert_eq!(reason(&sandbox.expect(111, "apply", &input)?[1]), "SourceUnknown");
    source.answer(|_| Some(Answer::new(403, "")));
    assert_eq!(reason(&sandbox.expect(100, "apply", &input)?[1]), "SourceUnknown");

    // A branch fetched from the source counts when the source cannot be read.
    sandbox.git(&["remote", "add", "origin", &url])?;
    sandbox.git(&["update-ref", "refs/remotes/origin/main", "HEAD"])?;
    sandbox.expect(0, "apply", &input)?;

    // A document can skip the check, and its provenance records that.
    let unchecked = skipped.replace("https://example.org/test/test", &url);
    sandbox.expect(0, "apply", &unchecked)?;
    let said = registry.with(|all| {
        let bundles = all
            .blobs
            .values()
            .filter_map(|blob| serde_json::from_slice::<serde_json::Value>(blob).ok());
        let payloads: Vec<_> = bundles
            .filter_map(|bundle| bundle["dsseEnvelope"]["payload"].as_str().map(str::to_owned))
            .filter_map(|text| data_encoding::BASE64.decode(text.as_bytes()).ok())
            .map(|payload| String::from_utf8_lossy(&payload).into_owned())
            .collect();
        payloads.iter().filter(|text| text.contains("\"sourceCheck\":\"skip\"")).count()
    });
    assert_eq!(said, 1);
    Ok(())
}
