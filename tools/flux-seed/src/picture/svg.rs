//! The picture as SVG: a row for each chain, with its boxes in the same columns.
//!
//! The colours follow the viewer's scheme, light or dark. Each state also has its own sign and line, so that
//! people who do not see colours read the same. The file has no script and loads nothing.

use std::fmt::Write as _;

use super::text::{clean, fitted, wrapped};
use super::{Chain, Lane, Link, Node, Picture, State};

const MARGIN: u32 = 24;
/// Distance of the rows from the left side of their parent.
const INDENT: u32 = 44;
/// Place of the vertical line below a parent.
const RAIL: u32 = 16;
/// Width of the boxes in each column: workload, image, signature, provenance, commit, branch.
const WIDTHS: [u32; 6] = [188, 164, 144, 150, 150, 164];
/// Distance of two columns, in which the signs of the links are.
const GAP: u32 = 32;
const BOX_HEIGHT: u32 = 84;
const ROW_HEIGHT: u32 = 98;
/// Space between an installation and the Kustomization below it.
const LANE_GAP: u32 = 14;
/// Space above the boxes of a Delivery: its title and two lines of its message.
const TITLE_HEIGHT: u32 = 64;
const LEGEND_HEIGHT: u32 = 44;
const PADDING: u32 = 10;
/// Lines of a box below its name.
const LINES: usize = 3;
/// Width of a letter in tenths of a pixel: of a name (12 px, bold), and of a note (11 px). Measured with
/// `DejaVu` Sans, which is wider than the fonts of browsers.
const NAME_LETTER: u32 = 80;
const NOTE_LETTER: u32 = 63;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif;fill:#1f2328}
.paper{fill:#fff}.sign .glyph{stroke:#fff}
.kind,.note,.message,.legend{fill:#59636e}
.kind{font-size:9px;letter-spacing:.6px}.name{font-size:12px;font-weight:600}.note{font-size:11px}
.code{font-size:11px;font-family:ui-monospace,'Cascadia Mono',Menlo,monospace}
.title{font-size:15px;font-weight:600}.message{font-size:12px}.legend{font-size:11px}
.box{fill:#f6f8fa;stroke:#d1d9e0}.rail{stroke:#d1d9e0;stroke-width:2;fill:none}
.edge{stroke-width:2;fill:none}.glyph{stroke-width:1.8;fill:none;stroke-linecap:round;stroke-linejoin:round}
.proven .edge{stroke:#1a7f37}.proven .plate{fill:#1a7f37}
.stated .edge{stroke:#818b98;stroke-dasharray:6 3}.stated .plate{fill:#59636e}
.unchecked .edge{stroke:#818b98;stroke-dasharray:1.5 3.5}
.unchecked .plate{fill:#fff;stroke:#59636e;stroke-dasharray:2.5 2}.unchecked.sign .glyph{stroke:#59636e}
.pending .edge{stroke:#9a6700;stroke-dasharray:6 3}.pending .plate{fill:#9a6700}
.broken .edge{stroke:#d1242f;stroke-width:3}.broken .plate{fill:#d1242f}
.unchecked .box,.stated .box{stroke-dasharray:4 3}
.pending .box{stroke:#9a6700}.broken .box{stroke:#d1242f;stroke-width:2.5;fill:#ffebe9}
.broken .note{fill:#a40e26}
@media (prefers-color-scheme:dark){
text{fill:#f0f6fc}.paper{fill:#0d1117}.sign .glyph{stroke:#0d1117}
.kind,.note,.message,.legend{fill:#9198a1}
.box{fill:#151b23;stroke:#3d444d}.rail{stroke:#3d444d}
.proven .edge{stroke:#3fb950}.proven .plate{fill:#3fb950}
.stated .edge,.unchecked .edge{stroke:#656c76}.stated .plate{fill:#9198a1}
.unchecked .plate{fill:#0d1117;stroke:#9198a1}.unchecked.sign .glyph{stroke:#9198a1}
.pending .edge{stroke:#d29922}.pending .plate{fill:#d29922}.pending .box{stroke:#d29922}
.broken .edge{stroke:#f85149}.broken .plate{fill:#f85149}.broken .box{stroke:#f85149;fill:#25171c}
.broken .note{fill:#ff9492}}
";

/// Returns the picture as an SVG document.
pub(super) fn render(picture: &Picture) -> String {
    let mut drawing = Drawing { body: String::new(), y: MARGIN };
    for chain in &picture.chains {
        drawing.chain(chain);
    }
    drawing.legend();
    let (width, height) = (full_width(), drawing.y);
    let title = escaped(&picture.title());
    let states =
        picture.chains.iter().map(|chain| format!("{}: {}", chain.document, chain.message));
    let summary = states.chain([picture.summary()]).collect::<Vec<_>>().join(". ");
    let summary = escaped(&summary);
    let body = drawing.body;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-labelledby=\"title description\">\n\
         <title id=\"title\">{title}</title>\n<desc id=\"description\">{summary}</desc>\n\
         <style>\n{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n{body}</svg>\n"
    )
}

fn full_width() -> u32 {
    let gaps = u32::try_from(WIDTHS.len()).unwrap_or_default() - 1;
    2 * MARGIN + INDENT + WIDTHS.iter().sum::<u32>() + gaps * GAP
}

/// Returns the left side and the width of the boxes in a column. A parent is as wide as its row.
fn column(index: usize, is_parent: bool) -> (u32, u32) {
    let index = index.min(WIDTHS.len() - 1);
    let gaps = u32::try_from(index).unwrap_or_default();
    let left = MARGIN + INDENT + WIDTHS[..index].iter().sum::<u32>() + gaps * GAP;
    match (index, is_parent) {
        (0, true) => (left - INDENT, WIDTHS[0] + INDENT),
        _ => (left, WIDTHS[index]),
    }
}

struct Drawing {
    body: String,
    /// Upper side of the next part.
    y: u32,
}

impl Drawing {
    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(text); // a String accepts everything
        self.body.push('\n');
    }

    fn chain(&mut self, chain: &Chain) {
        let (x, y) = (MARGIN, self.y);
        self.push(format_args!("<g class=\"chain\"><title>{}</title>", escaped(&chain.message)));
        self.sign(chain.state, x + 10, y + 10);
        let name = escaped(&fitted(&chain.document, 80));
        self.push(format_args!(
            "<text class=\"title\" x=\"{}\" y=\"{}\">{name}</text>",
            x + 28,
            y + 15
        ));
        let letters = (full_width() - 2 * MARGIN - 28) * 10 / NOTE_LETTER;
        let lines = wrapped(&chain.message, letters as usize, 2);
        for (line, y) in lines.iter().zip([y + 35, y + 51]) {
            let line = escaped(line);
            self.push(format_args!(
                "<text class=\"message\" x=\"{}\" y=\"{y}\">{line}</text>",
                x + 28
            ));
        }
        self.push(format_args!("</g>"));
        self.y += TITLE_HEIGHT;
        for lane in &chain.lanes {
            self.lane(lane);
            self.y += LANE_GAP;
        }
    }

    fn lane(&mut self, lane: &Lane) {
        let top = self.y;
        self.row(&lane.head, true);
        let rail = MARGIN + RAIL;
        if let Some(last) = lane.rows.len().checked_sub(1) {
            let last = u32::try_from(last).unwrap_or(u32::MAX);
            let (from, to) = (top + BOX_HEIGHT, self.y + last * ROW_HEIGHT + BOX_HEIGHT / 2);
            self.push(format_args!("<path class=\"rail\" d=\"M{rail},{from}V{to}\"/>"));
        }
        for row in &lane.rows {
            if let Some(link) = row.first() {
                let y = self.y + BOX_HEIGHT / 2;
                self.edge(link, rail, MARGIN + INDENT, y);
            }
            self.row(row, false);
        }
    }

    fn row(&mut self, links: &[Link], is_parent: bool) {
        for (index, link) in links.iter().enumerate() {
            let (left, width) = column(index, is_parent);
            if index > 0 {
                self.edge(link, left - GAP, left, self.y + BOX_HEIGHT / 2);
            }
            self.node(link, left, width, is_parent && index == 0);
        }
        self.y += ROW_HEIGHT;
    }

    /// Draws a link with the sign of its state in the middle.
    fn edge(&mut self, link: &Link, from: u32, to: u32, y: u32) {
        let Link { state, to: Node { kind, name, .. } } = link;
        let title = escaped(&format!("{kind} {name}: {}", state.words()));
        self.push(format_args!("<g class=\"link {}\"><title>{title}</title>", state.class()));
        self.push(format_args!("<path class=\"edge\" d=\"M{from},{y}H{to}\"/>"));
        self.sign(*state, u32::midpoint(from, to), y);
        self.push(format_args!("</g>"));
    }

    /// Draws the sign of a state. No two states have the same outline and glyph.
    fn sign(&mut self, state: State, x: u32, y: u32) {
        let (plate, glyph) = match state {
            State::Proven => ("<circle class=\"plate\" r=\"8\"/>", "M-3.5,.5L-1,3L3.5,-2.5"),
            State::Stated => (
                "<rect class=\"plate\" x=\"-7\" y=\"-7\" width=\"14\" height=\"14\" rx=\"3\"/>",
                "M-1,-3q-2,1 -2,3.5v1.5M4,-3q-2,1 -2,3.5v1.5",
            ),
            State::Unchecked => (
                "<circle class=\"plate\" r=\"7.5\"/>",
                "M-2.3,-1.8a2.3,2.3 0 1 1 3.4,2q-1.1,.7 -1.1,1.6M0,4.2v.1",
            ),
            State::Pending => {
                ("<path class=\"plate\" d=\"M-7,-7H7L2,0L7,7H-7L-2,0Z\"/>", "M-2.5,5H2.5")
            }
            State::Broken => (
                "<path class=\"plate\" d=\"M-3.7,-9H3.7L9,-3.7V3.7L3.7,9H-3.7L-9,3.7V-3.7Z\"/>",
                "M-3.3,-3.3L3.3,3.3M3.3,-3.3L-3.3,3.3",
            ),
        };
        let class = state.class();
        self.push(format_args!(
            "<g class=\"sign {class}\" transform=\"translate({x},{y})\">{plate}<path class=\"glyph\" d=\"{glyph}\"/></g>"
        ));
    }

    fn node(&mut self, link: &Link, x: u32, width: u32, is_source: bool) {
        let Link { state, to: Node { kind, name, code, notes, details } } = link;
        let y = self.y;
        let letters = |tenths: u32| ((width - 2 * PADDING) * 10 / tenths) as usize;
        // Full values, because the box shortens them.
        let all =
            [format!("{kind} {name}")].into_iter().chain(notes.clone()).chain(details.clone());
        let all: Vec<_> = all.map(|line| escaped(&line)).collect();
        let class = if is_source { "node source" } else { "node" };
        self.push(format_args!(
            "<g class=\"{class} {}\"><title>{}</title>",
            state.class(),
            all.join("\n")
        ));
        self.push(format_args!(
            "<rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BOX_HEIGHT}\" rx=\"6\"/>"
        ));
        let x = x + PADDING;
        let kind = fitted(&kind.to_uppercase(), letters(NOTE_LETTER));
        self.push(format_args!(
            "<text class=\"kind\" x=\"{x}\" y=\"{}\">{}</text>",
            y + 17,
            escaped(&kind)
        ));
        let name = escaped(&fitted(name, letters(NAME_LETTER)));
        self.push(format_args!("<text class=\"name\" x=\"{x}\" y=\"{}\">{name}</text>", y + 33));
        let mut lines = Vec::new();
        if !code.is_empty() {
            lines.push(("code", fitted(code, letters(NOTE_LETTER))));
        }
        for (index, note) in notes.iter().enumerate() {
            // Each later note keeps one line.
            let later = notes.len() - index - 1;
            let room = LINES.saturating_sub(lines.len() + later).max(1);
            let note = wrapped(note, letters(NOTE_LETTER), room);
            lines.extend(note.into_iter().map(|line| ("note", line)));
        }
        for ((class, line), y) in lines.iter().take(LINES).zip([y + 48, y + 61, y + 74]) {
            let text = escaped(line);
            self.push(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"));
        }
        if is_source {
            self.sign(link.state, x - PADDING + width - 18, y + 18);
        }
        self.push(format_args!("</g>"));
    }

    fn legend(&mut self) {
        let y = self.y + 12;
        self.push(format_args!("<g class=\"key\">"));
        let mut x = MARGIN + 10;
        for state in State::ALL {
            let words = state.words();
            self.sign(state, x, y);
            self.push(format_args!(
                "<text class=\"legend\" x=\"{}\" y=\"{}\">{words}</text>",
                x + 15,
                y + 4
            ));
            let letters = u32::try_from(words.len()).unwrap_or_default();
            x += 44 + letters * NOTE_LETTER / 10;
        }
        self.push(format_args!("</g>"));
        self.y += LEGEND_HEIGHT;
    }
}

/// Escapes text for the contents of an element.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in clean(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}
