//! Decodes a document of a patch by the types of its fields, and reports every mistake with its position.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::patch::DIRECTIVE;
use super::scalar::{self, Leaf};
use super::schema::{self, Shape};
use super::yaml::{At, Data, Mistake, Node};

/// Document of a patch with typed values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// Positions of the values by their JSON pointers.
    pub(crate) positions: BTreeMap<String, At>,
}

/// Top-level fields by which Talos recognises the document that has no `kind`.
const MAIN_FIELDS: [&str; 4] = ["machine", "cluster", "debug", "persist"];

/// Decodes one document. Null documents are skipped, as in Talos.
pub(crate) fn document(node: &Node, mistakes: &mut Vec<Mistake>) -> Option<Document> {
    if node.is_null() {
        return None;
    }
    let Data::Map(entries) = &node.data else {
        mistakes.push(Mistake::new(node.at, "not a patch: a patch is a map"));
        return None;
    };
    let text = |key: &str| node.get(key).and_then(Node::text).filter(|text| !text.is_empty());
    let at =
        |key: &str| entries.iter().find(|(_, name, _)| name == key).map_or(node.at, |(at, ..)| *at);
    let (kind, version) = (text("kind"), text("apiVersion"));
    let main = entries.iter().any(|(_, name, _)| MAIN_FIELDS.contains(&name.as_str()));
    let refused = match (kind, version) {
        (None, None) if !main => Some((
            node.at,
            "neither a part of the machine configuration, with `machine` or `cluster`, nor a document with `apiVersion` and `kind`".to_owned(),
        )),
        (Some(kind), None) if !main => {
            Some((at("kind"), format!("/apiVersion is missing: write `apiVersion: v1alpha1` beside `kind: {kind}`")))
        }
        (Some(_), Some(version)) if version != "v1alpha1" => {
            Some((at("apiVersion"), "/apiVersion is not `v1alpha1`, the only version of Talos v1.13".to_owned()))
        }
        (Some(kind), _) if kind == schema::MAIN || schema::for_kind(Some(kind)).is_none() => {
            Some((at("kind"), unknown_kind(kind)))
        }
        _ => None,
    };
    if let Some((at, message)) = refused {
        mistakes.push(Mistake::new(at, message));
        return None;
    }
    let mut decoder = Decoder { mistakes, positions: BTreeMap::new() };
    let value = decoder.value(node, schema::for_kind(kind)?, "");
    Some(Document { value, positions: decoder.positions })
}

fn unknown_kind(kind: &str) -> String {
    format!(
        "/kind: Talos v1.13 has no documents of the kind `{kind}`: https://docs.siderolabs.com/talos/v1.13/reference/configuration/overview lists all kinds"
    )
}

struct Decoder<'a> {
    mistakes: &'a mut Vec<Mistake>,
    positions: BTreeMap<String, At>,
}

impl Decoder<'_> {
    fn refuse(&mut self, node: &Node, path: &str, why: &str) -> Value {
        self.mistakes.push(Mistake::new(node.at, format!("{path} is {why}")));
        Value::Null
    }

    fn value(&mut self, node: &Node, shape: &Shape, path: &str) -> Value {
        self.positions.entry(path.to_owned()).or_insert(node.at);
        if is_delete(node) {
            return plain(node);
        }
        match (shape, &node.data) {
            (_, Data::Scalar { .. }) if node.is_null() => Value::Null,
            (Shape::Leaf(leaf), Data::Scalar { text, string }) => {
                leaf.decode(text, *string).unwrap_or_else(|why| self.refuse(node, path, &why))
            }
            (Shape::Leaf(Leaf::Argument), Data::List(items)) => {
                self.list(items, &Shape::Leaf(Leaf::Text), path)
            }
            (Shape::Struct(_) | Shape::Map(_) | Shape::Any(_), Data::Map(entries)) => {
                self.entries(entries, shape, path)
            }
            (Shape::List(inner, _), Data::List(items)) => self.list(items, inner, path),
            (Shape::Struct(_) | Shape::Map(_) | Shape::Any(_), _) => {
                self.refuse(node, path, "not a map")
            }
            (Shape::List(..), _) => self.refuse(node, path, "not a list"),
            (Shape::Leaf(Leaf::Argument), _) => {
                self.refuse(node, path, "neither text nor a list of texts")
            }
            (Shape::Leaf(_), _) => self.refuse(node, path, "not one value"),
        }
    }

    /// Decodes the items of a list. Talos drops null items.
    fn list(&mut self, items: &[Node], shape: &Shape, path: &str) -> Value {
        let items = items.iter().filter(|item| !item.is_null()).enumerate();
        items.map(|(index, item)| self.value(item, shape, &format!("{path}/{index}"))).collect()
    }

    fn entries(&mut self, entries: &[(At, String, Node)], shape: &Shape, path: &str) -> Value {
        let mut out = Map::new();
        for (at, key, node) in entries {
            let path = format!("{path}/{key}");
            self.positions.insert(path.clone(), *at);
            let value = match shape {
                Shape::Struct(fields) => {
                    let Some(field) = fields.iter().find(|field| field.name == *key) else {
                        let message = format!("{path} is not a field that Talos knows");
                        self.mistakes.push(Mistake::new(*at, message));
                        continue;
                    };
                    self.value(node, &field.shape, &path)
                }
                Shape::Map(inner) => match self.value(node, inner, &path) {
                    // A key without a value has an empty text in Go.
                    Value::Null if **inner == Shape::Leaf(Leaf::Text) => Value::from(""),
                    value => value,
                },
                Shape::Any(_) | Shape::List(..) | Shape::Leaf(_) => self.free(node, &path),
            };
            out.insert(key.clone(), value);
        }
        Value::Object(out)
    }

    /// Decodes a value below a free-form map, in which the text of a scalar decides its type.
    fn free(&mut self, node: &Node, path: &str) -> Value {
        self.positions.entry(path.to_owned()).or_insert(node.at);
        if is_delete(node) {
            return plain(node);
        }
        match &node.data {
            Data::Scalar { text, string: true } => Value::from(text.as_str()),
            Data::Scalar { text, string: false } => scalar::resolve(text),
            Data::List(items) => {
                let items = items.iter().enumerate();
                items.map(|(index, item)| self.free(item, &format!("{path}/{index}"))).collect()
            }
            Data::Map(entries) => {
                let entry = |(at, key, node): &(At, String, Node)| {
                    let path = format!("{path}/{key}");
                    self.positions.insert(path.clone(), *at);
                    (key.clone(), self.free(node, &path))
                };
                Value::Object(entries.iter().map(entry).collect())
            }
        }
    }
}

fn is_delete(node: &Node) -> bool {
    node.get(DIRECTIVE).and_then(Node::text) == Some("delete")
}

/// Returns the value with the text of every scalar.
fn plain(node: &Node) -> Value {
    match &node.data {
        Data::Scalar { text, .. } => Value::from(text.as_str()),
        Data::List(items) => items.iter().map(plain).collect(),
        Data::Map(entries) => {
            let entry = |(_, key, node): &(At, String, Node)| (key.clone(), plain(node));
            Value::Object(entries.iter().map(entry).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn mistakes(text: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        for node in yaml::read(text).expect("YAML") {
            document(&node, &mut mistakes);
        }
        mistakes
            .iter()
            .map(|mistake| {
                format!("{}:{}: {}", mistake.at.line, mistake.at.column, mistake.message)
            })
            .collect()
    }

    #[test]
    fn every_mistake_has_its_position_and_no_value() {
        let text = "machine:\n  type: [hunter2]\n  certSANs: hunter2\n  time: {disabled: 'true', bootTimeout: 10}\n  kubelt: {}\n";
        let expected = [
            "2:9: /machine/type is not one value",
            "3:13: /machine/certSANs is not a list",
            "4:20: /machine/time/disabled is not a boolean: write `true` or `false` without quotes",
            "4:41: /machine/time/bootTimeout is not a duration such as `90s` or `1h30m`",
            "5:3: /machine/kubelt is not a field that Talos knows",
        ];
        assert_eq!(mistakes(text), expected);
    }

    #[test]
    fn a_document_needs_a_known_kind_and_version() {
        let found = mistakes(
            "kind: LinkConfig\n---\napiVersion: v1beta1\nkind: LinkConfig\n---\n\
            apiVersion: v1alpha1\nkind: LinkConfg\n---\nfoo: 1\n---\n- 1\n---\n",
        );
        let expected = [
            "/apiVersion is missing",
            "/apiVersion is not",
            "/kind: Talos v1.13 has no",
            "neither a part",
            "not a patch",
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }
}
