//! Pictures of the evidence: the chain from a running pod to its image, signature, provenance, commit and
//! branch.
//!
//! ```text
//! comparison of `verify` ─┐
//!                         ├── chain ──► Picture ──► svg, mermaid
//! statements of documents ┘
//! ```
//!
//! **Invariant:** a link is [`State::Proven`] only if this run has checked it. A link that a document states
//! is [`State::Stated`], with the name of the document.

mod chain;
mod mermaid;
mod svg;
mod text;

use std::path::PathBuf;

use documents::{Form, Rendering};

pub(crate) use chain::{ArtifactReference, Comparison, chain, compared_lanes, unchecked_lanes};

/// Format of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Svg,
    Mermaid,
}

impl Form for Format {
    const NAMES: &'static [(&'static str, Self)] =
        &[("svg", Self::Svg), ("mermaid", Self::Mermaid)];
}

/// Result of the check of a link, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// This run has checked the link.
    Proven,
    /// A document of the input states the link, and this run has not checked it.
    Stated,
    /// This run has not checked the link, and no document states it.
    Unchecked,
    /// A controller or a kubelet has not finished.
    Pending,
    /// The link is missing, or it leads to another object than the declared one.
    Broken,
}

impl State {
    pub(crate) const ALL: [Self; 5] =
        [Self::Proven, Self::Stated, Self::Unchecked, Self::Pending, Self::Broken];

    /// Returns the name of the class in both formats.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Stated => "stated",
            Self::Unchecked => "unchecked",
            Self::Pending => "pending",
            Self::Broken => "broken",
        }
    }

    /// Returns the words of the legend.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Proven => "proven in this run",
            Self::Stated => "stated by a document, not checked",
            Self::Unchecked => "not checked",
            Self::Pending => "not finished",
            Self::Broken => "missing or broken",
        }
    }
}

/// A box of the picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    /// Kind of the thing, for example `Deployment` or `Image`.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// First digits of a digest; empty if the thing has none.
    pub(crate) code: String,
    /// Sentences for people.
    pub(crate) notes: Vec<String>,
    /// Full values, which a viewer of the SVG shows beside the pointer.
    pub(crate) details: Vec<String>,
}

/// A link of a chain, and the box to which it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) state: State,
    pub(crate) to: Node,
}

/// An installation or a Kustomization, and the containers that run because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    /// Chain of the manifests. The first box is the parent of the rows.
    pub(crate) head: Vec<Link>,
    /// One chain for each group of equal containers. The first link leads from the parent.
    pub(crate) rows: Vec<Vec<Link>>,
}

/// The evidence of one Delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Kind and name of the document, for example `Delivery/prod`.
    pub(crate) document: String,
    pub(crate) state: State,
    /// Reason and message of the condition `Ready`.
    pub(crate) message: String,
    pub(crate) lanes: Vec<Lane>,
}

/// The evidence of every Delivery of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) chains: Vec<Chain>,
}

/// Most rows of a picture, beside those that replace the others. A longer list is better read in the documents.
const ROWS_MAX: usize = 40;
/// Most Deliveries of a picture.
const CHAINS_MAX: usize = 8;

impl Picture {
    /// Renders the picture. Large ones are shortened, the broken links first.
    pub(crate) fn render(&self, format: Format, file: Option<PathBuf>) -> Rendering {
        let text = match format {
            Format::Svg => svg::render(&self.shortened(ROWS_MAX)),
            Format::Mermaid => {
                let mut rows = ROWS_MAX;
                loop {
                    let text = mermaid::render(&self.shortened(rows));
                    if rows == 1 || mermaid::fits(&text) {
                        break text;
                    }
                    rows = (rows / 2).max(1);
                }
            }
        };
        Rendering { text, file }
    }

    /// Returns the picture with at most about `rows_max` rows. The rows that are left out are replaced by
    /// one row in the worst of their states.
    fn shortened(&self, rows_max: usize) -> Self {
        let mut chains = self.chains.clone();
        if chains.len() > CHAINS_MAX {
            chains.sort_by_key(|chain| std::cmp::Reverse(chain.worst().max(State::Unchecked)));
            let rest = chains.split_off(CHAINS_MAX - 1);
            let state = rest.iter().map(Chain::worst).max().unwrap_or(State::Unchecked);
            chains.push(Chain {
                document: format!("{} more Deliveries", rest.len()),
                state,
                message: "one run for each Delivery shows all of them".to_owned(),
                lanes: Vec::new(),
            });
        }
        let lanes: usize = chains.iter().map(|chain| chain.lanes.len()).sum();
        let rows_max = (rows_max / lanes.max(1)).max(1);
        for lane in chains.iter_mut().flat_map(|chain| &mut chain.lanes) {
            if lane.rows.len() > rows_max {
                let rest = lane.rows.split_off(rows_max - 1);
                lane.rows.push(vec![folded(&rest)]);
            }
        }
        Self { chains }
    }

    /// Returns the name of the picture for screen readers.
    fn title(&self) -> String {
        let names: Vec<_> = self.chains.iter().map(|chain| chain.document.as_str()).collect();
        match names.as_slice() {
            [] => "Evidence: the input has no Delivery".to_owned(),
            names => format!("Evidence of {}", names.join(", ")),
        }
    }

    /// Returns one sentence with the number of links in each state.
    fn summary(&self) -> String {
        let count = |state: State| {
            let chains = self.chains.iter().flat_map(|chain| &chain.lanes);
            let links = chains.flat_map(Lane::links).filter(|link| link.state == state);
            format!("{} {}", links.count(), state.words())
        };
        format!("Links: {}.", State::ALL.map(count).join("; "))
    }
}

impl Chain {
    fn worst(&self) -> State {
        let links = self.lanes.iter().flat_map(Lane::links).map(|link| link.state);
        links.chain([self.state]).max().unwrap_or(self.state)
    }
}

impl Lane {
    fn links(&self) -> impl Iterator<Item = &Link> {
        self.head.iter().chain(self.rows.iter().flatten())
    }
}

/// Returns the link that replaces `rows`. Statements about images do not count, because every row ends
/// with them.
fn folded(rows: &[Vec<Link>]) -> Link {
    let state = |row: &Vec<Link>| row.iter().take(2).map(|link| link.state).max();
    let worst = rows.iter().filter_map(state).max().unwrap_or(State::Unchecked);
    let failed = rows.iter().flatten().map(|link| link.state).max();
    let state = if failed == Some(State::Broken) { State::Broken } else { worst };
    let name = format!("{} more rows", rows.len());
    let notes = vec![format!("the worst is: {}", state.words())];
    let names = rows.iter().filter_map(|row| row.first()).take(text::DETAILS_MAX);
    let details = names.map(|link| format!("{} {}", link.to.kind, link.to.name)).collect();
    Link {
        state,
        to: Node { kind: "Workloads".to_owned(), name, notes, details, ..Node::default() },
    }
}

#[cfg(test)]
mod tests;
