//! `volume-reader read FOLDER` writes a folder as a tar archive. `volume-reader wait` keeps a pod alive
//! until a drain calls the program with `exec`.

use std::env;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use volume_reader::{Frames, Report};

/// Size of one write in bytes: the default capacity of a pipe (pipe(7)).
const BUFFER_BYTES: usize = 64 * 1024;
/// Interval at which `wait` looks for another process, which a drain has started.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Number of looks without such a process before `wait` ends: half an hour. A drain that was killed
/// cannot remove its pod, and the pod would keep the volume mounted.
const IDLE_LOOKS_MAX: u32 = 30;

const USAGE: &str = "usage: volume-reader wait\n       volume-reader read [--framed] FOLDER\n       \
                     volume-reader survey [--framed] FOLDER";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let folder = arguments.last().map(Path::new);
    match (words.as_slice(), folder) {
        (["wait"], _) => {
            wait();
            Ok(())
        }
        (["read", "--framed", _], Some(folder)) => {
            let mut frames = Frames::new(io::stdout().lock());
            let report = volume_reader::write(folder, &mut frames)?;
            tell(&report);
            frames.end(&report.json(), io::stdin().lock())
        }
        (["survey", "--framed", _], Some(folder)) => {
            let report = volume_reader::survey(folder)?;
            tell(&report);
            Frames::new(io::stdout().lock()).end(&report.json(), io::stdin().lock())
        }
        (["read", _], Some(folder)) => {
            let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
            tell(&volume_reader::write(folder, out)?);
            Ok(())
        }
        (["survey", _], Some(folder)) => {
            let report = volume_reader::survey(folder)?;
            tell(&report);
            writeln!(io::stdout(), "{}", report.json())
        }
        _ => Err(io::Error::other(USAGE)),
    }
}

fn tell(report: &Report) {
    for line in report.lines() {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Waits until the container has had no other process for half an hour. Without `/proc` it waits for
/// ever.
fn wait() {
    let mut idle = 0;
    while idle < IDLE_LOOKS_MAX {
        thread::sleep(LOOK_INTERVAL);
        idle = if is_alone() { idle + 1 } else { 0 };
    }
}

/// Returns whether this is the only process of the container.
fn is_alone() -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count() == 1
}
