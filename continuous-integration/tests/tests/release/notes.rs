//! The step that creates a release, with a forge of the test, and the commands in the notes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError};

use repository_tests::{root, write_script};
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::http::{Request, Response, Server};

use crate::sigstore::{Authority, GITHUB};
use crate::{Test, output};

const REPOSITORY: &str = "zabronax/holistic";
const TAG: &str = "v1.2.3";
const ARCHIVE: &str = "flux-seed-x86_64-linux.tar.gz";

/// The releases of a forge: a list of none or one, and the files of that one.
#[derive(Default)]
struct Releases {
    release: Option<Value>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Releases {
    fn answer(&mut self, request: &Request) -> Option<Response> {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let releases = format!("/repos/{REPOSITORY}/releases");
        let answer = match (request.method.as_str(), request.path.as_str()) {
            ("GET", path) if path == releases => json!(self.release.iter().collect::<Vec<_>>()),
            ("POST", path) if path == releases => {
                let mut release = body;
                let host = request.header("host");
                release["id"] = json!(7);
                release["upload_url"] = json!(format!("http://{host}/upload{{?name,label}}"));
                release["html_url"] = json!("https://forge/7");
                release["assets"] = json!([]);
                self.release.insert(release).clone()
            }
            ("POST", "/upload") => {
                let name = request.query.strip_prefix("name=")?.to_owned();
                let asset = json!({"name": name, "size": request.body.len()});
                self.release.as_mut()?["assets"].as_array_mut()?.push(asset.clone());
                self.files.insert(name, request.body.clone());
                asset
            }
            ("PATCH", path) if path == format!("{releases}/7") => {
                let release = self.release.as_mut()?;
                for (field, value) in body.as_object()? {
                    release[field] = value.clone();
                }
                release.clone()
            }
            _ => return Some(Response::new(404, "Not Found")),
        };
        Some(Response::new(200, answer.to_string()))
    }
}

/// A job with the files of a release.
struct Job {
    folder: TempDir,
    releases: Arc<Mutex<Releases>>,
    forge: Server,
}

impl Job {
    fn new() -> Test<Self> {
        let releases = Arc::new(Mutex::new(Releases::default()));
        let shared = Arc::clone(&releases);
        let answer = move |request: &Request| lock(&shared).answer(request);
        let forge = Server::start("127.0.0.1:0", answer)?;
        let job = Self { folder: tempfile::tempdir()?, releases, forge };
        fs::create_dir(job.path("files"))?;
        for (name, text) in [
            (ARCHIVE, "an archive"),
            ("flux-seed-x86_64-linux.cdx.json", "{}"),
            ("flux-seed-x86_64-linux.tar.gz.sigstore.json", "a bundle"),
            ("SHA256SUMS-x86_64-linux", "checksums"),
        ] {
            fs::write(job.file(name), text)?;
        }
        Ok(job)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path("files").join(name)
    }

    /// Runs the step.
    fn release(&self) -> Test<Output> {
        let observed =
            json!({"reference": "r@sha256:00", "publicKey": "a key\n", "verifyWith": ["true"]});
        let status = json!({
            "conditions": [{"type": "Ready", "status": "True"}],
            "evidence": [{"gitCommit": "c0ffee"}],
            "observed": observed,
        });
        let document = json!({"kind": "Artifact", "metadata": {"name": "app"}, "status": status});
        let stream = format!("printf '%s' '{document}' | gzip | base64 --wrap=0");
        let stream = output(Command::new("bash").args(["-c", &stream]))?;
        let step = root().join("continuous-integration/actions/release/release.sh");
        let mut step = Command::new(step);
        step.env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GITHUB_API_URL", format!("http://{}", self.forge.address))
            .env("GITHUB_STEP_SUMMARY", self.path("summary"))
            .envs([("GITHUB_SERVER_URL", "https://github.com"), ("GITHUB_REPOSITORY", REPOSITORY)])
            .envs([("TOKEN", "a-token"), ("TAG", TAG), ("STREAM", stream.as_str())])
            .env("FILES", self.path("files"));
        Ok(step.output()?)
    }

    /// Returns the notes of the release.
    fn notes(&self) -> Test<String> {
        let ended = self.release()?;
        assert!(ended.status.success(), "{ended:?}");
        let releases = lock(&self.releases);
        let release = releases.release.as_ref().ok_or("no release")?;
        assert_eq!(release["draft"], false);
        Ok(release["body"].as_str().ok_or("no notes")?.to_owned())
    }
}

fn lock(releases: &Mutex<Releases>) -> std::sync::MutexGuard<'_, Releases> {
    releases.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn notes_list_each_archive_and_each_bill_with_its_digest() -> Test {
    let job = Job::new()?;
    let notes = job.notes()?;
    for name in [ARCHIVE, "flux-seed-x86_64-linux.cdx.json"] {
        let digest = output(Command::new("sha256sum").arg(job.file(name)))?;
        let digest = digest.get(..64).ok_or("no digest")?;
        assert!(notes.contains(&format!("| {name} | `{digest}` |")), "{notes}");
    }
    let uploaded: Vec<_> = lock(&job.releases).files.keys().cloned().collect();
    let mut files = Vec::new();
    for file in fs::read_dir(job.path("files"))? {
        files.push(file?.file_name().to_string_lossy().into_owned());
    }
    files.sort();
    assert_eq!(uploaded, files);
    Ok(())
}

#[test]
fn a_second_run_keeps_the_first_signature_and_rejects_another_archive() -> Test {
    let job = Job::new()?;
    job.notes()?;
    let signature = format!("{ARCHIVE}.sigstore.json");
    fs::write(job.file(&signature), "another bundle of the same archive")?;
    job.notes()?;
    assert_eq!(lock(&job.releases).files[&signature], b"a bundle");
    fs::write(job.file(ARCHIVE), "another archive")?;
    let ended = job.release()?;
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        said.contains(&format!("::error::{ARCHIVE} of release {TAG} has another size")),
        "{said}"
    );
    Ok(())
}

/// Runs the commands of the notes in the folder of the files, with a stand-in for `gh`, and with a cosign that trusts
/// the authority of the test in place of Sigstore's.
fn verify(job: &Job, commands: &str) -> Test<Output> {
    let bin = job.path("bin");
    fs::create_dir_all(&bin)?;
    let lab = std::env::var_os("LAB_BIN").map_or_else(|| root().join(".cache/bin"), PathBuf::from);
    let flags = "--insecure-ignore-tlog --insecure-ignore-sct --trusted-root";
    let cosign = lab.join("cosign");
    let (cosign, trusted) = (cosign.display(), job.path("trusted.json"));
    let script = format!("#!/bin/sh\nexec {cosign} \"$@\" {flags} {}\n", trusted.display());
    write_script(&bin.join("cosign"), &script)?;
    write_script(&bin.join("gh"), "#!/bin/sh\necho \"$@\" >>../gh\n")?;
    let path = std::env::var("PATH")?;
    let mut shell = Command::new("sh");
    shell.args(["-c", commands]).current_dir(job.path("files"));
    shell.env_clear().env("HOME", job.folder.path());
    Ok(shell.env("PATH", format!("{}:{path}", bin.display())).output()?)
}

#[test]
fn commands_of_the_notes_accept_an_archive_of_this_workflow_and_tag_alone() -> Test {
    let job = Job::new()?;
    let notes = job.notes()?;
    let commands = notes.split("```sh\n").nth(2).and_then(|rest| rest.split("```").next());
    let commands = commands.ok_or("no commands")?;
    let authority = Authority::new()?;
    authority.write(&job.path("trusted.json"))?;
    let bundle = job.file(&format!("{ARCHIVE}.sigstore.json"));
    let sign =
        |file: &Path, identity: &str, issuer: &str| authority.sign(file, identity, issuer, &bundle);
    let archive = job.file(ARCHIVE);
    let workflow = |name: &str| format!("https://github.com/{REPOSITORY}/.github/workflows/{name}");
    let own = workflow("release.yaml@refs/tags/v1.2.3");

    sign(&archive, &own, GITHUB)?;
    let ended = verify(&job, commands)?;
    assert!(ended.status.success(), "{ended:?}");
    let flags = format!(
        "--repo {REPOSITORY} --source-ref refs/tags/{TAG} --signer-workflow {REPOSITORY}/.github/workflows/release.yaml"
    );
    assert_eq!(
        fs::read_to_string(job.path("gh"))?,
        format!("attestation verify {ARCHIVE} {flags}\n")
    );

    for (identity, issuer) in [
        (workflow("release.yaml@refs/tags/v1.2.4"), GITHUB),
        (workflow("release.yaml@refs/heads/main"), GITHUB),
        (workflow("test.yaml@refs/tags/v1.2.3"), GITHUB),
        (own.replace("zabronax", "stranger"), GITHUB),
        (own.clone(), "https://accounts.example"),
    ] {
        sign(&archive, &identity, issuer)?;
        let ended = verify(&job, commands)?;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{identity} of {issuer}");
        assert!(said.contains("no matching CertificateIdentity found"), "{said}");
    }
    let other = job.path("other");
    fs::write(&other, "another archive")?;
    sign(&other, &own, GITHUB)?;
    assert!(!verify(&job, commands)?.status.success(), "a bundle of another archive");
    Authority::new()?.sign(&archive, &own, GITHUB, &bundle)?;
    assert!(!verify(&job, commands)?.status.success(), "an authority that is not trusted");
    Ok(())
}
