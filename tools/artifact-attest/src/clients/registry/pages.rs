//! Limits of a list with pages.

use std::collections::BTreeSet;

/// Longest list of tags or referrers, in pages. The limit ends a list without end; a registry with pages of
/// 50 entries (Docker Hub) reaches it after half a million.
pub(crate) const PAGES_MAX: usize = 10_000;
/// Number of pages in a row without a new entry, after which a list counts as endless.
const IDLE_PAGES_MAX: usize = 3;

/// Pages of a list that were read.
#[derive(Default)]
pub(crate) struct Pages {
    pub(crate) seen: BTreeSet<String>,
    /// Number of entries before the last page.
    entries: usize,
    /// Number of last pages without a new entry.
    idle: usize,
}

impl Pages {
    /// Whether the page at `url` may be read, after pages with `entries` different entries.
    pub(crate) fn is_next(&mut self, url: &str, entries: usize) -> bool {
        self.idle = if entries > self.entries { 0 } else { self.idle + 1 };
        self.entries = entries;
        self.idle <= IDLE_PAGES_MAX
            && self.seen.insert(url.to_owned())
            && self.seen.len() <= PAGES_MAX
    }
}
