//! Entry point: parse, run, report. Nothing else lives here.

use clap::Parser as _;

fn main() -> phase::Exit {
    match data_drain::run(&data_drain::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => phase::report(&error),
    }
}
