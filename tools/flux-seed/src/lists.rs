//! Lists of several kinds at a time, and parts of a cluster that a reader is not allowed to see. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Error;
use crate::clients::cluster::Reader;
use crate::object::Identity;

/// A part of the cluster that a reader is not allowed to see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hidden {
    /// One object.
    Object(Identity),
    /// Every object of a kind.
    Kind(String),
}

impl std::fmt::Display for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(object) => write!(f, "{object}"),
            Self::Kind(kind) => write!(f, "every {kind}"),
        }
    }
}

/// Returns a label selector as it stands in a URL.
pub(crate) fn label(key: &str, value: &str) -> String {
    format!("{}%3D{value}", key.replace('/', "%2F"))
}

pub(crate) fn kinds_of(ids: &[Identity]) -> BTreeSet<(&str, &str)> {
    ids.iter().map(|id| (id.api_version.as_str(), id.kind.as_str())).collect()
}

/// Lists the objects with `label` of every kind, in all Namespaces.
pub(crate) fn list(
    reader: &Reader,
    kinds: &BTreeSet<(&str, &str)>,
    label: &str,
    hidden: &mut BTreeSet<Hidden>,
) -> Result<BTreeMap<Identity, Value>, Error> {
    let lists = reader.each(kinds, |reader, (api_version, kind)| {
        reader.labelled_unless_silent(api_version, kind, label)
    });
    let mut objects = BTreeMap::new();
    for ((_, kind), list) in kinds.iter().zip(lists) {
        let list = unless_hidden(reader, list, Hidden::Kind((*kind).to_owned()), hidden)?;
        let list = list.flatten().into_iter().flatten();
        objects.extend(list.map(|object| (Identity::of(&object), object)));
    }
    Ok(objects)
}

/// `found`, or `None` when the API server denies it to a reader; then `what` is noted in `hidden`.
pub(crate) fn unless_hidden<T>(
    reader: &Reader,
    found: Result<T, Error>,
    what: Hidden,
    hidden: &mut BTreeSet<Hidden>,
) -> Result<Option<T>, Error> {
    match found {
        Err(Error::Cluster(kubernetes::Error::Forbidden { .. })) if reader.is_limited() => {
            hidden.insert(what);
            Ok(None)
        }
        other => other.map(Some),
    }
}
