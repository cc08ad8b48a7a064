//! Ready-made configurations of the programs that verify a published artifact.

use data_encoding::BASE64;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

/// Configurations that accept this artifact, and no other content in its repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Command for cosign 3, with `publicKey` saved as `cosign.pub`.
    pub cosign: String,
    /// Command for cosign 2, which reads the signature under the tag `sha256-….sig`.
    pub cosign2: String,
    /// Part of `spec` of Flux's `OCIRepository`. The Secret holds `publicKey` under `cosign.pub`.
    pub flux: String,
    /// Rule of a `ClusterPolicy` for Kyverno.
    pub kyverno: String,
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
        let name = repository.rsplit('/').next().unwrap_or_default().replace(['.', '_'], "-");
        let key = |indent: &str| {
            pem.trim_end().lines().flat_map(|line| [indent, line, "\n"]).collect::<String>()
        };
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
            cosign2: command("--new-bundle-format=false "),
            flux: format!(
                "ref:\n  digest: {digest}\nverify:\n  provider: cosign\n  secretRef:\n    name: {name}-cosign\n"
            ),
            kyverno: format!(
                "name: {name}\nmatch:\n  any:\n    - resources:\n        kinds: [Pod]\nverifyImages:\n  - imageReferences: [\"{repository}*\"]\n    attestors:\n      - entries:\n          - keys:\n              rekor:\n                ignoreTlog: true\n              ctlog:\n                ignoreSCT: true\n              publicKeys: |-\n{}",
                key("                ")
            ),
            policy_controller: format!(
                "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata:\n  name: {name}\nspec:\n  images:\n    - glob: \"{repository}**\"\n  authorities:\n    - name: {name}\n      key:\n        hashAlgorithm: sha256\n        data: |\n{}",
                key("          ")
            ),
            policy_json: format!("{policy:#}\n"),
            registries_d: format!("docker:\n  {repository}:\n    use-sigstore-attachments: true\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nAAAA\nBBBB\n-----END PUBLIC KEY-----\n";

    #[test]
    fn every_configuration_parses_and_holds_the_key_and_the_repository() {
        let all = Verification::new("r.example:5000/team/my_app", "sha256:11", PEM, false);
        let yaml = |text: &str| serde_saphyr::from_str::<Value>(text).expect("YAML");
        let kyverno = yaml(&all.kyverno);
        let verify = &kyverno["verifyImages"][0];
        assert_eq!(verify["imageReferences"][0], "r.example:5000/team/my_app*");
        let keys = &verify["attestors"][0]["entries"][0]["keys"];
        assert_eq!(keys["publicKeys"], PEM.trim_end());
        let policy = yaml(&all.policy_controller);
        assert_eq!(policy["spec"]["authorities"][0]["key"]["data"], PEM);
        assert_eq!(policy["metadata"]["name"], "my-app");
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
}
