//! Tells people, or a log, about a failure.

use crate::fault::{Exit, Fault};
use crate::verb::LogFormat;

/// Tells people about `fault`, and returns its exit status.
pub fn report(fault: &dyn Fault) -> Exit {
    report_on(None, fault)
}

/// Tells people about `fault`, which happened to `document`: its kind and name.
pub(crate) fn report_on(document: Option<&str>, fault: &dyn Fault) -> Exit {
    let voice = crate::progress::voice();
    if voice.output.log_format == LogFormat::Json {
        let causes = std::iter::successors(fault.source(), |cause| cause.source());
        crate::say(serde_json::json!({
            "program": voice.program,
            "document": document,
            "error": fault.to_string(),
            "causes": causes.map(ToString::to_string).collect::<Vec<_>>(),
            "help": fault.help(),
            "reason": fault.reason(),
        }));
        return fault.exit();
    }
    match document {
        Some(document) => crate::say(format_args!("error: {document}: {fault}")),
        None => crate::say(format_args!("error: {fault}")),
    }
    for cause in std::iter::successors(fault.source(), |cause| cause.source()) {
        crate::say(format_args!("  because: {cause}"));
    }
    if let Some(help) = fault.help() {
        crate::say(format_args!("  help: {help}"));
    }
    fault.exit()
}
