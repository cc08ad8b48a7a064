//! What is signed: in-toto statements about one manifest.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::nix::{Built, Derivation, Pin};
use crate::oci::Digest;
use crate::sbom;

/// The page that defines the parameters, the `narSha256` digests, and has examples.
const PAGE: &str =
    "https://github.com/zabronax/holistic/blob/main/tools/artifact-attest/provenance.md";

/// What a statement is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Predicate {
    /// How it was made (SLSA).
    Provenance,
    /// What is in it (`CycloneDX`).
    Sbom,
    /// That it is ours: what `cosign verify` asks for.
    Signature,
}

impl Predicate {
    /// Its type, as in-toto names it.
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

/// The bytes of every statement about one manifest.
pub(crate) type Statements = BTreeMap<Predicate, Vec<u8>>;

/// The document that something is published for: what makes it that document's own to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) project: String,
    pub(crate) document: String,
    /// The repository from which others fetch the source.
    pub(crate) source: String,
    /// Whether the commit is only signed when the source is seen to contain it.
    pub(crate) is_source_checked: bool,
}

/// A document, a commit and a folder in it.
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

/// Everything that is said of an image.
pub(crate) fn of_image(
    digest: &Digest,
    origin: Origin<'_>,
    (attribute, system): (&str, &str),
    derivation: &Derivation,
    built: &Built,
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

/// Everything that is said of manifests, in which images are pinned to `references`.
pub(crate) fn of_manifests(
    digest: &Digest,
    origin: Origin<'_>,
    references: &BTreeMap<String, String>,
) -> Statements {
    let images = references.values().filter_map(|it| {
        let hex = it.rsplit_once("@sha256:")?.1;
        Some(json!({"uri": format!("oci://{it}"), "digest": {"sha256": hex}}))
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
    dependencies.sort_by_key(|it| it["uri"].to_string());
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
            // The manifest and nothing else: measured, a digest that is not hex breaks the whole
            // bundle for cosign and Flux.
            "subject": [{"digest": {"sha256": digest.hex()}}],
            "predicateType": predicate.uri(),
            "predicate": content,
        }));
        (predicate, bytes)
    };
    about.into_iter().chain([signature]).map(statement).collect()
}

/// What a signed statement says of the document that it was signed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// It names this document.
    This,
    /// It names another document, or none.
    Another,
    /// It is the same for every document that publishes the same bytes.
    Any,
}

/// Whether `statement` was signed for the document of `identity`: for any version of it. What names
/// it less than wholly is another's.
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
                    // The folder may have moved.
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

/// What the build told, from a provenance that was published; none if it is no such thing.
pub(crate) fn built(provenance: &[u8]) -> Option<Built> {
    let statement: Value = serde_json::from_slice(provenance).ok()?;
    let byproducts = statement["predicate"]["runDetails"]["byproducts"].as_array()?;
    let mut built = Built::default();
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
        Derivation { path, digest, out, inputs: Vec::new() }
    }

    fn identity(document: &str) -> Identity {
        let (project, source) = ("p".to_owned(), "https://example.org/a".to_owned());
        Identity { project, document: document.to_owned(), source, is_source_checked: true }
    }

    #[test]
    fn a_statement_is_this_documents_only_when_it_names_all_of_it() {
        let (this, subject) = (identity("a"), Digest::of(b"manifest"));
        let of = |identity: &Identity, rev: &str| {
            let origin = Origin { identity, rev, folder: "sources/a" };
            let system = ("default", "x86_64-linux");
            of_image(&subject, origin, system, &derivation(), &Built::default(), None)
        };
        let what = |system: &str| [("attr", "#default".to_owned()), ("system", system.to_owned())];
        let provenance = |statements: &Statements, system: &str| {
            names(&statements[&Predicate::Provenance], &this, &what(system)).1
        };
        assert_eq!(provenance(&of(&this, "f00"), "x86_64-linux"), Names::This);
        assert_eq!(provenance(&of(&this, "old"), "x86_64-linux"), Names::This, "another version");
        assert_eq!(provenance(&of(&this, "f00"), "aarch64-linux"), Names::Another);
        let elsewhere = Identity { source: "https://example.org/b".to_owned(), ..identity("a") };
        let project = Identity { project: "q".to_owned(), ..identity("a") };
        for other in [identity("b"), elsewhere, project] {
            assert_eq!(provenance(&of(&other, "f00"), "x86_64-linux"), Names::Another);
        }
        for odd in [&b""[..], b"[]", b"{\"predicateType\":\"https://slsa.dev/provenance/v1\"}"] {
            assert_ne!(names(odd, &this, &[]).1, Names::This);
        }
    }

    #[test]
    fn what_a_build_told_is_read_back_from_its_provenance() {
        let identity = identity("a");
        let origin = Origin { identity: &identity, rev: "f00", folder: "sources/a" };
        for rebuilt in [false, true] {
            let closure = [("/nix/store/x".to_owned(), "11".repeat(32))].into();
            let told = Built { nar_sha256: "11".repeat(32), rebuilt, closure };
            let subject = Digest::of(b"manifest");
            let system = ("default", "x86_64-linux");
            let all = of_image(&subject, origin, system, &derivation(), &told, None);
            assert_eq!(built(&all[&Predicate::Provenance]), Some(told));
        }
    }

    #[test]
    fn dependencies_come_in_the_order_of_their_uris() {
        let identity = identity("a");
        let origin = Origin { identity: &identity, rev: "f00", folder: "d" };
        let references = ["z", "b"].map(|it| (it.to_owned(), format!("r/{it}@sha256:00"))).into();
        let all = of_manifests(&Digest::of(b""), origin, &references);
        let statement: Value = serde_json::from_slice(&all[&Predicate::Provenance]).expect("JSON");
        let all = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
        let uris: Vec<_> =
            all.as_array().into_iter().flatten().map(|it| it["uri"].to_string()).collect();
        assert!(uris.is_sorted() && uris.len() == 3, "{uris:?}");
    }
}
