//! Entry point: parses the command line, runs the command and reports its error.

use clap::Parser as _;

fn main() -> documents::Exit {
    match talos_provision::run(&talos_provision::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => documents::report(&error),
    }
}
