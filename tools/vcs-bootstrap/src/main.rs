//! Entry point: parse, run, report. Nothing else lives here.

use clap::Parser as _;

fn main() -> documents::Exit {
    match vcs_bootstrap::run(&vcs_bootstrap::Cli::parse()) {
        Ok(exit) => exit,
        Err(error) => documents::report(&error),
    }
}
