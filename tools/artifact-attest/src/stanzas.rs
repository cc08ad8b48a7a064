//! Ready-made configurations of the programs that verify a published artifact.

use data_encoding::BASE64;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

/// Names of Docker Hub in references. A pod may use either name, or none
/// (<https://github.com/distribution/reference/blob/main/normalize.go>).
const DOCKER_HUB: [&str; 2] = ["docker.io/", "index.docker.io/"];

/// Configurations that accept this artifact, and no other content in its repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Command for cosign 3, with `publicKey` saved as `cosign.pub`. cosign 2 before 2.5 reads it as well.
    pub cosign: String,
    /// Command for cosign 2 since 2.5, which needs no connection to Sigstore's servers.
    pub cosign2: String,
    /// Part of `spec` of Flux's `OCIRepository`. The Secret holds `publicKey` under `cosign.pub`.
    pub flux: String,
    /// `ImageValidatingPolicy` for Kyverno since 1.17.
    pub kyverno: String,
    /// Rule of a `ClusterPolicy` for Kyverno before 1.20.
    pub kyverno_rule: String,
    /// `ClusterImagePolicy` for Sigstore's policy-controller.
    pub policy_controller: String,
    /// `/etc/containers/policy.json` for podman, skopeo and CRI-O.
    pub policy_json: String,
    /// File in `/etc/containers/registries.d`, without which these do not look for signatures.
    pub registries_d: String,
}

impl Verification {
    /// Returns the configurations for the manifest `digest` in `repository` (`host/path`), signed by the key
    /// `pem`.
    pub(crate) fn new(repository: &str, digest: &str, pem: &str, is_plain: bool) -> Self {
        let plain = if is_plain { "--allow-http-registry --allow-insecure-registry " } else { "" };
        let command = |more: &str| {
            format!(
                "cosign verify --key cosign.pub {more}--insecure-ignore-tlog {plain}{repository}@{digest}"
            )
        };
        let name = object_name(repository);
        let secret = repository.rsplit('/').next().unwrap_or_default().replace(['.', '_'], "-");
        let key = |indent: usize| indented(pem, indent);
        // go-containerregistry, with which policy-controller writes the reference that it compares with a
        // glob, calls Docker Hub by its second name
        // (<https://github.com/sigstore/policy-controller/blob/v0.13.1/pkg/apis/glob/glob.go>).
        let canonical = docker_hub_path(repository)
            .map_or(repository.to_owned(), |path| format!("{}{path}", DOCKER_HUB[1]));
        let policy = json!({
            "default": [{"type": "insecureAcceptAnything"}],
            "transports": {"docker": {repository: [{
                "type": "sigstoreSigned",
                "keyData": BASE64.encode(pem.as_bytes()),
                "signedIdentity": {"type": "matchRepository"},
            }]}},
        });
        Self {
            cosign: command(""),
            // cosign since 2.6.4 reads a bundle wherever there is one, and for that demands a trusted root, even
            // an empty one, which it otherwise downloads
            // (<https://github.com/sigstore/cosign/blob/v2.6.5/cmd/cosign/cli/verify/verify.go>).
            cosign2: format!(
                "cosign trusted-root create | {}",
                command("--trusted-root /dev/stdin ")
            ),
            flux: format!(
                "ref:\n  digest: {digest}\nverify:\n  provider: cosign\n  secretRef:\n    name: {secret}-cosign\n"
            ),
            kyverno: format!(
                "apiVersion: policies.kyverno.io/v1
kind: ImageValidatingPolicy
metadata:
  name: {name}
spec:
  validationActions: [Deny]
  matchConstraints:
    resourceRules:
      - apiGroups: ['']
        apiVersions: [v1]
        operations: [CREATE, UPDATE]
        resources: [pods, pods/ephemeralcontainers]
  matchImageReferences:
{}  attestors:
    - name: key
      cosign:
        key:
          data: |
{}        ctlog:
          insecureIgnoreTlog: true
          insecureIgnoreSCT: true
  validations:
    - message: the image is not signed by the key of this policy
      expression: >-
        (images.containers + images.initContainers + images.ephemeralContainers)
        .all(image, verifyImageSignatures(image, [attestors.key]) > 0)
",
                globs(repository, &["", ":*", "@*"], "    - glob: "),
                key(12)
            ),
            kyverno_rule: format!(
                "name: {name}
match:
  any:
    - resources:
        kinds: [Pod]
verifyImages:
  - imageReferences:
{}    failureAction: Enforce
    attestors:
      - entries:
          - keys:
              rekor:
                ignoreTlog: true
              ctlog:
                ignoreSCT: true
              publicKeys: |-
{}",
                globs(repository, &[":*", "@*"], "      - "),
                key(16)
            ),
            policy_controller: format!(
                "apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: {name}
spec:
  images:
    - glob: '{canonical}:**'
    - glob: '{canonical}@**'
  authorities:
    - name: key
      key:
        hashAlgorithm: sha256
        data: |
{}",
                key(10)
            ),
            policy_json: format!("{policy:#}\n"),
            registries_d: format!("docker:\n  {repository}:\n    use-sigstore-attachments: true\n"),
        }
    }
}

/// Returns the path of a repository of Docker Hub.
fn docker_hub_path(repository: &str) -> Option<&str> {
    DOCKER_HUB.iter().find_map(|host| repository.strip_prefix(host))
}

/// Returns the name of a policy: the path of the repository, because the last part of a path is not unique.
fn object_name(repository: &str) -> String {
    let path = repository.split_once('/').map_or(repository, |(_, path)| path);
    path.split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

/// Returns one line for each spelling of `repository` and each of `ends`. The ends keep repositories with a
/// longer name out, for example `app-debug` beside `app`.
fn globs(repository: &str, ends: &[&str], before: &str) -> String {
    let spellings = docker_hub_path(repository).map_or(vec![repository.to_owned()], |path| {
        [DOCKER_HUB[0], DOCKER_HUB[1], ""].map(|host| format!("{host}{path}")).to_vec()
    });
    let lines = spellings.iter().flat_map(|name| ends.iter().map(move |end| (name, end)));
    lines.flat_map(|(name, end)| [before, "'", name, end, "'\n"]).collect()
}

/// Returns `pem` with `indent` spaces before each line.
fn indented(pem: &str, indent: usize) -> String {
    let margin = " ".repeat(indent);
    pem.trim_end().lines().flat_map(|line| [margin.as_str(), line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nAAAA\nBBBB\n-----END PUBLIC KEY-----\n";

    fn yaml(text: &str) -> Value {
        serde_saphyr::from_str(text).expect("YAML")
    }

    #[test]
    fn every_configuration_parses_and_holds_the_key_and_the_repository() {
        let all = Verification::new("r.example:5000/team/my_app", "sha256:11", PEM, false);
        let policy = yaml(&all.kyverno);
        assert_eq!(policy["metadata"]["name"], "team-my-app");
        assert_eq!(policy["spec"]["attestors"][0]["cosign"]["key"]["data"], PEM);
        let verify = &yaml(&all.kyverno_rule)["verifyImages"][0];
        assert_eq!(verify["attestors"][0]["entries"][0]["keys"]["publicKeys"], PEM.trim_end());
        let policy = yaml(&all.policy_controller);
        assert_eq!(policy["spec"]["authorities"][0]["key"]["data"], PEM);
        assert_eq!(policy["metadata"]["name"], "team-my-app");
        assert_eq!(yaml(&all.flux)["ref"]["digest"], "sha256:11");
        let registries = yaml(&all.registries_d);
        let attachments = &registries["docker"]["r.example:5000/team/my_app"];
        assert_eq!(attachments["use-sigstore-attachments"], true);
        let policy: Value = serde_json::from_str(&all.policy_json).expect("JSON");
        let rule = &policy["transports"]["docker"]["r.example:5000/team/my_app"][0];
        assert_eq!(rule["keyData"], BASE64.encode(PEM.as_bytes()));
        assert!(
            all.cosign.ends_with("--insecure-ignore-tlog r.example:5000/team/my_app@sha256:11")
        );
    }

    /// Returns the patterns of the three policies. A pattern has `*` for any text.
    fn patterns(repository: &str) -> [Vec<String>; 3] {
        let all = Verification::new(repository, "sha256:11", PEM, false);
        let [policy, controller] = [&all.kyverno, &all.policy_controller].map(|text| yaml(text));
        let strings = |list: &Value, field: Option<&str>| -> Vec<String> {
            let entries = list.as_array().expect("a list").iter();
            let text = |entry: &Value| {
                field.map_or(entry, |field| &entry[field]).as_str().map(str::to_owned)
            };
            entries.map(|entry| text(entry).expect("a pattern")).collect()
        };
        [
            strings(&policy["spec"]["matchImageReferences"], Some("glob")),
            strings(&yaml(&all.kyverno_rule)["verifyImages"][0]["imageReferences"], None),
            strings(&controller["spec"]["images"], Some("glob")),
        ]
    }

    fn is_covered(patterns: &[String], image: &str) -> bool {
        let is_match = |pattern: &String| match pattern.split_once('*') {
            Some((start, _)) => image.strip_prefix(start).is_some_and(|tag| !tag.is_empty()),
            None => image == pattern,
        };
        patterns.iter().any(is_match)
    }

    #[test]
    fn policies_cover_tags_and_digests_of_their_repository_and_no_repository_with_a_longer_name() {
        let repository = "r.example:5000/team/app";
        for patterns in patterns(repository) {
            assert!(is_covered(&patterns, &format!("{repository}:latest")), "{patterns:?}");
            assert!(is_covered(&patterns, &format!("{repository}@sha256:11")), "{patterns:?}");
            for other in ["-debug:latest", "-debug@sha256:11", "/part:latest", "s:latest"] {
                assert!(!is_covered(&patterns, &format!("{repository}{other}")), "{patterns:?}");
            }
        }
    }

    #[test]
    fn policies_cover_docker_hub_under_the_names_that_their_verifier_compares() {
        for host in DOCKER_HUB {
            let [policy, rule, controller] = patterns(&format!("{host}team/app"));
            // A pod may say any of these, and an ImageValidatingPolicy compares what the pod says.
            for name in ["docker.io/team/app", "index.docker.io/team/app", "team/app"] {
                for end in ["", ":1", "@sha256:11"] {
                    assert!(is_covered(&policy, &format!("{name}{end}")), "{policy:?}");
                }
            }
            // Kyverno writes `docker.io` in front of a name without a host for a ClusterPolicy.
            assert!(is_covered(&rule, "docker.io/team/app:1"), "{rule:?}");
            assert!(is_covered(&rule, "index.docker.io/team/app@sha256:11"), "{rule:?}");
            assert!(
                is_covered(&controller, "index.docker.io/team/app@sha256:11"),
                "{controller:?}"
            );
        }
    }

    #[test]
    fn policies_of_repositories_with_the_same_last_part_have_different_names() {
        assert_eq!(object_name("r.example:5000/one/app"), "one-app");
        assert_eq!(object_name("r.example/two/app"), "two-app");
        assert_eq!(object_name("r.example/a.b__c/d--e"), "a-b-c-d-e");
    }
}
