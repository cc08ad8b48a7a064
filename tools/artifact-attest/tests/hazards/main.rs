//! Hazard tests with a registry in this process: destinations of logins, ownership, contents of a
//! commit, and odd responses.

mod answers;
mod builds;
mod credentials;
mod interruptions;
mod keys;
mod ownership;
mod page;
mod registries;
mod rewrapped;
mod rounds;
mod sources;
mod stub;
mod uploads;
