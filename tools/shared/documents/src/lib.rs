//! The contract that every program keeps, and nothing else.
//!
//! A program reads a stream of documents to its end, brings about what those of its own kinds
//! declare, and writes the same stream with `status` filled in.
//!
//! **Invariant:** no network, no domain; and no clock but for the seconds that people see on
//! standard error. A program that needs one brings its own.

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
mod plan;
mod program;
mod progress;
mod read;
mod refusal;
mod report;
mod status;
mod step;
mod stream;
mod validation;
mod verb;
mod wait;
mod write;

pub use conflict::Conflict;
pub use context::{Context, Dependency};
pub use deferred::Deferred;
pub use derived::Derived;
pub use diagnostic::{Diagnostic, Error, Exit};
pub use document::{Declared, Kind, StatusOf, schema};
pub use drive::{Verbs, run, start};

pub use interrupt::{check_interrupt, is_interrupted};
pub use name::Name;
pub use parallel::parallel_map;
pub use plan::Plan;
pub use program::{Intent, Next, Opened, OpenedBy, Program, StepOf, WritePermit};
pub use progress::{RunningStep, detail, note, step};
pub use refusal::Refusal;
pub use report::report;
pub use status::{Condition, Status};
pub use step::{Effect, Step};
pub use stream::Stream;
pub use verb::{LogFormat, Output, Target, Verb};
pub use write::{print, stderr_line};
