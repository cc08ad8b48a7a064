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

/// A plan as people see it.
pub(crate) struct Shown<'a, S> {
    /// Kind and name of the document, for example `Cluster/prod`.
    pub(crate) document: &'a str,
    pub(crate) steps: &'a [S],
    pub(crate) conflicts: &'a [Conflict],
    /// Reason why steps may be left although none is known.
    pub(crate) unknown: Option<&'a str>,
    /// One more line, for example the cost.
    pub(crate) footer: Option<&'a str>,
}

impl<S: Step> Shown<'_, S> {
    /// Writes the plan to standard error.
    pub(crate) fn write(&self) {
        let console = console();
        if console.output.quiet {
            return;
        }
        if console.output.log_format == LogFormat::Json {
            for line in self.json_lines(console.program) {
                crate::stderr_line(line);
            }
            return;
        }
        let is_coloured = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
        crate::stderr_line(self.text(is_coloured));
    }

    fn json_lines(&self, program: &str) -> Vec<serde_json::Value> {
        let document = self.document;
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
            "text": self.summary(), "footer": self.footer,
        });
        let steps = self.steps.iter().map(step);
        steps.chain(self.conflicts.iter().map(conflict)).chain([summary]).collect()
    }

    fn text(&self, is_coloured: bool) -> String {
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
        let lines = [format!("{}: {}", self.document, self.summary())].into_iter();
        let lines =
            lines.chain(self.steps.iter().map(step)).chain(self.conflicts.iter().map(conflict));
        let lines: Vec<_> = lines.chain(self.footer.map(|line| format!("  {line}"))).collect();
        lines.join("\n")
    }

    /// Returns the counts of the plan, for example `2 to create, 1 to remove`.
    fn summary(&self) -> String {
        let count = |effect: Effect| {
            let count = self.steps.iter().filter(|step| step.effect() == effect).count();
            (count > 0).then(|| format!("{count} to {}", effect.verb()))
        };
        let mut counts: Vec<_> = Effect::ALL.into_iter().filter_map(count).collect();
        match self.conflicts.len() {
            0 => {}
            1 => counts.push("1 conflict".to_owned()),
            several => counts.push(format!("{several} conflicts")),
        }
        match self.unknown {
            Some(why) => counts.push(format!("unknown: {why}")),
            None if counts.is_empty() => counts.push("nothing to do".to_owned()),
            None => {}
        }
        counts.join(", ")
    }
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

    fn shown<'a>(steps: &'a [Change], conflicts: &'a [Conflict]) -> Shown<'a, Change> {
        Shown { document: "Cluster/prod", steps, conflicts, unknown: None, footer: None }
    }

    #[test]
    fn plan_shows_each_step_with_its_sign_and_counts_them() {
        let (steps, conflicts) = plan();
        let footer = Some("cost: 1 → 2 EUR");
        assert_eq!(
            Shown { footer, ..shown(&steps, &conflicts) }.text(false),
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
        assert_eq!(shown(&[], &[]).text(true), "Cluster/prod: nothing to do");
    }

    #[test]
    fn plan_of_a_caller_that_does_not_see_everything_says_unknown() {
        let unknown = Some("Secrets were not compared");
        assert_eq!(
            Shown { unknown, ..shown(&[], &[]) }.text(false),
            "Cluster/prod: unknown: Secrets were not compared"
        );
    }

    #[test]
    fn colours_add_nothing_but_escape_codes() {
        let (steps, conflicts) = plan();
        let coloured = shown(&steps, &conflicts).text(true);
        assert!(coloured.contains("\u{1b}[32m  + create server web\u{1b}[0m"), "{coloured:?}");
        let plain = anstream::adapter::strip_str(&coloured).to_string();
        assert_eq!(plain, shown(&steps, &conflicts).text(false));
    }

    #[test]
    fn json_log_has_one_object_for_each_step_and_one_for_the_counts() {
        let (steps, conflicts) = plan();
        let lines = shown(&steps, &conflicts).json_lines("lab");
        let kinds: Vec<_> = lines.iter().map(|line| line["plan"].as_str().unwrap_or("")).collect();
        assert_eq!(kinds, ["create", "change", "remove", "remove", "conflict", "summary"]);
    }
}
