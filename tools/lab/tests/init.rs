//! `lab init`, which `tasks/init` runs: one step replaces the published secrets with new ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use testing::Test;
use testing::run::stderr as said;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A project in a temporary folder, and the home directory of its user next to it.
struct Newcomer {
    folder: TempDir,
}

impl Newcomer {
    /// Copies the files and folders `names` of `from` into a new project.
    fn with(from: &Path, names: &[&str]) -> Test<Self> {
        let newcomer = Self { folder: tempfile::tempdir()? };
        fs::create_dir(newcomer.project())?;
        fs::create_dir(newcomer.home())?;
        for name in names {
            let mut copy = Command::new("cp");
            let copied = copy.arg("-a").arg(from.join(name)).arg(newcomer.project()).status()?;
            assert!(copied.success(), "{name}");
        }
        Ok(newcomer)
    }

    /// Copies the template of a project.
    fn of_template() -> Test<Self> {
        let names = [".sops.yaml", "project", "sources", "machines", "deployments"];
        Self::with(&repository().join("templates/project"), &names)
    }

    fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn keys(&self) -> PathBuf {
        self.home().join(".config/sops/age/keys.txt")
    }

    fn read(&self, name: &str) -> Test<String> {
        let path = self.project().join(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> Test<Output> {
        let programs = Path::new(env!("CARGO_BIN_EXE_lab")).parent().ok_or("no folder")?;
        let path = std::env::var("PATH")?;
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.project())
            .env_clear()
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("HOME", self.home())
            .envs(variables.iter().copied());
        Ok(command.output()?)
    }

    fn init(&self, more: &[&str]) -> Test<Output> {
        let words = [&["lab", "init", "shop", "Octocat"], more].concat();
        self.run(&words, &[("HCLOUD_TOKEN", "of-hetzner")])
    }
}

// hazard: A new project keeps a published secret somewhere.
// class: A set-up is half done.
// members: recipients of drains, public keys
// now: plans reach the network
#[test]
fn init_makes_a_project_that_every_program_accepts() -> Test {
    for newcomer in [
        Newcomer::of_template()?,
        Newcomer::with(
            &repository(),
            &[".sops.yaml", "project", "sources", "machines", "deployments", "lab"],
        )?,
    ] {
        let before = newcomer.run(&["vcs-bootstrap", "plan", "project"], &[])?;
        assert_eq!(before.status.code(), Some(2), "{}", said(&before));

        let made = newcomer.init(&[])?;
        assert!(made.status.success(), "{}", said(&made));
        let git = "git init --quiet --initial-branch main && git add --all && git -c user.name=a -c user.email=a@example.org commit --quiet --message a";
        let committed = newcomer.run(&["bash", "-c", git], &[])?;
        assert!(committed.status.success(), "{}", said(&committed));
        let bits = |path: &Path| Test::Ok(fs::metadata(path)?.permissions().mode() & 0o777);
        assert_eq!(bits(&newcomer.keys())?, 0o600);
        assert_eq!(bits(newcomer.keys().parent().ok_or("no folder")?)?, 0o700);
        assert!(said(&made).contains("keep a copy of it elsewhere"), "{}", said(&made));
        assert!(said(&made).contains("not given: github (GITHUB_TOKEN)"), "{}", said(&made));
        assert!(!said(&made).contains("of-hetzner"), "{}", said(&made));

        let project = newcomer.read("project/project.yaml")?;
        for part in ["name: shop}", "ghcr.io/octocat", "user: Octocat", "bucket: shop-drain"] {
            assert!(project.contains(part), "{part} is not in {project}");
        }
        assert_eq!(project.matches("verificationKeys:").count(), 1, "{project}");
        let repository = newcomer.read("project/repository.yaml")?;
        for part in ["owner: Octocat", "\n  visibility: private"] {
            assert!(repository.contains(part), "{part} is not in {repository}");
        }
        assert!(newcomer.read("machines/prod/cluster.yaml")?.contains("project: shop"));
        assert!(!newcomer.project().join("project/test-identity.txt").exists());

        // Every value that a program reads was replaced: `derive` works with the new identity alone.
        let derive = ["--to", "../derived", "project", "sources", "machines", "deployments"];
        for program in ["flux-seed", "data-drain", "vcs-bootstrap"] {
            let words = [&[program, "derive"], &derive[..]].concat();
            let derived = newcomer.run(&words, &[])?;
            assert!(derived.status.success(), "{program}: {}", said(&derived));
        }
        // Programs report errors of secrets before they send a request, so the hosts are invalid names.
        for name in ["project/project.yaml", "project/repository.yaml"] {
            let text = newcomer.read(name)?;
            let text =
                text.replace("api.github.com", "github.invalid").replace("ghcr.io", "ghcr.invalid");
            let text = text.replace("api.hetzner.cloud", "hetzner.invalid");
            fs::write(newcomer.project().join(name), text)?;
        }
        for program in ["vcs-bootstrap", "talos-provision"] {
            let words =
                ["timeout", "4", program, "plan", "project", "sources", "machines", "deployments"];
            let planned = newcomer.run(&words, &[])?;
            let code = planned.status.code();
            assert!(matches!(code, Some(111 | 124)), "{program}: {code:?} {}", said(&planned));
        }
    }
    Ok(())
}

// hazard: `tasks/init` destroys an identity or a root that is in use.
// class: A set-up overwrites.
// members: each of three files, an identity inside the repository
// now: exit 2, nothing touched
#[test]
fn init_never_overwrites_a_file_with_unpublished_secrets() -> Test {
    let newcomer = Newcomer::of_template()?;
    assert!(newcomer.init(&[])?.status.success());
    let files = [".sops.yaml", "project/secrets.yaml", "project/project.yaml"];
    let before: Vec<_> = files.iter().map(|name| newcomer.read(name)).collect::<Test<_>>()?;
    let identity = fs::read(newcomer.keys())?;
    let again = newcomer.init(&[])?;
    assert_eq!(again.status.code(), Some(2), "{}", said(&again));
    assert!(said(&again).contains("nothing was touched"), "{}", said(&again));
    // One of the three files alone is enough to stop `init`.
    for name in files {
        let other = Newcomer::of_template()?;
        fs::copy(newcomer.project().join(name), other.project().join(name))?;
        let refused = other.init(&[])?;
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", said(&refused));
        assert!(!other.keys().exists(), "{name}: an identity was created");
        assert_eq!(other.read(name)?, newcomer.read(name)?);
    }
    let after: Vec<_> = files.iter().map(|name| newcomer.read(name)).collect::<Test<_>>()?;
    assert_eq!((before, identity), (after, fs::read(newcomer.keys())?));
    Ok(())
}

#[test]
fn init_uses_an_existing_identity_and_rejects_one_inside_the_repository() -> Test {
    let first = Newcomer::of_template()?;
    assert!(first.init(&[])?.status.success());
    let second = Newcomer::of_template()?;
    let keys = first.keys().display().to_string();
    let made = second.init(&["--identity", &keys])?;
    assert!(made.status.success(), "{}", said(&made));
    assert_eq!(
        first.read(".sops.yaml")?.lines().count(),
        second.read(".sops.yaml")?.lines().count()
    );
    assert_ne!(first.read("project/secrets.yaml")?, second.read("project/secrets.yaml")?);

    let published = repository().join("project/test-identity.txt").display().to_string();
    for (file, told) in [
        ("identity.txt", "it is in the repository"),
        ("project/keys/identity.txt", "it is in the repository"),
        ("../project/identity.txt", "it is in the repository"),
        (published.as_str(), "has no identity that is not published"),
    ] {
        let third = Newcomer::of_template()?;
        let refused = third.init(&["--identity", file])?;
        assert_eq!(refused.status.code(), Some(2), "{file}: {}", said(&refused));
        assert!(said(&refused).contains(told), "{file}: {}", said(&refused));
        assert!(third.project().join("project/test-identity.txt").exists());
    }
    for (name, owner) in [("Shop", "me"), ("shop", "me/you"), ("", "me"), ("shop", "")] {
        let third = Newcomer::of_template()?;
        let refused = third.run(&["lab", "init", name, owner], &[])?;
        assert_eq!(refused.status.code(), Some(2), "{name} {owner}: {}", said(&refused));
    }
    Ok(())
}
