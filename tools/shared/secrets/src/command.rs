//! Secrets that another program prints, for example `op read …` or `pass show …`.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::read::SECRET_BYTES_MAX;
use crate::{Error, Secret};

/// Longest run of a command, in seconds: a person may have to touch a hardware key or to sign in.
const SECONDS_MAX: u64 = 60;

/// Most bytes of standard error that are shown with `--verbose`.
const STDERR_BYTES_MAX: u64 = 16 * 1024;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Runs `words` without a shell, and returns the standard output.
pub(crate) fn run(words: &[String]) -> Result<Secret, Error> {
    run_for(words, Duration::from_secs(SECONDS_MAX))
}

fn run_for(words: &[String], time_max: Duration) -> Result<Secret, Error> {
    let (program, arguments) = words.split_first().ok_or(Error::Empty("a command".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let not_run = |source| Error::NotRun { program: program.clone(), source };
    let mut child = command.spawn().map_err(not_run)?;
    let output = collect(child.stdout.take(), SECRET_BYTES_MAX);
    let messages = collect(child.stderr.take(), STDERR_BYTES_MAX);
    let result = wait(&mut child, &output, program, time_max);
    if result.is_err() {
        let _ = child.kill(); // the child may have ended since
        let _ = child.wait();
    }
    if let Ok((messages, _)) = messages.recv_timeout(POLL_INTERVAL) {
        for line in String::from_utf8_lossy(messages.expose()).lines() {
            documents::detail("-", format_args!("{program}: {line}"));
        }
    }
    result
}

/// Bytes of a pipe, and whether the pipe held more than the limit.
type Output = (Secret, bool);

/// Waits until the output is complete and the child has ended.
fn wait(
    child: &mut Child,
    output: &Receiver<Output>,
    program: &str,
    time_max: Duration,
) -> Result<Secret, Error> {
    let deadline = Instant::now() + time_max;
    let mut received = None;
    loop {
        documents::check_interrupt()?;
        received = received.or_else(|| output.recv_timeout(POLL_INTERVAL).ok());
        if received.as_ref().is_some_and(|(_, is_truncated)| *is_truncated) {
            let what = format!("the output of `{program} …`");
            return Err(Error::TooLarge { what, bytes_max: SECRET_BYTES_MAX });
        }
        let not_run = |source| Error::NotRun { program: program.to_owned(), source };
        let status = child.try_wait().map_err(not_run)?;
        match (status, &mut received) {
            (Some(status), _) if !status.success() => {
                let program = program.to_owned();
                return Err(Error::CommandFailed { program, status });
            }
            (Some(_), Some((secret, _))) => return Ok(secret.clone()),
            _ if Instant::now() > deadline => {
                let seconds = time_max.as_secs();
                return Err(Error::Slow { program: program.to_owned(), seconds });
            }
            (None, Some(_)) => thread::sleep(POLL_INTERVAL),
            (_, None) => {}
        }
    }
}

/// Reads `pipe` to its end in another thread, because a full pipe blocks the command.
fn collect(pipe: Option<impl Read + Send + 'static>, bytes_max: u64) -> Receiver<Output> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        // The capacity is large enough from the start, because a vector that grows leaves its old
        // bytes in memory.
        let capacity = usize::try_from(bytes_max + 1).unwrap_or_default();
        let mut bytes = Vec::with_capacity(capacity);
        let _ = pipe.by_ref().take(bytes_max + 1).read_to_end(&mut bytes); // keep what was read
        let is_truncated = bytes.len() as u64 > bytes_max;
        let _ = send.send((Secret::new(bytes), is_truncated)); // the receiver may have given up
        let _ = io::copy(&mut pipe, &mut io::sink());
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Secret, Error> {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        run_for(&words, Duration::from_secs(1))
    }

    #[test]
    fn a_command_runs_without_a_shell_and_its_output_is_the_secret() {
        let secret = run(&["printf", "%s\n", "$HOME; `id`"]).expect("runs");
        assert_eq!(secret.text().expect("text"), "$HOME; `id`");
    }

    #[test]
    fn output_of_a_failed_command_is_discarded_and_not_quoted() {
        let error =
            run(&["sh", "-c", "echo hunter2; echo hunter3 >&2; exit 3"]).expect_err("fails");
        assert_eq!(error.to_string(), "`sh` failed and gave no secret: exit status: 3");
    }

    #[test]
    fn an_error_names_the_command_that_is_not_installed() {
        let error = run(&["no-such-program", "hunter2"]).expect_err("is not installed");
        assert_eq!(error.to_string(), "cannot run `no-such-program`");
    }

    #[test]
    fn a_command_that_exceeds_the_time_limit_is_killed() {
        assert!(matches!(run(&["sleep", "600"]), Err(Error::Slow { seconds: 1, .. })));
    }

    #[test]
    fn a_command_that_prints_without_end_is_killed() {
        assert!(matches!(run(&["yes"]), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_command_may_write_a_megabyte_to_standard_error() {
        let script = "head -c 1000000 /dev/zero >&2; echo secret";
        assert_eq!(run(&["sh", "-c", script]).expect("runs").text().expect("text"), "secret");
    }
}
