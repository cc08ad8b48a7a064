//! Parsers return an error for invalid input and never panic.

use std::fs;

use proptest::prelude::*;
use secrets::{AgeRecipient, Identities, Reference, Secret, Sops, unseal_with};
use serde_json::json;
use testing::garbage::{text, value};

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
