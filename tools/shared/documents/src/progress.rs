//! Progress on standard error: one line for each step.

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use std::time::Instant;

use serde_json::json;

use crate::verb::{LogFormat, Output};

/// Name of the program and format of its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    pub(crate) program: &'static str,
    pub(crate) output: Output,
}

static CONSOLE: OnceLock<Console> = OnceLock::new();

/// Sets the name and format for the whole process; only the first call has an effect.
pub(crate) fn speak_as(program: &'static str, output: Output) {
    CONSOLE.get_or_init(|| Console { program, output });
}

pub(crate) fn console() -> Console {
    let unnamed = Console { program: "", output: Output::default() };
    CONSOLE.get().copied().unwrap_or(unnamed)
}

/// A step that has begun. A step that is dropped without [`RunningStep::done`] is reported as failed.
#[derive(Debug)]
#[must_use = "a step that is dropped has failed"]
pub struct RunningStep {
    document: String,
    name: String,
    began: Instant,
    done: bool,
}

/// Begins the step `name` of the document `document`.
pub fn step(document: impl Display, name: impl Display) -> RunningStep {
    let (document, name) = (document.to_string(), name.to_string());
    let (console, stderr) = (console(), io::stderr());
    if stderr.is_terminal() && !console.output.quiet && console.output.log_format == LogFormat::Text
    {
        // Overwritten by the line of the finished step.
        crate::write::stderr_text(format_args!("{}…\r", line(&document, &name)));
    }
    RunningStep { document, name, began: Instant::now(), done: false }
}

impl RunningStep {
    /// Reports that the step succeeded, with a `detail` of the result.
    pub fn done(mut self, detail: impl Display) {
        self.done = true;
        self.end("✔", &detail.to_string());
    }

    fn end(&self, mark: &str, detail: &str) {
        let (console, seconds) = (console(), self.began.elapsed().as_secs_f64());
        match console.output.log_format {
            _ if console.output.quiet => {}
            LogFormat::Json => crate::stderr_line(json!({
                "program": console.program, "document": self.document, "step": self.name,
                "done": self.done, "seconds": (seconds * 1e3).round() / 1e3, "detail": detail,
            })),
            LogFormat::Text => {
                let line = line(&self.document, &self.name);
                let text = format!("{line} {mark} {seconds:.1} s   {detail}");
                crate::stderr_line(text.trim_end());
            }
        }
    }
}

impl Drop for RunningStep {
    fn drop(&mut self) {
        if !self.done {
            self.end("✘", "");
        }
    }
}

fn line(document: &str, name: &str) -> String {
    format!("{:<16} {document:<12} {name:<24}", console().program)
}

/// Writes one line about the document `document` to standard error.
pub fn note(document: impl Display, text: impl Display) {
    let console = console();
    match console.output.log_format {
        _ if console.output.quiet => {}
        LogFormat::Json => crate::stderr_line(json!({
            "program": console.program, "document": document.to_string(), "note": text.to_string(),
        })),
        LogFormat::Text => {
            crate::stderr_line(format_args!("{:<16} {document:<12} {text}", console.program));
        }
    }
}

/// Writes one line about the document `document` that only `--verbose` shows.
pub fn detail(document: impl Display, text: impl Display) {
    if console().output.verbose {
        note(document, text);
    }
}
