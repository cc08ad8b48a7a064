//! One change to a registry, or a build before it, as a plan shows it.

use std::collections::BTreeSet;
use std::fmt;

use documents::{Deferred, Effect};
use schemars::JsonSchema;
use serde::Serialize;

use crate::oci::Digest;
use crate::statement::Predicate;

/// Number of hexadecimal digits of a digest in a sentence. The JSON has all of them.
const DIGITS: usize = 12;

/// One change. The order of a plan's steps ensures that a tag never names an incomplete or unsigned
/// manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// Build a derivation.
    Build {
        /// Store path of the derivation, for example `/nix/store/…-greeter-1.0.drv`.
        derivation: String,
    },
    /// Build the derivation a second time. The result must be bit-identical to the first.
    Rebuild {
        /// Store path of the derivation, for example `/nix/store/…-greeter-1.0.drv`.
        derivation: String,
    },
    /// Upload the blobs that are missing, then the manifest under its digest.
    Publish {
        /// Digest of the manifest.
        digest: Deferred<Digest>,
    },
    /// Sign statements about the manifest, and upload them as its referrers.
    Attest {
        /// Digest of the manifest.
        digest: Deferred<Digest>,
        /// Kinds of the statements, for example `provenance`.
        statements: BTreeSet<Predicate>,
    },
    /// Make the tag name the manifest.
    Tag {
        /// Tag, for example `f00dcaf-1a2b3c4d`.
        tag: Deferred<String>,
        /// Digest that the tag names until now; absent when the tag does not exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<Digest>,
        /// Digest of the manifest.
        to: Deferred<Digest>,
    },
    /// Copy the build result with its runtime dependencies to the binary cache, and sign each store path there.
    Cache {
        /// Store path of the build result, for example `/nix/store/…-greeter-1.0`.
        path: String,
        /// URL of the binary cache, for example `s3://holistic-cache?region=fsn1`.
        cache: String,
    },
    /// Remove the manifest, and the tags that name it.
    Withdraw {
        /// Digest of the manifest.
        digest: Digest,
        /// Tags of the manifest.
        tags: BTreeSet<String>,
    },
    /// Remove the signed statements of this document about a manifest.
    Detach {
        /// Digest of the manifest that the statements are about.
        digest: Digest,
        /// Digests of the statements' own manifests.
        bundles: Vec<Digest>,
        /// Whether the signature for older verifiers is removed, too: no other document shares it.
        signature: bool,
    },
}

impl documents::Step for Step {
    fn effect(&self) -> Effect {
        match self {
            Self::Build { .. }
            | Self::Publish { .. }
            | Self::Attest { .. }
            | Self::Cache { .. }
            | Self::Tag { from: None, .. } => Effect::Create,
            Self::Rebuild { .. } | Self::Tag { .. } => Effect::Change,
            Self::Withdraw { .. } | Self::Detach { .. } => Effect::Remove,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build { derivation } => write!(f, "build {derivation}"),
            Self::Rebuild { derivation } => {
                write!(f, "rebuild {derivation}, and compare the results")
            }
            Self::Publish { digest } => write!(f, "publish manifest {}", deferred(digest)),
            Self::Attest { digest, statements } => {
                write!(f, "sign and publish {} of {}", list(statements), deferred(digest))
            }
            Self::Tag { tag, from: None, to } => write!(f, "create tag {tag}: {}", deferred(to)),
            Self::Tag { tag, from: Some(from), to } => {
                write!(f, "change tag {tag}: {} → {}", short(from), deferred(to))
            }
            Self::Cache { path, cache } => write!(f, "copy {path} to {cache}, and sign it"),
            Self::Withdraw { digest, tags } if tags.is_empty() => {
                write!(f, "remove manifest {}", short(digest))
            }
            Self::Withdraw { digest, tags } => {
                write!(f, "remove manifest {} with its tags: {}", short(digest), list(tags))
            }
            Self::Detach { digest, bundles, .. } => {
                write!(f, "remove signed statements of {}: {}", short(digest), bundles.len())
            }
        }
    }
}

fn list(words: &BTreeSet<impl ToString>) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn short(digest: &Digest) -> String {
    format!("sha256:{}", &digest.hex()[..DIGITS])
}

fn deferred(digest: &Deferred<Digest>) -> Deferred<String> {
    digest.value().map(short).into()
}

#[cfg(test)]
mod tests {
    use documents::Step as _;
    use serde_json::json;

    use super::*;

    /// Returns one step of each action, in the order of a plan.
    fn steps() -> Vec<Step> {
        let digest = Digest::of(b"manifest");
        let derivation = "/nix/store/x-greeter-1.0.drv".to_owned();
        let statements = [Predicate::Provenance, Predicate::Sbom, Predicate::Signature].into();
        let tag = Deferred::Value("f00dcaf-1a2b3c4d".to_owned());
        let (from, to) = (Some(Digest::of(b"old")), Deferred::Value(digest.clone()));
        vec![
            Step::Build { derivation: derivation.clone() },
            Step::Rebuild { derivation },
            Step::Publish { digest: Deferred::AfterApply },
            Step::Attest { digest: to.clone(), statements },
            Step::Tag { tag: tag.clone(), from: None, to: Deferred::AfterApply },
            Step::Tag { tag, from, to },
            Step::Cache {
                path: "/nix/store/x-greeter-1.0".to_owned(),
                cache: "s3://holistic-cache".to_owned(),
            },
            Step::Withdraw { digest: digest.clone(), tags: ["f00dcaf-1a2b3c4d".to_owned()].into() },
            Step::Withdraw { digest: digest.clone(), tags: BTreeSet::new() },
            Step::Detach { digest: digest.clone(), bundles: vec![digest], signature: true },
        ]
    }

    #[test]
    fn each_step_is_a_sentence_with_old_and_new_values() {
        let lines: Vec<_> =
            steps().iter().map(|step| format!("{:?}: {step}", step.effect())).collect();
        assert_eq!(
            lines,
            [
                "Create: build /nix/store/x-greeter-1.0.drv",
                "Change: rebuild /nix/store/x-greeter-1.0.drv, and compare the results",
                "Create: publish manifest (known after apply)",
                "Create: sign and publish provenance, sbom, signature of sha256:05b3abf2579a",
                "Create: create tag f00dcaf-1a2b3c4d: (known after apply)",
                "Change: change tag f00dcaf-1a2b3c4d: sha256:cba06b5736fa → sha256:05b3abf2579a",
                "Create: copy /nix/store/x-greeter-1.0 to s3://holistic-cache, and sign it",
                "Remove: remove manifest sha256:05b3abf2579a with its tags: f00dcaf-1a2b3c4d",
                "Remove: remove manifest sha256:05b3abf2579a",
                "Remove: remove signed statements of sha256:05b3abf2579a: 1",
            ]
        );
    }

    #[test]
    fn step_is_flat_json_with_an_action() {
        let digest = Digest::of(b"manifest");
        let step = Step::Attest {
            digest: Deferred::AfterApply,
            statements: [Predicate::Provenance].into(),
        };
        assert_eq!(
            json!(step),
            json!({"action": "attest", "digest": "known after apply", "statements": ["provenance"]})
        );
        let step = Step::Withdraw { digest: digest.clone(), tags: BTreeSet::new() };
        assert_eq!(json!(step), json!({"action": "withdraw", "digest": digest, "tags": []}));
    }
}
