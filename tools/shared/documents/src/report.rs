//! Reports an error to people or to a log.

use crate::diagnostic::{Diagnostic, Exit};
use crate::verb::LogFormat;

/// Writes `fault` to standard error, and returns its exit status.
pub fn report(fault: &dyn Diagnostic) -> Exit {
    report_on(None, fault)
}

/// Writes `fault` to standard error, with the kind and name of the `document` that failed.
pub(crate) fn report_on(document: Option<&str>, fault: &dyn Diagnostic) -> Exit {
    let console = crate::progress::console();
    if console.output.log_format == LogFormat::Json {
        let causes = std::iter::successors(fault.source(), |cause| cause.source());
        crate::stderr_line(serde_json::json!({
            "program": console.program,
            "document": document,
            "error": fault.to_string(),
            "causes": causes.map(ToString::to_string).collect::<Vec<_>>(),
            "help": fault.help(),
            "reason": fault.reason(),
        }));
        return fault.exit();
    }
    match document {
        Some(document) => crate::stderr_line(format_args!("error: {document}: {fault}")),
        None => crate::stderr_line(format_args!("error: {fault}")),
    }
    for cause in std::iter::successors(fault.source(), |cause| cause.source()) {
        crate::stderr_line(format_args!("  because: {cause}"));
    }
    if let Some(help) = fault.help() {
        crate::stderr_line(format_args!("  help: {help}"));
    }
    fault.exit()
}

/// Returns an error with its causes, as one line.
pub(crate) fn with_causes(error: &dyn Diagnostic) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
