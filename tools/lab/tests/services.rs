//! `up`, `status` and `down` of a lab with a real forge and a real registry, on addresses of its own.
//! Run `lab build gitea` first; otherwise these tests build Gitea.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::Test;
use testing::git::Repository;
use testing::run::{documents, stderr};
use testing::wait::poll;

const NETWORK: &str = "127.71.0.0/16";

const PROJECT: &str = "---
apiVersion: holistic/v1alpha1
kind: Project
metadata: { name: holistic, labels: { kept: \"yes\" } }
spec:
  root: { env: ROOT }
  recipients: [{ name: founder, age: age1f3tv7g2z60ea2jxamfst4dvrgutq5jrc5jwws8u8qhunczdacv5q77lvmq }]
  endpoints:
    forge: { github: { url: \"https://api.github.com\", token: { env: GITHUB } } }
    registry: { url: \"https://ghcr.io/zabronax\", token: { env: GHCR } }
";

const RECIPIENT: &str = "age1f3tv7g2z60ea2jxamfst4dvrgutq5jrc5jwws8u8qhunczdacv5q77lvmq";

const REPOSITORY: &str = "---
apiVersion: holistic/v1alpha1
kind: Repository
metadata: { name: holistic }
spec: { project: holistic, owner: Zabronax, unknownToTheLab: [1, { deep: true }] }
status: { conditions: [] }
";

/// A lab in a temporary folder, which is removed together with the lab.
struct Lab {
    folder: TempDir,
    /// Lock of the addresses: in one network, only one lab at a time can use them.
    _addresses: File,
}

impl Lab {
    fn new() -> Test<Self> {
        // A file, because each test may run in a process of its own, and in a network of its own.
        let network = fs::metadata("/proc/self/ns/net")?.ino();
        let addresses =
            File::create(std::env::temp_dir().join(format!("lab-test-{network}.lock")))?;
        addresses.lock()?;
        let folder = tempfile::tempdir()?;
        // The forge's user must be able to enter the folder.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { folder, _addresses: addresses })
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("lab")
    }

    fn command(&self, line: &str) -> Command {
        let mut program = Command::new(cargo_bin!("lab"));
        program.env_clear();
        for kept in ["PATH", "HOME", "LAB_CACHE", "CARGO_HOME", "RUSTUP_HOME"] {
            program.envs(std::env::var_os(kept).map(|value| (kept, value)));
        }
        program.env("LAB_DIR", self.directory()).env("LAB_NETWORK", NETWORK);
        program.args(line.split(' '));
        program
    }

    fn run(&self, line: &str, input: impl Into<Vec<u8>>) -> Assert {
        self.command(line).write_stdin(input).assert()
    }

    fn status(&self) -> Test<Value> {
        Ok(serde_json::from_slice(&self.run("status", "").success().get_output().stdout)?)
    }

    /// Returns the process id of the component called `name`.
    fn pid(&self, name: &str) -> Test<u64> {
        let status = self.status()?;
        let components = status["components"].as_array().ok_or("a list")?;
        let component = components.iter().find(|component| component["name"] == name);
        component
            .and_then(|component| component["pid"].as_u64())
            .ok_or_else(|| format!("{name}: {status:#}").into())
    }

    fn writes(&self, remote: &str) -> Test<u64> {
        self.status()?["writes"][remote].as_u64().ok_or_else(|| "a number".into())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let ended = self.command("down").output();
        let well = ended.is_ok_and(|output| output.status.success());
        assert!(well || thread::panicking(), "the lab does not end");
    }
}

fn is_running(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn kill(signal: &str, pid: u64) {
    Command::new("kill").args([signal, &pid.to_string()]).assert().success();
}

fn until(what: &str, done: impl Fn() -> Test<bool>) -> Test {
    let found = poll(Duration::from_secs(30), || match done() {
        Ok(false) => None,
        ended => Some(ended.map(drop)),
    });
    found.unwrap_or_else(|| Err(format!("not within 30 s: {what}").into()))
}

/// Returns the modification time of each file in `folder`, except logs and the services' own data.
fn written(folder: &Path) -> Test<BTreeMap<PathBuf, SystemTime>> {
    let mut times = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if ["logs", "log", "data", "repositories", "cloud", ".ssh"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            times.extend(written(&path)?);
        } else {
            times.insert(path.clone(), path.metadata()?.modified()?);
        }
    }
    Ok(times)
}

#[test]
fn up_replaces_only_the_endpoints_and_every_program_can_read_them() -> Test {
    let lab = Lab::new()?;
    let other =
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: x }\ndata: { endpoints: a }\n";
    let run = lab.run("up", [PROJECT, REPOSITORY, other].concat()).success();

    let mut out = documents(&run)?;
    assert_eq!(out.len(), 3);
    let endpoints = out[0]["spec"]["endpoints"].take();
    let token = lab.directory().join("secrets/forge-Zabronax");
    assert_eq!(
        endpoints["forge"],
        json!({"gitea": {"url": "http://127.71.0.1:3000", "token": {"file": token}}})
    );
    assert_eq!(endpoints["registry"], json!({"url": "http://127.71.0.1:5000/zabronax"}));
    assert_eq!(endpoints["flux"], json!({"url": "http://127.71.0.1:5000/fluxcd"}));
    assert_eq!(
        out[0],
        json!({"apiVersion": "holistic/v1alpha1", "kind": "Project",
            "metadata": {"name": "holistic", "labels": {"kept": "yes"}},
            "spec": {"root": {"env": "ROOT"}, "recipients": [{"name": "founder", "age": RECIPIENT}], "endpoints": null}})
    );
    assert_eq!(
        out[1]["spec"],
        json!({"project": "holistic", "owner": "Zabronax", "unknownToTheLab": [1, {"deep": true}]})
    );
    assert_eq!(out[1]["status"], json!({"conditions": []}));
    assert_eq!(out[2]["data"], json!({"endpoints": "a"}));

    let file = lab.folder.path().join("out.json");
    fs::write(&file, &run.get_output().stdout)?;
    let mut stream = documents::Stream::read(&[file]);
    let projects = contract::Projects::read(&mut stream);
    stream.accept()?;
    assert!(projects.get("holistic")?.spec.endpoints.cloud.is_some());

    assert_eq!(fs::metadata(&token)?.permissions().mode() & 0o077, 0, "a secret");
    let secret = fs::read_to_string(&token)?;
    let said = stderr(&run) + &String::from_utf8_lossy(&run.get_output().stdout);
    assert!(!said.contains(secret.trim()));
    Ok(())
}

#[test]
fn up_merges_overrides_and_names_the_overridden_fields() -> Test {
    let lab = Lab::new()?;
    let folder = lab.folder.path().join("overrides");
    fs::create_dir(&folder)?;
    let text = PROJECT
        .split("  root:")
        .next()
        .ok_or("no spec")?
        .replace(", labels: { kept: \"yes\" }", "");
    fs::write(
        folder.join("project.yaml"),
        text + "  root: { env: null, file: root }\n  generations: { flux-seed: 2 }\n",
    )?;
    let up = format!("up --overrides {}", folder.display());
    let run = lab.run(&up, [PROJECT, REPOSITORY].concat()).success();
    let out = documents(&run)?;
    let spec = &out[0]["spec"];
    assert_eq!(spec["root"], json!({"file": "root"}));
    assert_eq!(spec["generations"], json!({"flux-seed": 2}));
    assert_eq!(out[0]["metadata"]["labels"], json!({"kept": "yes"}));
    assert_eq!(spec["endpoints"]["registry"]["url"], "http://127.71.0.1:5000/zabronax");
    assert_eq!(out.len(), 2, "{out:?}");
    let said = stderr(&run);
    let line = "project.yaml overrides spec.root.env, spec.root.file, spec.generations.flux-seed";
    assert!(said.contains("Project/holistic") && said.contains(line), "{said}");

    // The output holds the overrides, so a second `up` needs none.
    let again = lab.run("up", run.get_output().stdout.clone()).success();
    assert_eq!(again.get_output().stdout, run.get_output().stdout);
    Ok(())
}

#[test]
fn a_second_up_finds_the_running_lab_and_changes_nothing() -> Test {
    let lab = Lab::new()?;
    let input = [PROJECT, REPOSITORY].concat();
    let first = lab.run("up", input.clone()).success();
    let (status, files) = (lab.status()?, written(&lab.directory())?);

    let second = lab.run("up", first.get_output().stdout.clone()).success();
    assert_eq!(second.get_output().stdout, first.get_output().stdout);
    assert_eq!(stderr(&second), "", "no message");
    assert_eq!(lab.status()?, status);
    assert_eq!(written(&lab.directory())?, files);
    Ok(())
}

#[test]
fn status_counts_a_push_as_a_write_and_a_fetch_not() -> Test {
    let lab = Lab::new()?;
    lab.run("up", [PROJECT, REPOSITORY].concat()).success();
    let password = fs::read_to_string(lab.directory().join("secrets/forge-Zabronax-password"))?;
    let login = BASE64.encode(format!("Zabronax:{password}").as_bytes());
    let user = ureq::get("http://127.71.0.1:3000/api/v1/user");
    user.header("authorization", format!("Basic {login}")).call()?; // as a person in a browser does
    let token = fs::read_to_string(lab.directory().join("secrets/forge-Zabronax"))?;
    let mut agent = ureq::post("http://127.71.0.1:3000/api/v1/user/repos")
        .header("authorization", format!("token {token}"))
        .send_json(json!({"name": "holistic", "private": true}))?;
    let made: Value = agent.body_mut().read_json()?;
    assert_eq!(made["full_name"], "Zabronax/holistic");
    let before = lab.writes("forge")?;
    assert!(before >= 1);

    let repository = Repository::init(lab.folder.path().join("repository"))?;
    repository.commit("first")?;
    let origin = format!("http://Zabronax:{token}@127.71.0.1:3000/Zabronax/holistic.git");
    repository.git(&["push", "-q", &origin, "main"])?;
    assert_eq!(lab.writes("forge")?, before + 1);
    repository.git(&["fetch", "-q", &origin])?;
    repository.git(&["push", "-q", &origin, "main"])?;
    assert_eq!(lab.writes("forge")?, before + 1);

    ureq::post("http://127.71.0.1:5000/v2/x/blobs/uploads/").send_empty()?;
    ureq::get("http://127.71.0.1:5000/v2/").call()?;
    assert_eq!(lab.writes("registry")?, 1);
    Ok(())
}

#[test]
fn a_killed_service_or_lab_starts_again_with_its_data_and_without_orphans() -> Test {
    let lab = Lab::new()?;
    let input = [PROJECT, REPOSITORY].concat();
    let first = lab.run("up", input.clone()).success();
    let forge = lab.pid("forge")?;

    kill("-KILL", forge);
    until("the forge is started again", || Ok(lab.pid("forge").is_ok_and(|pid| pid != forge)))?;
    until("the forge answers", || {
        Ok(lab.status()?["components"]
            .as_array()
            .is_some_and(|components| components.iter().all(|service| service["healthy"] == true)))
    })?;

    let (forge, registry, daemon) = (lab.pid("forge")?, lab.pid("registry")?, lab.pid("cloud")?);
    kill("-KILL", daemon);
    until("the lab is gone", || Ok(lab.status()?["running"] == false))?;
    assert!(is_running(forge) && is_running(registry), "the services are orphans now");

    let again = lab.run("up", input).success();
    assert_eq!(
        again.get_output().stdout,
        first.get_output().stdout,
        "the same accounts and tokens"
    );
    assert!(!is_running(forge) && !is_running(registry), "the orphans were ended");
    let (forge, registry, daemon) = (lab.pid("forge")?, lab.pid("registry")?, lab.pid("cloud")?);
    lab.run("down", "").success();
    assert!([forge, registry, daemon].iter().all(|pid| !is_running(*pid)));
    Ok(())
}

#[test]
fn two_concurrent_ups_start_one_lab() -> Test {
    let lab = Lab::new()?;
    let (one, two) = thread::scope(|scope| {
        let one = scope.spawn(|| lab.command("up").write_stdin(PROJECT).output());
        let two = scope.spawn(|| lab.command("up").write_stdin(PROJECT).output());
        (one.join(), two.join())
    });
    let (one, two) = (one.map_err(|_| "panic")??, two.map_err(|_| "panic")??);
    assert!(one.status.success() && two.status.success(), "{one:?} {two:?}");
    assert_eq!(one.stdout, two.stdout);
    let log = fs::read_to_string(lab.directory().join("logs/lab.log"))?;
    assert_eq!(log.matches("registry     runs as process").count(), 1, "{log}");
    Ok(())
}

#[test]
fn up_fetches_the_crates_of_a_source_for_nix() -> Test {
    let lab = Lab::new()?;
    let cargo_home = lab.folder.path().join("cargo");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sources/greeter");
    let artifact = format!(
        "---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: {{ name: greeter }}
spec: {{ project: holistic, build: {{ flake: {} }} }}
",
        source.display()
    );
    let up = || {
        let mut up = lab.command("up");
        up.env("CARGO_HOME", &cargo_home).write_stdin([PROJECT, &artifact].concat()).assert()
    };
    let said = stderr(&up().success());
    assert!(said.contains("fetch"), "{said}");
    // An offline fetch succeeds only if the crates of every platform in the lock file are in the cache.
    let mut cargo = Command::new("cargo");
    cargo.args(["fetch", "--locked", "--offline", "--manifest-path"]);
    cargo.arg(source.join("Cargo.toml")).env("CARGO_HOME", &cargo_home).assert().success();
    let host = fs::read_to_string(lab.directory().join("nixpkgs/host.nix"))?;
    let crates = format!("crates = \"{}/registry/cache/", cargo_home.display());
    assert!(host.contains(&crates), "{host}");

    assert_eq!(stderr(&up().success()), "", "all crates are in the cache");
    Ok(())
}

/// Two commands that find no store would both create one, and one of them could fail.
#[test]
fn up_creates_the_store_of_nix_where_nix_never_ran() -> Test {
    let lab = Lab::new()?;
    let artifact = "---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: { name: elsewhere }
spec: { project: holistic, build: { flake: elsewhere } }
";
    let program = cargo_bin!("lab").display();
    let script = format!(
        "mkdir -p /nix && mount -t tmpfs none /nix
        {program} up >/dev/null
        test -e /nix/var/nix/db/schema # the last file that Nix creates"
    );
    let mut machine = Command::new("unshare");
    machine.env("LAB_DIR", lab.directory()).env("LAB_NETWORK", NETWORK);
    machine.args(["--mount", "sh", "-euc", &script]);
    machine.write_stdin([PROJECT, artifact].concat()).assert().success();
    Ok(())
}

#[test]
fn up_reports_an_address_in_use_and_writes_no_document() -> Test {
    let lab = Lab::new()?;
    let listener = TcpListener::bind("127.71.0.1:5000")?;
    let run = lab.run("up", PROJECT).code(100).stdout("");
    let said = stderr(&run);
    let us = format!("(process {})", std::process::id());
    assert!(said.contains("127.71.0.1:5000, which the registry needs, is in use by"), "{said}");
    assert!(said.contains(&us), "{said}");

    drop(listener);
    Ok(())
}

// hazard: A user starts an old lab with another `LAB_NETWORK`, and the lab ends with "correct the cause".
// class: The settings of a command do not fit the state on disk.
// members: a running lab, and one that is down, whose machines and certificates have addresses
// now: one check before anything starts; both addresses and two ways out are in the message
#[test]
fn up_with_other_addresses_than_those_of_the_lab_is_an_error() -> Test {
    let lab = Lab::new()?;
    lab.run("up", PROJECT).success();
    let on_another = || -> Test {
        let mut command = lab.command("up");
        let run = command.env("LAB_NETWORK", "127.72.0.0/16").write_stdin(PROJECT);
        let said = stderr(&run.assert().code(100).stdout(""));
        assert!(said.contains("has addresses of 127.71.0.0/16, not of 127.72.0.0/16"), "{said}");
        assert!(said.contains("set LAB_NETWORK=127.71.0.0/16, or delete that lab"), "{said}");
        Ok(())
    };
    on_another()?;
    lab.run("down", "").success();
    on_another()?;
    lab.run("up", PROJECT).success();
    Ok(())
}

#[test]
fn down_wipe_removes_only_a_folder_that_the_lab_created() -> Test {
    let lab = Lab::new()?;
    fs::create_dir(lab.directory())?;
    fs::write(lab.directory().join("diary"), "dear diary")?;
    let said = stderr(&lab.run("down --wipe --yes", "").code(100));
    assert!(said.contains("was not made by the lab"), "{said}");
    assert!(lab.directory().join("diary").exists());

    fs::remove_dir_all(lab.directory())?;
    lab.run("up", PROJECT).success();
    let daemon = lab.pid("cloud")?;
    // A script has no terminal on which it could be asked.
    let said = stderr(&lab.run("down --wipe", "").code(2));
    assert!(said.contains("is not confirmed") && said.contains("--yes"), "{said}");
    assert!(is_running(daemon), "nothing was changed");
    lab.run("down --wipe --yes", "").success();
    assert!(!lab.directory().exists());
    assert!(!is_running(daemon));
    Ok(())
}
