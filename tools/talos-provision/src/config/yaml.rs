//! YAML documents with the position of every value and the exact text of every scalar.
//!
//! Talos decodes a scalar according to the type of its field: `1.30` is the text `1.30` for a flag and the
//! number 1.3 in a free-form map. Therefore a scalar keeps its text until its field is known.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span, StrInput, Tag};

/// Most nodes of one file after all aliases are replaced, so that a small file cannot fill the memory.
const NODES_MAX: usize = 100_000;
/// Deepest nesting of one file, so that recursion stays within the stack.
const DEPTH_MAX: usize = 100;

/// Position in a file: line and column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// Error with its position in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Position in the file.
    pub at: At,
    /// Reason without the value, which may be secret.
    pub message: String,
}

impl Mistake {
    pub(crate) fn new(at: At, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// Value of a YAML document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) data: Data,
}

/// Content of a [`Node`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// Scalar. Quotes, a block style and the tag `!!str` make a `string` of any text.
    Scalar {
        text: String,
        string: bool,
    },
    List(Vec<Node>),
    /// Entries in their order: the position of the key, the key and the value.
    Map(Vec<(At, String, Node)>),
}

impl Node {
    /// Returns whether the value is absent: empty, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar { text, string: false }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Data::Map(entries) = &self.data else { return None };
        entries.iter().find(|(_, name, _)| name == key).map(|(_, _, value)| value)
    }

    /// Returns the text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar { text, .. } => Some(text),
            Data::List(_) | Data::Map(_) => None,
        }
    }
}

/// Reads the documents of a file.
///
/// # Errors
///
/// Returns the position and a reason without the text of the file, which may hold secrets.
pub(crate) fn read(text: &str) -> Result<Vec<Node>, Mistake> {
    // As in Talos's own parser, go.yaml.in/yaml/v4.
    let options = granit_parser::options! {
        block_scalar_eof_without_line_feed: true,
        emit_comments: false,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder = TreeBuilder { parser, anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = builder.next()? {
        match event {
            Event::DocumentStart(..) => {
                builder.anchors.clear();
                let (event, span) = builder.required(at(span))?;
                documents.push(builder.node(event, span, 0)?);
            }
            Event::StreamEnd => break,
            _ => {}
        }
    }
    Ok(documents)
}

fn at(span: Span) -> At {
    At { line: span.start.line(), column: span.start.col() + 1 }
}

struct TreeBuilder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Nodes with an anchor. `None` while the node is read, so that an alias to itself is an error.
    anchors: HashMap<usize, Option<Node>>,
    nodes: usize,
}

impl<'a> TreeBuilder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Mistake> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok(next)) => Ok(Some(next)),
            Some(Err(error)) => {
                let mark = error.marker();
                let at = At { line: mark.line(), column: mark.col() + 1 };
                Err(Mistake::new(at, "not YAML"))
            }
        }
    }

    fn required(&mut self, at: At) -> Result<(Event<'a>, Span), Mistake> {
        self.next()?.ok_or_else(|| Mistake::new(at, "the document ends too early"))
    }

    fn count(&mut self, nodes: usize, at: At) -> Result<(), Mistake> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(Mistake::new(at, format!("the file has more than {NODES_MAX} values")));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Mistake> {
        let at = at(span);
        self.count(1, at)?;
        if depth > DEPTH_MAX {
            return Err(Mistake::new(at, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let anchor = event.anchor_id();
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, None);
        }
        let data = match event {
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().flatten();
                let node =
                    node.ok_or_else(|| Mistake::new(at, "the alias contains itself or no value"))?;
                self.count(size(&node), at)?;
                return Ok(node);
            }
            Event::Scalar(text, style, _, tag) => {
                let string = style != ScalarStyle::Plain || is_string(tag.as_deref(), at)?;
                Data::Scalar { text: text.into_owned(), string }
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.required(at)? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                Data::List(items)
            }
            Event::MappingStart(..) => Data::Map(self.entries(at, depth)?),
            _ => return Err(Mistake::new(at, "not YAML")),
        };
        let node = Node { at, data };
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, Some(node.clone()));
        }
        Ok(node)
    }

    fn entries(&mut self, at: At, depth: usize) -> Result<Vec<(At, String, Node)>, Mistake> {
        let mut entries: Vec<(At, String, Node)> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.required(at)?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let Data::Scalar { text, string } = key.data else {
                return Err(Mistake::new(key.at, "the key is not one word"));
            };
            let (event, span) = self.required(key.at)?;
            let value = self.node(event, span, depth + 1)?;
            if text == "<<" && !string {
                merged.push((key.at, value));
            } else if entries.iter().any(|(_, name, _)| *name == text) {
                return Err(Mistake::new(key.at, format!("the key `{text}` is used twice")));
            } else {
                entries.push((key.at, text, value));
            }
        }
        for (at, value) in merged {
            merge(&mut entries, at, value)?;
        }
        Ok(entries)
    }
}

/// Adds the entries of a `<<` that the map itself does not have.
fn merge(entries: &mut Vec<(At, String, Node)>, at: At, value: Node) -> Result<(), Mistake> {
    match value.data {
        Data::Map(more) => {
            for (at, key, value) in more {
                if !entries.iter().any(|(_, name, _)| *name == key) {
                    entries.push((at, key, value));
                }
            }
            Ok(())
        }
        Data::List(items) => items.into_iter().try_for_each(|item| merge(entries, at, item)),
        Data::Scalar { .. } => Err(Mistake::new(at, "`<<` needs a map")),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.data {
        Data::Scalar { .. } => 0,
        Data::List(items) => items.iter().map(size).sum(),
        Data::Map(entries) => entries.iter().map(|(_, _, value)| size(value)).sum(),
    }
}

/// Returns whether a tag makes a string of a plain scalar. Other tags are an error, because no field of Talos needs
/// one.
fn is_string(tag: Option<&Tag>, at: At) -> Result<bool, Mistake> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema_tag("str") => Ok(true),
        Some(_) => Err(Mistake::new(at, "the tag is not supported: write the value without it")),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn scalar(node: &Node) -> (&str, bool) {
        match &node.data {
            Data::Scalar { text, string } => (text, *string),
            Data::List(_) | Data::Map(_) => panic!("{node:?} is no scalar"),
        }
    }

    #[test]
    fn a_scalar_keeps_its_text_and_its_position() {
        let documents = read("# c\na: 1.30\nb: ['0644', ~]\n---\nc: |\n  x\n").expect("YAML");
        let a = documents[0].get("a").expect("a");
        assert_eq!((scalar(a), a.at), (("1.30", false), At { line: 2, column: 4 }));
        let Some(Data::List(items)) = documents[0].get("b").map(|b| &b.data) else {
            panic!("{documents:?}")
        };
        assert_eq!((scalar(&items[0]), items[1].is_null()), (("0644", true), true));
        assert_eq!(scalar(documents[1].get("c").expect("c")), ("x\n", true));
    }

    #[test]
    fn aliases_and_merge_keys_are_replaced_by_their_values() {
        let documents = read("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\n").expect("YAML");
        let b = documents[0].get("b").expect("b");
        assert_eq!(
            (b.get("k").and_then(Node::text), b.get("l").and_then(Node::text)),
            (Some("3"), Some("2"))
        );
    }

    #[test]
    fn errors_have_a_position_and_quote_nothing() {
        let mistake = |text: &str| {
            let mistake = read(text).expect_err("a mistake");
            assert!(!mistake.message.contains("hunter2"), "{mistake:?}");
            (mistake.at.line, mistake.at.column, mistake.message)
        };
        assert_eq!(mistake("a: 1\na: hunter2\n"), (2, 1, "the key `a` is used twice".to_owned()));
        assert_eq!(mistake("a:\n  - hunter2\n b: [").0, 3);
        assert_eq!(
            mistake("a: !x hunter2\n").2,
            "the tag is not supported: write the value without it"
        );
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..8 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            let _ = writeln!(bomb, "a{level}: &a{level} [{list}]");
        }
        assert_eq!(mistake(&bomb).2, "the file has more than 100000 values");
    }
}
