//! Overrides of a stream: the merged documents, and the position of every error.

use std::error::Error as StdError;
use std::fs;

use documents::{Error, Kind, Overridden, Stream};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

type Test<T = ()> = Result<T, Box<dyn StdError>>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Fleet {
    zone: String,
    rack: Option<Rack>,
    machines: Option<Vec<Machine>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Rack {
    row: u8,
    slot: u8,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Machine {
    name: String,
}

impl Kind for Fleet {
    const KIND: &'static str = "Delivery";
    type Observed = ();
    type Evidence = ();
    type Step = ();
}

const BASE: &str = "---
# A comment above the document.
apiVersion: holistic/v1alpha1
kind: Delivery
metadata: {name: prod}
spec:
  zone: a
  rack: {row: 1, slot: 2}
";

fn document(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: holistic/v1alpha1\nkind: Delivery\nmetadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

/// Sets every field of `patch`, at one level, which is all that these tests need.
fn merge(value: &mut Value, patch: &Value) {
    for (key, entry) in patch.as_object().into_iter().flatten() {
        match entry {
            Value::Null => drop(value.as_object_mut().map(|fields| fields.remove(key))),
            Value::Object(_) if value[key].is_object() => merge(&mut value[key], entry),
            entry => value[key] = entry.clone(),
        }
    }
}

/// Returns the merged stream, and the errors without their excerpts.
fn merged(base: &str, overrides: &str) -> Test<(Stream, Vec<Overridden>, Vec<String>)> {
    let folder = tempfile::tempdir()?;
    let files = ["base.yaml", "lab.yaml"].map(|name| folder.path().join(name));
    fs::write(&files[0], base)?;
    fs::write(&files[1], overrides)?;
    let mut stream = Stream::read(&files[..1]);
    let overridden = stream.override_with(Stream::read(&files[1..]), merge);
    stream.documents_of::<Fleet>();
    let mistakes = match stream.accept() {
        Err(Error::Invalid { mistakes, .. }) => mistakes,
        _ => Vec::new(),
    };
    let prefix = format!("{}/", folder.path().display());
    let line = |text: &String| {
        text.lines().next().unwrap_or_default().trim_start_matches(&prefix).to_owned()
    };
    let mistakes = mistakes.iter().map(line).collect();
    Ok((stream, overridden, mistakes))
}

fn mistakes(overrides: &str) -> Test<Vec<String>> {
    Ok(merged(BASE, overrides)?.2)
}

#[test]
fn override_changes_its_fields_and_no_other_field() -> Test {
    let other = document("other", "  zone: b\n");
    let (stream, overridden, mistakes) =
        merged(&(BASE.to_owned() + &other), &document("prod", "  rack: {slot: 3}\n  zone: c\n"))?;
    assert_eq!(mistakes, [""; 0]);
    let spec = |name| stream.document("Delivery", name).map(|document| document["spec"].clone());
    assert_eq!(spec("prod"), Some(json!({"zone": "c", "rack": {"row": 1, "slot": 3}})));
    assert_eq!(spec("other"), Some(json!({"zone": "b"})));
    assert_eq!(stream.documents().count(), 2, "an override is no document of the stream");
    assert_eq!(overridden.len(), 1);
    let Overridden { kind, name, fields, file } = &overridden[0];
    assert_eq!((kind.as_str(), name.as_str()), ("Delivery", "prod"));
    assert_eq!(fields, &["spec.rack.slot", "spec.zone"]);
    assert!(file.ends_with("lab.yaml"), "{file}");
    Ok(())
}

// hazard: An override with a typo has no effect, and the lab runs what production runs.
// class: Unread input looks like success.
// members: kind, name, field, removed field, version, foreign document, labels, status, two overrides
// now: exit 2, with the position in the override
#[test]
fn every_wrong_override_is_an_error_with_its_position() -> Test {
    for (overrides, expected) in [
        (
            document("prd", "  zone: b\n"),
            "lab.yaml:4:12: metadata.name: the input has no Delivery `prd`, only prod",
        ),
        (
            document("prod", "  zone: b\n").replace("Delivery", "Cluster"),
            "lab.yaml:4:12: metadata.name: the input has no Cluster, and this field refers to `prod`",
        ),
        (
            document("prod", "  zone: b\n").replace("Delivery", "Delivry"),
            "lab.yaml:3:1: kind: unknown kind: did you mean Delivery?",
        ),
        (
            document("prod", "  zone: b\n").replace("v1alpha1", "v1"),
            "lab.yaml:2:1: apiVersion: unknown version: write holistic/v1alpha1",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n".to_owned(),
            "lab.yaml:1:1: apiVersion: only documents of holistic/v1alpha1 have overrides",
        ),
        (
            document("prod", "  zoen: b\n"),
            "lab.yaml:6:3: spec.zoen: unknown field `zoen`: did you mean `zone`? Expected one of `zone`, `rack`, `machines`",
        ),
        (
            document("prod", "  rack: {row: [1]}\n"),
            "lab.yaml:6:10: spec.rack.row: invalid type: sequence, expected u8",
        ),
        (
            document("prod", "  machines: [{name: a}, {nam: b}]\n"),
            "lab.yaml:6:26: spec.machines.1.nam: unknown field `nam`: did you mean `name`? Expected `name`",
        ),
        (document("prod", "  zone: null\n"), "lab.yaml:6:3: spec: missing field `zone`"),
        (
            document("prod", "  rakc: null\n"),
            "lab.yaml:6:3: spec.rakc: the document does not have this field, so it cannot be removed",
        ),
        (
            document("prod", "  rack: {solt: null}\n"),
            "lab.yaml:6:10: spec.rack.solt: the document does not have this field, so it cannot be removed",
        ),
        (
            document("prod", "  zone: b\nstatus: {}\n"),
            "lab.yaml:7:1: status: an override has only `metadata.name` and `spec`",
        ),
        (
            document("prod, labels: {a: b}", "  zone: b\n"),
            "lab.yaml:4:24: metadata.labels: an override has only `metadata.name` and `spec`",
        ),
        (
            document("prod", "  zone: b\n").replace("{name: prod}", "{}"),
            "lab.yaml:4:1: metadata.name: the name must be a string",
        ),
        (document("prod", "  b\n"), "lab.yaml:5:1: spec: `spec` must be an object"),
        (
            document("prod", "  zone: b\n") + &document("prod", "  zone: c\n"),
            "lab.yaml:10:12: metadata.name: another override of Delivery has this name",
        ),
    ] {
        let found = mistakes(&overrides)?;
        assert!(found.iter().any(|line| line == expected), "{overrides}\n{found:#?}");
    }
    Ok(())
}

#[test]
fn error_in_a_field_without_an_override_keeps_its_position() -> Test {
    let zone = document("prod", "  zone: b\n");
    for (wrong, expected) in [
        ("slot: true", "base.yaml:8:18: spec.rack.slot: invalid type: boolean `true`, expected u8"),
        (
            "slut: 2",
            "base.yaml:8:18: spec.rack.slut: unknown field `slut`: did you mean `slot`? Expected `row` or `slot`",
        ),
    ] {
        let (_, _, found) = merged(&BASE.replace("slot: 2", wrong), &zone)?;
        assert!(found.iter().any(|line| line == expected), "{wrong}: {found:?}");
    }
    let (_, _, found) =
        merged(&BASE.replace("  zone: a\n", ""), &document("prod", "  rack: {slot: 3}\n"))?;
    assert_eq!(found, ["base.yaml:6:1: spec: missing field `zone`"]);
    Ok(())
}
