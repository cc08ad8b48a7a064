//! Content of a SOPS file, in the order of the file.

use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::Secret;

/// Map, list or value of a file.
pub(super) enum Node {
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Leaf(Leaf),
}

/// Value, and whether the file holds the value encrypted.
pub(super) struct Leaf {
    pub(super) value: Value,
    pub(super) encrypted: bool,
}

/// Value of a file. A number keeps the notation of SOPS, because the MAC covers the notation.
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(Zeroizing<String>),
    Bytes(Zeroizing<Vec<u8>>),
}

impl Value {
    /// Returns the bytes of the value that the MAC covers.
    pub(super) fn mac_bytes(&self) -> &[u8] {
        match self {
            Self::Null => b"",
            Self::Bool(true) => b"True",
            Self::Bool(false) => b"False",
            Self::Number(number) => number.as_bytes(),
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Node {
    pub(super) fn text(text: &str) -> Self {
        Value::Text(Zeroizing::new(text.to_owned())).into()
    }

    /// Returns the node at the end of `path`.
    pub(super) fn at<'a>(&self, mut path: impl Iterator<Item = &'a str>) -> Option<&Self> {
        path.try_fold(self, |node, step| match node {
            Self::Map(entries) => {
                entries.iter().find(|(key, _)| key == step).map(|(_, value)| value)
            }
            Self::List(items) => items.get(step.parse::<usize>().ok()?),
            Self::Leaf(_) => None,
        })
    }

    /// Returns the keys of a map, and nothing for other nodes.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = if let Self::Map(entries) = self { entries.as_slice() } else { &[] };
        entries.iter().map(|(key, _)| key.as_str())
    }

    /// Returns the text at `key` of a map.
    pub(super) fn text_at(&self, key: &str) -> Option<&str> {
        match self.at([key].into_iter())? {
            Self::Leaf(Leaf { value: Value::Text(text), .. }) => Some(text),
            _ => None,
        }
    }

    /// Whether the file holds this value, or a value below it, encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        match self {
            Self::Map(entries) => entries.iter().any(|(_, value)| value.is_encrypted()),
            Self::List(items) => items.iter().any(Self::is_encrypted),
            Self::Leaf(leaf) => leaf.encrypted,
        }
    }

    /// Returns a value as bytes, and a map or a list as JSON.
    pub(super) fn secret(&self) -> Secret {
        Secret::new(match self {
            Self::Leaf(Leaf { value: Value::Bool(bool), .. }) => bool.to_string().into_bytes(),
            Self::Leaf(leaf) => leaf.value.mac_bytes().to_vec(),
            // Serialisation fails only for keys that are not text, and all keys are text.
            Self::Map(_) | Self::List(_) => serde_json::to_vec(self).unwrap_or_default(),
        })
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        Self::Leaf(Leaf { value, encrypted: false })
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node(…)")
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Map(entries) => {
                let mut map = to.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
            Self::List(items) => {
                let mut list = to.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Self::Leaf(leaf) => match &leaf.value {
                Value::Null => to.serialize_unit(),
                Value::Bool(bool) => to.serialize_bool(*bool),
                Value::Text(text) => to.serialize_str(text),
                Value::Bytes(bytes) => to.serialize_str(&data_encoding::BASE64.encode(bytes)),
                Value::Number(number) => match (number.parse::<i64>(), number.parse::<f64>()) {
                    (Ok(integer), _) if number != "-0" => to.serialize_i64(integer),
                    (_, Ok(float)) => to.serialize_f64(float),
                    _ => to.serialize_str(number),
                },
            },
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reading)
    }
}

/// Visitor that accepts every YAML and JSON type, with the conversions of SOPS.
struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, a list or a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Value::Null.into())
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Node, E> {
        Ok(Value::Bool(bool).into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Value::Number(number.to_string()).into())
    }

    #[expect(clippy::cast_precision_loss, reason = "SOPS rounds to float64, too")]
    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        let number =
            i64::try_from(number).map_or((number as f64).to_string(), |number| number.to_string());
        Ok(Value::Number(number).into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Value::Number(number.to_string()).into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        while let Some(key) = from.next_key::<String>()? {
            if entries.iter().any(|(name, _)| *name == key) {
                return Err(A::Error::custom("duplicate key"));
            }
            entries.push((key, from.next_value()?));
        }
        Ok(Node::Map(entries))
    }
}
