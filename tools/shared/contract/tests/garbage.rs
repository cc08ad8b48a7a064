//! The Project parser returns an error for an invalid spec and never panics.

use std::fs;

use contract::Projects;
use documents::Stream;
use proptest::prelude::*;
use serde_json::json;
use testing::garbage::{text, value};

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
