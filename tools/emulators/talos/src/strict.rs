//! Strict decoding of configuration documents, with Talos's own error messages, which quote the input.
//!
//! `kinds.json` holds the fields of all documents with their types, from the Go types of Talos v1.13.9: `true` allows
//! any value, a list holds the shape of its items, `*` the shape of any key, and a text names the type of a scalar.
//! `tools/talos-provision/tests/published` generates the file.
//! The messages are from `pkg/machinery/config/configloader/internal/decoder/decoder.go`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::Deserialize as _;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::leaf;

static KINDS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("kinds.json")).unwrap_or_default());

/// Fields by which Talos recognises the document that has no kind.
const MAIN_FIELDS: [&str; 4] = ["machine", "cluster", "debug", "persist"];

/// Decodes the documents of a YAML stream, and refuses what Talos cannot decode. A scalar keeps its text where Talos has
/// a text.
pub(crate) fn decode(text: &str) -> Result<Vec<Value>, Error> {
    let mut documents = Vec::new();
    let mut identities = BTreeSet::new();
    for (line, text) in split(text) {
        let generic = parse(&text, line)?;
        if generic.is_null() {
            continue;
        }
        if !generic.is_object() {
            return Err(Error::new(format!("expected a YAML document at line {line}")));
        }
        let field = |name: &str| generic[name].as_str().unwrap_or_default();
        let (version, kind, name) = (field("apiVersion"), field("kind"), field("name"));
        let identity =
            format!("{version}/{}/{name}", if kind.is_empty() { "v1alpha1" } else { kind });
        if !identities.insert(identity.clone()) {
            let why = format!("duplicate document {identity} is not allowed (line {line})");
            return Err(Error::new(why));
        }
        let refused = |why: String| {
            Error::new(format!("error decoding document {identity} (line {line}): {why}"))
        };
        let shape = shape(&generic, version, kind).map_err(refused)?;
        documents.push(typed(&text, &generic, shape).map_err(refused)?);
        if let Some(unknown) = unknown(&generic, shape) {
            let quoted = yaml(&unknown, 0);
            return Err(refused(format!("unknown keys found during decoding:\n{quoted}")));
        }
    }
    Ok(documents)
}

/// Returns the documents of a stream, each with its first line.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push((index + 2, String::new()));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents
}

fn parse(text: &str, first: usize) -> Result<Value, Error> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    // The parser's message may quote a secret, so the error names only the line.
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(first, |location| {
            first + usize::try_from(location.line()).unwrap_or_default().saturating_sub(1)
        });
        Error::new(format!("the configuration is not YAML at line {line}"))
    })
}

fn shape(document: &Value, version: &str, kind: &str) -> Result<&'static Value, String> {
    let main = MAIN_FIELDS.iter().any(|field| document.get(field).is_some());
    let version = if main { "v1alpha1" } else { version };
    match (version, kind) {
        ("v1alpha1", "") => Ok(&KINDS["v1alpha1"]),
        (_, "") => Err("missing kind".to_owned()),
        ("", _) => Err("missing apiVersion".to_owned()),
        _ => KINDS
            .get(kind)
            .filter(|_| version == "v1alpha1" && kind != "v1alpha1")
            .ok_or_else(|| format!("\"{kind}\" \"{version}\": not registered")),
    }
}

/// Decodes one document with the types of its fields. `generic` is the same document without types.
fn typed(text: &str, generic: &Value, shape: &Value) -> Result<Value, String> {
    let seed = Typed { generic, shape };
    let options = serde_saphyr::options! { with_snippet: false };
    let decoded = serde_saphyr::with_deserializer_from_str_with_options(text, options, |decoder| {
        seed.deserialize(decoder)
    });
    decoded.map_err(|error| format!("yaml: construct errors: {error}"))
}

/// Value whose scalars are decoded by the types in a shape.
#[derive(Clone, Copy)]
struct Typed<'a> {
    generic: &'a Value,
    shape: &'a Value,
}

impl<'de> DeserializeSeed<'de> for Typed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, decoder: D) -> Result<Value, D::Error> {
        let Self { generic, shape } = self;
        match (shape, generic) {
            (_, Value::Null) => IgnoredAny::deserialize(decoder).map(|_| Value::Null),
            (Value::Object(_), Value::Object(_)) => decoder.deserialize_map(self),
            (Value::Array(_), Value::Array(_)) => decoder.deserialize_seq(self),
            (Value::String(name), Value::Array(_)) if name == "argument" => {
                decoder.deserialize_seq(self)
            }
            (Value::String(_), Value::Object(_) | Value::Array(_)) => {
                Err(D::Error::custom("cannot construct a collection into a scalar"))
            }
            (Value::String(name), _) => {
                let text = decoder.deserialize_string(Text)?;
                leaf::decode(name, &text, generic).map_err(D::Error::custom)
            }
            (Value::Object(_), _) => Err(D::Error::custom("cannot construct a value into a map")),
            (Value::Array(_), _) => Err(D::Error::custom("cannot construct a value into !!seq")),
            _ if !generic.is_object() => {
                Err(D::Error::custom("cannot construct a value into !!map"))
            }
            _ => IgnoredAny::deserialize(decoder).map(|_| generic.clone()),
        }
    }
}

impl<'de> Visitor<'de> for Typed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a collection")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let shape = self.shape.get(&key).or_else(|| self.shape.get("*"));
            // An unknown key is reported after all types were decoded.
            let shape = shape.unwrap_or(&Value::Null);
            let generic = self.generic.get(&key).unwrap_or(&Value::Null);
            let value = match shape {
                Value::Null => map.next_value::<IgnoredAny>().map(|_| generic.clone())?,
                _ => map.next_value_seed(Typed { generic, shape })?,
            };
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let text = Value::from("string");
        let shape = self.shape.get(0).unwrap_or(&text);
        let mut out = Vec::new();
        for generic in self.generic.as_array().into_iter().flatten() {
            let Some(item) = items.next_element_seed(Typed { generic, shape })? else { break };
            out.extend((!item.is_null()).then_some(item)); // Talos drops null items.
        }
        items.next_element::<IgnoredAny>()?;
        Ok(Value::Array(out))
    }
}

/// Text of a scalar, whatever its type is.
struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a scalar")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
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
    use super::decode;

    fn message(text: &str) -> String {
        decode(text).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused_with_the_message_of_talos() {
        let wireguard = "version: v1alpha1\nmachine: {}\n---\napiVersion: v1alpha1\nkind: WireguardConfig\nname: wg0\n\
            privateKy: SECRET\npeers: [{publicKey: a, presharedKy: SECRET2}]\n";
        assert_eq!(
            message(wireguard),
            "error decoding document v1alpha1/WireguardConfig/wg0 (line 4): unknown keys found \
             during decoding:\nprivateKy: SECRET\npeers:\n    -\n        presharedKy: SECRET2\n"
        );
        let kind = "apiVersion: v1alpha1\nkind: WireguradConfig\nname: wg0\n";
        assert!(message(kind).ends_with("\"WireguradConfig\" \"v1alpha1\": not registered"));
        assert!(message("kind: WireguardConfig\n").ends_with("missing apiVersion"));
        assert_eq!(message("apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: a\n"), "");
    }

    #[test]
    fn a_scalar_keeps_its_text_where_talos_has_a_text() {
        let text = "cluster: {apiServer: {extraArgs: {a: 1.30, b: [0644, yes]}}}\n\
            machine: {env: {A: 0x1F, B: ~}, files: [{content: a, permissions: 0644, path: /a, op: create}]}\n";
        let main = &decode(text).expect("a configuration")[0];
        let arguments = &main["cluster"]["apiServer"]["extraArgs"];
        assert_eq!((&arguments["a"], &arguments["b"][0]), (&"1.30".into(), &"0644".into()));
        assert_eq!(
            (&arguments["b"][1], &main["machine"]["env"]["A"]),
            (&"yes".into(), &"0x1F".into())
        );
        assert_eq!(main["machine"]["files"][0]["permissions"], 0o644);
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for text in [
            "machine: {certSANs: a}",
            "machine: {type: [a]}",
            "machine: {features: {kubePrism: {port: \"7445\"}}}",
            "machine: {features: {diskQuotaSupport: \"true\"}}",
            "machine: {time: {bootTimeout: 10}}",
            "machine: {ca: {crt: 'a b'}}",
            "apiVersion: v1alpha1\nkind: NetworkDefaultActionConfig\ningress: deny\n",
        ] {
            assert!(message(text).contains("construct errors"), "{text}: {}", message(text));
        }
        let twice = "machine: {}\n---\nmachine: {}\n";
        assert_eq!(message(twice), "duplicate document /v1alpha1/ is not allowed (line 3)");
    }
}
