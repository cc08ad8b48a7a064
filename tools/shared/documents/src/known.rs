//! A value that only the world can tell, before it has been asked.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A value from the world or from another document, as a plan shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known<T> {
    /// It is there to be read.
    Now(T),
    /// Something must be brought about first.
    AfterApply,
}

const AFTER_APPLY: &str = "known after apply";

impl<T> Known<T> {
    /// The value, if it is there.
    pub fn now(&self) -> Option<&T> {
        match self {
            Self::Now(value) => Some(value),
            Self::AfterApply => None,
        }
    }
}

impl<T> From<Option<T>> for Known<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::AfterApply, Self::Now)
    }
}

impl<T: Serialize> Serialize for Known<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Now(value) => value.serialize(to),
            Self::AfterApply => to.serialize_str(AFTER_APPLY),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Known<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Known{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let now = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [now, { "const": AFTER_APPLY }] })
    }
}

impl<T: fmt::Display> fmt::Display for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(value) => value.fmt(f),
            Self::AfterApply => write!(f, "({AFTER_APPLY})"),
        }
    }
}
