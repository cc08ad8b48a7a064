//! Writes a folder as a tar archive: `volume-reader read FOLDER`. Or waits to be asked for that:
//! `volume-reader wait`.

use std::env;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// What is written at once: a pipe of the kernel holds no more.
const BUFFER_BYTES: usize = 64 * 1024;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = env::args_os().skip(1);
    let verb = arguments.next().unwrap_or_default();
    match (verb.to_str(), arguments.next()) {
        (Some("wait"), None) => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        (Some("read"), Some(folder)) => {
            let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
            volume_reader::write(Path::new(&folder), out).map_err(|error| error.to_string())
        }
        _ => Err("say `wait`, or `read FOLDER`".to_owned()),
    }
}
