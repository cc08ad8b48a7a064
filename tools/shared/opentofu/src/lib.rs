//! Configurations of `OpenTofu`: resources with an import block for each one that exists.
//!
//! ```text
//! observation of each document ── Resource ──► Collector ──► Configuration ──► .tf.json
//! ```
//!
//! The syntax is that of <https://opentofu.org/docs/v1.12/language/syntax/json/> and
//! <https://opentofu.org/docs/v1.12/language/import/>.
//!
//! **Invariant:** a configuration has the resources of every document of the run, or none is written.
//! `OpenTofu` destroys what its state has and its configuration lacks, so a part would be dangerous.

mod collect;
mod configuration;
mod value;

pub use collect::{Collector, PlanOptions, Tofu};
pub use configuration::{Configuration, Provider};
pub use value::{Address, Arguments, Input, Resource, Value};
