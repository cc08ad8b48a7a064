//! Entry point: parses the command line, runs the command and reports an error.

use clap::Parser as _;

fn main() -> documents::Exit {
    match lab::run(&lab::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => documents::report(&error),
    }
}
