//! Runs the workflows of this repository, unchanged, against the lab.
//!
//! `act` runs the workflows. It differs from GitHub's runner in three ways: a checkout is a copy of
//! the current folder, and the installer of Nix and the cache are stand-ins, because this machine has
//! Nix and no network. A job gets this machine's PATH and Nix settings alone: it has no age identity
//! and another home directory.

mod foreign;
mod run;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use data_encoding::BASE64;
use serde_json::{Value, json};

use run::{Run, run};

use crate::project::{DOCUMENTS, Project, Test, document, documents, kubeconfig, unsealed};
use crate::stand_ins;

/// Owner and name of the repository at the lab's forge.
const REPOSITORY: &str = "zabronax/holistic";

/// Variables of this machine that a job does not get. `act` would run jobs inside the folder of the
/// last one, the cache, which is slow on a disk.
const REMOVED_VARIABLES: [&str; 6] =
    ["SOPS_AGE_KEY_FILE", "LAB_CACHE", "LAB_BIN", "LAB_DIR", "LAB_NETWORK", "XDG_CACHE_HOME"];

pub(crate) fn workflows_give_the_result_of_the_pipe(project: &Project, input: &str) -> Test {
    let plane = Plane::new(project, input)?;
    plane.workflows_are_well_formed()?;
    plane.a_night_without_drift_writes_nothing()?;
    plane.a_pull_request_gets_one_comment_with_its_plan()?;
    let output = plane.a_push_to_main_gives_the_result_of_the_pipe()?;
    plane.a_job_cannot_use_the_key_of_another_phase(&output)?;
    plane.drift_fails_the_job_of_its_program_and_apply_corrects_it(&output)?;
    plane.a_tag_becomes_a_release_that_verifies()?;
    plane.every_program_is_an_action(&output)?;
    foreign::an_action_works_in_a_repository_without_nix_and_rust(&plane)
}

/// A clone of the project as in CI, and the access to its forge and cloud.
struct Plane<'a> {
    project: &'a Project,
    clone: PathBuf,
    /// URL of the forge's API.
    api: String,
    /// Token of the forge, in place of the token that GitHub creates for each run.
    token: String,
    cloud: (String, String),
    /// Name and value of each of the repository's secrets.
    secrets: Vec<(&'static str, String)>,
}

impl<'a> Plane<'a> {
    fn new(project: &'a Project, input: &str) -> Test<Self> {
        let clone = project.root().join("clone");
        project.sh("git clone --quiet . clone && cd clone && git config user.name tester && git config user.email tester@example.org")?;
        let mut declared = document(input, "Project", "holistic")?;
        let endpoints = &mut declared["spec"]["endpoints"];
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("not a text");
        let token = |value: &Value| Test::Ok(fs::read_to_string(text(&value["token"]["file"])?)?);
        let (forge, hetzner) = (&endpoints["forge"]["gitea"], &endpoints["cloud"]["hetzner"]);
        let (api, forge_token) = (text(&forge["url"])? + "/api/v1", token(forge)?);
        let cloud = (text(&hetzner["url"])?, token(hetzner)?);
        // The lab's endpoints. The token of the cloud comes from a job's environment, as in production.
        let read_token = fs::read_to_string(text(&hetzner["reader"]["file"])?)?;
        let places = [json!({"env": "HCLOUD_READ_TOKEN"}), json!({"env": "HCLOUD_TOKEN"})];
        endpoints["cloud"]["hetzner"]["reader"] = json!({"firstOf": places});
        endpoints["cloud"]["hetzner"]["token"] = json!({"env": "HCLOUD_TOKEN"});
        fs::write(clone.join("project/project.yaml"), format!("---\n{declared}\n"))?;
        let delivery = document(input, "Delivery", "prod")?; // with the override of the lab
        fs::write(clone.join("deployments/delivery.yaml"), format!("---\n{delivery}\n"))?;
        // The Cluster stays YAML, because a change below edits its lines.
        let factory = document(input, "Cluster", "prod")?["spec"]["image"]["factory"].take();
        project.sh(&format!(
            "cd clone && sed -i 's|image: {{}}|image: {{factory: {factory}}}|; s|externalCloudProvider: true|externalCloudProvider: false|' machines/prod/cluster.yaml
            git commit --quiet --all --message 'The endpoints and overrides of the lab'"
        ))?;
        fs::create_dir(project.root().join("other-home"))?;
        let phase_key = |phase| {
            let derive = format!(
                "sops --decrypt --extract '[\"root\"]' project/secrets.yaml | python3 -c '{HKDF}' holistic/{phase}/1"
            );
            project.sh(&derive)
        };
        let secrets = vec![
            ("ARTIFACT_ATTEST_KEY", phase_key("artifact-attest")?),
            ("TALOS_PROVISION_KEY", phase_key("talos-provision")?),
            ("FLUX_SEED_KEY", phase_key("flux-seed")?),
            ("HCLOUD_TOKEN", cloud.1.clone()),
            ("READER_KEY", phase_key("reader")?),
            ("HCLOUD_READ_TOKEN", read_token),
            ("GITHUB_TOKEN", forge_token.clone()),
        ];
        Ok(Self { project, clone, api, token: forge_token, cloud, secrets })
    }

    /// Runs a script in the clone as a user who has every secret.
    fn sh(&self, script: &str) -> Test<String> {
        // The first line is shown in the log, so the token comes after it.
        let token = format!("HCLOUD_TOKEN={}", self.cloud.1.trim());
        let (first, rest) = script.split_once('\n').unwrap_or((script, ""));
        self.project.sh(&format!("cd clone # {first}\nexport {token}\n{first}\n{rest}"))
    }

    /// Sends a request to the forge's API and returns the answer.
    fn forge(&self, method: &str, path: &str, body: &Value) -> Test<Value> {
        let answer = self.project.sh(&format!(
            "# {method} {path}
            curl --silent --show-error --fail-with-body --request {method} --header 'Authorization: token {}' \
             --header 'Content-Type: application/json' --data '{body}' {}/repos/{REPOSITORY}/{path}",
            self.token.trim(),
            self.api
        ))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Runs a workflow of this repository with `act`.
    fn act(&self, workflow: &str, event: &str, payload: &Value) -> Test<Run> {
        self.act_file(&format!(".github/workflows/{workflow}.yaml"), event, payload, &self.secrets)
    }

    fn act_file(
        &self,
        workflow: &str,
        event: &str,
        payload: &Value,
        secrets: &[(&str, String)],
    ) -> Test<Run> {
        run(&mut self.act_command(workflow, event, payload, secrets)?)
    }

    fn act_command(
        &self,
        workflow: &str,
        event: &str,
        payload: &Value,
        secrets: &[(&str, String)],
    ) -> Test<Command> {
        let root = self.project.root();
        let lines = secrets.iter().map(|(name, value)| format!("{name}={}\n", value.trim()));
        fs::write(root.join("secrets.env"), lines.collect::<String>())?;
        fs::write(root.join("event.json"), payload.to_string())?;
        let file = |name: &str| root.join(name).display().to_string();
        let stand_ins = stand_ins::write(root, &self.clone)?;
        let arguments = [
            event,
            "--json",
            "--workflows",
            workflow,
            "--eventpath",
            &file("event.json"),
            "--secret-file",
            &file("secrets.env"),
            "--platform",
            "ubuntu-latest=-self-hosted",
            "--platform",
            "ubuntu-24.04-arm=-self-hosted",
            "--container-daemon-socket",
            "-",
            "--env",
            &format!("GITHUB_API_URL={}", self.api),
            "--env",
            &format!("GITHUB_REPOSITORY={REPOSITORY}"),
        ];
        let mut act = self.project.command("act", &arguments);
        act.args(stand_ins);
        act.current_dir(&self.clone).env("HOME", root.join("other-home"));
        for variable in REMOVED_VARIABLES {
            act.env_remove(variable);
        }
        Ok(act)
    }

    fn workflows_are_well_formed(&self) -> Test {
        assert_eq!(self.sh("actionlint -no-color -shellcheck= -pyflakes=")?, "", "actionlint");
        let files =
            self.sh("git ls-files .github continuous-integration/actions | grep -E 'ya?ml$'")?;
        for file in files.lines() {
            for line in fs::read_to_string(self.clone.join(file))?.lines() {
                let line = line.trim().trim_start_matches("- ");
                let Some((key, value)) = line.split_once(": ") else { continue };
                let pin = value.split_once('@').unwrap_or_default().1;
                let (commit, version) = pin.split_once(" # v").unwrap_or_default();
                let pinned =
                    commit.len() == 40 && commit.chars().all(|digit| digit.is_ascii_hexdigit());
                match key {
                    "uses" => assert!(
                        value.starts_with("./") || (pinned && !version.is_empty()),
                        "{file}: {line}"
                    ),
                    "run" => assert!(!value.contains("${{") && value != "|", "{file}: {line}"),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn a_night_without_drift_writes_nothing(&self) -> Test {
        let before = self.project.writes()?;
        let night = self.act("drift", "schedule", &json!({}))?;
        for job in ["attest", "provision", "deliver"] {
            night.ended(job, "success")?;
        }
        assert_eq!(self.project.writes()?, before);
        Ok(())
    }

    fn a_pull_request_gets_one_comment_with_its_plan(&self) -> Test {
        self.sh("git switch --quiet --create change
            printf '# A change that makes another artifact.\n' >>deployments/manifests/lab/kustomization.yaml
            git commit --quiet --all --message 'Change what is deployed'")?;
        let origin = self
            .api
            .replace("/api/v1", "")
            .replace("//", &format!("//zabronax:{}@", self.token.trim()));
        self.sh(&format!("# push\ngit push --quiet {origin}/{REPOSITORY}.git change"))?;
        let change = json!({"title": "A change", "head": "change", "base": "main"});
        let number = self.forge("POST", "pulls", &change)?["number"].clone();
        let before = self.project.writes()?;
        let event = |from: &str| {
            let head = json!({"sha": "c0ffee", "repo": {"full_name": from}});
            json!({"pull_request": {"number": number, "head": head}})
        };
        let comments = format!("issues/{number}/comments");

        let foreign = self.act("plan", "pull_request", &event("stranger/holistic"))?;
        assert!(foreign.results().is_empty(), "no job runs for a fork: {:?}", foreign.results());

        let mut ids = Vec::new();
        // A reader can read the cloud and every object except Secrets. The state of machines is reported
        // as Unknown.
        let unknown = "| Cluster/prod | Unknown | ReaderAccess |";
        let more = "sed -i '/name: work/s/count: 1/count: 2/' machines/prod/*.yaml";
        for (change, cluster) in [("true", unknown), (more, "createServer prod-work-2")] {
            self.sh(change)?;
            let run = self.act("plan", "pull_request", &event(REPOSITORY))?;
            for job in ["attest", "provision", "deliver", "comment"] {
                run.ended(job, "success")?;
            }
            let there = self.forge("GET", &comments, &json!({}))?;
            let there = there.as_array().ok_or("no list")?;
            assert_eq!(there.len(), 1, "one comment: {there:?}");
            ids.push(there[0]["id"].clone());
            let body = there[0]["body"].as_str().ok_or("no body")?;
            for part in [
                "c0ffee",
                "Artifact/deployments",
                "publish",
                cluster,
                "Delivery/prod: steps to take",
                "OCIRepository",
                "Not planned here: `Repository/holistic`",
            ] {
                assert!(body.contains(part), "{part} is not in {body}");
            }
        }
        self.sh("git checkout --quiet machines")?;
        assert_eq!(ids[0], ids[1], "the second run edits the same comment");
        let after = self.project.writes()?;
        for remote in ["registry", "cloud", "cluster"] {
            assert_eq!(after[remote], before[remote], "a plan writes nothing to the {remote}");
        }
        self.forge("PATCH", &format!("pulls/{number}"), &json!({"state": "closed"}))?;
        Ok(())
    }

    fn a_push_to_main_gives_the_result_of_the_pipe(&self) -> Test<String> {
        self.sh("git switch --quiet main && git merge --quiet --ff-only change")?;
        let run = self.act("apply", "push", &json!({"ref": "refs/heads/main"}))?;
        for job in ["attest", "provision", "deliver"] {
            run.ended(job, "success")?;
            assert_eq!(run.output(job, "ready"), Some("true"), "{job}");
        }
        let before = self.project.writes()?;
        let by_pipe = self.sh(&format!(
            "artifact-attest apply {DOCUMENTS} | talos-provision apply | flux-seed apply"
        ))?;
        assert_eq!(self.project.writes()?, before, "the pipe has nothing to do after the jobs");
        let by_jobs = self.stream(&run, "deliver")?;
        assert_eq!(unsealed(&by_jobs)?, unsealed(&by_pipe)?, "the same documents");
        Ok(by_pipe)
    }

    /// Returns the documents in the output `stream` of `job`.
    fn stream(&self, run: &Run, job: &str) -> Test<String> {
        let stream = run.output(job, "stream").ok_or("no stream")?;
        fs::write(self.project.root().join("stream.gz"), BASE64.decode(stream.as_bytes())?)?;
        self.project.sh("gzip --decompress --stdout stream.gz")
    }

    /// Uses the secrets of the job that delivers with the other programs, which must fail.
    fn a_job_cannot_use_the_key_of_another_phase(&self, output: &str) -> Test {
        fs::write(self.project.root().join("output.json"), output)?;
        let with = |name: &str| {
            let key = self.secrets.iter().find(|(secret, _)| *secret == name);
            key.map_or(String::new(), |(name, value)| format!("{name}={}", value.trim()))
        };
        let key = with("FLUX_SEED_KEY");
        // `artifact-attest plan` needs no key, so `apply` is tested.
        for (program, verb) in [("artifact-attest", "apply"), ("talos-provision", "plan")] {
            let other = format!(
                "# {program}, with the key of flux-seed\nenv -u SOPS_AGE_KEY_FILE HOME=$PWD/other-home HCLOUD_TOKEN={} {key} {program} {verb} <output.json",
                self.cloud.1.trim()
            );
            let ended = self.project.ended(&other)?;
            let said = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(100), "{program}: {said}");
            assert!(said.contains("project/secrets.yaml is encrypted for"), "{program}: {said}");
        }
        // The key under the variable of another phase is not a verification key of the Project.
        let renamed = key.replace("FLUX_SEED_KEY", "ARTIFACT_ATTEST_KEY");
        let foreign = format!("# renamed\n{renamed} artifact-attest apply <output.json");
        let ended = self.project.ended(&foreign)?;
        let said = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(ended.status.code(), Some(100), "{said}");
        assert!(said.contains("ForeignKey"), "{said}");
        Ok(())
    }

    fn drift_fails_the_job_of_its_program_and_apply_corrects_it(&self, output: &str) -> Test {
        let night = || self.act("drift", "schedule", &json!({}));
        // Drift of the cloud: the firewall has no rules.
        let cloud = format!(
            "# a firewall without rules\nask() {{ curl --silent --show-error --fail-with-body --header 'Authorization: Bearer {}' --header 'Content-Type: application/json' \"$@\"; }}
            firewall=$(ask {url}/firewalls | jq '.firewalls[0].id')
            ask --data '{{\"rules\": []}}' {url}/firewalls/$firewall/actions/set_rules",
            self.cloud.1.trim(),
            url = self.cloud.0,
        );
        self.project.sh(&cloud)?;
        let run = night()?;
        run.ended("attest", "success")?;
        run.ended("provision", "failure")?;
        let summary = run.summary("provision");
        assert!(summary.contains("exit status 3"), "{summary}");
        assert!(summary.contains("| Cluster/prod | False |"), "{summary}");
        assert!(
            !run.results().contains_key("deliver"),
            "the job does not run, because it depends on `provision`"
        );

        // Drift of the cluster: a controller is stopped. The push before it has corrected the firewall.
        let apply = || self.act("apply", "push", &json!({"ref": "refs/heads/main"}));
        apply()?.ended("deliver", "success")?;
        let scale = kubeconfig(self.project, output)?
            + "kubectl --namespace flux-system scale deployment/flux --replicas=0";
        self.project.sh(&scale)?;
        let run = night()?;
        run.ended("provision", "success")?;
        run.ended("deliver", "failure")?;
        let summary = run.summary("deliver");
        assert!(summary.contains("exit status 3"), "{summary}");
        assert!(summary.contains("| Delivery/prod | False |"), "{summary}");
        assert!(
            summary.contains("Deployment flux-system flux spec.replicas"),
            "it names the changed object: {summary}"
        );
        apply()?.ended("deliver", "success")
    }

    /// Releases a source and a text in place of the programs, because the tests of the flake build the
    /// programs and their archives.
    fn a_tag_becomes_a_release_that_verifies(&self) -> Test {
        self.sh("cp sources/volume-reader/artifact.yaml tools/artifacts.yaml
            sed -i 's|- run: nix .*|- run: mkdir -p archives; echo archive >archives/flux-seed-x86_64-linux.tar.gz|' .github/workflows/release.yaml
            git add tools/artifacts.yaml .github && git commit --quiet --message 'A source in place of the programs'")?;
        for _ in 0..2 {
            let run = self.act("release", "push", &json!({"ref": "refs/tags/v0.0.1"}))?;
            for job in ["attest", "archives", "release"] {
                run.ended(job, "success")?;
            }
        }
        let release = self.forge("GET", "releases/tags/v0.0.1", &json!({}))?;
        assert_eq!(release["draft"], false, "{release}");
        let assets = release["assets"].as_array().ok_or("no files")?;
        let names: Vec<_> = assets.iter().map(|asset| &asset["name"]).collect();
        assert_eq!(names, ["flux-seed-x86_64-linux.tar.gz"]);
        let notes = release["body"].as_str().ok_or("no notes")?;
        let digest =
            document_digest(&self.sh("artifact-attest plan project tools/artifacts.yaml")?)?;
        assert!(notes.contains(&digest), "{notes}");
        let commands = notes.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
        // The commands in the notes must work without any other knowledge.
        self.project.sh(commands.ok_or("no commands")?)?;
        self.sh("git reset --quiet --hard HEAD~1")?;
        Ok(())
    }

    /// Runs all five actions in one job and compares the facts in their outputs.
    fn every_program_is_an_action(&self, output: &str) -> Test {
        let steps = [
            (
                "vcs-bootstrap",
                "documents: |\n            project\n            sources\n            machines/prod\n            deployments",
            ),
            ("artifact-attest", "documents: ${{ steps.vcs-bootstrap.outputs.documents }}"),
            ("talos-provision", "stream: ${{ steps.artifact-attest.outputs.stream }}"),
            ("flux-seed", "documents: ${{ steps.talos-provision.outputs.documents }}"),
            ("data-drain", "documents: ${{ steps.flux-seed.outputs.documents }}"),
        ];
        let steps = steps.map(|(program, with)| {
            format!("      - id: {program}\n        uses: ./continuous-integration/actions/{program}\n        with:\n          {with}\n")
        });
        // The picture of the evidence is in the summary of a step that verifies.
        let verify = "      - uses: ./continuous-integration/actions/flux-seed\n        with:\n          verb: verify\n          documents: ${{ steps.flux-seed.outputs.documents }}\n";
        let workflow = format!(
            "on: push\njobs:\n  all:\n    runs-on: ubuntu-latest\n    env:\n      HCLOUD_TOKEN: ${{{{ secrets.HCLOUD_TOKEN }}}}\n      SOPS_AGE_KEY: ${{{{ secrets.SOPS_AGE_KEY }}}}\n    steps:\n      - uses: actions/checkout@v6\n{}{verify}",
            steps.concat()
        );
        let file = self.project.root().join("all.yaml");
        fs::write(&file, workflow)?;
        let identity = self.project.sh("grep AGE-SECRET-KEY project/test-identity.txt")?;
        let secrets = [("HCLOUD_TOKEN", self.cloud.1.clone()), ("SOPS_AGE_KEY", identity)];
        let run = self.act_file(&file.display().to_string(), "push", &json!({}), &secrets)?;
        run.ended("all", "success")?;
        let said = |name| run.output("all", name).unwrap_or_default();
        let fact = |kind: &str, name: &str, path: &str| {
            let found = document(output, kind, name)?.pointer(path).cloned();
            Test::Ok(found.and_then(|fact| fact.as_str().map(str::to_owned)).unwrap_or_default())
        };
        assert!(said("url").ends_with(REPOSITORY), "{}", said("url"));
        let references = said("references").lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(references.len(), 3);
        assert!(references.contains(&fact("Artifact", "greeter", "/status/observed/reference")?));
        assert_eq!(said("endpoint"), fact("Cluster", "prod", "/status/observed/endpoint")?);
        assert_eq!(said("digest"), fact("Delivery", "prod", "/status/observed/revision")?);
        assert_eq!(said("receipt"), "", "nothing is drained");
        let summary = run.summary("all");
        let picture =
            summary.split("```mermaid\n").nth(1).and_then(|rest| rest.split("\n```").next());
        let picture = picture.ok_or_else(|| format!("no picture: {summary}"))?;
        let artifact = document(output, "Artifact", "greeter")?;
        let mut evidence = artifact["status"]["evidence"].as_array().into_iter().flatten();
        let commit = evidence.find_map(|evidence| evidence["gitCommit"].as_str());
        let commit = format!("Commit<br/>{}", &commit.ok_or("no commit")?[..12]);
        for part in [
            "Deployment<br/>",
            "<br/>verified by Flux",
            &commit,
            "Branch or tag<br/>zabronax/holistic",
        ] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(!picture.contains(":::broken") && !picture.contains(":::pending"), "{picture}");
        Ok(())
    }
}

/// Returns the digest of the only artifact.
fn document_digest(text: &str) -> Test<String> {
    let artifact = documents(text)?.into_iter().find(|document| document["kind"] == "Artifact");
    let artifact = artifact.ok_or("no artifact")?;
    let digest = artifact["status"]["observed"]["digest"].as_str();
    Ok(digest.ok_or("no digest")?.to_owned())
}

/// Independent implementation of derivation.md in Python: derives a phase key from the root on
/// standard input and `<project>/<phase>/<generation>` as an argument.
const HKDF: &str = "
import base64, hashlib, hmac, sys
step = lambda key, data: hmac.new(key, data, hashlib.sha256).digest()
root = base64.b64decode(sys.stdin.read())
print(base64.b64encode(step(step(b\"holistic/v1\", root), sys.argv[1].encode() + b\"\\x01\")).decode())
";
