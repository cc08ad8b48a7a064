//! The contract that every program keeps, and nothing else.
//!
//! A program reads a stream of documents to its end, brings about what those of its own kinds
//! declare, and writes the same stream with `status` filled in.
//!
//! **Invariant:** no network, no domain; and no clock but for the seconds that people see on
//! standard error. A program that needs one brings its own.

mod bug;
mod derived;
mod document;
mod drive;
mod fault;
mod interrupt;
mod kind;
mod known;
mod mistake;
mod name;
mod progress;
mod read;
mod refusal;
mod report;
mod status;
mod stream;
mod together;
mod verb;
mod write;

pub use derived::Derived;
pub use document::{Declared, Kind, schema};
pub use drive::{Job, Program, Refers, run, start};
pub use fault::{Error, Exit, Fault};
pub use interrupt::{interrupted, uninterrupted};
pub use known::Known;
pub use name::Name;
pub use progress::{Step, begin, detail, note};
pub use refusal::Refusal;
pub use report::report;
pub use status::{Condition, Status};
pub use stream::Stream;
pub use together::at_once;
pub use verb::{LogFormat, Output, Target, Verb};
pub use write::{print, say};
