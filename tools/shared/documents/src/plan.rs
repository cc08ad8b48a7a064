//! A plan, and how people see it on standard error.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde_json::json;

use crate::conflict::Conflict;
use crate::progress::console;
use crate::step::{Effect, Step};
use crate::verb::LogFormat;

/// The steps between an observation and the declared state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<S> {
    /// The steps, in the order in which they are executed.
    pub steps: Vec<S>,
    /// Objects that keep every step from being executed.
    pub conflicts: Vec<Conflict>,
}

impl<S> From<Vec<S>> for Plan<S> {
    fn from(steps: Vec<S>) -> Self {
        Self { steps, conflicts: Vec::new() }
    }
}

/// Writes the plan of `document` (its kind and name) to standard error. `footer` is one more line, for
/// example the cost.
pub(crate) fn show<S: Step>(
    document: &str,
    steps: &[S],
    conflicts: &[Conflict],
    footer: Option<&str>,
) {
    let console = console();
    if console.output.quiet {
        return;
    }
    if console.output.log_format == LogFormat::Json {
        for line in json_lines(console.program, document, steps, conflicts, footer) {
            crate::stderr_line(line);
        }
        return;
    }
    let is_coloured = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    crate::stderr_line(text(document, steps, conflicts, footer, is_coloured));
}

fn json_lines<S: Step>(
    program: &str,
    document: &str,
    steps: &[S],
    conflicts: &[Conflict],
    footer: Option<&str>,
) -> Vec<serde_json::Value> {
    let step = |step: &S| {
        json!({
            "program": program, "document": document, "plan": step.effect().verb(),
            "text": step.to_string(),
        })
    };
    let conflict = |conflict: &Conflict| {
        json!({
            "program": program, "document": document, "plan": "conflict",
            "text": conflict.message, "help": conflict.help,
        })
    };
    let summary = json!({
        "program": program, "document": document, "plan": "summary",
        "text": summary(steps, conflicts), "footer": footer,
    });
    let steps = steps.iter().map(step);
    steps.chain(conflicts.iter().map(conflict)).chain([summary]).collect()
}

fn text<S: Step>(
    document: &str,
    steps: &[S],
    conflicts: &[Conflict],
    footer: Option<&str>,
    is_coloured: bool,
) -> String {
    let painted = |color: AnsiColor, line: String| {
        let style = if is_coloured { color.on_default() } else { Style::new() };
        format!("{style}{line}{style:#}")
    };
    let step = |step: &S| {
        let effect = step.effect();
        let color = match effect {
            Effect::Create => AnsiColor::Green,
            Effect::Change => AnsiColor::Yellow,
            Effect::Remove => AnsiColor::Red,
        };
        painted(color, format!("  {} {step}", effect.sign()))
    };
    let conflict =
        |conflict: &Conflict| painted(AnsiColor::Magenta, format!("  ! {}", conflict.message));
    let heading = format!("{document}: {}", summary(steps, conflicts));
    let lines = [heading].into_iter();
    let lines = lines.chain(steps.iter().map(step)).chain(conflicts.iter().map(conflict));
    let lines: Vec<_> = lines.chain(footer.map(|footer| format!("  {footer}"))).collect();
    lines.join("\n")
}

/// Returns the counts of a plan, for example `2 to create, 1 to remove`.
fn summary<S: Step>(steps: &[S], conflicts: &[Conflict]) -> String {
    let count = |effect: Effect| {
        let count = steps.iter().filter(|step| step.effect() == effect).count();
        (count > 0).then(|| format!("{count} to {}", effect.verb()))
    };
    let mut counts: Vec<_> = Effect::ALL.into_iter().filter_map(count).collect();
    match conflicts.len() {
        0 => {}
        1 => counts.push("1 conflict".to_owned()),
        several => counts.push(format!("{several} conflicts")),
    }
    if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::tests::Change;

    fn plan() -> (Vec<Change>, Vec<Conflict>) {
        let steps = vec![
            Change::Create { name: "web".to_owned() },
            Change::Resize { name: "web".to_owned(), from: 1, to: 2 },
            Change::Remove { name: "old".to_owned() },
            Change::Remove { name: "older".to_owned() },
        ];
        let conflict = Conflict {
            message: "server db belongs to another project".to_owned(),
            help: "rename the pool".to_owned(),
        };
        (steps, vec![conflict])
    }

    #[test]
    fn plan_shows_each_step_with_its_sign_and_counts_them() {
        let (steps, conflicts) = plan();
        let shown = text("Cluster/prod", &steps, &conflicts, Some("cost: 1 → 2 EUR"), false);
        assert_eq!(
            shown,
            "Cluster/prod: 1 to create, 1 to change, 2 to remove, 1 conflict\n\
             \x20 + create server web\n\
             \x20 ~ resize server web: 1 → 2\n\
             \x20 - remove server old\n\
             \x20 - remove server older\n\
             \x20 ! server db belongs to another project\n\
             \x20 cost: 1 → 2 EUR"
        );
    }

    #[test]
    fn empty_plan_says_nothing_to_do() {
        assert_eq!(
            text::<Change>("Cluster/prod", &[], &[], None, true),
            "Cluster/prod: nothing to do"
        );
    }

    #[test]
    fn colours_add_nothing_but_escape_codes() {
        let (steps, conflicts) = plan();
        let shown = text("Cluster/prod", &steps, &conflicts, None, true);
        assert!(shown.contains("\u{1b}[32m  + create server web\u{1b}[0m"), "{shown:?}");
        let plain = anstream::adapter::strip_str(&shown).to_string();
        assert_eq!(plain, text("Cluster/prod", &steps, &conflicts, None, false));
    }

    #[test]
    fn json_log_has_one_object_for_each_step_and_one_for_the_counts() {
        let (steps, conflicts) = plan();
        let lines = json_lines("lab", "Cluster/prod", &steps, &conflicts, None);
        let kinds: Vec<_> = lines.iter().map(|line| line["plan"].as_str().unwrap_or("")).collect();
        assert_eq!(kinds, ["create", "change", "remove", "remove", "conflict", "summary"]);
    }
}
