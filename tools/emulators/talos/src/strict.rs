//! Strict decoding of configuration documents, with Talos's own error messages, which quote the input.
//!
//! `kinds.json` holds the fields of documents, from `pkg/machinery/config/schemas/config.schema.json` of
//! Talos v1.13.9: `true` allows any value, a list holds the shape of its items, and `*` the shape of any key.
//! The messages are from `pkg/machinery/config/configloader/internal/decoder/decoder.go`.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::error::Error;

static KINDS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("kinds.json")).unwrap_or_default());

/// Refuses a `document` that Talos cannot decode. The document has a kind and begins at `line`.
pub(crate) fn check(document: &Value, line: usize) -> Result<(), Error> {
    let field = |name: &str| document[name].as_str().unwrap_or_default();
    let (version, kind) = (field("apiVersion"), field("kind"));
    let refused = |why: String| {
        let head = format!("{version}/{kind}/{}", field("name"));
        Error::new(format!("error decoding document {head} (line {line}): {why}"))
    };
    if version.is_empty() {
        return Err(refused("missing apiVersion".to_owned()));
    }
    match KINDS.get(kind).filter(|_| version == "v1alpha1") {
        None => Err(refused(format!("\"{kind}\" \"{version}\": not registered"))),
        Some(shape) => match unknown(document, shape) {
            Some(unknown) => {
                let quoted = yaml(&unknown, 0);
                Err(refused(format!("unknown keys found during decoding:\n{quoted}")))
            }
            None => Ok(()),
        },
    }
}

/// Returns the part of `value` that `shape` does not allow.
fn unknown(value: &Value, shape: &Value) -> Option<Value> {
    match (value, shape) {
        (Value::Object(map), Value::Object(fields)) => {
            let entry = |(key, value): (&String, &Value)| {
                let inner = fields.get(key).or_else(|| fields.get("*"));
                let left = inner.map_or_else(|| Some(value.clone()), |shape| unknown(value, shape));
                Some((key.clone(), left?))
            };
            let left: Map<_, _> = map.iter().filter_map(entry).collect();
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (Value::Array(items), Value::Array(shapes)) => {
            let shape = shapes.first()?;
            let left: Vec<_> = items.iter().filter_map(|item| unknown(item, shape)).collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        _ => None,
    }
}

/// Writes block YAML, as Talos prints unknown keys.
fn yaml(value: &Value, indent: usize) -> String {
    let space = " ".repeat(indent);
    let nested = |value: &Value| match value {
        Value::Object(_) | Value::Array(_) => format!("\n{}", yaml(value, indent + 4)),
        Value::String(text) => format!(" {text}\n"),
        other => format!(" {other}\n"),
    };
    let lines: Vec<_> = match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{space}{key}:{}", nested(value))).collect()
        }
        Value::Array(items) => {
            items.iter().map(|item| format!("{space}-{}", nested(item))).collect()
        }
        leaf => vec![format!("{space}{leaf}\n")],
    };
    lines.concat()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    fn message(document: &serde_json::Value) -> String {
        check(document, 7).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused_with_the_message_of_talos() {
        let wireguard = json!({"apiVersion": "v1alpha1", "kind": "WireguardConfig", "name": "wg0",
            "privateKy": "SECRET", "peers": [{"publicKey": "a", "presharedKy": "SECRET2"}]});
        assert_eq!(
            message(&wireguard),
            "error decoding document v1alpha1/WireguardConfig/wg0 (line 7): unknown keys found \
             during decoding:\nprivateKy: SECRET\npeers:\n    -\n        presharedKy: SECRET2\n"
        );
        let kind = json!({"apiVersion": "v1alpha1", "kind": "WireguradConfig", "name": "wg0"});
        assert!(message(&kind).ends_with("\"WireguradConfig\" \"v1alpha1\": not registered"));
        assert!(message(&json!({"kind": "WireguardConfig"})).ends_with("missing apiVersion"));
        let valid = json!({"apiVersion": "v1alpha1", "kind": "HostnameConfig", "hostname": "a"});
        assert_eq!(message(&valid), "");
    }
}
