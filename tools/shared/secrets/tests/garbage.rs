//! Parsers return an error for invalid input and never panic.

use std::fs;

use proptest::prelude::*;
use secrets::{AgeRecipient, Identities, Reference, Secret, Sops, unseal_with};
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
    fn any_text_parses_or_is_an_error(text in text()) {
        let _ = AgeRecipient::try_from(text.clone());
        let secret = Secret::new(text.clone().into_bytes());
        if let Ok(identities) = Identities::parse(&secret) {
            let _ = unseal_with(&identities, &text);
        }
    }

    #[test]
    fn any_value_parses_as_a_reference_or_is_an_error(value in value()) {
        if let Ok(reference) = serde_json::from_value::<Reference>(value) {
            // Resolving a command would run it.
            if !matches!(reference, Reference::Command { .. } | Reference::FirstOf { .. }) {
                let _ = reference.resolve();
            }
        }
    }

    #[test]
    fn any_file_opens_as_a_sops_file_or_is_an_error(
        value in value(),
        sops in value(),
        name in prop::sample::select(vec!["a.yaml", "a.json", "a.env", "a.ini", "a"]),
        bytes: Vec<u8>,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(name);
        let none = Secret::new(Vec::new());
        let identities = Identities::parse(&none).expect("no identity");
        for content in [bytes, json!({"a": value, "sops": sops}).to_string().into_bytes()] {
            fs::write(&file, content).expect("written");
            let _ = Sops::open(&file, &identities).map(|sops| sops.get("a").is_ok());
        }
    }
}
