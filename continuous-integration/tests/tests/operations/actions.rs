//! Runs the workflows of this repository against the lab.

mod checks;
mod foreign;
mod plane;
mod run;
mod runner;
pub(crate) mod template;

use std::fs;

use data_encoding::BASE64;
use serde_json::{Value, json};

use plane::Plane;
use run::Run;

use crate::project::{DOCUMENTS, Project, Test, document, documents, kubeconfig, unsealed};
use crate::stand_ins;

pub(crate) fn workflows_give_the_result_of_the_pipe(project: &Project, input: &str) -> Test {
    let plane = Plane::new(project, input)?;
    checks::workflows_are_well_formed(project)?;
    plane.a_night_without_drift_writes_nothing()?;
    plane.only_a_push_to_main_writes_to_the_cache_of_nix()?;
    plane.a_pull_request_gets_one_comment_with_its_plan()?;
    let output = plane.a_push_to_main_gives_the_result_of_the_pipe()?;
    plane.a_job_cannot_use_the_key_of_another_phase(&output)?;
    plane.drift_fails_the_job_of_its_program_and_apply_corrects_it(&output)?;
    plane.a_tag_becomes_a_release_that_verifies()?;
    plane.every_program_is_an_action(&output)?;
    foreign::an_action_works_in_a_repository_without_nix_and_rust(&plane)
}

impl Plane<'_> {
    fn a_night_without_drift_writes_nothing(&self) -> Test {
        let before = self.project.writes()?;
        let night = self.act("drift", "schedule", &json!({}))?;
        for job in ["attest", "provision", "deliver"] {
            night.ended(job, "success")?;
        }
        assert_eq!(self.project.writes()?, before);
        Ok(())
    }

    /// The night before has read the cache. The programs are not built here, because the tests of the flake build them.
    fn only_a_push_to_main_writes_to_the_cache_of_nix(&self) -> Test {
        let cachix = || stand_ins::cachix(self.project.root());
        assert_eq!(cachix()?, "example,,true");
        self.sh("sed -i 's|- run: nix .*|- run: true|' .github/workflows/cache.yaml")?;
        let secrets = [("CACHIX_AUTH_TOKEN", "token-of-the-cache".to_owned())];
        let push = json!({"ref": "refs/heads/main"});
        let run = self.act_file(".github/workflows/cache.yaml", "push", &push, &secrets)?;
        run.ended("fill", "success")?;
        assert_eq!(cachix()?, "example,token-of-the-cache,false");
        self.sh("git checkout --quiet .github")?;
        Ok(())
    }

    fn a_pull_request_gets_one_comment_with_its_plan(&self) -> Test {
        self.sh("git switch --quiet --create change
            printf '# A change that makes another artifact.\n' >>deployments/manifests/lab/kustomization.yaml
            git commit --quiet --all --message 'Change what is deployed'")?;
        let number = self.open_pull_request("change")?;
        let before = self.project.writes()?;
        let comments = format!("issues/{number}/comments");

        let foreign =
            self.act("plan", "pull_request", &Plane::pull_request(&number, "stranger/holistic"))?;
        assert!(foreign.results().is_empty(), "no job runs for a fork: {:?}", foreign.results());

        let mut ids = Vec::new();
        // A reader can read the cloud and every object except Secrets. The state of machines is reported
        // as Unknown.
        let unknown = "| Cluster/prod | Unknown | ReaderAccess |";
        // The second change also makes a stream that no output of a job can hold.
        let more = format!(
            "sed -i '/name: work/s/count: 1/count: 2/' machines/prod/*.yaml\n{}",
            Plane::LARGE_PROJECT
        );
        let changes = [("true", unknown, false), (&more, "createServer prod-work-2", true)];
        for (change, cluster, is_artifact) in changes {
            self.sh(change)?;
            let event = Plane::pull_request(&number, &self.repository);
            let run = self.act("plan", "pull_request", &event)?;
            for job in ["attest", "provision", "deliver", "comment"] {
                run.ended(job, "success")?;
            }
            for job in ["attest", "provision", "deliver"] {
                let stream = run.output(job, "stream").ok_or("no stream")?;
                assert_eq!(stream.starts_with("{\"artifact\":"), is_artifact, "{job}: {stream}");
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
        self.sh("git checkout --quiet machines project")?;
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
        assert!(run.summary("deliver").contains("\n```mermaid\n"), "{}", run.summary("deliver"));
        let before = self.project.writes()?;
        let by_pipe = self.sh(&format!(
            "artifact-attest apply {DOCUMENTS} | talos-provision apply | flux-seed apply"
        ))?;
        assert_eq!(self.project.writes()?, before, "the pipe has nothing to do after the jobs");
        let by_jobs = self.stream(&run, "deliver")?;
        assert_eq!(unsealed(&by_jobs)?, unsealed(&by_pipe)?, "the same documents");
        Ok(by_pipe)
    }

    /// Returns the documents in the output `stream` of the step that has the name of its `job`.
    fn stream(&self, run: &Run, job: &str) -> Test<String> {
        let stream = run.output_of(job, job, "stream").ok_or("no stream")?;
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

    /// Releases two sources and a text in place of the programs, because the tests of the flake build the
    /// programs and their archives.
    fn a_tag_becomes_a_release_that_verifies(&self) -> Test {
        self.sh("rm tools/images/index.yaml
            cp sources/volume-reader/artifact.yaml tools/images/x86_64-linux.yaml
            cp sources/greeter/artifact.yaml tools/images/aarch64-linux.yaml
            sed -i 's|- run: nix .*|- run: mkdir -p archives; echo archive >archives/flux-seed-x86_64-linux.tar.gz; echo {} >archives/flux-seed-x86_64-linux.cdx.json|
              s|- run: tools/release/macos.sh|- run: cp -r|' .github/workflows/release.yaml
            git add tools/images .github && git commit --quiet --message 'Sources in place of the programs'")?;
        let release =
            |tag: &str| self.act("release", "push", &json!({"ref": format!("refs/tags/{tag}")}));
        let other = release("v0.0.1")?;
        other.ended("version", "failure")?;
        assert!(
            !other.results().values().any(|result| *result == "success"),
            "it publishes nothing"
        );
        let tag = concat!("v", env!("CARGO_PKG_VERSION"));
        for _ in 0..2 {
            let run = release(tag)?;
            for job in ["version", "images", "attest", "archives", "macos", "sign", "release"] {
                run.ended(job, "success")?;
            }
        }
        let release = self.forge("GET", &format!("releases/tags/{tag}"), &json!({}))?;
        assert_eq!(release["draft"], false, "{release}");
        let assets = release["assets"].as_array().ok_or("no files")?;
        let names: Vec<_> = assets.iter().map(|asset| &asset["name"]).collect();
        let expected = ["cdx.json", "tar.gz", "tar.gz.sigstore.json"]
            .map(|end| Value::from(format!("flux-seed-x86_64-linux.{end}")));
        assert_eq!(names, expected.each_ref());
        // The stand-in for the installer of cosign has a key in place of a certificate.
        let signed = "cd cache/archives-signatures && echo archive >flux-seed-x86_64-linux.tar.gz
            cosign verify-blob --key ../cosign/cosign.pub --insecure-ignore-tlog --bundle flux-seed-x86_64-linux.tar.gz.sigstore.json flux-seed-x86_64-linux.tar.gz";
        self.project.sh(signed)?;
        let notes = release["body"].as_str().ok_or("no notes")?;
        let digest = document_digest(
            &self.sh("artifact-attest plan project tools/images/x86_64-linux.yaml")?,
        )?;
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
        assert!(said("url").ends_with(&self.repository), "{}", said("url"));
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
