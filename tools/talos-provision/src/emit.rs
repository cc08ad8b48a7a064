//! YAML as Talos's own tools write it, byte for byte: the rules of Go's yaml.v3 with an indent of
//! four.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Columns by which each level is indented.
const STEP: usize = 4;

/// Writes each of `documents` as YAML, and separates them with `---`.
pub(crate) fn documents<'a>(documents: impl IntoIterator<Item = &'a Value>) -> String {
    let documents: Vec<_> = documents.into_iter().map(document).collect();
    documents.join("---\n")
}

/// Writes `value` as one YAML document.
pub(crate) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => entries(&mut out, map, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0),
        leaf => line(&mut out, leaf, 0),
    }
    out
}

/// Writes the entries of `map`. The first entry begins at the current end of `out`.
fn entries(out: &mut String, map: &Map<String, Value>, column: usize) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            indent(out, column);
        }
        scalar(out, key, column);
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                indent(out, next(column));
                entries(out, map, next(column));
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                indent(out, next(column));
                sequence(out, items, next(column));
            }
            leaf => {
                out.push(' ');
                line(out, leaf, next(column));
            }
        }
    }
}

/// Writes the items of a sequence. The first dash is written at the current end of `out`.
fn sequence(out: &mut String, items: &[Value], column: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            indent(out, column);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => entries(out, map, column + 2),
            Value::Array(items) if !items.is_empty() => sequence(out, items, column + 2),
            leaf => line(out, leaf, next(column)),
        }
    }
}

/// Writes a value that has no children, and ends the line. The lines of a block of text are
/// indented by `column`.
fn line(out: &mut String, leaf: &Value, column: usize) {
    match leaf {
        Value::Null => out.push_str("null"),
        Value::Bool(boolean) => out.push_str(if *boolean { "true" } else { "false" }),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => float(out, number),
            None => {
                let _ = write!(out, "{number}");
            }
        },
        Value::String(text) => scalar(out, text, column),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
}

/// Writes a number as Go's `strconv.FormatFloat(number, 'g', -1, 64)` does: with an exponent below 1e-4 and from 1e6
/// on.
fn float(out: &mut String, number: f64) {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let _ = if (-4..6).contains(&exponent) {
        write!(out, "{number}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{digits}e{sign}{:02}", exponent.abs())
    };
}

fn indent(out: &mut String, column: usize) {
    out.extend(std::iter::repeat_n(' ', column));
}

/// Returns the column of the children of a value at `column`.
fn next(column: usize) -> usize {
    (column / STEP + 1) * STEP
}

/// YAML style of a string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

fn scalar(out: &mut String, text: &str, column: usize) {
    match style(text) {
        Style::Plain => out.push_str(text),
        Style::Single => {
            let _ = write!(out, "'{}'", text.replace('\'', "''"));
        }
        Style::Double => double(out, text),
        Style::Literal => literal(out, text, column),
    }
}

/// Returns the style that yaml.v3 and its emitter choose for `text`.
fn style(text: &str) -> Style {
    let special = |character: char| {
        character != '\n'
            && (character.is_control() || character == '\u{feff}' || character == '\u{2028}')
    };
    let special = text.chars().any(special);
    let breaks = text.contains('\n');
    let space_then_break = text.contains(" \n");
    if breaks {
        // yaml.v3 begins such a block with an indentation indicator, which is wrong inside a list.
        let begins = text.starts_with([' ', '\n']);
        let block = !special && !space_then_break && !text.ends_with(' ') && !begins;
        return if block { Style::Literal } else { Style::Double };
    }
    if special || text.is_empty() || reads_as_another_type(text) {
        return Style::Double;
    }
    if text.starts_with(' ') || text.ends_with(' ') || has_indicators(text) {
        return Style::Single;
    }
    Style::Plain
}

/// Returns whether YAML would not read the unquoted `text` as one plain string.
fn has_indicators(text: &str) -> bool {
    let blank = |character: Option<char>| {
        character.is_none_or(|character| character == ' ' || character == '\t')
    };
    let mut characters = text.chars().peekable();
    let first = characters.next();
    let second = characters.peek().copied();
    let starts = match first {
        Some('-' | '?' | ':') => blank(second),
        Some(character) => "#,[]{}&*!|>'\"%@`".contains(character),
        None => false,
    };
    starts
        || text.starts_with("---")
        || text.starts_with("...")
        || text.ends_with(':')
        || text.contains(": ")
        || text.contains(" #")
}

fn reads_as_another_type(text: &str) -> bool {
    const WORDS: [&str; 44] = [
        "true", "True", "TRUE", "false", "False", "FALSE", "null", "Null", "NULL", "~", "<<",
        ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
        "-.Inf", "-.INF", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No",
        "NO", "off", "Off", "OFF", "TRUE", "FALSE", "NULL", "true", "false",
    ];
    WORDS.contains(&text) || is_number(text) || is_date(text)
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str, radix| {
        !text.is_empty() && text.chars().all(|digit| digit == '_' || digit.is_digit(radix))
    };
    let based = [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2), ("0B", 2)];
    let based = based.iter().any(|(prefix, radix)| {
        unsigned.strip_prefix(prefix).is_some_and(|number| digits(number, *radix))
    });
    let starts =
        unsigned.starts_with(|character: char| character.is_ascii_digit() || character == '.');
    let bare = unsigned.replace('_', "");
    let decimal = starts
        && bare.chars().any(|character| character.is_ascii_digit())
        && bare.chars().all(|character| character.is_ascii_digit() || ".eE+-".contains(character))
        && bare.parse::<f64>().is_ok();
    let mut parts = unsigned.split(':');
    let sixty = unsigned.contains(':')
        && parts.next().is_some_and(|part| digits(part, 10) && !part.starts_with('_'))
        && parts.all(|part| {
            let whole = part.split('.').next().unwrap_or_default();
            (1..=2).contains(&whole.len()) && whole.parse::<u8>().is_ok_and(|number| number < 60)
        });
    based || decimal || sixty
}

/// Returns whether `text` begins with a date such as `2026-11-01`.
pub(crate) fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let number = |part: Option<&str>, lengths: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|part| {
            lengths.contains(&part.len()) && part.chars().all(|digit| digit.is_ascii_digit())
        })
    };
    number(parts.next(), 4..=4)
        && number(parts.next(), 1..=2)
        && parts
            .next()
            .is_some_and(|day| day.starts_with(|character: char| character.is_ascii_digit()))
}

fn double(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            other if other.is_control() || other == '\u{feff}' || other == '\u{2028}' => {
                let code = u32::from(other);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02X}"),
                    _ => write!(out, "\\u{code:04X}"),
                };
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn literal(out: &mut String, text: &str, column: usize) {
    out.push('|');
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.ends_with("\n\n") || text == "\n" {
        out.push('+');
    }
    out.push('\n');
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            indent(out, column);
        }
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_quoted_when_yaml_would_read_another_type() {
        let cases = [
            ("v1.28.0", "v1.28.0"),
            ("ghcr.io/siderolabs/kubelet:v1.28.0", "ghcr.io/siderolabs/kubelet:v1.28.0"),
            ("10.244.0.0/16", "10.244.0.0/16"),
            ("", "\"\""),
            ("off", "\"off\""),
            ("1.10", "\"1.10\""),
            ("0644", "\"0644\""),
            ("0x1F", "\"0x1F\""),
            ("12:30:45", "\"12:30:45\""),
            ("2026-11-01", "\"2026-11-01\""),
            ("1e", "1e"),
            ("e1", "e1"),
            ("*all", "'*all'"),
            ("a: b", "'a: b'"),
            ("it's", "it's"),
            ("- a", "'- a'"),
            ("-a", "-a"),
            ("::/0", "::/0"),
            ("tab\there", "\"tab\\there\""),
        ];
        for (text, desired) in cases {
            assert_eq!(document(&text.into()), format!("{desired}\n"), "{text:?}");
        }
    }

    #[test]
    fn written_yaml_reads_as_the_same_value() {
        let words = [
            "a", "yes", "1", "a\nb\n", "a\n\n", " x", "x: y", "#", "", "é", "\u{7}", "a\nb",
            "\n a\n",
        ];
        for text in words {
            let value = serde_json::json!({"k": text, "l": [text, {"m": text, "n": [text]}]});
            let read: Value = serde_saphyr::from_str(&document(&value)).expect("valid YAML");
            assert_eq!(read, value, "{}", document(&value));
        }
    }
}
