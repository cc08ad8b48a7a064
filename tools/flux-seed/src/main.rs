//! Entry point: parse, run, report. Nothing else lives here.

use clap::Parser as _;

fn main() -> documents::Exit {
    match flux_seed::run(&flux_seed::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => documents::report(&error),
    }
}
