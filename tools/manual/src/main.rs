//! Entry point: parses the command line, runs the command and reports an error.

use clap::Parser as _;

fn main() -> documents::Exit {
    match manual::run(&manual::Cli::parse()) {
        Ok(()) => documents::Exit::Done,
        Err(error) => documents::report(&error),
    }
}
