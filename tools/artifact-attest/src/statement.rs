//! In-toto statements about one manifest, ready to be signed.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::nix::{BuildResult, Derivation, Pin};
use crate::oci::Digest;
use crate::sbom;

/// Page that defines the parameters and the `narSha256` digests, with examples.
const PAGE: &str =
    "https://github.com/zabronax/holistic/blob/main/tools/artifact-attest/provenance.md";

/// Predicate type of a statement.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Predicate {
    /// Build provenance (SLSA): how the artifact was made.
    Provenance,
    /// Bill of materials (`CycloneDX`): what the artifact contains.
    Sbom,
    /// Signature that `cosign verify` requires: who published the artifact.
    Signature,
}

impl Predicate {
    /// Returns the predicate type of in-toto.
    pub(crate) fn uri(self) -> &'static str {
        match self {
            Self::Provenance => "https://slsa.dev/provenance/v1",
            Self::Sbom => "https://cyclonedx.org/bom",
            Self::Signature => "https://sigstore.dev/cosign/sign/v1",
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provenance => "provenance",
            Self::Sbom => "sbom",
            Self::Signature => "signature",
        })
    }
}

/// Statements about one manifest, as signed bytes.
pub(crate) type Statements = BTreeMap<Predicate, Vec<u8>>;

/// Identity of the document that an artifact is published for. It decides which document may remove
/// the artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) project: String,
    pub(crate) document: String,
    /// URL of the repository from which others fetch the source.
    pub(crate) source: String,
    /// Whether `apply` signs the commit only after finding it in the source.
    pub(crate) is_source_checked: bool,
}

/// Identity of a document, with a commit and a folder in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) rev: &'a str,
    pub(crate) folder: &'a str,
}

impl Origin<'_> {
    fn parameters(&self, more: &[(&str, String)]) -> Value {
        let Identity { project, document, source, is_source_checked } = self.identity;
        let mut parameters = json!({
            "project": project,
            "document": document,
            "source": source,
            "rev": self.rev,
        });
        if !is_source_checked {
            parameters["sourceCheck"] = json!("skip");
        }
        for (name, value) in more {
            parameters[name] = json!(value);
        }
        parameters
    }

    fn dependency(&self) -> Value {
        let uri = format!("git+{}@{}", self.identity.source, self.rev);
        json!({"uri": uri, "digest": {"gitCommit": self.rev}})
    }
}

/// Returns all statements about an image.
pub(crate) fn of_image(
    digest: &Digest,
    origin: Origin<'_>,
    (attribute, system): (&str, &str),
    derivation: &Derivation,
    built: &BuildResult,
    lock: Option<&sbom::Lock>,
) -> Statements {
    let inputs = derivation.inputs.iter();
    let inputs = inputs.map(|input| match &input.pin {
        Pin::Nar(sha256) => json!({"uri": input.uri, "digest": {"narSha256": sha256}}),
        Pin::Commit(commit) => json!({"uri": input.uri, "digest": {"gitCommit": commit}}),
    });
    let drv = json!({"uri": derivation.path, "digest": {"sha256": derivation.digest.hex()}});
    let dependencies = inputs.chain([origin.dependency(), drv]).collect();
    let nar = |name: &str, sha256: &str| json!({"name": name, "digest": {"narSha256": sha256}});
    let mut byproducts = vec![nar("build", &built.nar_sha256)];
    if built.rebuilt {
        byproducts.push(nar("rebuild", &built.nar_sha256));
    }
    byproducts.extend(built.closure.iter().map(|(path, sha256)| nar(path, sha256)));
    let parameters = origin.parameters(&[
        ("attr", format!("{}#{attribute}", origin.folder)),
        ("system", system.to_owned()),
    ]);
    let provenance = provenance("nix-flake", &parameters, dependencies, &byproducts);
    let bom = sbom::document(&origin.identity.document, digest, &derivation.out, built, lock);
    statements(digest, [(Predicate::Provenance, provenance), (Predicate::Sbom, bom)])
}

/// Returns all statements about manifests whose images are pinned to `references`.
pub(crate) fn of_manifests(
    digest: &Digest,
    origin: Origin<'_>,
    references: &BTreeMap<String, String>,
) -> Statements {
    let images = references.values().filter_map(|reference| {
        let hex = reference.rsplit_once("@sha256:")?.1;
        Some(json!({"uri": format!("oci://{reference}"), "digest": {"sha256": hex}}))
    });
    let dependencies = images.chain([origin.dependency()]).collect();
    let parameters = origin.parameters(&[("path", origin.folder.to_owned())]);
    let provenance = provenance("manifests", &parameters, dependencies, &[]);
    statements(digest, [(Predicate::Provenance, provenance)])
}

fn provenance(
    kind: &str,
    parameters: &Value,
    mut dependencies: Vec<Value>,
    byproducts: &[Value],
) -> Value {
    dependencies.sort_by_key(|dependency| dependency["uri"].to_string());
    let mut predicate = json!({
        "buildDefinition": {
            "buildType": format!("{PAGE}#{kind}"),
            "externalParameters": parameters,
            "resolvedDependencies": dependencies,
        },
        "runDetails": {"builder": {"id": format!("{PAGE}#derived-key")}},
    });
    if !byproducts.is_empty() {
        predicate["runDetails"]["byproducts"] = json!(byproducts);
    }
    predicate
}

fn statements(digest: &Digest, about: impl IntoIterator<Item = (Predicate, Value)>) -> Statements {
    let signature = (Predicate::Signature, json!({}));
    let statement = |(predicate, content): (Predicate, Value)| {
        let bytes = crate::json::bytes(&json!({
            "_type": "https://in-toto.io/Statement/v1",
            // The manifest's digest alone. Measured: a digest that is not hexadecimal makes cosign
            // and Flux reject the whole bundle.
            "subject": [{"digest": {"sha256": digest.hex()}}],
            "predicateType": predicate.uri(),
            "predicate": content,
        }));
        (predicate, bytes)
    };
    about.into_iter().chain([signature]).map(statement).collect()
}

/// Relation of a signed statement to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// The statement names this document.
    This,
    /// The statement names another document, or none.
    Another,
    /// Every document that publishes the same bytes shares the statement.
    Any,
}

/// Classifies whether `statement` was signed for the document of `identity`, in any version of the
/// document. A statement that lacks one parameter belongs to another document.
pub(crate) fn names(
    statement: &[u8],
    identity: &Identity,
    what: &[(&str, String)],
) -> (Predicate, Names) {
    let statement: Value = serde_json::from_slice(statement).unwrap_or_default();
    let predicate = &statement["predicate"];
    let is = |is_this: bool| if is_this { Names::This } else { Names::Another };
    match statement["predicateType"].as_str().unwrap_or_default() {
        about if about == Predicate::Provenance.uri() => {
            let parameters = &predicate["buildDefinition"]["externalParameters"];
            let says = |name: &str, value: &str| parameters[name] == value;
            let is_this = says("project", &identity.project)
                && says("document", &identity.document)
                && says("source", &identity.source)
                && what.iter().all(|(name, value)| match *name {
                    // The folder may have been renamed since.
                    "attr" => parameters["attr"].as_str().is_some_and(|attr| attr.ends_with(value)),
                    name => says(name, value),
                });
            (Predicate::Provenance, is(is_this))
        }
        about if about == Predicate::Sbom.uri() => {
            let name = &predicate["metadata"]["component"]["name"];
            (Predicate::Sbom, is(*name == identity.document.as_str()))
        }
        _ => (Predicate::Signature, Names::Any),
    }
}

/// Reads the build result from a published provenance; `None` for any other statement.
pub(crate) fn built(provenance: &[u8]) -> Option<BuildResult> {
    let statement: Value = serde_json::from_slice(provenance).ok()?;
    let byproducts = statement["predicate"]["runDetails"]["byproducts"].as_array()?;
    let mut built = BuildResult::default();
    for byproduct in byproducts {
        let sha256 = byproduct["digest"]["narSha256"].as_str()?.to_owned();
        match byproduct["name"].as_str()? {
            "build" => built.nar_sha256 = sha256,
            "rebuild" => built.rebuilt = true,
            path => {
                built.closure.insert(path.to_owned(), sha256);
            }
        }
    }
    Some(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derivation() -> Derivation {
        let digest = Digest::of(b"drv");
        let (path, out) = ("/nix/store/x.drv".to_owned(), "/nix/store/x".to_owned());
        Derivation { path, digest, out, version: String::new(), inputs: Vec::new() }
    }

    fn identity(document: &str) -> Identity {
        let (project, source) = ("p".to_owned(), "https://example.org/a".to_owned());
        Identity { project, document: document.to_owned(), source, is_source_checked: true }
    }

    #[test]
    fn a_statement_belongs_to_a_document_only_if_all_its_parameters_match() {
        let (this, subject) = (identity("a"), Digest::of(b"manifest"));
        let image = |identity: &Identity, rev: &str| {
            let origin = Origin { identity, rev, folder: "sources/a" };
            let system = ("default", "x86_64-linux");
            of_image(&subject, origin, system, &derivation(), &BuildResult::default(), None)
        };
        let what = |system: &str| [("attr", "#default".to_owned()), ("system", system.to_owned())];
        let provenance = |statements: &Statements, system: &str| {
            names(&statements[&Predicate::Provenance], &this, &what(system)).1
        };
        assert_eq!(provenance(&image(&this, "f00"), "x86_64-linux"), Names::This);
        assert_eq!(
            provenance(&image(&this, "old"), "x86_64-linux"),
            Names::This,
            "another version"
        );
        assert_eq!(provenance(&image(&this, "f00"), "aarch64-linux"), Names::Another);
        let elsewhere = Identity { source: "https://example.org/b".to_owned(), ..identity("a") };
        let project = Identity { project: "q".to_owned(), ..identity("a") };
        for other in [identity("b"), elsewhere, project] {
            assert_eq!(provenance(&image(&other, "f00"), "x86_64-linux"), Names::Another);
        }
        for odd in [&b""[..], b"[]", b"{\"predicateType\":\"https://slsa.dev/provenance/v1\"}"] {
            assert_ne!(names(odd, &this, &[]).1, Names::This);
        }
    }

    #[test]
    fn a_build_result_is_read_back_from_its_provenance() {
        let identity = identity("a");
        let origin = Origin { identity: &identity, rev: "f00", folder: "sources/a" };
        for rebuilt in [false, true] {
            let closure = [("/nix/store/x".to_owned(), "11".repeat(32))].into();
            let nar_sha256 = "11".repeat(32);
            let told = BuildResult { nar_sha256, rebuilt, closure, ..BuildResult::default() };
            let subject = Digest::of(b"manifest");
            let system = ("default", "x86_64-linux");
            let all = of_image(&subject, origin, system, &derivation(), &told, None);
            assert_eq!(built(&all[&Predicate::Provenance]), Some(told));
        }
    }

    #[test]
    fn dependencies_are_sorted_by_uri() {
        let identity = identity("a");
        let origin = Origin { identity: &identity, rev: "f00", folder: "d" };
        let references =
            ["z", "b"].map(|name| (name.to_owned(), format!("r/{name}@sha256:00"))).into();
        let all = of_manifests(&Digest::of(b""), origin, &references);
        let statement: Value = serde_json::from_slice(&all[&Predicate::Provenance]).expect("JSON");
        let all = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
        let uris: Vec<_> = all
            .as_array()
            .into_iter()
            .flatten()
            .map(|dependency| dependency["uri"].to_string())
            .collect();
        assert!(uris.is_sorted() && uris.len() == 3, "{uris:?}");
    }
}
