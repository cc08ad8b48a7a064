//! Entry point: parses the command line, runs the command and reports its error.

use clap::Parser as _;

fn main() -> documents::Exit {
    match flux_seed::run(&flux_seed::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => documents::report(&error),
    }
}
