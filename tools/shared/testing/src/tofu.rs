//! Comparison of configurations with the schemas of `OpenTofu`'s providers: see `schemas/README.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::Test;

/// Arguments that `OpenTofu` itself gives to every resource:
/// <https://opentofu.org/docs/v1.12/language/meta-arguments/depends_on/>.
const META: [&str; 3] = ["//", "depends_on", "lifecycle"];

/// Schemas of one provider, as `tofu providers schema -json` prints them.
pub struct Schema {
    provider: Value,
    resources: Value,
}

impl Schema {
    /// Reads the schemas of the provider `name`, for example `hcloud`.
    pub fn read(name: &str) -> Test<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.json"));
        let all: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let mut schemas = all["provider_schemas"].as_object().into_iter().flatten();
        let (Some((_, schema)), None) = (schemas.next(), schemas.next()) else {
            return Err("not one provider".into());
        };
        Ok(Self {
            provider: schema["provider"].clone(),
            resources: schema["resource_schemas"].clone(),
        })
    }

    /// Returns the types of resource of the schemas.
    #[must_use]
    pub fn kinds(&self) -> BTreeSet<&str> {
        self.resources.as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).collect()
    }

    /// Returns every difference between a configuration and the schemas: an argument that does not exist, is
    /// not an argument, has another type or is missing; a reference or an import of a resource that the
    /// configuration lacks; an ignored argument that does not exist.
    #[must_use]
    pub fn differences(&self, configuration: &Value) -> Vec<String> {
        let mut found = Vec::new();
        for (name, arguments) in entries(&configuration["provider"]) {
            block(&format!("provider {name}"), arguments, &self.provider["block"], &mut found);
        }
        let mut addresses = BTreeSet::new();
        for (kind, resources) in entries(&configuration["resource"]) {
            let schema = &self.resources[kind]["block"];
            if schema.is_null() {
                found.push(format!("{kind}: no such resource"));
                continue;
            }
            for (label, resource) in entries(resources) {
                let address = format!("{kind}.{label}");
                let mut arguments = resource.as_object().cloned().unwrap_or_default();
                for meta in META {
                    arguments.remove(meta);
                }
                block(&address, &Value::Object(arguments), schema, &mut found);
                for ignored in texts(&resource["lifecycle"]["ignore_changes"]) {
                    // OpenTofu warns about an attribute that only the provider sets.
                    let is_argument = |one: &Value| one["type"].is_null() || is_settable(one);
                    if !attribute(schema, ignored).is_some_and(is_argument) {
                        found.push(format!("{address}: ignores {ignored}, which is no argument"));
                    }
                }
                addresses.insert(address);
            }
        }
        let variables: BTreeSet<_> =
            entries(&configuration["variable"]).map(|(name, _)| name).collect();
        for (address, resource) in addresses.iter().filter_map(|address| {
            let (kind, label) = address.split_once('.')?;
            Some((address, &configuration["resource"][kind][label]))
        }) {
            for reference in references(resource) {
                let is_known = match reference.strip_prefix("var.") {
                    Some(name) => variables.contains(name),
                    None => addresses.contains(reference.as_str()),
                };
                if !is_known {
                    found.push(format!("{address}: refers to {reference}, which does not exist"));
                }
            }
        }
        for import in configuration["import"].as_array().into_iter().flatten() {
            let to = import["to"].as_str().unwrap_or_default();
            if !addresses.contains(to) || import["id"].as_str().is_none_or(str::is_empty) {
                found.push(format!("import: no resource or no id: {import}"));
            }
        }
        found
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn attribute<'a>(block: &'a Value, name: &str) -> Option<&'a Value> {
    block["attributes"].get(name).or_else(|| block["block_types"].get(name))
}

fn is_settable(attribute: &Value) -> bool {
    attribute["optional"] == true || attribute["required"] == true
}

/// Compares the arguments of one block with its schema.
fn block(path: &str, arguments: &Value, schema: &Value, found: &mut Vec<String>) {
    let empty = Map::new();
    let arguments = arguments.as_object().unwrap_or(&empty);
    for (name, value) in arguments {
        let path = format!("{path}.{name}");
        if let Some(attribute) = schema["attributes"].get(name) {
            if !is_settable(attribute) {
                found.push(format!("{path}: only the provider sets it"));
            }
            if !has_type(value, &attribute["type"]) {
                found.push(format!("{path}: {value} is not of type {}", attribute["type"]));
            }
        } else if let Some(nested) = schema["block_types"].get(name) {
            let blocks = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let most = nested["max_items"].as_u64().unwrap_or(u64::MAX);
            if blocks.len() as u64 > most {
                found.push(format!("{path}: more than {most} blocks"));
            }
            for value in blocks {
                block(&path, value, &nested["block"], found);
            }
        } else {
            found.push(format!("{path}: no such argument"));
        }
    }
    let missing = entries(&schema["attributes"]).filter(|(_, schema)| schema["required"] == true);
    let blocks = entries(&schema["block_types"]);
    let blocks = blocks.filter(|(_, schema)| schema["min_items"].as_u64() > Some(0));
    for (name, _) in missing.chain(blocks).filter(|(name, _)| !arguments.contains_key(*name)) {
        found.push(format!("{path}: lacks {name}"));
    }
}

/// Whether a value of the configuration has a type of the schema. An expression has every primitive type.
fn has_type(value: &Value, expected: &Value) -> bool {
    let is_expression = value.as_str().is_some_and(|text| expression(text).is_some());
    match expected {
        Value::String(name) => {
            is_expression
                || match name.as_str() {
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "bool" => value.is_boolean(),
                    _ => false,
                }
        }
        Value::Array(parts) => match (parts.first().and_then(Value::as_str), parts.get(1)) {
            (Some("list" | "set"), Some(item)) => {
                value.as_array().is_some_and(|items| items.iter().all(|one| has_type(one, item)))
            }
            (Some("map"), Some(item)) => {
                value.is_object() && entries(value).all(|(_, one)| has_type(one, item))
            }
            // Attributes that the older protocol has in place of blocks.
            (Some("object"), Some(fields)) => {
                value.is_object() && entries(value).all(|(name, one)| has_type(one, &fields[name]))
            }
            _ => false,
        },
        _ => false,
    }
}

/// Returns the expression of a text that is nothing else.
fn expression(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("${")?.strip_suffix('}')?;
    (!inner.contains("${")).then_some(inner)
}

/// Returns the addresses of all resources and variables to which the arguments of a resource refer.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => {
            let path = expression(text).map(|inner| inner.split('.').take(2).collect::<Vec<_>>());
            path.into_iter().map(|parts| parts.join(".")).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Object(fields) => {
            let after = texts(&fields.get("depends_on").cloned().unwrap_or_default())
                .map(str::to_owned)
                .collect::<Vec<_>>();
            fields.values().flat_map(references).chain(after).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        let rule = json!({"attributes": {"port": {"type": "string", "required": true}}});
        let text = json!({"type": "string", "optional": true});
        let resources = json!({"a_server": {"block": {
            "attributes": {
                "id": {"type": "string", "computed": true},
                "name": {"type": "string", "required": true},
                "group": {"type": "number", "optional": true},
                "labels": {"type": ["map", "string"], "optional": true},
                "keys": {"type": ["set", "number"], "optional": true},
                "note": text,
            },
            "block_types": {
                "rule": {"nesting_mode": "list", "max_items": 1, "block": rule},
            },
        }}});
        let provider = json!({"block": {"attributes": {"endpoint": text}}});
        Schema { provider, resources }
    }

    fn configuration(server: &Value) -> Value {
        json!({
            "provider": {"a": {"endpoint": "https://example.org"}},
            "variable": {"group": {"type": "string"}},
            "resource": {"a_server": {"one": server, "two": {"name": "two"}}},
            "import": [{"to": "a_server.two", "id": "2"}],
        })
    }

    #[test]
    fn configuration_of_the_schema_has_no_differences() {
        let server = json!({
            "//": "A note.",
            "name": "one",
            "group": "${var.group}",
            "labels": {"a": "b"},
            "keys": [1, "${a_server.two.id}"],
            "rule": [{"port": "80"}],
            "depends_on": ["a_server.two"],
            "lifecycle": {"ignore_changes": ["note"]},
        });
        assert_eq!(schema().differences(&configuration(&server)), [""; 0]);
    }

    #[test]
    fn every_difference_from_the_schema_is_found() {
        for (server, difference) in [
            (json!({}), "a_server.one: lacks name"),
            (json!({"name": 1}), "a_server.one.name: 1 is not of type \"string\""),
            (json!({"name": "a", "id": "1"}), "a_server.one.id: only the provider sets it"),
            (json!({"name": "a", "size": 1}), "a_server.one.size: no such argument"),
            (
                json!({"name": "a", "group": "1"}),
                "a_server.one.group: \"1\" is not of type \"number\"",
            ),
            (
                json!({"name": "a", "keys": 1}),
                "a_server.one.keys: 1 is not of type [\"set\",\"number\"]",
            ),
            (
                json!({"name": "a", "labels": {"a": 1}}),
                "a_server.one.labels: {\"a\":1} is not of type [\"map\",\"string\"]",
            ),
            (json!({"name": "a", "rule": [{}]}), "a_server.one.rule: lacks port"),
            (
                json!({"name": "a", "rule": [{"port": "1"}, {"port": "2"}]}),
                "a_server.one.rule: more than 1 blocks",
            ),
            (
                json!({"name": "${a_server.three.id}"}),
                "a_server.one: refers to a_server.three, which does not exist",
            ),
            (
                json!({"name": "${var.other}"}),
                "a_server.one: refers to var.other, which does not exist",
            ),
            (
                json!({"name": "a", "depends_on": ["a_server.three"]}),
                "a_server.one: refers to a_server.three, which does not exist",
            ),
            (
                json!({"name": "a", "lifecycle": {"ignore_changes": ["size"]}}),
                "a_server.one: ignores size, which is no argument",
            ),
            (
                json!({"name": "a", "lifecycle": {"ignore_changes": ["id"]}}),
                "a_server.one: ignores id, which is no argument",
            ),
        ] {
            assert_eq!(schema().differences(&configuration(&server)), [difference]);
        }
        let mut other = configuration(&json!({"name": "one"}));
        other["resource"]["b_server"] = json!({"one": {}});
        other["provider"]["a"] = json!({"token": "t"});
        other["import"] = json!([{"to": "a_server.three", "id": "3"}]);
        let expected = [
            "provider a.token: no such argument",
            "b_server: no such resource",
            "import: no resource or no id: {\"to\":\"a_server.three\",\"id\":\"3\"}",
        ];
        assert_eq!(schema().differences(&other), expected);
    }
}
