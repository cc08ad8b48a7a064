//! Entry point: parse, run, report. Nothing else lives here.

use clap::Parser as _;

fn main() -> phase::Exit {
    match manual::run(&manual::Cli::parse()) {
        Ok(()) => phase::Exit::Done,
        Err(error) => phase::report(&error),
    }
}
