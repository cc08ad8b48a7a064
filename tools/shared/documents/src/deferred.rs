//! A value that only the world can tell, before it has been asked.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A value from the world or from another document, as a plan shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deferred<T> {
    /// It is there to be read.
    Value(T),
    /// Something must be brought about first.
    AfterApply,
}

const AFTER_APPLY: &str = "known after apply";

impl<T> Deferred<T> {
    /// The value, if it is there.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::AfterApply => None,
        }
    }
}

impl<T> From<Option<T>> for Deferred<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::AfterApply, Self::Value)
    }
}

impl<T: Serialize> Serialize for Deferred<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(to),
            Self::AfterApply => to.serialize_str(AFTER_APPLY),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Deferred<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Deferred{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let now = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [now, { "const": AFTER_APPLY }] })
    }
}

impl<T: fmt::Display> fmt::Display for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::AfterApply => write!(f, "({AFTER_APPLY})"),
        }
    }
}
