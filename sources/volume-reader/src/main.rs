//! Writes a folder as a tar archive: `volume-reader read FOLDER`. Or waits in a pod until a drain
//! calls it with `exec`: `volume-reader wait`.

use std::env;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use volume_reader::{Frames, Report};

/// The size of one write: a pipe of the kernel holds no more.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often `wait` looks for a process that a drain has started beside it.
const LOOK: Duration = Duration::from_secs(60);
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

/// Waits, until no other process has been here for a while. Without `/proc` it waits for ever.
fn wait() {
    let mut idle = 0;
    while idle < IDLE_LOOKS_MAX {
        thread::sleep(LOOK);
        idle = if is_alone() { idle + 1 } else { 0 };
    }
}

/// Whether this is the only process of the container.
fn is_alone() -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count() == 1
}
