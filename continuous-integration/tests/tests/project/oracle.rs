//! Validation of JSON by a program that others wrote. It reads every keyword of a JSON Schema, while `schema.rs` needs
//! nothing but Rust, and reports a wrong document of a program at once.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use repository_tests::{OWNERS, root};
use serde_json::Value;
use testing::run::feed;

use super::Test;

/// Schema of a stream with documents of any kinds.
const STREAM: &str = "knowledge/reference/schema.json";

/// Returns the violations by `documents` of the schema of a stream and of the schemas of their kinds.
pub(crate) fn violations(documents: &[Value]) -> Test<Vec<String>> {
    let mut found = violations_of(&[root().join(STREAM)], documents)?;
    let mut kinds: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for document in documents {
        let owner = OWNERS.iter().find(|(kind, _)| document["kind"] == *kind);
        if let Some((_, owner)) = owner {
            kinds.entry(owner).or_default().push(document.clone());
        }
    }
    for (owner, documents) in kinds {
        let schema = root().join("tools").join(owner).join("schema.json");
        found.extend(violations_of(&[schema], &documents)?);
    }
    Ok(found)
}

/// Returns the violations of the first of `schemas`, which refers to the others. Fails if the schema itself is invalid.
pub(crate) fn violations_of(schemas: &[PathBuf], documents: &[Value]) -> Test<Vec<String>> {
    let lines: Vec<_> = documents.iter().map(Value::to_string).collect();
    let script = root().join("continuous-integration/tests/tests/project/validate.py");
    let ended =
        feed(Command::new(python()).arg(script).args(schemas), lines.join("\n").as_bytes())?;
    let found: Vec<_> = String::from_utf8(ended.stdout)?.lines().map(str::to_owned).collect();
    if ended.status.success() != found.is_empty() {
        let said = String::from_utf8_lossy(&ended.stderr);
        return Err(format!("{said}help: tasks/test installs the validator").into());
    }
    Ok(found)
}

/// Returns a Python that has the validator: that of `tasks/test`, otherwise that of `nix develop`.
pub(crate) fn python() -> PathBuf {
    let cache = env::var_os("LAB_CACHE").map_or_else(|| root().join(".cache"), PathBuf::from);
    let installed = cache.join("tools/python/bin/python3");
    if installed.exists() { installed } else { Path::new("python3").to_owned() }
}
