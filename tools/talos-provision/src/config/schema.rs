//! Fields of a machine configuration, in the order in which Talos writes them.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Type of a value in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Boolean, number or string.
    Scalar,
    /// Object with a fixed list of fields.
    Struct(Vec<Field>),
    /// List. A patch appends items, replaces the list, or merges items that have the same keys.
    List(Box<Shape>, Merge),
    /// Map with arbitrary keys, written in alphabetical order.
    Map(Box<Shape>),
    /// Value of any type.
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
}

/// Field of a [`Shape::Struct`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// Value to write when the field is empty. `None` for an optional field, which is left out.
    pub(crate) always: Option<Value>,
    pub(crate) shape: Shape,
}

/// Returns the schema of the documents of this kind. `None` is the v1alpha1 document, which has no
/// `kind`.
pub(crate) fn for_kind(kind: Option<&str>) -> Option<&'static Shape> {
    let wanted = kind.unwrap_or("");
    KINDS.iter().find(|(kind, _)| kind == wanted).map(|(_, shape)| shape)
}

// Grammar of `schema.txt`: `name` is a scalar, `!` is always written (`!0` as a number, `!~` as
// `false`), `{…}` has fields, `[…]` is a list, `<…>` is a map, `*` is any value. `=` is replaced by
// a patch, and `[a|b:…]` is merged by these keys.
static KINDS: LazyLock<Vec<(String, Shape)>> = LazyLock::new(|| {
    let lines = include_str!("schema.txt").lines().filter(|line| !line.starts_with('#'));
    let kinds = lines.filter_map(|line| line.split_once(": "));
    let shape = |text: &str| Shape::Struct(fields(&mut text.chars().peekable()));
    let common = |kind: &str, rest: &str| match kind {
        "v1alpha1" => (String::new(), shape(rest)),
        _ => (kind.to_owned(), shape(&format!("apiVersion! kind! {rest}"))),
    };
    kinds.map(|(kind, rest)| common(kind, rest)).collect()
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
        let number = text.next_if_eq(&'0').map(|_| Value::from(0));
        let no = text.next_if_eq(&'~').map(|_| Value::from(false));
        let shape = shape(text);
        let always = always.then(|| number.or(no).unwrap_or_else(|| empty(&shape)));
        fields.push(Field { name, always, shape });
    }
}

fn word(text: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(letter) = text.next_if(char::is_ascii_alphanumeric) {
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
            let keyed = text.next_if_eq(&':').is_some();
            let inner = shape(text);
            text.next_if_eq(&']');
            Shape::List(Box::new(inner), if keyed { Merge::By(keys) } else { plain })
        }
        _ => Shape::Scalar,
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
                if let Some(value) = map.shift_remove(&field.name) {
                    let value = normal(value, &field.shape, &path)?;
                    if field.always.is_some() || !is_empty(&value, &field.shape) {
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
        (Shape::Scalar, value @ (Value::Bool(_) | Value::Number(_) | Value::String(_))) => {
            Ok(value)
        }
        (Shape::Struct(_) | Shape::Map(_), _) => not("a map"),
        (Shape::List(..), _) => not("a list"),
        (Shape::Scalar, _) => not("one value"),
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

/// Returns whether an optional field is left out. A struct is always written, because Talos
/// distinguishes an empty struct from an absent one.
fn is_empty(value: &Value, shape: &Shape) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && !matches!(shape, Shape::Struct(_)),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(_) => false,
    }
}

fn empty(shape: &Shape) -> Value {
    match shape {
        Shape::Scalar => Value::String(String::new()),
        Shape::List(..) => Value::Array(Vec::new()),
        Shape::Struct(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::Any(_) => Value::Null,
    }
}
