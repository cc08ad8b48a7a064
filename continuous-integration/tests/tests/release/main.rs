//! Files of a release: the archives with their bills of materials, the notes, and the signatures. `nix/main.rs` builds
//! the archives of the programs with Nix, and `operations/actions.rs` runs the workflow.

mod bill;
mod notes;
#[path = "../project/oracle.rs"]
#[expect(dead_code, reason = "the test program `reference` validates documents")]
mod oracle;
mod sigstore;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use repository_tests::{root, write_script};
use tempfile::TempDir;

type Test<T = ()> = Result<T, Box<dyn Error>>;

const PROGRAMS: [&str; 5] =
    ["artifact-attest", "data-drain", "flux-seed", "talos-provision", "vcs-bootstrap"];

/// Manual pages and completions: of `flux-seed`, and of a program whose name begins alike.
const MANUAL: [&str; 5] = [
    "share/man/man1/flux-seed.1",
    "share/man/man1/flux-seed-apply.1",
    "share/bash-completion/completions/flux-seed",
    "share/zsh/site-functions/_flux-seed",
    "share/man/man1/flux-seeder.1",
];

/// Returns the output of a command, which must succeed.
fn output(command: &mut Command) -> Test<String> {
    let ended = command.output()?;
    if !ended.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&ended.stderr)).into());
    }
    Ok(String::from_utf8(ended.stdout)?)
}

/// Returns the crates that are linked into the programs for `target`.
fn tree(target: &str) -> Test<String> {
    output(Command::new(root().join("tools/release/tree.sh")).arg(target).current_dir(root()))
}

/// Scripts in place of the programs, and what `manual` and `tree.sh` write.
struct Built {
    folder: TempDir,
}

impl Built {
    fn new(tree: &str) -> Test<Self> {
        let built = Self { folder: tempfile::tempdir()? };
        fs::create_dir(built.path("programs"))?;
        for program in PROGRAMS {
            let script = built.path("programs").join(program);
            write_script(&script, &format!("#!/bin/sh\necho {program}\n"))?;
        }
        for page in MANUAL {
            let page = built.path("manual").join(page);
            fs::create_dir_all(page.parent().ok_or("no folder")?)?;
            fs::write(page, "a page")?;
        }
        fs::write(built.path("tree"), tree)?;
        Ok(built)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Packs programs for the system `any`. Returns the folder with the files of the release.
    fn pack(&self, programs: &[&str], umask: &str) -> Test<PathBuf> {
        let out = self.path(&format!("out-{umask}"));
        let mut pack = Command::new("bash");
        pack.args(["-c", "umask \"$1\"; shift; exec \"$@\"", "bash", umask])
            .arg(root().join("tools/release/archive.sh"))
            .args(["programs", "manual", "tree"].map(|name| self.path(name)))
            .arg("any")
            .arg(&out)
            .args(programs);
        output(&mut pack)?;
        Ok(out)
    }
}

fn files(folder: &Path) -> Test<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, fs::read(path)?));
    }
    files.sort();
    Ok(files)
}

#[test]
fn two_runs_give_the_same_files_which_have_the_listed_checksums() -> Test {
    const TWO: [&str; 2] = ["flux-seed", "vcs-bootstrap"];
    let built = Built::new(&tree("x86_64-unknown-linux-musl")?)?;
    let first = built.pack(&TWO, "022")?;
    let second = built.pack(&TWO, "077")?;
    assert_eq!(files(&first)?, files(&second)?);
    let mut names: Vec<_> = TWO
        .iter()
        .flat_map(|program| ["cdx.json", "tar.gz"].map(|end| format!("{program}-any.{end}")))
        .collect();
    let mut check = Command::new("sha256sum");
    let checked = output(check.args(["--check", "SHA256SUMS-any"]).current_dir(&first))?;
    let mut verified: Vec<_> =
        checked.lines().filter_map(|line| line.strip_suffix(": OK")).map(str::to_owned).collect();
    verified.sort();
    assert_eq!(verified, names);
    names.insert(0, "SHA256SUMS-any".to_owned());
    assert_eq!(files(&first)?.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
    Ok(())
}

#[test]
fn an_archive_has_the_program_its_pages_and_its_licences_for_every_user() -> Test {
    let built = Built::new(&tree("x86_64-unknown-linux-musl")?)?;
    let archive = built.pack(&["flux-seed"], "077")?.join("flux-seed-any.tar.gz");
    let listed =
        output(Command::new("tar").args(["--list", "--verbose", "--gzip", "--file"]).arg(archive))?;
    let entries: Vec<_> = listed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words[0].starts_with('d'))
        .map(|words| format!("{} {} {}", words[0], words[1], words[words.len() - 1]))
        .collect();
    let page = |path: &str| format!("-rw-r--r-- 0/0 {path}");
    let mut expected = vec!["-rwxr-xr-x 0/0 bin/flux-seed".to_owned()];
    expected.extend(
        ["LICENSE-APACHE", "LICENSE-MIT"].map(|file| page(&format!("share/doc/flux-seed/{file}"))),
    );
    expected.extend(MANUAL[..4].iter().map(|path| page(path)));
    expected[1..].sort();
    assert_eq!(entries, expected);
    Ok(())
}

/// Stand-ins for rustup and cargo, which cannot build for macOS here. The real cargo prints the tree.
const MACOS: &str = r#"#!/bin/sh
echo "${0##*/} $*" >>"$CARGO_TARGET_DIR/calls"
case ${0##*/}-$1 in
  rustup-* | cargo-fetch) exit ;;
  cargo-build)
    mkdir -p "$CARGO_TARGET_DIR/aarch64-apple-darwin/release"
    cd "$CARGO_TARGET_DIR/aarch64-apple-darwin/release"
    for program in artifact-attest flux-seed talos-provision vcs-bootstrap; do echo "for macOS" >$program; done
    exit
    ;;
esac
exec CARGO "$@"
"#;

#[test]
fn archives_for_macos_have_the_pages_of_linux_and_every_program_that_needs_no_linux() -> Test {
    let built = Built::new(&tree("x86_64-unknown-linux-musl")?)?;
    let linux = built.pack(&PROGRAMS, "022")?;
    for program in PROGRAMS {
        let archive = |system: &str| linux.join(format!("{program}-{system}.tar.gz"));
        fs::rename(archive("any"), archive("x86_64-linux"))?;
    }
    let (bin, out, target) = (built.path("bin"), built.path("macos"), built.path("target"));
    fs::create_dir(&bin)?;
    fs::create_dir(&target)?;
    let cargo = std::env::var("CARGO")?;
    for name in ["rustup", "cargo"] {
        write_script(&bin.join(name), &MACOS.replace("CARGO \"$@\"", &format!("{cargo} \"$@\"")))?;
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let mut script = Command::new(root().join("tools/release/macos.sh"));
    script.arg(&linux).arg(&out).env("PATH", path).env("CARGO_TARGET_DIR", &target);
    output(&mut script)?;

    let names: Vec<_> = files(&out)?.into_iter().map(|(name, _)| name).collect();
    let programs = PROGRAMS.iter().filter(|program| **program != "data-drain");
    let archives = programs.flat_map(|program| {
        ["cdx.json", "tar.gz"].map(|end| format!("{program}-aarch64-darwin.{end}"))
    });
    let expected: Vec<_> =
        std::iter::once("SHA256SUMS-aarch64-darwin".to_owned()).chain(archives).collect();
    assert_eq!(names, expected);
    let print = ["--extract", "--to-stdout", "--gzip", "--file", "flux-seed-aarch64-darwin.tar.gz"];
    let files = ["bin/flux-seed", "share/man/man1/flux-seed-apply.1"];
    let contents = output(Command::new("tar").args(print).args(files).current_dir(&out))?;
    assert_eq!(contents, "for macOS\na page");
    let calls = fs::read_to_string(target.join("calls"))?;
    let command = "cargo build --frozen --release --target aarch64-apple-darwin --workspace --exclude testing --bin ";
    assert!(calls.contains(command), "{calls}");
    assert!(!calls.contains("data-drain"), "{calls}");
    Ok(())
}
