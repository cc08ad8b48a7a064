//! What keeps a plan from being executed.

/// An object that stands in the way of a plan, for example one that another person created.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// What is in the way, and why, as a sentence without a full stop.
    pub message: String,
    /// The next action for a person.
    pub help: String,
}
