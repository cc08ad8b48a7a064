//! One schema for a file or a stream with documents of any kinds.

use std::collections::{BTreeMap, BTreeSet};

use repository_tests::OWNERS;
use serde_json::{Map, Value, json};

use crate::{Test, schema_of};

/// Address of the files of this repository.
pub(crate) const REPOSITORY: &str = "https://raw.githubusercontent.com/zabronax/holistic/main";

/// Path of the schema in this repository.
pub(crate) const PATH: &str = "knowledge/reference/schema.json";

const DEFINITION: &str = "#/$defs/";

/// Returns the schema. The definitions of all kinds are together at its top, so that an editor needs no support for
/// the `$id` of an embedded schema. A name that means different things has the name
/// of the kind in front: `Cluster.Network`.
pub(crate) fn schema() -> Test<Value> {
    let schemas: Vec<(&str, Value)> = OWNERS
        .into_iter()
        .map(|(kind, folder)| Ok((kind, schema_of(folder)?)))
        .collect::<Test<_>>()?;
    let shared = shared(&schemas);
    let (mut kinds, mut all) = (Vec::new(), BTreeMap::new());
    for (kind, mut schema) in schemas {
        let rename = |name: &str| {
            if shared.contains(name) { name.to_owned() } else { format!("{kind}.{name}") }
        };
        for (name, mut definition) in definitions(&schema) {
            refer(&mut definition, &rename);
            all.insert(rename(&name), definition);
        }
        for keyword in ["$schema", "$id", "$defs"] {
            schema.as_object_mut().ok_or("a schema is an object")?.remove(keyword);
        }
        refer(&mut schema, &rename);
        kinds.push(schema);
    }
    Ok(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("{REPOSITORY}/{PATH}"),
        "title": "Document",
        "description": "Document of any kind of holistic/v1alpha1. The field `kind` selects the schema.",
        "oneOf": kinds,
        "$defs": all,
    }))
}

fn definitions(schema: &Value) -> Map<String, Value> {
    schema["$defs"].as_object().cloned().unwrap_or_default()
}

/// Returns the names of the definitions that are equal in every kind that has them, and that refer to such
/// definitions only.
fn shared(schemas: &[(&str, Value)]) -> BTreeSet<String> {
    let mut meanings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut referred: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, definition) in schemas.iter().flat_map(|(_, schema)| definitions(schema)) {
        meanings.entry(name.clone()).or_default().insert(definition.to_string());
        let mut definition = definition;
        let names = std::cell::RefCell::new(BTreeSet::new());
        refer(&mut definition, &|name| {
            names.borrow_mut().insert(name.to_owned());
            name.to_owned()
        });
        referred.entry(name).or_default().extend(names.into_inner());
    }
    let mut shared: BTreeSet<String> = meanings
        .iter()
        .filter(|(_, texts)| texts.len() == 1)
        .map(|(name, _)| name.clone())
        .collect();
    loop {
        let is_closed = |name: &&String| referred[*name].iter().all(|name| shared.contains(name));
        let closed: BTreeSet<String> = shared.iter().filter(is_closed).cloned().collect();
        if closed == shared {
            return shared;
        }
        shared = closed;
    }
}

/// Renames every reference to a definition in `schema`.
fn refer(schema: &mut Value, rename: &dyn Fn(&str) -> String) {
    match schema {
        Value::Object(entries) => {
            for (keyword, value) in entries {
                let name = value.as_str().and_then(|text| text.strip_prefix(DEFINITION));
                match name.filter(|_| keyword == "$ref") {
                    Some(name) => *value = format!("{DEFINITION}{}", rename(name)).into(),
                    None => refer(value, rename),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, rename)),
        _ => {}
    }
}
