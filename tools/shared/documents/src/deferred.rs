//! A value that is known only after a step, for example a generated address.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A value in a plan that comes from a remote service or from another document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deferred<T> {
    /// The value is known.
    Value(T),
    /// The value is unknown until `apply` has executed the steps before it.
    AfterApply,
}

const AFTER_APPLY: &str = "known after apply";

impl<T> Deferred<T> {
    /// Returns the value, if it is known.
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
