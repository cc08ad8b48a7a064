//! Entry point: parse, run, report. Nothing else lives here.

use clap::Parser as _;

fn main() -> documents::Exit {
    match manual::run(&manual::Cli::parse()) {
        Ok(()) => documents::Exit::Done,
        Err(error) => documents::report(&error),
    }
}
