//! Collections and objects that a reader has read, as paths that can be watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Selector of one object. Every kind supports this field
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/#supported-fields>).
const NAME: &str = "fieldSelector=metadata.name%3D";

/// Everything that was read, and when it was read last.
#[derive(Default)]
pub(crate) struct Reads(Mutex<BTreeMap<Read, Instant>>);

/// A part of a collection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Read {
    collection: String,
    /// Selector as it stands in a query; empty for the whole collection.
    selector: String,
}

impl Reads {
    /// Notes an object at `path`.
    pub(crate) fn note_object(&self, path: &str) {
        let (collection, name) = path.rsplit_once('/').unwrap_or((path, ""));
        self.note(collection, format!("{NAME}{name}"));
    }

    /// Notes a list at `path`, which may have a selector in its query.
    pub(crate) fn note_list(&self, path: &str) {
        let (collection, selector) = path.split_once('?').unwrap_or((path, ""));
        let is_empty = selector.ends_with('=');
        self.note(collection, if is_empty { String::new() } else { selector.to_owned() });
    }

    fn note(&self, collection: &str, selector: String) {
        let read = Read { collection: collection.to_owned(), selector };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(read, Instant::now());
    }

    /// Returns the collections that contain everything that was read since `time`, and forgets the rest.
    /// Several objects of a collection are watched by one watch of all its objects.
    pub(crate) fn since(&self, time: Instant) -> BTreeSet<String> {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reads.retain(|_, at| *at >= time);
        let mut selectors: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for read in reads.keys() {
            selectors.entry(&read.collection).or_default().push(&read.selector);
        }
        let mut paths = BTreeSet::new();
        for (collection, selectors) in selectors {
            let names = selectors.iter().filter(|selector| selector.starts_with(NAME)).count();
            if names > 1 || selectors.contains(&"") {
                paths.insert(collection.to_owned());
            } else {
                paths.extend(selectors.iter().map(|selector| format!("{collection}?{selector}")));
            }
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn everything_that_was_read_is_in_a_watched_collection() {
        let (reads, began) = (Reads::default(), Instant::now());
        reads.note_object("/api/v1/namespaces/a/pods/one");
        reads.note_object("/api/v1/namespaces/b/pods/one");
        reads.note_object("/api/v1/namespaces/b/pods/two");
        reads.note_list("/api/v1/namespaces/b/events?fieldSelector=type%3DWarning");
        reads.note_list("/apis/apps/v1/deployments?labelSelector=");
        reads.note_list("/apis/apps/v1/deployments?labelSelector=a%3Db");
        reads.note_list("/api/v1/nodes");
        let paths: Vec<_> = reads.since(began).into_iter().collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Done",
                "/api/v1/namespaces/b/events?fieldSelector=type%3DWarning",
                "/api/v1/namespaces/b/pods",
                "/api/v1/nodes",
                "/apis/apps/v1/deployments",
            ]
        );
    }

    #[test]
    fn object_that_was_not_read_again_is_watched_no_more() {
        let reads = Reads::default();
        reads.note_list("/api/v1/pods");
        let later = Instant::now() + Duration::from_millis(1);
        assert!(reads.since(later).is_empty());
        assert!(reads.since(later.checked_sub(Duration::from_secs(9)).expect("a time")).is_empty());
    }
}
