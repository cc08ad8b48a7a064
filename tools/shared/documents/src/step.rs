//! One change of a plan: flat JSON for programs, and one sentence for people.

use std::fmt::Display;

use schemars::JsonSchema;
use serde::Serialize;

/// One change that a plan consists of.
///
/// The JSON is flat, for example `{"action": "createServer", "name": …}`. The `Display` text is a
/// sentence without a full stop, which says what changes: `change the type of server web: cx22 → cx32`.
/// Neither holds a secret.
pub trait Step: Clone + PartialEq + Display + Serialize + JsonSchema + Send + Sync {
    /// Returns what the step does to its object.
    fn effect(&self) -> Effect;
}

/// The effect of a step on its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The object is created.
    Create,
    /// The object exists and is changed, or something is done with it.
    Change,
    /// The object is removed.
    Remove,
}

impl Effect {
    /// Every effect, in the order in which a summary counts them.
    pub(crate) const ALL: [Self; 3] = [Self::Create, Self::Change, Self::Remove];

    /// Returns the sign in front of a line of the plan.
    pub(crate) fn sign(self) -> char {
        match self {
            Self::Create => '+',
            Self::Change => '~',
            Self::Remove => '-',
        }
    }

    /// Returns the word in the summary of a plan.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Remove => "remove",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt;

    use super::*;

    /// A step of the tests in this crate.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
    #[serde(tag = "action", rename_all = "camelCase")]
    pub(crate) enum Change {
        /// The server does not exist.
        Create {
            /// Name of the server.
            name: String,
        },
        /// The server has another size.
        Resize {
            /// Name of the server.
            name: String,
            /// Size that the server has.
            from: u8,
            /// Size that the server gets.
            to: u8,
        },
        /// The server is no longer declared.
        Remove {
            /// Name of the server.
            name: String,
        },
    }

    impl fmt::Display for Change {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Create { name } => write!(f, "create server {name}"),
                Self::Resize { name, from, to } => {
                    write!(f, "resize server {name}: {from} → {to}")
                }
                Self::Remove { name } => write!(f, "remove server {name}"),
            }
        }
    }

    impl Step for Change {
        fn effect(&self) -> Effect {
            match self {
                Self::Create { .. } => Effect::Create,
                Self::Resize { .. } => Effect::Change,
                Self::Remove { .. } => Effect::Remove,
            }
        }
    }
}
