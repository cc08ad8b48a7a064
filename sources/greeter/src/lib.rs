//! A small HTTP service that greets and counts its greetings. The count survives a restart.
//!
//! **Invariant:** a number in an answer is on the disk: the counter is written, synced and renamed
//! before the answer is sent.

mod counter;
pub mod log;
mod prepare;
pub mod server;

pub use counter::Counter;
pub use prepare::prepare;
