//! Bills of materials of the programs, held against two other outputs of cargo.
//!
//! `cargo tree --package` knows the features that a program needs alone, so all of its crates are in the program.
//! `cargo metadata` adds up the features of all packages, also those of tests, so no other crate can be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use repository_tests::root;
use serde_json::{Value, json};

use crate::{Built, PROGRAMS, Test, oracle, output, tree};

/// Each target of a release, and a crate that only its programs have.
const TARGETS: [(&str, &str); 2] = [
    ("x86_64-unknown-linux-musl", "linux-raw-sys"),
    ("aarch64-apple-darwin", "security-framework-sys"),
];

/// Schema of a bill, and the schemas to which it refers, in Python's package `cyclonedx`.
const CYCLONEDX: [&str; 3] =
    ["bom-1.6.SNAPSHOT.schema.json", "spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json"];

/// Returns the violations by `bills` of the schema of `CycloneDX` 1.6.
fn violations(bills: &[Value]) -> Test<Vec<String>> {
    let print = "import cyclonedx.schema; print(*cyclonedx.schema.__path__)";
    let folder = output(Command::new(oracle::python()).args(["-c", print]))?;
    let folder = Path::new(folder.trim()).join("_res");
    oracle::violations_of(&CYCLONEDX.map(|file| folder.join(file)), bills)
}

/// Returns the bill of each program for `target`.
fn bills(target: &str) -> Test<BTreeMap<&'static str, Value>> {
    let built = Built::new(&tree(target)?)?;
    let folder = built.pack(&PROGRAMS, "022")?;
    let bill = |program| {
        let text = std::fs::read_to_string(folder.join(format!("{program}-any.cdx.json")))?;
        Test::Ok((program, serde_json::from_str(&text)?))
    };
    PROGRAMS.into_iter().map(bill).collect()
}

fn cargo(arguments: &[&str]) -> Test<String> {
    output(Command::new("cargo").args(arguments).args(["--frozen"]).current_dir(root()))
}

/// Returns `name version` of each component.
fn listed(bill: &Value) -> BTreeSet<String> {
    let components = bill["components"].as_array().into_iter().flatten();
    components.filter_map(|component| component["bom-ref"].as_str().map(str::to_owned)).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Packages of `cargo metadata`, by their IDs.
struct Metadata(Value);

impl Metadata {
    fn of(target: &str) -> Test<Self> {
        let printed = cargo(&["metadata", "--format-version", "1", "--filter-platform", target])?;
        Ok(Self(serde_json::from_str(&printed)?))
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.0["packages"].as_array().into_iter().flatten()
    }

    fn names(&self) -> BTreeMap<&str, String> {
        let name =
            |package: &Value| format!("{} {}", text(&package["name"]), text(&package["version"]));
        self.packages().map(|package| (text(&package["id"]), name(package))).collect()
    }

    /// Returns the dependencies that are not only of tests or of build scripts, of each package.
    fn needs(&self) -> BTreeMap<String, BTreeSet<String>> {
        let names = self.names();
        let is_normal = |dependency: &&Value| {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            kinds.any(|kind| kind["kind"].is_null())
        };
        let nodes = self.0["resolve"]["nodes"].as_array().into_iter().flatten();
        let needs = |node: &Value| {
            let needed = node["deps"].as_array().into_iter().flatten().filter(is_normal);
            needed.map(|dependency| names[text(&dependency["pkg"])].clone()).collect()
        };
        nodes.map(|node| (names[text(&node["id"])].clone(), needs(node))).collect()
    }
}

/// Returns the packages that `root` needs, directly or through another one.
fn reached<'a>(needs: &'a BTreeMap<String, BTreeSet<String>>, root: &str) -> BTreeSet<&'a String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![&needs[root]]);
    while let Some(needed) = open.pop() {
        let new = needed.iter().filter(|id| seen.insert(*id));
        open.extend(new.map(|id| &needs[id]));
    }
    seen
}

/// Returns the crates that a build of `program` alone links.
fn linked_alone(program: &str, target: &str) -> Test<BTreeSet<String>> {
    let flags = ["tree", "--package", program, "--edges", "normal,no-proc-macro"];
    let more = ["--target", target, "--prefix", "none", "--format", "{p}"];
    let name = |line: &str| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        (name != program).then(|| format!("{name} {version}"))
    };
    Ok(cargo(&[&flags[..], &more].concat())?.lines().filter_map(name).collect())
}

#[test]
fn a_bill_lists_the_crates_that_are_linked_into_its_program_for_its_target() -> Test {
    for (target, _) in TARGETS {
        let needs = Metadata::of(target)?.needs();
        for (program, bill) in bills(target)? {
            let (listed, alone) = (listed(&bill), linked_alone(program, target)?);
            assert!(alone.len() > 100, "{program}: {alone:?}");
            let missing: Vec<_> = alone.difference(&listed).collect();
            assert!(missing.is_empty(), "{program} for {target}: {missing:?} is not in the bill");
            let reached = reached(&needs, text(&bill["metadata"]["component"]["bom-ref"]));
            let foreign: Vec<_> = listed.iter().filter(|id| !reached.contains(id)).collect();
            assert!(foreign.is_empty(), "{program} for {target} does not need {foreign:?}");
            for dependency in bill["dependencies"].as_array().ok_or("no list")? {
                let from = text(&dependency["ref"]);
                for to in dependency["dependsOn"].as_array().into_iter().flatten().map(text) {
                    assert!(needs[from].contains(to), "{program}: {from} does not need {to}");
                    assert!(listed.contains(to), "{program}: {to} is no component");
                }
            }
            let names: BTreeSet<_> =
                listed.iter().filter_map(|id| id.split_once(' ')).map(|(name, _)| name).collect();
            for (other, crate_of_other) in TARGETS {
                let is_own = other == target;
                assert_eq!(names.contains(crate_of_other), is_own, "{program} for {target}");
            }
            for unlinked in ["testing", "proptest", "trycmd", "serde_derive", "cc"] {
                assert!(!names.contains(unlinked), "{program} for {target}: {unlinked}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_crate_has_the_checksum_of_the_lock_and_the_licence_of_its_manifest() -> Test {
    let (target, _) = TARGETS[0];
    let metadata = Metadata::of(target)?;
    let names = metadata.names();
    let licences: BTreeMap<_, _> = metadata
        .packages()
        .map(|package| (names[text(&package["id"])].as_str(), &package["license"]))
        .collect();
    let lock = std::fs::read_to_string(root().join("Cargo.lock"))?;
    let (mut with, mut without) = (0, 0);
    for bill in bills(target)?.values() {
        for component in bill["components"].as_array().ok_or("no list")? {
            let id = component["bom-ref"].as_str().ok_or("no reference")?;
            let [name, version] =
                ["name", "version"].map(|field| component[field].as_str().unwrap_or_default());
            let licence = &component["licenses"][0];
            let declared = licence["expression"].as_str().or(licence["license"]["name"].as_str());
            assert_eq!(declared, licences[id].as_str(), "{id}");
            let package = format!("\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
            let locked = lock.split(&package).nth(1).and_then(|rest| rest.split("\n\n").next());
            let package = locked.ok_or_else(|| format!("{id} is not in the lock"))?;
            if let Some(hash) = component["hashes"][0]["content"].as_str() {
                with += 1;
                assert!(package.contains(&format!("checksum = \"{hash}\"")), "{id}");
                let purl = format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"));
                assert_eq!(component["purl"], purl);
            } else {
                without += 1;
                assert!(!package.contains("source = "), "{id}");
            }
        }
    }
    assert!(with > 1000 && without > 20, "{with} crates, and {without} packages of this workspace");
    Ok(())
}

#[test]
fn a_bill_is_valid_cyclonedx_and_names_the_digest_of_its_archive() -> Test {
    let built = Built::new(&tree(TARGETS[0].0)?)?;
    let folder = built.pack(&PROGRAMS, "022")?;
    let (mut bills, mut numbers) = (Vec::new(), BTreeSet::new());
    for program in PROGRAMS {
        let file = |end: &str| folder.join(format!("{program}-any.{end}"));
        let bill: Value = serde_json::from_str(&std::fs::read_to_string(file("cdx.json"))?)?;
        let archive = &bill["metadata"]["component"]["externalReferences"][0];
        assert_eq!(archive["url"], format!("{program}-any.tar.gz"));
        let digest = output(Command::new("sha256sum").arg(file("tar.gz")))?;
        assert_eq!(archive["hashes"][0]["content"].as_str(), digest.split(' ').next());
        numbers.insert(bill["serialNumber"].to_string());
        bills.push(bill);
    }
    assert_eq!(numbers.len(), PROGRAMS.len());
    assert_eq!(violations(&bills)?, [""; 0]);
    let changes: [fn(&mut Value); 4] = [
        |bill| bill["specVersion"] = json!(1.6),
        |bill| bill["components"][0]["type"] = json!("crate"),
        |bill| bill["components"][0]["hashes"] = json!([{"alg": "SHA-256", "content": "none"}]),
        |bill| bill["components"][0]["licenses"] = json!([{"license": {"id": "No-Such-Licence"}}]),
    ];
    for change in changes {
        let mut wrong = bills[0].clone();
        change(&mut wrong);
        assert_ne!(violations(&[wrong])?, [""; 0]);
    }
    Ok(())
}
