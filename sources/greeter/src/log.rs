//! Writes one JSON object per line to standard output, without a time, because the collector of the
//! log adds the time.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

/// Writes one line about `event`. A failed write is ignored, because it must not end the service.
pub fn line(event: &str, fields: &[(&str, &dyn Display)]) {
    let text = object(event, fields) + "\n";
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

fn object(event: &str, fields: &[(&str, &dyn Display)]) -> String {
    let fields = fields.iter().map(|(name, value)| (*name, value.to_string()));
    let text = fields.fold(format!("{{\"event\":{}", quoted(event)), |text, (name, value)| {
        text + "," + &quoted(name) + ":" + &quoted(&value)
    });
    text + "}"
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_line_breaks_and_quotes_stays_on_one_line() {
        let text = object("error", &[("message", &"two\nlines \"quoted\" \\ \u{1b}")]);
        assert_eq!(text, r#"{"event":"error","message":"two\u000alines \"quoted\" \\ \u001b"}"#);
    }
}
