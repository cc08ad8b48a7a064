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
            documents::detail("-", format_args!("{program}: {line}"));
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
        documents::check_interrupt()?;
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
        let Some(mut pipe) = pipe else { return };
        // Large enough from the start: a vector that moves leaves its old bytes behind.
        let capacity = usize::try_from(bytes_max + 1).unwrap_or_default();
        let mut bytes = Vec::with_capacity(capacity);
        let _ = pipe.by_ref().take(bytes_max + 1).read_to_end(&mut bytes); // what came is what counts
        let more = bytes.len() as u64 > bytes_max;
        let _ = send.send((Secret::new(bytes), more)); // nobody may be waiting any more
        let _ = io::copy(&mut pipe, &mut io::sink());
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Secret, Error> {
        let words: Vec<_> = words.iter().map(|&it| it.to_owned()).collect();
        run_for(&words, Duration::from_secs(1))
    }

    #[test]
    fn a_command_gives_its_output_and_no_shell_reads_its_words() {
        let secret = run(&["printf", "%s\n", "$HOME; `id`"]).expect("runs");
        assert_eq!(secret.text().expect("text"), "$HOME; `id`");
    }

    #[test]
    fn a_command_that_fails_gives_nothing_whatever_it_printed() {
        let error =
            run(&["sh", "-c", "echo hunter2; echo hunter3 >&2; exit 3"]).expect_err("fails");
        assert_eq!(error.to_string(), "`sh` did not give its secret: exit status: 3");
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let error = run(&["no-such-program", "hunter2"]).expect_err("is not there");
        assert_eq!(error.to_string(), "cannot run `no-such-program`");
    }

    #[test]
    fn a_command_that_waits_for_somebody_is_ended() {
        assert!(matches!(run(&["sleep", "600"]), Err(Error::Slow { seconds: 1, .. })));
    }

    #[test]
    fn a_command_that_does_not_stop_printing_is_ended() {
        assert!(matches!(run(&["yes"]), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_command_may_say_much_to_people() {
        let much = "head -c 1000000 /dev/zero >&2; echo secret";
        assert_eq!(run(&["sh", "-c", much]).expect("runs").text().expect("text"), "secret");
    }
}
