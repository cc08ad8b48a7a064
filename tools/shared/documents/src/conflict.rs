//! Conflicts, which stop a plan from being executed.

/// An object that stops a plan, for example a server that another project created.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// Object and reason, as a sentence without a full stop.
    pub message: String,
    /// The next action for a person.
    pub help: String,
}
