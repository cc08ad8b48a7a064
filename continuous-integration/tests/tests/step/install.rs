//! Installation of a program from a release, on a runner that has neither the program nor Nix.
//!
//! The server of the releases and `gh` are stand-ins: attestations need GitHub and Sigstore's service. The
//! stand-in for `gh` accepts only the archive that it knows.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};

use repository_tests::{link_commands, root, write_script};
use testing::http::{Response, listen_to_requests};

use crate::{Step, Test};

/// Every command that a runner needs; GitHub's runners have all of them.
const COMMANDS: [&str; 21] = [
    "base64", "bash", "cat", "curl", "dirname", "env", "grep", "gzip", "head", "jq", "mkdir",
    "mktemp", "mv", "rm", "sed", "sort", "stat", "tail", "tar", "tee", "tr",
];

const GH: &str = r#"#!/usr/bin/env bash
if [ "$1" = --version ]; then echo "gh version VERSION (2026-01-01)"; exit; fi
echo "$GH_TOKEN $*" >"$RUNNER_TEMP/gh"
[ "$1 $2" = "attestation verify" ] && cmp --silent "$3" "$RUNNER_TEMP/genuine" && exit
echo "Error: no attestations found" >&2
exit 1
"#;

struct Runner {
    step: Step,
    server: String,
    requested: Arc<Mutex<Vec<String>>>,
}

impl Runner {
    /// Returns a runner with this version of `gh`; empty for none. The server has `archive` in every release
    /// but v9.9.9.
    fn new(gh: &str, is_forged: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let step = Step::new("exit 1")?;
        fs::remove_file(step.path("flux-seed"))?;
        let bin = step.path("commands");
        fs::create_dir(&bin)?;
        link_commands(&bin, &COMMANDS)?;
        link_commands(&bin, &["cmp", "id"])?; // of the stand-in for `gh`, and of the program
        if !gh.is_empty() {
            write_script(&bin.join("gh"), &GH.replace("VERSION", gh))?;
        }
        let packed = step.path("packed");
        fs::create_dir_all(packed.join("bin"))?;
        let program = "#!/usr/bin/env bash\nenv >\"$RUNNER_TEMP/started\"\n";
        write_script(&packed.join("bin/flux-seed"), program)?;
        let archive = step.path("genuine");
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(&archive).arg("-C").arg(&packed).arg("bin");
        assert!(tar.status()?.success());
        let bytes = fs::read(&archive)?;
        if is_forged {
            fs::write(&archive, "another archive")?;
        }
        let requested = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requested);
        let address = listen_to_requests("127.0.0.1:0", move |request, stream| {
            seen.lock().expect("no panic").push(request.path.clone());
            let is_there = !request.path.contains("v9.9.9");
            let response = if is_there {
                Response::new(200, bytes.clone())
            } else {
                Response::new(404, "Not Found")
            };
            response.write(&request.method, stream).map(|()| true)
        })?;
        Ok(Self { step, server: format!("http://{address}"), requested })
    }

    /// Runs the step with these variables. Returns its exit status and its messages.
    fn run(
        &self,
        variables: &[(&str, &str)],
    ) -> Result<(Option<i32>, String), Box<dyn std::error::Error>> {
        let mut command = self.step.command("");
        command
            .env("PATH", self.step.path("commands"))
            .env("GITHUB_SERVER_URL", &self.server)
            .envs([("RUNNER_OS", "Linux"), ("RUNNER_ARCH", "X64"), ("RELEASE_TOKEN", "a-token")])
            .envs(variables.iter().copied());
        let ended = command.output()?;
        Ok((ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned()))
    }

    fn requested(&self) -> Vec<String> {
        std::mem::take(&mut *self.requested.lock().expect("no panic"))
    }

    fn has_started(&self) -> bool {
        self.step.path("started").exists()
    }
}

#[test]
fn an_action_of_another_repository_installs_the_release_that_its_ref_or_its_input_names() -> Test {
    let runner = Runner::new("2.76.0", false)?;
    for (reference, version, release, source) in [
        ("v1", "", "latest/download", ""),
        ("0123456789012345678901234567890123456789", "", "latest/download", ""),
        ("v1.2.3", "", "download/v1.2.3", "--source-ref refs/tags/v1.2.3 "),
        ("v1", "v1.2.4", "download/v1.2.4", "--source-ref refs/tags/v1.2.4 "),
        ("v1.2.3", "latest", "latest/download", ""),
        ("", "v1.2.3", "download/v1.2.3", "--source-ref refs/tags/v1.2.3 "),
    ] {
        let (status, said) =
            runner.run(&[("REPOSITORY", "me/tools"), ("REF", reference), ("VERSION", version)])?;
        assert_eq!(status, Some(0), "{said}");
        let archive = "flux-seed-x86_64-linux.tar.gz";
        assert_eq!(runner.requested(), [format!("/me/tools/releases/{release}/{archive}")]);
        let verified = fs::read_to_string(runner.step.path("gh"))?;
        let flags = format!(
            "--repo me/tools {source}--signer-workflow me/tools/.github/workflows/release.yaml\n"
        );
        assert!(verified.starts_with("a-token attestation verify "), "{verified}");
        assert!(verified.ends_with(&flags), "{verified}");
        let environment = fs::read_to_string(runner.step.path("started"))?;
        assert!(!environment.contains("a-token"), "only gh gets the token: {environment}");
        fs::remove_file(runner.step.path("started"))?;
        // The runner empties this folder before the next job.
        fs::remove_dir_all(runner.step.path("installed"))?;
    }
    Ok(())
}

#[test]
fn a_later_step_of_a_job_downloads_nothing_unless_it_names_another_version() -> Test {
    let runner = Runner::new("2.76.0", false)?;
    for (version, requests) in [("latest", 1), ("latest", 0), ("v1.2.3", 1), ("latest", 0)] {
        let own = [("REPOSITORY", "me/tools"), ("REF", "v1"), ("VERSION", version)];
        let (status, said) = runner.run(&own)?;
        assert_eq!(status, Some(0), "{said}");
        assert_eq!(runner.requested().len(), requests, "{version}");
        assert!(runner.has_started(), "{version}");
        fs::remove_file(runner.step.path("started"))?;
    }
    Ok(())
}

// hazard: A step runs a replaced file of a release, with the secrets of the job.
// class: A download is executed before its origin is proven.
// members: another file under the same name, a file without an attestation, a version of gh that accepts it
// now: the attestation must name the workflow of the release; otherwise exit 100, and the program is not started
#[test]
fn a_release_without_a_proof_of_its_origin_is_never_started() -> Test {
    let own = [("REPOSITORY", "me/tools"), ("REF", "v1")];
    let with = |name, value| [own[0], own[1], (name, value)];
    let cases = [
        ("2.76.0", true, with("VERSION", ""), "does not verify: Error: no attestations found", 1),
        ("2.66.1", false, with("VERSION", ""), "gh 2.66.1 cannot verify the release", 0),
        ("", false, with("VERSION", ""), "gh is missing, and it cannot verify the release", 0),
        (
            "2.76.0",
            false,
            with("VERSION", "v9.9.9"),
            "v9.9.9/flux-seed-x86_64-linux.tar.gz cannot be downloaded",
            1,
        ),
        ("2.76.0", false, with("RUNNER_OS", "macOS"), "this runner is macOS on X64", 0),
        ("2.76.0", false, with("VERSION", "main"), "the input `version` is `main`", 0),
        ("2.76.0", false, with("VERSION", "source"), "install Nix before this step", 0),
    ];
    for (gh, is_forged, variables, cause, requests) in cases {
        let runner = Runner::new(gh, is_forged)?;
        let (status, said) = runner.run(&variables)?;
        assert_eq!(status, Some(100), "{cause}: {said}");
        assert!(said.contains("::error title=flux-seed::"), "{said}");
        assert!(said.contains(cause), "{cause}: {said}");
        assert_eq!(runner.requested().len(), requests, "{cause}");
        assert!(!runner.has_started(), "{cause}");
    }
    Ok(())
}

#[test]
fn an_action_of_the_jobs_own_repository_is_built_and_never_downloaded() -> Test {
    let runner = Runner::new("2.76.0", false)?;
    let (status, said) = runner.run(&[])?;
    assert_eq!(status, Some(100));
    assert!(said.contains("flux-seed is not in PATH, and Nix, which would build it"), "{said}");
    assert_eq!(runner.requested(), [""; 0]);
    Ok(())
}

#[test]
fn every_action_passes_the_source_of_its_program_and_its_streams_on() -> Test {
    const DOWNLOAD: &str = "    - id: artifact
      if: ${{ startsWith(inputs.stream, '{') }}
      uses: actions/download-artifact@";
    const UPLOAD: &str = "    - if: ${{ !cancelled() && steps.run.outputs.artifact }}
      uses: actions/upload-artifact@";
    let (mut actions, mut readers) = (0, 0);
    for folder in fs::read_dir(root().join("continuous-integration/actions"))? {
        let Ok(action) = fs::read_to_string(folder?.path().join("action.yml")) else { continue };
        if action.contains("inputs.stream") {
            readers += 1;
            let path = "ARTIFACT: ${{ steps.artifact.outputs.download-path }}";
            assert!(action.contains(DOWNLOAD) && action.contains(path), "{action}");
        }
        if !action.contains("/../run.sh") {
            continue;
        }
        actions += 1;
        for line in [
            "VERSION: ${{ inputs.version }}",
            "REPOSITORY: ${{ github.action_repository }}",
            "REF: ${{ github.action_ref }}",
            "RELEASE_TOKEN: ${{ github.token }}",
        ] {
            assert!(action.contains(&format!("        {line}\n")), "{line} is not in {action}");
        }
        assert!(action.contains(UPLOAD), "{action}");
    }
    assert_eq!((actions, readers), (5, 7));
    Ok(())
}
