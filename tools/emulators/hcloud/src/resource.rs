//! Parts that resources of every kind share: the head, the table, and references by id or name.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::labels::{self, Labels};

/// Fields that every resource has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    /// Time of creation, as [`now`] writes it.
    pub(crate) created: String,
}

impl Head {
    /// Returns the shared fields and `fields` as one JSON object.
    pub(crate) fn to_json_with(&self, fields: Value) -> Value {
        let mut all = json!({"id": self.id, "name": self.name, "labels": self.labels, "created": self.created});
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
            all.extend(fields);
        }
        all
    }
}

/// A kind of resource that a [`Table`] can hold.
pub(crate) trait Resource {
    /// Name of the kind in the API's error messages and in the `resources` of an action.
    const KIND: &'static str;
    fn head(&self) -> &Head;
    fn head_mut(&mut self) -> &mut Head;
}

/// Implements `Resource` for a struct with a field `head`.
macro_rules! resource {
    ($type:ty, $kind:literal) => {
        impl crate::resource::Resource for $type {
            const KIND: &'static str = $kind;
            fn head(&self) -> &crate::resource::Head {
                &self.head
            }
            fn head_mut(&mut self) -> &mut crate::resource::Head {
                &mut self.head
            }
        }
    };
}
pub(crate) use resource;

/// The resources of one kind, keyed by id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
pub(crate) struct Table<T>(BTreeMap<u64, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Resource> Table<T> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut()
    }

    /// Returns a resource that may have been deleted since its id was stored.
    pub(crate) fn find(&self, id: u64) -> Option<&T> {
        self.0.get(&id)
    }

    pub(crate) fn find_mut(&mut self, id: u64) -> Option<&mut T> {
        self.0.get_mut(&id)
    }

    /// Returns the resource that a client named, or the error `not_found`.
    pub(crate) fn get(&self, id: u64) -> Result<&T, ApiError> {
        self.0.get(&id).ok_or_else(|| ApiError::not_found(T::KIND, id))
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Result<&mut T, ApiError> {
        self.0.get_mut(&id).ok_or_else(|| ApiError::not_found(T::KIND, id))
    }

    pub(crate) fn insert(&mut self, resource: T) {
        self.0.insert(resource.head().id, resource);
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        self.0.remove(&id)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.0.retain(|_, resource| keep(resource));
    }

    /// Refuses a name that another resource of the kind has. `holder` is the id of the resource that
    /// gets the name, if the resource exists already.
    pub(crate) fn require_free_name(
        &self,
        name: &str,
        holder: Option<u64>,
    ) -> Result<(), ApiError> {
        let is_taken =
            self.iter().map(T::head).any(|head| head.name == name && Some(head.id) != holder);
        if is_taken { Err(ApiError::already_used(T::KIND, "name")) } else { Ok(()) }
    }

    /// Changes name and labels, as the `PUT` of every kind does.
    pub(crate) fn update(&mut self, id: u64, call: &Call) -> Result<&mut T, ApiError> {
        #[derive(Deserialize)]
        struct Input {
            name: Option<String>,
            labels: Option<Labels>,
        }
        let input: Input = call.input()?;
        self.get(id)?;
        if let Some(name) = &input.name {
            check_name(name)?;
            self.require_free_name(name, Some(id))?;
        }
        labels::check(input.labels.as_ref().unwrap_or(&Labels::new()))?;
        let resource = self.get_mut(id)?;
        let head = resource.head_mut();
        if let Some(name) = input.name {
            head.name = name;
        }
        if let Some(labels) = input.labels {
            head.labels = labels;
        }
        Ok(resource)
    }
}

/// Refuses a name that no resource may have.
pub(crate) fn check_name(name: &str) -> Result<(), ApiError> {
    if (1..=128).contains(&name.chars().count()) {
        Ok(())
    } else {
        Err(ApiError::invalid_fields(&[("name", "must have 1 to 128 characters")]))
    }
}

/// A reference to a resource by id or by name: `7`, `"7"`, `"cax11"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Value")]
pub(crate) struct IdOrName(pub(crate) String);

impl From<Value> for IdOrName {
    fn from(value: Value) -> Self {
        Self(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

/// Returns the current time as the API writes times: RFC 3339 in UTC, to the second.
pub(crate) fn now() -> String {
    let second = jiff::Unit::Second;
    let now = jiff::Timestamp::now();
    now.round(second).unwrap_or(now).to_string()
}
