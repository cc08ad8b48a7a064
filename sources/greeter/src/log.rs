//! One JSON object per line on standard output. No clock: whoever collects the lines has one.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

/// Writes one line about `event`. A log that cannot be written must not end the service.
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
            it if it.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(it));
            }
            it => quoted.push(it),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_whatever_is_in_it() {
        let text = object("error", &[("message", &"two\nlines \"quoted\" \\ \u{1b}")]);
        assert_eq!(text, r#"{"event":"error","message":"two\u000alines \"quoted\" \\ \u001b"}"#);
    }
}
