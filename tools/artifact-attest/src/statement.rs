//! In-toto statements about one manifest, ready to be signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::nix::drv::{Fixed, store_uri};
use crate::nix::inputs::Pin;
use crate::nix::{BuildResult, Builder, Derivation};
use crate::oci::Digest;
use crate::sbom::{self, Contents, Subject};

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

/// Build of an image, and what the commit tells of its contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making<'a> {
    /// Name of the flake's package.
    pub(crate) attribute: &'a str,
    pub(crate) system: &'a str,
    pub(crate) derivation: &'a Derivation,
    pub(crate) contents: &'a Contents,
}

/// Returns all statements about an image.
pub(crate) fn of_image(
    digest: &Digest,
    origin: Origin<'_>,
    making: Making<'_>,
    built: &BuildResult,
) -> Statements {
    let Making { attribute, system, derivation, contents } = making;
    let inputs = derivation.inputs.iter();
    let inputs = inputs.map(|input| match &input.pin {
        Pin::Nar(sha256) => json!({"uri": input.uri, "digest": {"narSha256": sha256}}),
        Pin::Commit(commit) => json!({"uri": input.uri, "digest": {"gitCommit": commit}}),
    });
    let fixed = derivation.graph.fixed().into_iter();
    let fixed =
        fixed.map(|Fixed { uri, algorithm, hex }| json!({"uri": uri, "digest": {algorithm: hex}}));
    let drv =
        json!({"uri": store_uri(&derivation.path), "digest": {"sha256": derivation.digest.hex()}});
    let dependencies = inputs.chain(fixed).chain([origin.dependency(), drv]).collect();
    let nar = |name: &str, sha256: &str| json!({"name": name, "digest": {"narSha256": sha256}});
    let mut byproducts = vec![nar("build", &built.nar_sha256)];
    if contents.crates.is_some() {
        byproducts[0]["annotations"] = json!({"licenses": built.licenses});
    }
    if built.rebuilt {
        byproducts.push(nar("rebuild", &built.nar_sha256));
    }
    byproducts.extend(built.closure.iter().map(|(path, sha256)| {
        let mut byproduct = nar(path, sha256);
        if let Some(references) = built.references.get(path) {
            byproduct["annotations"] = json!({"references": references});
        }
        byproduct
    }));
    let parameters = origin.parameters(&[
        ("attr", format!("{}#{attribute}", origin.folder)),
        ("system", system.to_owned()),
    ]);
    let mut provenance = provenance("nix-flake", &parameters, dependencies, &byproducts);
    let Builder { nix, settings } = &built.builder;
    provenance["buildDefinition"]["internalParameters"] = json!(settings);
    provenance["runDetails"]["builder"]["version"] = json!({"nix": nix});
    let Identity { project, document, source, .. } = origin.identity;
    let bom = sbom::document(&Subject {
        digest,
        name: document,
        supplier: project,
        source,
        derivation,
        built,
        contents,
    });
    statements(digest, [(Predicate::Provenance, provenance), (Predicate::Sbom, bom)])
}

/// Returns all statements about manifests whose images are pinned to `references`.
pub(crate) fn of_manifests(
    digest: &Digest,
    origin: Origin<'_>,
    references: &BTreeMap<String, String>,
) -> Statements {
    let dependencies = images(references.values()).chain([origin.dependency()]).collect();
    let parameters = origin.parameters(&[("path", origin.folder.to_owned())]);
    let provenance = provenance("manifests", &parameters, dependencies, &[]);
    statements(digest, [(Predicate::Provenance, provenance)])
}

/// Returns all statements about an index of the images `references`.
pub(crate) fn of_index<'a>(
    digest: &Digest,
    origin: Origin<'_>,
    references: impl Iterator<Item = &'a str>,
) -> Statements {
    let dependencies = images(references).chain([origin.dependency()]).collect();
    let provenance = provenance("image-index", &origin.parameters(&[]), dependencies, &[]);
    statements(digest, [(Predicate::Provenance, provenance)])
}

/// Returns the dependency on each image of `references`.
fn images<T: AsRef<str>>(references: impl Iterator<Item = T>) -> impl Iterator<Item = Value> {
    references.filter_map(|reference| {
        let reference = reference.as_ref();
        let hex = reference.rsplit_once("@sha256:")?.1;
        Some(json!({"uri": format!("oci://{reference}"), "digest": {"sha256": hex}}))
    })
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

/// Reads the build result from a published provenance; `None` for any other statement, and for a provenance of an
/// earlier version of this program, which does not tell everything that today's statements hold.
pub(crate) fn built(provenance: &[u8]) -> Option<BuildResult> {
    let statement: Value = serde_json::from_slice(provenance).ok()?;
    let predicate = &statement["predicate"];
    let nix = predicate["runDetails"]["builder"]["version"]["nix"].as_str()?.to_owned();
    let settings = predicate["buildDefinition"]["internalParameters"].as_object()?;
    let settings = settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut built = BuildResult { builder: Builder { nix, settings }, ..BuildResult::default() };
    for byproduct in predicate["runDetails"]["byproducts"].as_array()? {
        let sha256 = byproduct["digest"]["narSha256"].as_str()?.to_owned();
        match byproduct["name"].as_str()? {
            "build" => {
                built.nar_sha256 = sha256;
                let licenses = &byproduct["annotations"]["licenses"];
                built.licenses = Deserialize::deserialize(licenses).unwrap_or_default();
            }
            "rebuild" => built.rebuilt = true,
            path => {
                let references =
                    byproduct["annotations"]["references"].as_array().into_iter().flatten();
                let references: BTreeSet<_> = references
                    .map(|path| path.as_str().map(str::to_owned))
                    .collect::<Option<_>>()?;
                if !references.is_empty() {
                    built.references.insert(path.to_owned(), references);
                }
                built.closure.insert(path.to_owned(), sha256);
            }
        }
    }
    Some(built)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::crates::{CrateLicense, CrateLicenses};
    use crate::nix::drv::Graph;
    use crate::nix::meta::Meta;
    use crate::sbom::lock::{Crates, Lock};

    /// Returns a derivation that needs one download, from two derivations.
    fn derivation() -> Derivation {
        let fixed = format!(
            r#"Derive([("out","/s/src","sha256","{}")],[],[],"s","b",[],[("url","https://e.org/a.tgz")])"#,
            "ab".repeat(32)
        );
        let graph = Graph::read("/nix/store/x.drv", |path| {
            let top = r#"Derive([("out","/nix/store/x","","")],[("/s/a.drv",["out"]),("/s/b.drv",["out"])],[],"s","b",[],[])"#;
            Ok(if path == "/nix/store/x.drv" { top.into() } else { fixed.clone().into_bytes() })
        });
        Derivation {
            path: "/nix/store/x.drv".to_owned(),
            digest: Digest::of(b"drv"),
            out: "/nix/store/x".to_owned(),
            version: String::new(),
            inputs: Vec::new(),
            graph: graph.expect("two derivations"),
            meta: Meta::default(),
        }
    }

    /// Returns the statements about an image of the package `default`.
    fn image_of(origin: Origin<'_>, built: &BuildResult) -> Statements {
        image_with(&Contents::default(), origin, built)
    }

    fn image_with(contents: &Contents, origin: Origin<'_>, built: &BuildResult) -> Statements {
        let derivation = derivation();
        let (attribute, system) = ("default", "x86_64-linux");
        let making = Making { attribute, system, derivation: &derivation, contents };
        of_image(&Digest::of(b"manifest"), origin, making, built)
    }

    fn identity(document: &str) -> Identity {
        let (project, source) = ("p".to_owned(), "https://example.org/a".to_owned());
        Identity { project, document: document.to_owned(), source, is_source_checked: true }
    }

    #[test]
    fn a_statement_belongs_to_a_document_only_if_all_its_parameters_match() {
        let this = identity("a");
        let image = |identity: &Identity, rev: &str| {
            image_of(Origin { identity, rev, folder: "sources/a" }, &BuildResult::default())
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
            let hash = "11".repeat(32);
            let [path, needed] = ["/nix/store/x", "/nix/store/y"].map(str::to_owned);
            let closure = [(path.clone(), hash.clone()), (needed.clone(), hash.clone())].into();
            let references = [(path, [needed].into())].into();
            let settings = [("sandbox".to_owned(), json!("relaxed"))].into();
            let builder = Builder { nix: "2.34.8".to_owned(), settings };
            let licenses = [
                ("11".repeat(32), CrateLicense::Declared("MIT".to_owned())),
                ("22".repeat(32), CrateLicense::File("LICENSE".to_owned())),
            ];
            let licenses = licenses.into();
            let nar_sha256 = hash;
            let told = BuildResult { nar_sha256, rebuilt, closure, references, builder, licenses };
            let crates = Some(Crates::new(Lock::default(), None));
            let contents = Contents { crates, ..Contents::default() };
            let all = image_with(&contents, origin, &told);
            assert_eq!(built(&all[&Predicate::Provenance]), Some(told.clone()));
            // The provenance of an image without crates has no licences, not even an empty list.
            let all = image_of(origin, &told);
            let without = BuildResult { licenses: CrateLicenses::new(), ..told };
            assert_eq!(built(&all[&Predicate::Provenance]), Some(without));
        }
        let earlier = json!({"predicate": {"runDetails": {"byproducts": []}}});
        assert_eq!(built(earlier.to_string().as_bytes()), None);
    }

    #[test]
    fn provenance_lists_every_download_once_and_names_store_paths_by_uri() {
        let identity = identity("a");
        let origin = Origin { identity: &identity, rev: "f00", folder: "d" };
        let all = image_of(origin, &BuildResult::default());
        let statement: Value = serde_json::from_slice(&all[&Predicate::Provenance]).expect("JSON");
        let dependencies = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
        let uris: Vec<_> = dependencies
            .as_array()
            .into_iter()
            .flatten()
            .map(|dependency| &dependency["uri"])
            .collect();
        assert_eq!(
            uris,
            ["file:///nix/store/x.drv", "git+https://example.org/a@f00", "https://e.org/a.tgz"]
        );
        assert_eq!(dependencies[2]["digest"], json!({"sha256": "ab".repeat(32)}));
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
