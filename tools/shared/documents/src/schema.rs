//! The JSON Schema of a kind of document.

use schemars::generate::SchemaSettings;
use schemars::schema_for;
use serde_json::{Map, Value};

use crate::document::{Object, StatusOf};
use crate::{Kind, kind};

/// Address of the files of this repository. The `$id` of a schema is the address of its own file.
const REPOSITORY: &str = "https://raw.githubusercontent.com/zabronax/holistic/main";

/// Returns the JSON Schema of documents of kind `K`.
///
/// The schema has separate definitions for `spec`, which people write, and `status`, which a program
/// writes: a spec may omit a field that has a default, and a status omits a field that is skipped when
/// empty. One derived schema can state only one of the two rules.
#[must_use]
pub fn schema<K: Kind>() -> Value {
    let mut schema = schema_for!(Object<K>).to_value();
    schema["properties"]["kind"]["const"] = K::KIND.into();
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut status = generator.into_root_schema_for::<StatusOf<K>>().to_value();
    let none = Map::new();
    let written = status["$defs"].as_object().unwrap_or(&none).clone();
    let read = schema["$defs"].as_object().unwrap_or(&none).clone();
    for (name, definition) in &written {
        let to = if is_same(name, &read, &written, DEPTH_MAX) {
            name.clone()
        } else {
            format!("Written{name}")
        };
        let mut definition = definition.clone();
        rename(&mut definition, &read, &written);
        schema["$defs"][to] = definition;
    }
    rename(&mut status, &read, &written);
    if let Some(status) = status.as_object_mut() {
        for field in ["$schema", "$defs", "title"] {
            status.remove(field);
        }
        status.insert(
            "description".to_owned(),
            "State that the program observed. Only programs write it.".into(),
        );
    }
    schema["properties"]["status"] = status;
    schema["title"] = K::KIND.into();
    schema["$id"] = format!("{REPOSITORY}/tools/{}/schema.json", kind::folder(K::KIND)).into();
    let spec = schema["properties"]["spec"]["$ref"].as_str().unwrap_or_default();
    let description = schema.pointer(&format!("{}/description", spec.trim_start_matches('#')));
    if let Some(description) = description.cloned() {
        schema["description"] = description;
    }
    without_null(&mut schema);
    schema
}

/// Removes the type `null` of every optional field. serde reads `null` like an absent field, but people omit
/// the field. With the type, editors show `string or null`, and their errors name the wrong alternative.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            let required = entries.get("required").cloned().unwrap_or_default();
            let required = required.as_array().map_or(&[][..], Vec::as_slice);
            let fields = entries.get_mut("properties").and_then(Value::as_object_mut);
            for (name, field) in fields.into_iter().flatten() {
                if !required.iter().any(|required| required == name.as_str()) {
                    not_null(field);
                }
            }
            entries.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Removes `null` from the alternatives of the schema of one `field`.
fn not_null(field: &mut Value) {
    let Some(entries) = field.as_object_mut() else { return };
    if entries.get("default").is_some_and(Value::is_null) {
        entries.remove("default");
    }
    if let Some(Value::Array(types)) = entries.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            entries.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = entries.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(alternatives)) = entries.get_mut("anyOf") {
        alternatives.retain(|schema| schema["type"] != "null");
        if let [Value::Object(only)] = alternatives.as_slice() {
            let only = only.clone();
            entries.remove("anyOf");
            for (keyword, value) in only {
                // The description of the field is more specific than the one of its type.
                entries.entry(keyword).or_insert(value);
            }
        }
    }
}

/// Longest chain of references between definitions; the definitions of a longer one count as different.
const DEPTH_MAX: usize = 16;

const DEFINITION: &str = "#/$defs/";

/// Renames every reference in `schema` whose definition differs between `read` and `written`, so that
/// it refers to the definition of a written status.
fn rename(schema: &mut Value, read: &Map<String, Value>, written: &Map<String, Value>) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries {
                let name = value.as_str().and_then(|text| text.strip_prefix(DEFINITION));
                match name.filter(|_| key == "$ref") {
                    Some(name) if is_same(name, read, written, DEPTH_MAX) => {}
                    Some(name) => *value = format!("{DEFINITION}Written{name}").into(),
                    None => rename(value, read, written),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, read, written)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether the definition `name`, and every definition that it refers to, is the same in `read` and
/// `written`, or is absent from `read`.
fn is_same(
    name: &str,
    read: &Map<String, Value>,
    written: &Map<String, Value>,
    depth: usize,
) -> bool {
    let differs = read.get(name).is_some_and(|read| Some(read) != written.get(name));
    let refers = written.get(name).map_or_else(Vec::new, references);
    !differs
        && depth > 0
        && refers.iter().all(|to| *to == name || is_same(to, read, written, depth - 1))
}

/// Returns the names of the definitions to which `schema` refers.
fn references(schema: &Value) -> Vec<&str> {
    match schema {
        Value::Object(entries) => {
            let target = entries.get("$ref").and_then(Value::as_str);
            let target = target.and_then(|text| text.strip_prefix(DEFINITION));
            target.into_iter().chain(entries.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, Serialize, JsonSchema)]
    enum Size {
        Small,
    }

    /// Facts, of which `address` is written as `null` when it is unknown.
    #[derive(Serialize, JsonSchema)]
    struct Facts {
        address: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    }

    /// A machine.
    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only read")]
    struct Machine {
        /// Size of the disk.
        size: Option<Size>,
        /// Serial number.
        #[serde(default)]
        serial: Option<String>,
        name: String,
    }

    impl crate::Kind for Machine {
        const KIND: &'static str = "Cluster";
        type Observed = Facts;
        type Evidence = ();
        type Step = ();
    }

    // hazard: An editor shows `Object` for every kind, and "not of type null" for a typo.
    // class: A schema is valid, but unusable.
    // members: title, `$id`, optional fields
    // now: the kind, an address, one type
    #[test]
    fn schema_has_title_and_address_and_only_values_that_people_write() {
        let schema = schema::<Machine>();
        assert_eq!(schema["title"], "Cluster");
        assert_eq!(schema["description"], "A machine.");
        assert_eq!(schema["$id"], format!("{REPOSITORY}/tools/talos-provision/schema.json"));
        let fields = &schema["$defs"]["Machine"]["properties"];
        let serial = json!({"description": "Serial number.", "type": "string"});
        assert_eq!(fields["serial"], serial, "{schema:#}");
        let size = json!({"description": "Size of the disk.", "$ref": "#/$defs/Size"});
        assert_eq!(fields["size"], size, "{schema:#}");
        let facts = &schema["$defs"]["Facts"]["properties"];
        assert_eq!(facts["address"]["type"], json!(["string", "null"]), "a program writes null");
        assert_eq!(facts["port"]["type"], "integer");
        assert_eq!(schema["properties"]["status"]["properties"]["plan"]["type"], "array");
    }
}
