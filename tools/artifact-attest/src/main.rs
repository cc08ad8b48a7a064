//! Entry point: parses the command line, runs the command, reports errors.

use clap::Parser as _;

fn main() -> documents::Exit {
    match artifact_attest::run(&artifact_attest::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => documents::report(&error),
    }
}
