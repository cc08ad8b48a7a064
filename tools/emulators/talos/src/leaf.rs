//! Scalars of a configuration, as Talos v1.13.9 decodes them.

use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE64;
use serde_json::Value;

/// Decodes the `text` of a scalar for the type `name` of `kinds.json`. `generic` is its value without a type: a quoted
/// number is a text.
pub(crate) fn decode(name: &str, text: &str, generic: &Value) -> Result<Value, String> {
    let refused = || format!("cannot construct `{text}` into {name}");
    let fits = |fits: bool| if fits { Ok(Value::from(text)) } else { Err(refused()) };
    if let Some(words) = name.strip_prefix("enum(") {
        let words = words.trim_end_matches(')');
        return fits(words.split(',').any(|word| word.eq_ignore_ascii_case(text)));
    }
    match name {
        "bool" => match (generic, text) {
            (Value::Bool(value), _) => Ok(Value::from(*value)),
            (_, "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON") => Ok(Value::from(true)),
            (_, "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF") => Ok(Value::from(false)),
            _ => Err(refused()),
        },
        "int" => integer(text, generic, i64::MAX.unsigned_abs()).ok_or_else(refused),
        "uint" | "uint64" => integer(text, generic, u64::MAX).ok_or_else(refused),
        "uint32" => integer(text, generic, u32::MAX.into()).ok_or_else(refused),
        "uint16" => integer(text, generic, u16::MAX.into()).ok_or_else(refused),
        "uint8" => integer(text, generic, u8::MAX.into()).ok_or_else(refused),
        "duration" => match nanoseconds(text) {
            Some(0) => Ok(Value::from("0s")),
            Some(_) => Ok(Value::from(text)),
            None => Err(refused()),
        },
        "base64" => {
            fits(text == "******" || BASE64.decode(text.replace('\n', "").as_bytes()).is_ok())
        }
        "mac" => {
            let digits = text.replace(':', "");
            fits(
                digits.len().is_multiple_of(2)
                    && digits.chars().all(|digit| digit.is_ascii_hexdigit()),
            )
        }
        "bytes" => fits(bytes(text.strip_prefix('-').unwrap_or(text)).is_some()),
        "size" => fits(
            text.is_empty() || percentage(text) || bytes(text.trim_start_matches('-')).is_some(),
        ),
        "matcher" => fits(bytes(text.trim_start_matches(['<', '>', '=', ' '])).is_some()),
        "address" => fits(text.is_empty() || text.parse::<IpAddr>().is_ok()),
        "prefix" => fits(text.is_empty() || is_prefix(text)),
        "addressPort" => fits(text.is_empty() || text.parse::<SocketAddr>().is_ok()),
        "url" => fits(!text.starts_with(':') && !text.chars().any(char::is_control)),
        "table" => {
            let named =
                ["unspec", "default", "main", "local"].contains(&text.to_lowercase().as_str());
            fits(named || text.parse::<u8>().is_ok_and(|table| (1..=252).contains(&table)))
        }
        "ports" => match (generic, text.split_once('-')) {
            (Value::Number(_), _) => integer(text, generic, u16::MAX.into()).ok_or_else(refused),
            (_, Some((low, high))) => {
                fits(low.parse::<u16>().is_ok() && high.parse::<u16>().is_ok())
            }
            _ => Err(refused()),
        },
        _ => Ok(Value::from(text)),
    }
}

/// Returns a whole number up to `most`. A leading zero means octal.
fn integer(text: &str, generic: &Value, most: u64) -> Option<Value> {
    let Value::Number(number) = generic else { return None };
    let octal = text.strip_prefix('0').filter(|digits| !digits.is_empty());
    if let Some(digits) =
        octal.filter(|digits| digits.chars().all(|digit| ('0'..='7').contains(&digit)))
    {
        return u64::from_str_radix(digits, 8)
            .ok()
            .filter(|number| *number <= most)
            .map(Value::from);
    }
    if let Some(number) = number.as_i64().filter(|number| *number < 0) {
        return (most == i64::MAX.unsigned_abs()).then(|| Value::from(number));
    }
    let whole = number.as_f64().filter(|number| number.fract() == 0.0);
    let number = number.as_u64().or_else(|| format!("{:.0}", whole?).parse().ok())?;
    (number <= most).then(|| Value::from(number))
}

/// Returns the nanoseconds of a duration of Go, such as `1h30m`.
pub(crate) fn nanoseconds(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 6e10),
        ("h", 3.6e12),
    ];
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    loop {
        let end = rest.find(|digit: char| !digit.is_ascii_digit() && digit != '.')?;
        let (unit, scale) = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        sum += rest[..end].parse::<f64>().ok()? * scale;
        rest = &rest[end + unit.len()..];
        if rest.is_empty() {
            let sum = format!("{sum:.0}").parse::<i64>().ok()?;
            return Some(if text.starts_with('-') { -sum } else { sum });
        }
    }
}

/// Returns a number of bytes such as `10GB` or `1 MiB`.
pub(crate) fn bytes(text: &str) -> Option<f64> {
    let end = text.find(|digit: char| !digit.is_ascii_digit() && digit != '.' && digit != ',');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim().to_lowercase();
    let letters = unit.strip_suffix('b').unwrap_or(&unit);
    let (base, letters) = match letters.strip_suffix('i') {
        Some(letters) if !letters.is_empty() => (1024_f64, letters),
        _ => (1000_f64, letters),
    };
    let power = match letters {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "e" => 6,
        _ => return None,
    };
    Some(number.replace(',', "").parse::<f64>().ok()? * base.powi(power))
}

fn percentage(text: &str) -> bool {
    let number = text
        .strip_suffix('%')
        .and_then(|number| number.trim_start_matches('-').parse::<f64>().ok());
    number.is_some_and(|number| (0.0..=100.0).contains(&number))
}

pub(crate) fn is_prefix(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}
