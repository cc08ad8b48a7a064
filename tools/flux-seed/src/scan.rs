//! Lists every object of a cluster. Reads only.

use serde_json::Value;

use crate::Error;
use crate::clients::cluster::Reader;
use crate::clients::cluster::served::ServedKind;

/// Metadata of every object of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) objects: Vec<Value>,
    pub(crate) kinds: Vec<ServedKind>,
    /// API versions that did not answer or that the API server denied.
    pub(crate) silent: Vec<String>,
}

impl Scan {
    /// Lists the objects of every kind.
    pub(crate) fn of(reader: &Reader) -> Result<Self, Error> {
        let served = reader.served()?;
        let mut scan = Self { silent: served.silent, ..Self::default() };
        let objects = reader.each(&served.kinds, Reader::metadata);
        for (kind, objects) in served.kinds.into_iter().zip(objects) {
            match objects? {
                Some(objects) => scan.objects.extend(objects),
                None => scan.silent.push(kind.api_version.clone()),
            }
            scan.kinds.push(kind);
        }
        scan.silent.sort();
        scan.silent.dedup();
        Ok(scan)
    }
}
