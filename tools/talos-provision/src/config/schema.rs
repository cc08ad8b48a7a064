//! Fields of a machine configuration, in the order in which Talos writes them.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::scalar::Leaf;

/// Type of a value in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Value that is written as one scalar.
    Leaf(Leaf),
    /// Object with a fixed list of fields.
    Struct(Vec<Field>),
    /// List. A patch appends items, replaces the list, or merges items that have the same keys.
    List(Box<Shape>, Merge),
    /// Map with arbitrary keys, written in alphabetical order.
    Map(Box<Shape>),
    /// Free-form map.
    Any(Merge),
}

/// Rule by which a patch is merged into the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// A patch appends its items, or merges its fields.
    Join,
    /// The value of the patch replaces the value of the document.
    Replace,
    /// Items are merged if they agree on the first of these keys that both have.
    By(Vec<String>),
    /// An item of the patch replaces the item that has the same value for this key.
    ReplaceBy(String),
}

/// Field of a [`Shape::Struct`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// Value to write when the field is absent. `None` for an optional field, which is left out.
    pub(crate) always: Option<Value>,
    /// Whether Talos distinguishes an absent value from zero, `false` and an empty object.
    pub(crate) pointer: bool,
    pub(crate) shape: Shape,
}

/// Kind under which `schema.txt` lists the document that has no `kind`.
pub(crate) const MAIN: &str = "v1alpha1";

/// Returns the schema of the documents of this kind. `None` is the v1alpha1 document, which has no
/// `kind`.
pub(crate) fn for_kind(kind: Option<&str>) -> Option<&'static Shape> {
    let desired = kind.unwrap_or(MAIN);
    KINDS.iter().find(|(kind, _)| kind == desired).map(|(_, shape)| shape)
}

// Grammar of `schema.txt`: `name` is a string and `name:type` another scalar, `!` is always written, `^` may be absent
// (a pointer in Go), `{…}` has fields, `[…]` is a list, `<…>` is a map, `*` is a free-form map. `=` is replaced by a
// patch, and `[a|b@…]` is merged by these keys.
static KINDS: LazyLock<Vec<(String, Shape)>> = LazyLock::new(|| {
    let lines = include_str!("schema.txt").lines().filter(|line| !line.starts_with('#'));
    let kinds = lines.filter_map(|line| line.split_once(": "));
    let shape = |text: &str| Shape::Struct(fields(&mut text.chars().peekable()));
    kinds.map(|(kind, text)| (kind.to_owned(), shape(text))).collect()
});

fn fields(text: &mut Peekable<Chars<'_>>) -> Vec<Field> {
    let mut fields = Vec::new();
    loop {
        while text.next_if(|letter| letter.is_whitespace()).is_some() {}
        let name = word(text);
        if name.is_empty() {
            return fields;
        }
        let always = text.next_if_eq(&'!').is_some();
        let pointer = text.next_if_eq(&'^').is_some();
        let shape = shape(text);
        let always = always.then(|| if pointer { Value::Null } else { empty(&shape) });
        fields.push(Field { name, always, pointer, shape });
    }
}

fn word(text: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(letter) = text.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
    {
        word.push(letter);
    }
    word
}

fn shape(text: &mut Peekable<Chars<'_>>) -> Shape {
    let replace = text.next_if_eq(&'=').is_some();
    let plain = if replace { Merge::Replace } else { Merge::Join };
    match text.peek() {
        Some('*') => {
            text.next();
            Shape::Any(plain)
        }
        Some('{') => {
            text.next();
            let fields = fields(text);
            text.next_if_eq(&'}');
            Shape::Struct(fields)
        }
        Some('<') => {
            text.next();
            let inner = shape(text);
            text.next_if_eq(&'>');
            Shape::Map(Box::new(inner))
        }
        Some('[') => {
            text.next();
            let mut keys = vec![word(text)];
            while text.next_if_eq(&'|').is_some() {
                keys.push(word(text));
            }
            let keyed = text.next_if_eq(&'@').is_some();
            let inner = shape(text);
            text.next_if_eq(&']');
            let merge = match (keyed, replace) {
                (true, true) => Merge::ReplaceBy(keys.remove(0)),
                (true, false) => Merge::By(keys),
                (false, _) => plain,
            };
            Shape::List(Box::new(inner), merge)
        }
        Some(':') => {
            text.next();
            let mut name = String::new();
            while let Some(letter) = text.next_if(char::is_ascii_alphanumeric) {
                name.push(letter);
            }
            if text.peek() == Some(&'(') {
                while let Some(letter) = text.next_if(|letter| *letter != ')') {
                    name.push(letter);
                }
                text.next();
            }
            // A test ensures that every type is known.
            Shape::Leaf(Leaf::named(&name).unwrap_or(Leaf::Text))
        }
        _ => Shape::Leaf(Leaf::Text),
    }
}

/// Returns `value` as Talos writes it: fields in their order, and optional fields left out when
/// they are empty.
///
/// # Errors
///
/// Names the path of a field that is unknown or has a value of the wrong type.
pub(crate) fn normal(value: Value, shape: &Shape, path: &str) -> Result<Value, String> {
    let not = |what: &str| Err(format!("{path} is not {what}"));
    match (shape, value) {
        (_, Value::Null) => Ok(Value::Null),
        (Shape::Struct(fields), Value::Object(mut map)) => {
            let mut out = Map::new();
            for field in fields {
                let path = format!("{path}/{}", field.name);
                let given = map.shift_remove(&field.name).filter(|value| !value.is_null());
                if let Some(value) = given {
                    let value = normal(value, &field.shape, &path)?;
                    let absent = !field.pointer && is_empty(&value, &field.shape);
                    if field.always.is_some() || !absent {
                        out.insert(field.name.clone(), value);
                    }
                } else {
                    let always = field.always.iter();
                    out.extend(always.map(|value| (field.name.clone(), value.clone())));
                }
            }
            match map.keys().next() {
                Some(unknown) => Err(format!("{path}/{unknown} is not a field that Talos knows")),
                None => Ok(Value::Object(out)),
            }
        }
        (Shape::List(inner, _), Value::Array(items)) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| normal(item, inner, &format!("{path}/{index}"))).collect()
        }
        (Shape::Map(inner), Value::Object(map)) => {
            let entry = |(key, value): (String, Value)| {
                let value = normal(value, inner, &format!("{path}/{key}"))?;
                Ok::<_, String>((key, value))
            };
            let mut map: Map<String, Value> =
                map.into_iter().map(entry).collect::<Result<_, _>>()?;
            map.sort_keys();
            Ok(Value::Object(map))
        }
        (Shape::Any(_), value) => Ok(sorted(value)),
        (Shape::Leaf(Leaf::Argument), Value::Array(items)) => Ok(Value::Array(items)),
        (Shape::Leaf(_), value @ (Value::Bool(_) | Value::Number(_) | Value::String(_))) => {
            Ok(value)
        }
        (Shape::Struct(_) | Shape::Map(_), _) => not("a map"),
        (Shape::List(..), _) => not("a list"),
        (Shape::Leaf(_), _) => not("one value"),
    }
}

/// Sorts the keys of free-form maps at every depth, as Talos writes them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut map: Map<_, _> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            map.sort_keys();
            Value::Object(map)
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        leaf => leaf,
    }
}

/// Returns whether an optional field that is no pointer is left out.
fn is_empty(value: &Value, shape: &Shape) -> bool {
    match (value, shape) {
        (Value::Null, _) => true,
        (Value::Bool(value), _) => !value,
        (Value::String(text), _) => text.is_empty() || text == "0s",
        (Value::Array(items), _) => items.is_empty(),
        (Value::Object(map), Shape::Struct(fields)) => fields.iter().all(|field| {
            let value = map.get(&field.name).unwrap_or(&Value::Null);
            value.is_null() || !field.pointer && is_empty(value, &field.shape)
        }),
        (Value::Object(map), _) => map.is_empty(),
        (Value::Number(number), _) => number.as_f64() == Some(0.0),
    }
}

/// Returns the value that Talos writes for an absent field that is always written.
fn empty(shape: &Shape) -> Value {
    match shape {
        Shape::Leaf(leaf) => leaf.zero(),
        Shape::List(..) => Value::Array(Vec::new()),
        Shape::Struct(fields) => {
            let always = |field: &Field| Some((field.name.clone(), field.always.clone()?));
            Value::Object(fields.iter().filter_map(always).collect())
        }
        Shape::Map(_) | Shape::Any(_) => Value::Object(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_the_schema_is_known() {
        let text = include_str!("schema.txt");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for line in lines.filter_map(|line| line.split_once(": ")).map(|(_, fields)| fields) {
            for part in line.split(':').skip(1) {
                let end = match part.strip_prefix("enum(") {
                    Some(words) => words.find(')').map(|end| end + "enum()".len()),
                    None => part.find(|letter: char| !letter.is_ascii_alphanumeric()),
                };
                let name = &part[..end.unwrap_or(part.len())];
                assert!(Leaf::named(name).is_some(), "`{name}` in {line}");
                count += 1;
            }
        }
        assert!(count > 300, "{count} types");
        assert!(for_kind(None).is_some() && for_kind(Some("LinkConfig")).is_some());
    }
}
