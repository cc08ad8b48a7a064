//! The Project parser returns an error for an invalid spec and never panics.

use std::fs;

use contract::Projects;
use documents::Stream;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Generates a JSON value of few levels.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let names = prop_oneof![word(), text()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..4)
                .prop_map(|entries| Value::from(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Generates a word that one of the parsers knows.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "env",
        "file",
        "sops",
        "key",
        "command",
        "firstOf",
        "root",
        "recipients",
        "name",
        "age",
        "endpoints",
        "forge",
        "gitea",
        "github",
        "url",
        "token",
        "store",
        "s3",
        "generations",
        "mac",
        "enc",
        "recipient",
        "lastmodified",
        "https://",
        "http://127.0.0.1",
        "age1",
        "AGE-SECRET-KEY-1",
        "-----BEGIN AGE ENCRYPTED FILE-----\n",
        "ENC[AES256_GCM,data:,iv:,tag:,type:str]",
        "<<",
        "&a",
        "*a",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}

/// Generates text, often text that begins with a known word.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), ".{0,40}", word(), (word(), ".{0,20}").prop_map(|(a, b)| a + &b)]
}

proptest! {
    #[test]
    fn any_spec_parses_as_a_project_or_is_a_validation_error(spec in value(), part in value(), text in text()) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("documents.yaml");
        let likely = json!({
            "root": {"env": "NOT_SET"}, "recipients": part, "endpoints": spec, "generations": part,
        });
        for spec in [&spec, &likely] {
            let document = json!({
                "apiVersion": "holistic/v1alpha1", "kind": "Project",
                "metadata": {"name": "a"}, "spec": spec,
            });
            fs::write(&file, format!("{document}\n---\n{text}\n")).expect("written");
            let mut stream = Stream::read(std::slice::from_ref(&file));
            Projects::read(&mut stream);
            let _ = stream.accept();
        }
    }
}
