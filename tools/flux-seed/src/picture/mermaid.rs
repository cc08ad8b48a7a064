//! The picture as a flowchart of Mermaid (<https://mermaid.js.org/syntax/flowchart.html>), which forges
//! render in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::text::{clean, fitted, wrapped};
use super::{Link, Node, Picture, State};

/// Most characters of a text (`maxTextSize`), and most edges (`maxEdges`), that Mermaid renders without a
/// change of its configuration: <https://mermaid.js.org/config/schema-docs/config.html>.
const TEXT_MAX: usize = 50_000;
pub(super) const EDGES_MAX: usize = 500;

/// Letters of a line in a box.
const NAME_MAX: usize = 40;
const NOTE_MAX: usize = 60;
/// Letters of the title of a Delivery.
const TITLE_MAX: usize = 120;

/// Whether Mermaid renders a text.
pub(super) fn fits(text: &str) -> bool {
    let edges = text.lines().filter(|line| line.contains("|\"")).count();
    text.chars().count() <= TEXT_MAX && edges <= EDGES_MAX
}

/// Returns the picture as a flowchart. A Markdown page needs a fence with the info string `mermaid`.
pub(super) fn render(picture: &Picture) -> String {
    let mut chart = Chart::default();
    for (index, chain) in picture.chains.iter().enumerate() {
        let title = format!("{} {}: {}", mark(chain.state), chain.document, chain.message);
        let title = wrapped(&title, TITLE_MAX, 1).concat();
        chart.line(&format!("  subgraph d{index}[\"{}\"]", escaped(&title)));
        if chain.lanes.is_empty() {
            let to = Node { kind: chain.document.clone(), ..Node::default() };
            chart.chain(index, &[Link { state: chain.state, to }]);
        }
        for lane in &chain.lanes {
            let parent = chart.chain(index, &lane.head);
            for row in &lane.rows {
                let workload = chart.chain(index, row);
                if let (Some(parent), Some(workload), Some(link)) = (&parent, workload, row.first())
                {
                    chart.edge(&workload, parent, link.state);
                }
            }
        }
        chart.line("  end");
    }
    chart.finish(picture)
}

#[derive(Default)]
struct Chart {
    text: String,
    /// Number of boxes.
    count: usize,
    /// Identifier of each box that the chains of one Delivery share.
    shared: BTreeMap<(usize, State, Node), String>,
    /// State of each edge, in the order of the text.
    edges: Vec<(String, String, State)>,
}

impl Chart {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Adds the boxes of a chain of the Delivery `scope`, and the edges between them. Returns the first box.
    fn chain(&mut self, scope: usize, links: &[Link]) -> Option<String> {
        let (first, rest) = links.split_first()?;
        let first = self.node(first);
        let mut before = first.clone();
        for link in rest {
            let key = (scope, link.state, link.to.clone());
            let known = self.shared.get(&key).cloned();
            let node = known.unwrap_or_else(|| self.node(link));
            self.shared.insert(key, node.clone());
            self.edge(&before, &node, link.state);
            before = node;
        }
        Some(first)
    }

    fn node(&mut self, link: &Link) -> String {
        let id = format!("n{}", self.count);
        self.count += 1;
        let Node { kind, name, code, notes, details: _ } = &link.to;
        let lines = [(kind, NAME_MAX), (name, NAME_MAX), (code, NAME_MAX)].into_iter();
        let lines = lines.chain(notes.iter().map(|note| (note, NOTE_MAX)));
        let lines = lines.filter(|(line, _)| !line.is_empty());
        let lines: Vec<_> = lines.map(|(line, most)| escaped(&fitted(line, most))).collect();
        self.line(&format!("    {id}[\"{}\"]:::{}", lines.join("<br/>"), link.state.class()));
        id
    }

    fn edge(&mut self, from: &str, to: &str, state: State) {
        let edge = (from.to_owned(), to.to_owned(), state);
        if self.edges.contains(&edge) {
            return;
        }
        // The form differs beside the colour: a solid line, a dotted one, and one that ends in a cross.
        let (arrow, words) = match state {
            State::Proven => ("-->", "proven"),
            State::Stated => ("-.->", "stated"),
            State::Unchecked => ("-.->", "not checked"),
            State::Pending => ("-.->", "not finished"),
            State::Broken => ("--x", "broken"),
        };
        self.line(&format!("    {from} {arrow}|\"{} {words}\"| {to}", mark(state)));
        self.edges.push(edge);
    }

    /// Returns the whole text, with the colours. Each colour is readable on its own fill, so that the
    /// picture does not depend on the theme.
    fn finish(self, picture: &Picture) -> String {
        let mut text = String::from("flowchart LR\n");
        let title = plain(&picture.title());
        let _ = writeln!(text, "  accTitle: {title}\n  accDescr: {}", plain(&picture.summary()));
        text.push_str(&self.text);
        for state in State::ALL {
            let (stroke, fill, style) = match state {
                State::Proven => ("#1a7f37", "#dafbe1", ""),
                State::Stated => ("#59636e", "#f6f8fa", ",stroke-dasharray:6 3"),
                State::Unchecked => ("#59636e", "#f6f8fa", ",stroke-dasharray:2 3"),
                State::Pending => ("#9a6700", "#fff8c5", ",stroke-dasharray:6 3"),
                State::Broken => ("#d1242f", "#ffebe9", ",stroke-width:3px"),
            };
            let class = state.class();
            let _ = writeln!(
                text,
                "  classDef {class} fill:{fill},stroke:{stroke},color:#1f2328{style}"
            );
            let edges = self.edges.iter().enumerate().filter(|(_, edge)| edge.2 == state);
            let edges: Vec<_> = edges.map(|(index, _)| index.to_string()).collect();
            if !edges.is_empty() {
                let width = if state == State::Broken { 3 } else { 2 };
                let edges = edges.join(",");
                let _ =
                    writeln!(text, "  linkStyle {edges} stroke:{stroke},stroke-width:{width}px");
            }
        }
        text
    }
}

/// Returns the sign of a state, which people see without colours.
fn mark(state: State) -> &'static str {
    match state {
        State::Proven => "✓",
        State::Stated => "“",
        State::Unchecked => "?",
        State::Pending => "…",
        State::Broken => "✗",
    }
}

/// Escapes text for a label in quotes: every character that is syntax of Mermaid, HTML or Markdown becomes
/// an entity code (<https://mermaid.js.org/syntax/flowchart.html#entity-codes-to-escape-characters>).
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        let is_plain = letter.is_alphanumeric() || " ./:,-@…✓✗“?".contains(letter);
        if is_plain {
            escaped.push(letter);
        } else {
            let _ = write!(escaped, "#{};", u32::from(letter));
        }
    }
    escaped
}

/// Returns the text for a line without quotes, where Mermaid decodes no entities.
fn plain(text: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || " ./:,-".contains(letter);
    clean(text).chars().map(|letter| if is_plain(letter) { letter } else { ' ' }).collect()
}
