//! Validates documents against the JSON Schemas that the programs publish. Only the keywords of our
//! schemas are implemented; an unknown keyword fails the test.

use std::fs;

use repository_tests::{OWNERS, root};
use serde_json::{Map, Value};

use super::Test;

/// Keywords that are ignored: annotations, and limits that the programs' own types enforce.
const IGNORED: [&str; 17] = [
    "$schema",
    "$id",
    "$defs",
    "title",
    "description",
    "default",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "propertyNames",
];

/// Panics if a document in `stream`, one per line, is invalid.
pub(crate) fn every_document_is_valid(stream: &str) -> Test {
    for line in stream.lines() {
        let document: Value = serde_json::from_str(line)?;
        let owner = OWNERS.iter().find(|(kind, _)| document["kind"] == *kind);
        let Some((_, owner)) = owner else { continue };
        let file = root().join("tools").join(owner).join("schema.json");
        let schema: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
        let violations = violations(&schema, &schema, &document, "");
        assert!(violations.is_empty(), "{owner} wrote {document}\n{}", violations.join("\n"));
    }
    Ok(())
}

/// Returns the violations of `schema` by `value`, which is at `path`.
pub(crate) fn violations(root: &Value, schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let Some(schema) = schema.as_object() else {
        return if *schema == Value::Bool(false) {
            vec![format!("{path}: not allowed")]
        } else {
            vec![]
        };
    };
    let mut found = Vec::new();
    for (keyword, rule) in schema {
        let violated = match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().unwrap_or_default().trim_start_matches('#');
                let target = root.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"));
                found.extend(violations(root, target, value, path));
                false
            }
            "type" => !types(rule).iter().any(|name| is_of(value, name)),
            "const" => value != rule,
            "enum" => !rule.as_array().is_some_and(|allowed| allowed.contains(value)),
            "required" => {
                let names = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
                let absent = |name: &&str| value.is_object() && value.get(*name).is_none();
                found.extend(names.filter(absent).map(|name| format!("{path}: lacks `{name}`")));
                false
            }
            "properties" => {
                for (name, rule) in rule.as_object().into_iter().flatten() {
                    if let Some(value) = value.get(name) {
                        found.extend(violations(root, rule, value, &format!("{path}/{name}")));
                    }
                }
                false
            }
            // The programs' own types check the names. A name in `properties` fits no pattern of ours.
            "patternProperties" => {
                let known = schema.get("properties");
                for (name, value) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| known.get(name).is_none()) {
                        for rule in rule.as_object().into_iter().flat_map(Map::values) {
                            let path = format!("{path}/{name}");
                            found.extend(violations(root, rule, value, &path));
                        }
                    }
                }
                false
            }
            "additionalProperties" if schema.contains_key("patternProperties") => false,
            "additionalProperties" => {
                let none = Map::new();
                let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
                for (name, value) in value.as_object().into_iter().flatten() {
                    if !known.contains_key(name) {
                        found.extend(violations(root, rule, value, &format!("{path}/{name}")));
                    }
                }
                false
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(violations(root, rule, item, &format!("{path}/{index}")));
                }
                false
            }
            "anyOf" | "oneOf" => {
                let alternatives = rule.as_array().into_iter().flatten();
                let all: Vec<_> =
                    alternatives.map(|rule| violations(root, rule, value, path)).collect();
                let fitting = all.iter().filter(|violations| violations.is_empty()).count();
                if fitting == 0 {
                    // Report the alternative whose violation is deepest: it is the most likely intent.
                    found.extend(
                        all.into_iter()
                            .max_by_key(|violations| {
                                violations.iter().map(String::len).max().unwrap_or_default()
                            })
                            .unwrap_or_default(),
                    );
                }
                fitting == 0 || (keyword == "oneOf" && fitting > 1)
            }
            "allOf" => {
                for rule in rule.as_array().into_iter().flatten() {
                    found.extend(violations(root, rule, value, path));
                }
                false
            }
            known => {
                assert!(
                    IGNORED.contains(&known),
                    "this test does not implement the keyword {known}"
                );
                false
            }
        };
        if violated {
            found.push(format!("{path}: {keyword} {rule} does not allow {value}"));
        }
    }
    found
}

fn types(rule: &Value) -> Vec<&str> {
    match rule {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().into_iter().collect(),
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    }
}
