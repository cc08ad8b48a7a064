//! Hazards that need no registry but one in this process: where a login goes, what is removed, what
//! a commit holds, and what odd answers do.

mod answers;
mod credentials;
mod keys;
mod ownership;
mod rewrapped;
mod sources;
mod stub;
