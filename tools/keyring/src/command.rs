//! A secret from another program: `op read …`, `pass show …`.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::reference::SECRET_BYTES_MAX;
use crate::{Error, Secret};

/// How long a person may take to touch a key.
const SECONDS_MAX: u64 = 60;

/// What is passed on of standard error, in bytes.
const STDERR_BYTES_MAX: u64 = 16 * 1024;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs `words` without a shell, and takes its standard output.
pub(crate) fn run(words: &[String]) -> Result<Secret, Error> {
    run_for(words, Duration::from_secs(SECONDS_MAX))
}

fn run_for(words: &[String], most: Duration) -> Result<Secret, Error> {
    let (program, arguments) = words.split_first().ok_or(Error::Empty("a command".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let not_run = |source| Error::NotRun { program: program.clone(), source };
    let mut child = command.spawn().map_err(not_run)?;
    let output = collect(child.stdout.take(), SECRET_BYTES_MAX);
    let said = collect(child.stderr.take(), STDERR_BYTES_MAX);
    let ended = wait(&mut child, &output, program, most);
    if ended.is_err() {
        let _ = child.kill(); // it may have ended by itself just now
        let _ = child.wait();
    }
    if let Ok((said, _)) = said.recv_timeout(LOOK_AGAIN) {
        for line in String::from_utf8_lossy(said.expose()).lines() {
            phase::detail("-", format_args!("{program}: {line}"));
        }
    }
    ended
}

/// What came out, and whether there was more than may come.
type Output = (Secret, bool);

/// Waits for the output and for the end.
fn wait(
    child: &mut Child,
    output: &Receiver<Output>,
    program: &str,
    most: Duration,
) -> Result<Secret, Error> {
    let until = Instant::now() + most;
    let mut came = None;
    loop {
        phase::uninterrupted()?;
        came = came.or_else(|| output.recv_timeout(LOOK_AGAIN).ok());
        if came.as_ref().is_some_and(|(_, more)| *more) {
            let what = format!("the output of `{program} …`");
            return Err(Error::TooLarge { what, bytes_max: SECRET_BYTES_MAX });
        }
        let not_run = |source| Error::NotRun { program: program.to_owned(), source };
        let ended = child.try_wait().map_err(not_run)?;
        match (ended, &mut came) {
            (Some(status), _) if !status.success() => {
                let program = program.to_owned();
                return Err(Error::CommandFailed { program, status });
            }
            (Some(_), Some((secret, _))) => return Ok(secret.clone()),
            _ if Instant::now() > until => {
                return Err(Error::Slow { program: program.to_owned(), seconds: most.as_secs() });
            }
            (None, Some(_)) => thread::sleep(LOOK_AGAIN),
            (_, None) => {}
        }
    }
}

/// Reads to the end in another thread: a pipe that is not read stops its writer.
fn collect(pipe: Option<impl Read + Send + 'static>, bytes_max: u64) -> Receiver<Output> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut more = false;
        if let Some(mut pipe) = pipe {
            let read = pipe.by_ref().take(bytes_max).read_to_end(&mut bytes);
            more = read.is_ok() && io::copy(&mut pipe, &mut io::sink()).is_ok_and(|it| it > 0);
        }
        let _ = send.send((Secret::new(bytes), more)); // nobody may be waiting any more
    });
    receive
}
