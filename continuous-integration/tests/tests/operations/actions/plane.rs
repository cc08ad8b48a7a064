//! A clone of a project as in CI, and `act`, which runs a workflow in the clone.
//!
//! `act` differs from GitHub's runner in three ways: a checkout is a copy of the current folder, foreign
//! actions are stand-ins, because this machine has no network, and environments have no effect. `act` 0.2.89
//! rejects their key `deployment` (<https://github.com/nektos/act/pull/6134>), so the clone lacks this line. A
//! job gets this machine's PATH and Nix settings alone: it has no age identity and another home directory.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::run::{Run, run};
use crate::project::{Project, Test, document, documents};
use crate::stand_ins;

/// Variables of this machine that a job does not get. `act` would run jobs inside the folder of the
/// last one, the cache, which is slow on a disk.
const REMOVED_VARIABLES: [&str; 7] = [
    "SOPS_AGE_KEY_FILE",
    "LAB_CACHE",
    "LAB_BIN",
    "LAB_COMPONENTS",
    "LAB_DIR",
    "LAB_NETWORK",
    "XDG_CACHE_HOME",
];

/// Path of the Delivery of this repository, of which the lab overrides fields.
const DELIVERY: &str = "deployments/delivery.yaml";

/// A clone of the project as in CI, and the access to its forge and cloud.
pub(super) struct Plane<'a> {
    pub(super) project: &'a Project,
    pub(super) clone: PathBuf,
    /// Owner and name of the repository at the lab's forge.
    pub(super) repository: String,
    /// URL of the forge's API.
    pub(super) api: String,
    /// Token of the forge, in place of the token that GitHub creates for each run.
    pub(super) token: String,
    pub(super) cloud: (String, String),
    /// Name and value of each of the repository's secrets.
    pub(super) secrets: Vec<(&'static str, String)>,
}

impl<'a> Plane<'a> {
    /// Commands that make the Project of a clone larger than the output of a job may be. Random bytes do not
    /// compress.
    pub(super) const LARGE_PROJECT: &'static str = r#"head -c 200000 /dev/urandom | base64 --wrap=0 >.git/large
        { echo ---; tail -n +2 project/project.yaml | jq -c --rawfile large .git/large '.metadata.annotations["example.org/large"] = $large'; } >.git/project
        mv .git/project project/project.yaml"#;

    /// Clones the project, with the lab's endpoints in the documents. `input` holds the documents of the lab.
    pub(super) fn new(project: &'a Project, input: &str) -> Test<Self> {
        let clone = project.root().join("clone");
        project.sh("git clone --quiet . clone && cd clone && git config user.name tester && git config user.email tester@example.org")?;
        let all = documents(input)?;
        let of = |kind: &str| all.iter().find(|document| document["kind"] == kind).ok_or("absent");
        let (mut declared, repository) = (of("Project")?.clone(), of("Repository")?);
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("not a text");
        let name = text(&declared["metadata"]["name"])?;
        let owner = text(&repository["spec"]["owner"])?;
        let repository = format!("{owner}/{}", text(&repository["metadata"]["name"])?);
        let endpoints = &mut declared["spec"]["endpoints"];
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
        if clone.join(DELIVERY).exists() {
            let delivery = document(input, "Delivery", "prod")?; // with the override of the lab
            fs::write(clone.join(DELIVERY), format!("---\n{delivery}\n"))?;
        }
        // The Cluster stays YAML, because a change below edits its lines.
        let factory = document(input, "Cluster", "prod")?["spec"]["image"]["factory"].take();
        project.sh(&format!(
            "cd clone && sed -i 's|image: {{}}|image: {{factory: {factory}}}|; s|externalCloudProvider: true|externalCloudProvider: false|' machines/prod/cluster.yaml
            sed -i '/^      deployment: false$/d' .github/workflows/*.yaml
            git commit --quiet --all --message 'The endpoints and overrides of the lab'"
        ))?;
        fs::create_dir(project.root().join("other-home"))?;
        let phase_key = |phase| {
            let derive = format!(
                "sops --decrypt --extract '[\"root\"]' project/secrets.yaml | python3 -c '{HKDF}' {name}/{phase}/1"
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
        Ok(Self { project, clone, repository, api, token: forge_token, cloud, secrets })
    }

    /// Runs a script in the clone as a user who has every secret.
    pub(super) fn sh(&self, script: &str) -> Test<String> {
        // The first line is shown in the log, so the token comes after it.
        let token = format!("HCLOUD_TOKEN={}", self.cloud.1.trim());
        let (first, rest) = script.split_once('\n').unwrap_or((script, ""));
        self.project.sh(&format!("cd clone # {first}\nexport {token}\n{first}\n{rest}"))
    }

    /// Sends a request to the forge's API and returns the answer.
    pub(super) fn forge(&self, method: &str, path: &str, body: &Value) -> Test<Value> {
        let answer = self.project.sh(&format!(
            "# {method} {path}
            curl --silent --show-error --fail-with-body --request {method} --header 'Authorization: token {}' \
             --header 'Content-Type: application/json' --data '{body}' {}/repos/{}/{path}",
            self.token.trim(),
            self.api,
            self.repository
        ))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Pushes a branch of the clone and returns the number of a new pull request for it.
    pub(super) fn open_pull_request(&self, branch: &str) -> Test<Value> {
        let owner = self.repository.split('/').next().unwrap_or_default();
        let login = format!("//{owner}:{}@", self.token.trim());
        let origin = self.api.replace("/api/v1", "").replace("//", &login);
        self.sh(&format!("# push\ngit push --quiet {origin}/{}.git {branch}", self.repository))?;
        let change = json!({"title": "A change", "head": branch, "base": "main"});
        Ok(self.forge("POST", "pulls", &change)?["number"].clone())
    }

    /// Returns the payload of the event of a pull request from a branch of the repository `from`.
    pub(super) fn pull_request(number: &Value, from: &str) -> Value {
        let head = json!({"sha": "c0ffee", "repo": {"full_name": from}});
        json!({"pull_request": {"number": number, "head": head}})
    }

    /// Runs a workflow of this repository with `act`.
    pub(super) fn act(&self, workflow: &str, event: &str, payload: &Value) -> Test<Run> {
        self.act_file(&format!(".github/workflows/{workflow}.yaml"), event, payload, &self.secrets)
    }

    pub(super) fn act_file(
        &self,
        workflow: &str,
        event: &str,
        payload: &Value,
        secrets: &[(&str, String)],
    ) -> Test<Run> {
        run(&mut self.act_command(workflow, event, payload, secrets)?)
    }

    pub(super) fn act_command(
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
        let stand_ins = stand_ins::write(root)?;
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
            "--platform",
            "macos-15=-self-hosted",
            "--container-daemon-socket",
            "-",
            "--no-cache-server", // it listens at an address outside of this machine, and stand-ins replace the cache
            "--env",
            &format!("GITHUB_API_URL={}", self.api),
            "--env",
            &format!("GITHUB_REPOSITORY={}", self.repository),
            "--var",
            "CACHIX_CACHE=example",
        ];
        let mut act = self.project.command("act", &arguments);
        act.args(stand_ins);
        act.current_dir(&self.clone).env("HOME", root.join("other-home"));
        for variable in REMOVED_VARIABLES {
            act.env_remove(variable);
        }
        Ok(act)
    }
}

/// Independent implementation of derivation.md in Python: derives a phase key from the root on
/// standard input and `<project>/<phase>/<generation>` as an argument.
const HKDF: &str = "
import base64, hashlib, hmac, sys
step = lambda key, data: hmac.new(key, data, hashlib.sha256).digest()
root = base64.b64decode(sys.stdin.read())
print(base64.b64encode(step(step(b\"holistic/v1\", root), sys.argv[1].encode() + b\"\\x01\")).decode())
";
