//! Streams of documents, and the engine that runs every program.
//!
//! A program reads a stream of documents to its end, executes the steps that its own kinds of documents
//! require, and writes the same stream with `status` filled in.
//!
//! **Invariant:** this crate has no network access and knows no domain. It reads the clock only to limit
//! waits and to show seconds on standard error.

mod bug;
mod conflict;
mod context;
mod deferred;
mod derived;
mod diagnostic;
mod document;
mod drive;
mod engine;
mod interrupt;
mod kind;
mod name;
mod parallel;
mod pause;
mod plan;
mod program;
mod progress;
mod read;
mod refusal;
mod rendering;
mod report;
mod schema;
mod status;
mod step;
mod stream;
mod suggestion;
mod validation;
mod verb;
mod wait;
mod write;

pub use conflict::Conflict;
pub use context::{Context, Dependency};
pub use deferred::Deferred;
pub use derived::Derived;
pub use diagnostic::{Diagnostic, Error, Exit};
pub use document::{Declared, Kind, StatusOf};
pub use drive::{run, start};
pub use interrupt::{check_interrupt, is_interrupted};
pub use name::Name;
pub use parallel::{parallel_join, parallel_map, parallel_map_limited};
pub use pause::pause;
pub use plan::Plan;
pub use program::{Intent, Next, Opened, OpenedBy, Program, StepOf, WritePermit};
pub use progress::{RunningStep, detail, note, step};
pub use reasons::Reason;
pub use refusal::Refusal;
pub use rendering::{Form, Rendering, ResultForm};
pub use report::report;
pub use schema::schema;
pub use status::{Condition, Status};
pub use step::{Effect, Step};
pub use stream::{Overridden, Stream};
pub use verb::{LogFormat, NoOptions, Output, Target, Verb};
pub use write::{print, stderr_line};
