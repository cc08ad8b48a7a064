use proptest::prelude::*;
use proptest::test_runner::Config;

use super::lock::Lock;
use super::*;
use crate::Error;
use crate::nix::drv::Graph;
use crate::nix::meta::Meta;

const OUT: &str = "/nix/store/x-greeter-static-x86_64-unknown-linux-musl-0.1.0";

fn derivation(meta: Meta) -> Derivation {
    let read = |_: &str| {
        let text = format!(
            r#"Derive([("dev","/nix/store/y-greeter-0.1.0-dev","",""),("out","{OUT}","","")],[],[],"s","b",[],[("pname","greeter"),("version","0.1.0")])"#
        );
        Ok::<_, Error>(text.into_bytes())
    };
    Derivation {
        path: "/nix/store/z.drv".to_owned(),
        digest: Digest::of(b"drv"),
        out: OUT.to_owned(),
        version: "0.1.0".to_owned(),
        inputs: Vec::new(),
        graph: Graph::read("/nix/store/z.drv", read).expect("a derivation"),
        meta,
    }
}

fn bill(derivation: &Derivation, built: &BuildResult, crates: Option<Crates>) -> Value {
    let own_licenses =
        [("own 1.0.0".to_owned(), CrateLicense::Declared("EUPL-1.2".to_owned()))].into();
    let contents = Contents { time: "2026-11-30T19:00:00Z".to_owned(), crates, own_licenses };
    document(&Subject {
        digest: &Digest::of(b"manifest"),
        name: "greeter",
        supplier: "holistic",
        source: "https://example.org/a",
        derivation,
        built,
        contents: &contents,
    })
}

/// Returns a closure of these paths, in which each path names the next one and itself.
fn closure(paths: &[&str]) -> BuildResult {
    let mut built = BuildResult::default();
    for (index, path) in paths.iter().enumerate() {
        built.closure.insert((*path).to_owned(), "11".repeat(32));
        let named = paths.iter().skip(index).take(2).map(|path| (*path).to_owned());
        built.references.insert((*path).to_owned(), named.collect());
    }
    built
}

fn component<'a>(bill: &'a Value, reference: &str) -> &'a Value {
    let mut components = bill["components"].as_array().into_iter().flatten();
    components.find(|component| component["bom-ref"] == reference).unwrap_or(&Value::Null)
}

/// Fails unless `value` has only these fields, and the required ones.
fn has_fields(value: &Value, required: &[&str], optional: &[&str]) {
    let object = value.as_object().expect("an object");
    assert!(required.iter().all(|name| object.contains_key(*name)), "{value}");
    let known =
        |name: &String| required.contains(&name.as_str()) || optional.contains(&name.as_str());
    assert!(object.keys().all(known), "{value}");
}

/// Fails unless the bill follows the rules of `CycloneDX` 1.6 for the fields that this program writes
/// (<https://github.com/CycloneDX/specification/blob/master/schema/bom-1.6.schema.json>), and no two components share a
/// reference.
fn is_valid(bill: &Value) {
    let fields = [
        "bomFormat",
        "specVersion",
        "serialNumber",
        "version",
        "metadata",
        "components",
        "dependencies",
    ];
    has_fields(bill, &fields, &[]);
    let serial = bill["serialNumber"].as_str().and_then(|text| text.strip_prefix("urn:uuid:"));
    let groups = serial.map(|uuid| uuid.split('-').map(str::len).collect::<Vec<_>>());
    assert_eq!(groups.as_deref(), Some(&[8, 4, 4, 4, 12][..]));
    let metadata = &bill["metadata"];
    has_fields(metadata, &["component", "timestamp", "tools", "supplier"], &["properties"]);
    let mut references = BTreeSet::new();
    let components = bill["components"].as_array().expect("a list");
    for component in components.iter().chain([&metadata["component"]]) {
        let optional = [
            "version",
            "purl",
            "hashes",
            "properties",
            "licenses",
            "cpe",
            "description",
            "externalReferences",
        ];
        has_fields(component, &["type", "name", "bom-ref"], &optional);
        let kind = component["type"].as_str();
        assert!(kind.is_some_and(|kind| ["application", "container", "library"].contains(&kind)));
        assert!(
            references.insert(component["bom-ref"].as_str().expect("a text")),
            "twice: {component}"
        );
        for hash in component["hashes"].as_array().into_iter().flatten() {
            has_fields(hash, &["alg", "content"], &[]);
            assert_eq!(hash["content"].as_str().map(str::len), Some(64));
        }
        let licenses: Vec<_> = component["licenses"].as_array().into_iter().flatten().collect();
        for license in &licenses {
            if license["license"].is_null() {
                has_fields(license, &["expression"], &["acknowledgement"]);
                assert_eq!(licenses.len(), 1, "an expression stands alone");
            } else {
                has_fields(&license["license"], &["name"], &["acknowledgement"]);
            }
        }
        for property in component["properties"].as_array().into_iter().flatten() {
            has_fields(property, &["name", "value"], &[]);
        }
        let purl = component["purl"].as_str();
        assert!(
            purl.is_none_or(|purl| purl.starts_with("pkg:")
                && purl.is_ascii()
                && !purl.contains(' '))
        );
    }
    let mut named = BTreeSet::new();
    for dependency in bill["dependencies"].as_array().expect("a list") {
        has_fields(dependency, &["ref", "dependsOn"], &[]);
        let reference = dependency["ref"].as_str().expect("a text");
        assert!(references.contains(reference) && named.insert(reference), "{dependency}");
        let needs: Vec<_> = dependency["dependsOn"].as_array().into_iter().flatten().collect();
        let unique: BTreeSet<_> = needs.iter().map(ToString::to_string).collect();
        assert_eq!(unique.len(), needs.len(), "{dependency}");
        assert!(
            needs
                .iter()
                .all(|needed| needed.as_str().is_some_and(|needed| references.contains(needed)))
        );
    }
    assert_eq!(named, references, "every component has its dependencies");
}

#[test]
fn a_bill_holds_names_versions_licences_and_dependencies() {
    let meta: Meta = serde_json::from_value(json!({
        "licenses": [{"spdx": "MIT", "name": "MIT License"}],
        "cpe": "cpe:2.3:a:example:greeter:0.1.0:*:*:*:*:*:*:*",
        "homepage": "https://example.org/greeter",
        "description": "Greets",
    }))
    .expect("as Nix prints it");
    let derivation = derivation(meta);
    let dev = "/nix/store/y-greeter-0.1.0-dev";
    let libc = "/nix/store/w-glibc-2.40-66";
    let bill = bill(&derivation, &closure(&[OUT, libc, dev]), None);
    is_valid(&bill);
    let greeter = component(&bill, OUT);
    assert_eq!(greeter["name"], "greeter");
    assert_eq!(greeter["purl"], "pkg:nix/greeter@0.1.0");
    assert_eq!(greeter["licenses"], json!([{"expression": "MIT", "acknowledgement": "declared"}]));
    assert_eq!(greeter["cpe"], "cpe:2.3:a:example:greeter:0.1.0:*:*:*:*:*:*:*");
    assert_eq!(component(&bill, dev)["purl"], "pkg:nix/greeter@0.1.0?output=dev");
    assert_eq!(component(&bill, libc)["purl"], "pkg:nix/glibc@2.40-66");
    assert!(component(&bill, libc)["licenses"].is_null(), "unknown");
    let image = Digest::of(b"manifest").to_string();
    let expected =
        [(libc, vec![dev]), (OUT, vec![libc]), (dev, vec![]), (image.as_str(), vec![OUT])];
    let expected: Vec<_> = expected
        .iter()
        .map(|(reference, needs)| json!({"ref": reference, "dependsOn": needs}))
        .collect();
    assert_eq!(bill["dependencies"], json!(expected));
    assert_eq!(bill["metadata"]["timestamp"], "2026-11-30T19:00:00Z");
    assert_eq!(
        bill["metadata"]["supplier"],
        json!({"name": "holistic", "url": ["https://example.org/a"]})
    );
}

#[test]
fn odd_descriptions_of_a_package_leave_the_bill_valid() {
    for meta in [
        json!({"licenses": null, "cpe": null, "homepage": null, "description": null}),
        json!({"licenses": [{"spdx": null, "name": "Own"}, {"spdx": "No-Such-Licence", "name": null}], "cpe": "cpe:2.3:a:x", "homepage": "javascript:x", "description": ""}),
        json!({"licenses": [{"spdx": "", "name": ""}], "cpe": "cpe:2.3:a:a:b:1.0+git:*:*:*:*:*:*:*", "homepage": "https://a b", "description": "ü\u{1}"}),
    ] {
        let derivation = derivation(serde_json::from_value(meta).expect("as Nix prints it"));
        let bill = bill(&derivation, &closure(&[OUT]), None);
        is_valid(&bill);
        let greeter = component(&bill, OUT);
        assert!(greeter["cpe"].is_null() && greeter["externalReferences"].is_null());
    }
}

#[test]
fn a_crate_has_the_licence_that_its_archive_declares() {
    let declared = |text: &str| CrateLicense::Declared(text.to_owned());
    let ack = |mut item: Value| {
        let inner = if item["license"].is_null() { &mut item } else { &mut item["license"] };
        inner["acknowledgement"] = json!("declared");
        json!([item])
    };
    let expression = |text: &str| ack(json!({"expression": text}));
    let name = |text: &str| ack(json!({"license": {"name": text}}));
    let cases = [
        (Some(declared("MIT OR Apache-2.0")), expression("MIT OR Apache-2.0")),
        (
            Some(declared("(MIT OR Apache-2.0) AND Unicode-3.0")),
            expression("(MIT OR Apache-2.0) AND Unicode-3.0"),
        ),
        (
            Some(declared("Apache-2.0 WITH LLVM-exception")),
            expression("Apache-2.0 WITH LLVM-exception"),
        ),
        (Some(declared("GPL-2.0+")), expression("GPL-2.0+")), // deprecated, and on the list
        (Some(declared("LicenseRef-own")), expression("LicenseRef-own")),
        // Cargo's old form, which SPDX does not know.
        (Some(declared("MIT/Apache-2.0")), name("MIT/Apache-2.0")),
        (Some(declared("Apache 2.0")), name("Apache 2.0")),
        (Some(declared("non-standard")), name("non-standard")),
        (Some(declared("MIT OR")), name("MIT OR")),
        (Some(CrateLicense::File("docs/EULA".to_owned())), name("see the crate's file docs/EULA")),
        (None, Value::Null),
    ];
    let sha256 = |index: usize| format!("{index:064x}");
    let of = |index: usize| {
        format!(
            "[[package]]\nname = \"n{index}\"\nversion = \"1.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"{}\"\n",
            sha256(index)
        )
    };
    let text: String = (0..cases.len()).map(of).collect();
    let text = text + "[[package]]\nname = \"own\"\nversion = \"1.0.0\"\n";
    let lock = Lock::read(text.as_bytes()).expect("a lock");
    let mut built = closure(&[OUT]);
    let licenses = cases.iter().enumerate();
    built.licenses = licenses
        .filter_map(|(index, (license, _))| Some((sha256(index), license.clone()?)))
        .collect();
    let bill = bill(&derivation(Meta::default()), &built, Some(Crates::new(lock, None)));
    is_valid(&bill);
    let licenses = |name: &str| {
        let mut all = bill["components"].as_array().into_iter().flatten();
        all.find(|component| component["name"] == name)
            .map_or(Value::Null, |component| component["licenses"].clone())
    };
    for (index, (_, expected)) in cases.iter().enumerate() {
        assert_eq!(licenses(&format!("n{index}")), *expected);
    }
    assert_eq!(licenses("own"), expression("EUPL-1.2"));
}

#[test]
fn a_cpe_is_a_formatted_string() {
    assert!(is_cpe(r"cpe:2.3:a:a\:b:c\+\+:1\\:*:*:*:*:*:*:*"));
    for odd in [
        "",
        "cpe:/a:b:c",
        "cpe:2.3:a:b:c:1:*:*:*:*:*:*",
        "cpe:2.3:a:b::1:*:*:*:*:*:*:*",
        r"cpe:2.3:a:b:c:1:*:*:*:*:*:*:\",
    ] {
        assert!(!is_cpe(odd), "{odd}");
    }
}

/// Returns locks with few names and versions, so that packages often differ in their source alone, or in nothing.
fn locks() -> impl Strategy<Value = String> {
    let sources = prop::sample::select(vec![
        "",
        "registry+https://github.com/rust-lang/crates.io-index",
        "git+https://git.example/a?branch=one#f00d",
        "git+https://git.example/a?branch=two#f00d",
        "sparse+https://registry.example/",
    ]);
    let package = (0..3_u8, 1..3_u8, sources, prop::collection::vec((0..3_u8, 0..3_u8), 0..4));
    prop::collection::vec(package, 0..12).prop_map(|packages| {
        let text = packages.iter().map(|(name, version, source, needs)| {
            let source = if source.is_empty() { String::new() } else { format!("source = \"{source}\"\n") };
            let needs = needs.iter().map(|(name, version)| match version {
                0 => format!("\"n{name}\""),
                version => format!("\"n{name} {version}.0.0\""),
            });
            let needs: Vec<_> = needs.collect();
            format!("[[package]]\nname = \"n{name}\"\nversion = \"{version}.0.0\"\n{source}dependencies = [{}]\n", needs.join(", "))
        });
        text.collect()
    })
}

proptest! {
    #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

    #[test]
    fn references_are_unique_in_every_closure_and_lock(
        text in locks(),
        paths in prop::collection::btree_set("[ab]-[cd](-[12])?", 0..6),
        edges in prop::collection::vec((0..7_usize, 0..7_usize), 0..12),
        roots in prop::option::of(prop::collection::btree_set("n[0-2]", 0..2)),
    ) {
        let mut built = closure(&[OUT]);
        let paths: Vec<_> = paths.iter().map(|path| format!("/nix/store/{path}")).chain([OUT.to_owned()]).collect();
        for path in &paths {
            built.closure.insert(path.clone(), "11".repeat(32));
        }
        for (from, to) in edges {
            let (from, to) = (&paths[from % paths.len()], &paths[to % paths.len()]);
            built.references.entry(from.clone()).or_default().insert(to.clone());
        }
        let lock = Lock::read(text.as_bytes()).expect("a lock");
        let crates = Crates::new(lock, roots);
        let derivation = derivation(Meta::default());
        let first = bill(&derivation, &built, Some(crates.clone()));
        is_valid(&first);
        prop_assert_eq!(&first, &bill(&derivation, &built, Some(crates)));
    }
}
