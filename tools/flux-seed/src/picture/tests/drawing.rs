//! Reads pictures back: SVG with an XML parser, and Mermaid by the grammar of its lines.

use std::collections::BTreeSet;

use xmlparser::{ElementEnd, Token, Tokenizer};

/// A box of a picture: kind and name, and the class of its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Box {
    pub(super) name: String,
    pub(super) class: String,
}

/// Elements that a picture consists of. None of them loads or runs anything.
const ELEMENTS: [&str; 9] =
    ["svg", "title", "desc", "style", "rect", "g", "path", "circle", "text"];
const ATTRIBUTES: [&str; 14] = [
    "xmlns",
    "viewBox",
    "width",
    "height",
    "role",
    "aria-labelledby",
    "id",
    "class",
    "rx",
    "x",
    "y",
    "r",
    "d",
    "transform",
];

/// Returns the boxes of an SVG document. Panics unless the document is well-formed, has only known elements
/// and attributes, and draws each link in the state of the box to which it leads.
pub(super) fn boxes_of_svg(text: &str) -> Vec<Box> {
    let mut open: Vec<(String, String)> = Vec::new();
    let (mut boxes, mut links, mut attributes) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut ended = 0;
    for token in Tokenizer::from(text) {
        match token.unwrap_or_else(|error| panic!("{error}: {text}")) {
            Token::ElementStart { local, .. } => {
                assert!(ELEMENTS.contains(&local.as_str()), "<{local}>");
                open.push((local.to_string(), String::new()));
                attributes.clear();
            }
            Token::Attribute { prefix, local, value, .. } => {
                assert!(ATTRIBUTES.contains(&local.as_str()) && prefix.is_empty(), "{local}");
                assert!(attributes.insert(local.to_string()), "{local} twice");
                assert!(!value.contains(['<', '&']), "{value}");
                if local == "class" {
                    open.last_mut().expect("an element").1 = value.to_string();
                }
            }
            Token::ElementEnd { end: ElementEnd::Open, .. } => {}
            Token::ElementEnd { end: ElementEnd::Empty, .. } => drop(open.pop()),
            Token::ElementEnd { end: ElementEnd::Close(_, name), .. } => {
                let (local, _) = open.pop().expect("an open element");
                assert_eq!(local, name.as_str());
                ended += usize::from(open.is_empty());
            }
            Token::Text { text } => {
                let [.., (_, class), (element, _)] = open.as_slice() else { continue };
                if element != "title" {
                    continue;
                }
                let text = unescaped(&text);
                let mut classes = class.split(' ');
                match classes.next() {
                    Some("node") => {
                        let class = classes.next_back().expect("a state").to_owned();
                        let name = text.lines().next().unwrap_or_default().to_owned();
                        boxes.push(Box { name, class });
                    }
                    // A name without letters leaves the space before it.
                    Some("link") => {
                        let (name, _) = text.rsplit_once(": ").expect("words of the state");
                        let class = classes.next().expect("a state").to_owned();
                        links.push(Box { name: name.trim_end().to_owned(), class });
                    }
                    _ => {}
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ended, open.len()), (1, 0), "one root element");
    for link in &links {
        assert!(boxes.contains(link), "{link:?}: {boxes:?}");
    }
    boxes
}

fn unescaped(text: &str) -> String {
    let mut plain = text.to_owned();
    for (entity, letter) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
    {
        plain = plain.replace(entity, letter);
    }
    plain
}

/// Returns the boxes of a flowchart. Panics unless every line is one of the forms that this program writes,
/// and each edge connects two boxes and ends in a cross exactly if it is broken.
pub(super) fn boxes_of_mermaid(text: &str) -> Vec<Box> {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("flowchart LR"));
    assert!(!text.contains('`'), "a fence of Markdown stays open: {text}");
    let (mut boxes, mut edges, mut depth) = (Vec::new(), 0, 0);
    for line in lines {
        let line = line.trim_start();
        if let Some(label) = line.strip_prefix("subgraph ") {
            let (id, label) = label.split_once("[\"").expect("a label");
            assert!(id.strip_prefix('d').is_some_and(is_number) && depth == 0, "{line}");
            assert_label(label.strip_suffix("\"]").expect("an end"));
            depth += 1;
        } else if line == "end" {
            depth -= 1;
        } else if let Some((from, rest)) = line.split_once("|\"") {
            let (words, to) = rest.split_once("\"| ").expect("words");
            let (from, arrow) = from.split_once(' ').expect("an arrow");
            for id in [from, to] {
                let number = id.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
                assert!(number.is_some_and(|number| number < boxes.len()), "{line}");
            }
            assert!(["-->", "-.->", "--x"].contains(&arrow), "{line}");
            assert_eq!(arrow == "--x", words == "✗ broken", "{line}");
            assert_eq!(arrow == "-->", words == "✓ proven", "{line}");
            edges += 1;
        } else if let Some((id, rest)) = line.split_once("[\"") {
            assert_eq!(id, format!("n{}", boxes.len()), "{line}");
            let (label, class) = rest.split_once("\"]:::").expect("a class");
            assert_label(label);
            let mut parts = label.split("<br/>");
            let name = [parts.next(), parts.next()].map(|part| decoded(part.unwrap_or_default()));
            boxes.push(Box { name: name.join(" "), class: class.to_owned() });
        } else {
            let first = line.split(' ').next().unwrap_or_default();
            let forms = ["accTitle:", "accDescr:", "classDef", "linkStyle"];
            assert!(forms.contains(&first) && depth == 0, "{line}");
        }
    }
    assert!(edges <= super::mermaid::EDGES_MAX && depth == 0);
    boxes
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// Checks that a label has no syntax of Mermaid, HTML or Markdown except breaks and entity codes.
fn assert_label(label: &str) {
    let label = label.replace("<br/>", " ");
    for (index, part) in label.split('#').enumerate() {
        let rest = if index == 0 {
            part
        } else {
            let (code, rest) = part.split_once(';').expect("the end of an entity code");
            assert!(is_number(code), "{label}");
            rest
        };
        let is_plain = |letter: char| letter.is_alphanumeric() || " ./:,-@…✓✗“?".contains(letter);
        assert!(rest.chars().all(is_plain), "{label}");
    }
}

/// Decodes entity codes.
fn decoded(label: &str) -> String {
    let mut parts = label.split('#');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_once(';').expect("the end of an entity code");
        let letter = code.parse().ok().and_then(char::from_u32).expect("a letter");
        text.push(letter);
        text.push_str(rest);
    }
    text
}
