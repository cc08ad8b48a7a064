//! Entry point: parse, run, report. Nothing else lives here.

use clap::Parser as _;

fn main() -> documents::Exit {
    match talos_provision::run(&talos_provision::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => documents::report(&error),
    }
}
