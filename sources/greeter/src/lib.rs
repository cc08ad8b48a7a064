//! A small honest service: it greets, and what it counts survives it.
//!
//! **Invariant:** a number that somebody was told is on the disk: the counter is written, synced
//! and renamed before the answer is sent.

mod counter;
pub mod log;
mod prepare;
pub mod server;

pub use counter::Counter;
pub use prepare::prepare;
