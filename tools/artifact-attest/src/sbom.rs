//! Software bill of materials of an image, in the `CycloneDX` format.
//!
//! **Invariant:** only facts are listed: variables of derivations, the closure, the commit's `Cargo.lock`, and the
//! package's own `meta`, and the manifests of crates in archives that the lock fixes. What none of them tells is left
//! out.
//! **Invariant:** the bill depends only on the commit and on the build result.

pub(crate) mod licenses;
pub(crate) mod lock;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};

use ::remote::percent_encode_except;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::nix::crates::CrateLicense;
use crate::nix::{BuildResult, Derivation};
use crate::oci::Digest;
use crate::source::Source;
use licenses::OwnLicenses;
use lock::Crates;

/// Contents of an image, as far as its commit tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Time of the commit, by RFC 3339 in UTC.
    pub(crate) time: String,
    /// Crates that the build result may contain; `None` if no derivation of the build runs Cargo.
    pub(crate) crates: Option<Crates>,
    /// Licences of the source's own packages among the crates.
    pub(crate) own_licenses: OwnLicenses,
}

impl Contents {
    /// Returns the contents of a build result from `source`, with the crates that it may contain.
    pub(crate) fn new(source: &Source, crates: Option<Crates>) -> Result<Self, Error> {
        let own_licenses = crates.as_ref().map(|crates| licenses::of_source(source, crates));
        let own_licenses = own_licenses.transpose()?.unwrap_or_default();
        Ok(Self { time: source.time()?, crates, own_licenses })
    }
}

/// Subject of a bill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) digest: &'a Digest,
    /// Name of the image's document.
    pub(crate) name: &'a str,
    /// Name of the Project that supplies the image.
    pub(crate) supplier: &'a str,
    /// URL of the source's repository.
    pub(crate) source: &'a str,
    pub(crate) derivation: &'a Derivation,
    pub(crate) built: &'a BuildResult,
    pub(crate) contents: &'a Contents,
}

/// Components and their dependencies, by `bom-ref`.
#[derive(Default)]
struct Bill {
    components: BTreeMap<String, Value>,
    dependencies: BTreeMap<String, BTreeSet<String>>,
}

impl Bill {
    fn add(&mut self, mut component: Map<String, Value>, reference: &str, needs: BTreeSet<String>) {
        component.insert("bom-ref".to_owned(), json!(reference));
        self.components.insert(reference.to_owned(), Value::Object(component));
        self.dependencies.entry(reference.to_owned()).or_default().extend(needs);
    }
}

/// Returns the bill of materials of an image.
pub(crate) fn document(subject: &Subject<'_>) -> Value {
    let Subject { digest, name, supplier, source, derivation, built, contents } = *subject;
    let mut bill = Bill::default();
    for path in built.closure.keys() {
        let component = component_of_path(path, derivation, built);
        let none = BTreeSet::new();
        let needs = built.references.get(path).unwrap_or(&none).iter();
        let needs = needs.filter(|needed| built.closure.contains_key(*needed) && *needed != path);
        bill.add(component, path, needs.cloned().collect());
    }
    let root: BTreeSet<_> = built
        .closure
        .get_key_value(&derivation.out)
        .map(|(path, _)| path.clone())
        .into_iter()
        .collect();
    let mut properties = Vec::new();
    if let Some(crates) = &contents.crates {
        let (reached, direct) = crates.reached();
        for (reference, (package, needs)) in reached {
            let license = package.sha256().and_then(|sha256| built.licenses.get(sha256));
            let license = license.or_else(|| contents.own_licenses.get(&reference));
            bill.add(component_of_crate(package, license), &reference, needs);
        }
        for path in &root {
            bill.dependencies.entry(path.clone()).or_default().extend(direct.clone());
        }
        let scope = crates.roots.as_ref().map_or_else(
            || "the whole Cargo.lock".to_owned(),
            |roots| format!("reached by {}", roots.iter().cloned().collect::<Vec<_>>().join(", ")),
        );
        properties.push(json!({"name": "artifact-attest:crates", "value": scope}));
    }
    bill.dependencies.insert(digest.to_string(), root);
    let mut image = json!({
        "type": "container",
        "bom-ref": digest,
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest.hex()}],
    });
    let version = derivation.graph.package(&derivation.out).version;
    if let Some(version) =
        [derivation.version.as_str(), version].into_iter().find(|text| !text.is_empty())
    {
        image["version"] = json!(version);
    }
    let mut metadata = json!({
        // The version of the program is left out, because every new version would sign every artifact again.
        "tools": {"components": [{
            "type": "application",
            "name": "artifact-attest",
            "externalReferences": [{"type": "website", "url": "https://github.com/zabronax/holistic"}],
        }]},
        "component": image,
        "supplier": {"name": supplier, "url": [source]},
    });
    if !contents.time.is_empty() {
        metadata["timestamp"] = json!(contents.time);
    }
    if !properties.is_empty() {
        metadata["properties"] = json!(properties);
    }
    let dependencies = bill.dependencies.into_iter();
    let dependencies =
        dependencies.map(|(reference, needs)| json!({"ref": reference, "dependsOn": needs}));
    let mut bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": bill.components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    });
    // Made of the content, so that two different bills never share a number.
    bill["serialNumber"] =
        json!(format!("urn:uuid:{}", uuid(&Digest::of(&crate::json::bytes(&bill)))));
    bill
}

/// Returns a component, with a version if that is known.
fn component(kind: &str, name: &str, version: &str) -> Map<String, Value> {
    let mut component = Map::new();
    component.insert("type".to_owned(), json!(kind));
    component.insert("name".to_owned(), json!(name));
    if !version.is_empty() {
        component.insert("version".to_owned(), json!(version));
    }
    component
}

/// Returns the component of a store path. The form of its package URL is that of sbomnix and bombon, with the output
/// as syft adds it: `pkg:nix` is not registered yet (<https://github.com/package-url/purl-spec/issues/149>).
fn component_of_path(
    path: &str,
    derivation: &Derivation,
    built: &BuildResult,
) -> Map<String, Value> {
    let package = derivation.graph.package(path);
    let is_result = path == derivation.out;
    let version = if is_result && !derivation.version.is_empty() {
        derivation.version.as_str()
    } else {
        package.version
    };
    let mut component = component("application", package.name, version);
    let mut purl = format!("pkg:nix/{}", percent_encode_except(package.name, ""));
    if !version.is_empty() {
        purl = format!("{purl}@{}", percent_encode_except(version, ""));
    }
    if !matches!(package.output, "" | "out") {
        purl = format!("{purl}?output={}", percent_encode_except(package.output, ""));
    }
    component.insert("purl".to_owned(), json!(purl));
    let sha256 = built.closure.get(path);
    let mut properties = vec![json!({"name": "nix:output_path", "value": path})];
    properties.extend(sha256.map(|sha256| json!({"name": "nix:narSha256", "value": sha256})));
    component.insert("properties".to_owned(), json!(properties));
    if !is_result {
        return component; // a derivation holds no `meta`, so licences of other packages are unknown
    }
    let meta = &derivation.meta;
    let licenses: Vec<_> = match meta.licenses()[..] {
        [(spdx, true)] => vec![licenses::declared(spdx, licenses::is_expression(spdx))],
        ref several => several.iter().map(|(name, _)| licenses::declared(name, false)).collect(),
    };
    if !licenses.is_empty() {
        component.insert("licenses".to_owned(), json!(licenses));
    }
    if let Some(cpe) = meta.cpe.as_ref().filter(|cpe| is_cpe(cpe)) {
        component.insert("cpe".to_owned(), json!(cpe));
    }
    if let Some(description) = meta.description.as_ref().filter(|text| !text.is_empty()) {
        component.insert("description".to_owned(), json!(description));
    }
    if let Some(url) = meta.homepage.as_ref().filter(|url| is_web_address(url)) {
        component.insert("externalReferences".to_owned(), json!([{"type": "website", "url": url}]));
    }
    component
}

/// Returns the component of a crate, or of another package of the source.
fn component_of_crate(
    package: &lock::Package,
    license: Option<&CrateLicense>,
) -> Map<String, Value> {
    let mut component = component("library", &package.name, &package.version);
    if let Some(purl) = package.purl() {
        component.insert("purl".to_owned(), json!(purl));
    }
    if let Some(sha256) = package.sha256() {
        component.insert("hashes".to_owned(), json!([{"alg": "SHA-256", "content": sha256}]));
    }
    if let Some(license) = license {
        component.insert("licenses".to_owned(), json!([licenses::item(license)]));
    }
    component
}

/// Whether `text` is a formatted string of CPE 2.3: thirteen fields, in which every other character than letters,
/// digits and `-._` is escaped (NISTIR 7695, section 6.2).
fn is_cpe(text: &str) -> bool {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => fields.push(std::mem::take(&mut field)),
            '\\' if letters.next().is_some_and(|escaped| escaped.is_ascii_punctuation()) => {
                field.push('_');
            }
            letter => field.push(letter),
        }
    }
    fields.push(field);
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let is_field =
        |field: &String| field == "*" || (!field.is_empty() && field.chars().all(is_plain));
    let is_part = |part: &str| ["a", "o", "h"].contains(&part);
    fields.len() == 13
        && fields[..2] == ["cpe", "2.3"]
        && is_part(&fields[2])
        && fields[3..].iter().all(is_field)
}

fn is_web_address(text: &str) -> bool {
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    is_web && text.bytes().all(|byte| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte))
}

/// Returns a UUID of version 8, made of the beginning of the digest (RFC 9562 leaves the content of
/// version 8 to the application).
fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests;
