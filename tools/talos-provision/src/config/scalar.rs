//! Scalars of a configuration, decoded as Talos v1.13.9 decodes them with `go.yaml.in/yaml/v4`
//! (`internal/libyaml/resolver.go` and `constructor.go` of v4.0.0-rc.4).

use std::net::{IpAddr, SocketAddr};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde_json::{Number, Value};

/// Type of a scalar in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// String, which keeps the text of every scalar.
    Text,
    Bool,
    /// Whole number of this range.
    Integer(i128, i128),
    /// Duration of Go, for example `1h30m`.
    Duration,
    /// Bytes in base64.
    Base64,
    /// Hexadecimal bytes with optional colons.
    Hex,
    /// Number of bytes, for example `10GB`.
    Bytes,
    /// Number of bytes, which may be negative, or a percentage.
    Size,
    /// Comparison with a number of bytes, for example `>= 1TB`.
    Matcher,
    /// Expression in CEL, which this program does not evaluate.
    Expression,
    Url,
    /// IP address.
    Address,
    /// Network, for example `10.0.0.0/8`.
    Prefix,
    /// IP address with a port.
    AddressPort,
    /// Port, or a range such as `80-90`.
    Ports,
    /// Value of a command-line flag: a text or a list of texts.
    Argument,
    /// Number or name of a routing table.
    Table,
    /// One of these words.
    Word(Vec<String>),
}

impl Leaf {
    /// Returns the type with this name in `schema.txt`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        if let Some(words) = name.strip_prefix("enum(") {
            let words = words.trim_end_matches(')').split(',').map(str::to_owned);
            return Some(Self::Word(words.collect()));
        }
        Some(match name {
            "string" => Self::Text,
            "bool" => Self::Bool,
            "int" => Self::Integer(i64::MIN.into(), i64::MAX.into()),
            "uint" | "uint64" => Self::Integer(0, u64::MAX.into()),
            "uint8" => Self::Integer(0, u8::MAX.into()),
            "uint16" => Self::Integer(0, u16::MAX.into()),
            "uint32" => Self::Integer(0, u32::MAX.into()),
            "duration" => Self::Duration,
            "base64" => Self::Base64,
            "mac" => Self::Hex,
            "bytes" => Self::Bytes,
            "size" => Self::Size,
            "matcher" => Self::Matcher,
            "expression" => Self::Expression,
            "url" => Self::Url,
            "address" => Self::Address,
            "prefix" => Self::Prefix,
            "addressPort" => Self::AddressPort,
            "ports" => Self::Ports,
            "argument" => Self::Argument,
            "table" => Self::Table,
            _ => return None,
        })
    }

    /// Returns the value that Talos writes for an absent field.
    pub(crate) fn zero(&self) -> Value {
        match self {
            Self::Bool => Value::from(false),
            Self::Integer(..) => Value::from(0),
            Self::Duration => Value::from("0s"),
            _ => Value::from(""),
        }
    }

    /// Decodes the text of a scalar. `string` means that the scalar is quoted, so that it is no number and no boolean.
    ///
    /// # Errors
    ///
    /// Returns the expected form. The text is not quoted, because it may be secret.
    pub(crate) fn decode(&self, text: &str, string: bool) -> Result<Value, String> {
        let resolved = if string { Value::from(text) } else { resolve(text) };
        let needs = |fits: bool, form: &str| {
            if fits { Ok(Value::from(text)) } else { Err(form.to_owned()) }
        };
        match self {
            Self::Argument if text.is_empty() => Ok(Value::Null), // as Talos writes it
            Self::Text | Self::Argument | Self::Expression => Ok(Value::from(text)),
            Self::Bool => boolean(&resolved).map(Value::from).ok_or_else(|| {
                let quoted = if string { " without quotes" } else { "" };
                format!("not a boolean: write `true` or `false`{quoted}")
            }),
            Self::Integer(least, most) => match whole(&resolved) {
                Some(number) if (*least..=*most).contains(&number) => number_of(number),
                Some(_) => Err(format!("not between {least} and {most}")),
                None if string => Err("not a number: write it without quotes".to_owned()),
                None => Err("not a whole number".to_owned()),
            },
            Self::Duration => match (&resolved, duration(text)) {
                (Value::Number(zero), _) if zero.as_i64() == Some(0) => Ok(Value::from("0s")),
                (Value::String(_), Some(nanoseconds)) => {
                    Ok(Value::from(write_duration(nanoseconds)))
                }
                _ => Err("not a duration such as `90s` or `1h30m`".to_owned()),
            },
            Self::Base64 => needs(is_base64(text), "not base64"),
            Self::Hex => needs(
                HEXLOWER_PERMISSIVE.decode(text.replace(':', "").as_bytes()).is_ok(),
                "not hexadecimal bytes such as `00:1a:2b`",
            ),
            Self::Bytes => needs(bytes(text).is_some(), "not a size such as `10GB`"),
            Self::Size => needs(is_size(text), "not a size such as `10GB` or `50%`"),
            Self::Matcher => {
                let text = text.trim();
                let operator =
                    [">=", "<=", "==", ">", "<"].iter().find_map(|sign| text.strip_prefix(sign));
                let fits = bytes(operator.unwrap_or(text).trim()).is_some();
                needs(fits, "not a comparison with a size, such as `>= 10GB`")
            }
            Self::Url => needs(is_url(text), "not a URL"),
            Self::Address => needs(text.is_empty() || is_address(text), "not an IP address"),
            Self::Prefix => {
                needs(text.is_empty() || is_prefix(text), "not a network such as `10.0.0.0/8`")
            }
            Self::AddressPort => needs(
                text.is_empty() || text.parse::<SocketAddr>().is_ok(),
                "not an IP address with a port, such as `192.0.2.1:51820`",
            ),
            Self::Ports => ports(text, &resolved)
                .ok_or_else(|| "not a port or a range such as `8000-8080`".to_owned()),
            Self::Table => {
                let named = ["unspec", "default", "main", "local"];
                let named = named.iter().any(|name| text.eq_ignore_ascii_case(name));
                let number = text.parse::<u8>().is_ok_and(|number| (1..=252).contains(&number));
                needs(
                    named || number && !text.starts_with(['0', '+']),
                    "not a routing table from 1 to 252",
                )
            }
            Self::Word(words) => words
                .iter()
                .find(|word| *word == text || word.to_lowercase() == text.to_lowercase())
                .map(|word| Value::from(word.as_str()))
                .ok_or_else(|| format!("not one of {}", words.join(", "))),
        }
    }
}

/// Returns what a plain scalar is without a type: null, a boolean, a number or a string.
pub(crate) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::from(true),
        "false" | "False" | "FALSE" => return Value::from(false),
        "-0" | "-0.0" => return Value::from(-0.0),
        _ => {}
    }
    let string = || Value::from(text);
    match text.chars().next() {
        Some('.') => float(text).unwrap_or_else(string),
        Some('0'..='9' | '+' | '-') if !crate::emit::is_date(text) => {
            let bare = text.replace('_', "");
            match integer(&bare) {
                Some(number) => number_of(number).unwrap_or_else(|_| string()),
                None => float(&bare).unwrap_or_else(string),
            }
        }
        Some('0'..='9') => day(text).map_or_else(string, Value::from),
        _ => string(),
    }
}

/// Returns midnight of a date such as `2026-11-1`, because Talos hands the time on.
fn day(text: &str) -> Option<String> {
    let mut parts = text.split('-').map(str::parse::<u32>);
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
    fits.then(|| format!("{year:04}-{month:02}-{day:02}T00:00:00Z"))
}

fn number_of(number: i128) -> Result<Value, String> {
    let signed = i64::try_from(number).map(Value::from);
    signed.or_else(|_| u64::try_from(number).map(Value::from)).map_err(|_| "too large".to_owned())
}

/// Parses an integer of 64 bits as Go does: `0x`, `0o`, `0b`, and a leading `0` for octal.
fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (if text.starts_with('-') { -1 } else { 1 }, digits),
        None => (1, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some(_) if lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let number = sign * i128::from_str_radix(digits, radix).ok()?;
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number).then_some(number)
}

/// Parses a decimal fraction with an optional exponent.
fn float(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fits = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    if !fits || !exponent {
        return None;
    }
    Number::from_f64(text.parse().ok()?).map(Value::Number)
}

/// Returns a boolean. A field with this type also accepts the words of YAML 1.1.
fn boolean(resolved: &Value) -> Option<bool> {
    match resolved {
        Value::Bool(boolean) => Some(*boolean),
        Value::String(text) => match text.as_str() {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn whole(resolved: &Value) -> Option<i128> {
    let Value::Number(number) = resolved else { return None };
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    let number = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e19)?;
    format!("{number:.0}").parse().ok()
}

/// Units of a duration with their nanoseconds. Longer names first, because `m` begins `ms`.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 6e10),
    ("h", 3.6e12),
];

/// Parses a duration of Go into nanoseconds.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    while !rest.is_empty() || sum == 0.0 {
        let end = rest.find(|digit: char| !digit.is_ascii_digit() && digit != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let (unit, nanoseconds) = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        sum += number * nanoseconds;
        rest = &rest[end + unit.len()..];
        if rest.is_empty() {
            break;
        }
    }
    let whole = format!("{sum:.0}").parse::<i64>().ok()?;
    Some(if negative { -whole } else { whole })
}

/// Writes a duration as Go does, for example `1h0m0s` or `1.5s`.
fn write_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.unsigned_abs();
    let decimal = |number: u64, unit: u64| {
        let fraction = format!("{:0width$}", number % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() || unit == 1 { "" } else { "." };
        format!("{}{point}{}", number / unit, if unit == 1 { "" } else { fraction })
    };
    let text = match all {
        0 => "0s".to_owned(),
        1..1_000 => format!("{all}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(all, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(all, 1_000_000)),
        _ => {
            let seconds = all / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = decimal(all % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{rest}s"),
                (0, _) => format!("{minutes}m{rest}s"),
                _ => format!("{hours}h{minutes}m{rest}s"),
            }
        }
    };
    format!("{sign}{text}")
}

fn is_base64(text: &str) -> bool {
    let text = text.replace(['\n', '\r'], "");
    text == "******" || BASE64.decode(text.as_bytes()).is_ok()
}

/// Parses a number of bytes as `github.com/dustin/go-humanize` does.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|digit: char| !digit.is_ascii_digit() && digit != '.' && digit != ',');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = number.replace(',', "").parse().ok()?;
    let unit = unit.trim().to_lowercase();
    let power = |letter: char| "kmgtpe".find(letter).and_then(|at| i32::try_from(at + 1).ok());
    let mut letters = unit.chars();
    let factor = match letters.next() {
        None => 1.0,
        Some('b') if unit == "b" => 1.0,
        Some(letter) => match letters.as_str() {
            "" | "b" => 1000_f64.powi(power(letter)?),
            "i" | "ib" => 1024_f64.powi(power(letter)?),
            _ => return None,
        },
    };
    let whole = number * factor;
    if whole >= 18_446_744_073_709_551_615.0 { None } else { format!("{whole:.0}").parse().ok() }
}

fn is_size(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    match unsigned.strip_suffix('%') {
        Some(number) => number.parse::<f64>().is_ok_and(|number| (0.0..=100.0).contains(&number)),
        None => !text.contains('%') && bytes(unsigned).is_some(),
    }
}

/// Returns whether Go's `url.Parse` accepts a text. The check covers the errors that it reports for common typos.
fn is_url(text: &str) -> bool {
    if text.chars().any(char::is_control) || text.starts_with(':') {
        return false;
    }
    let escapes = text.split('%').skip(1).all(|rest| {
        rest.get(..2).is_some_and(|hex| hex.chars().all(|digit| digit.is_ascii_hexdigit()))
    });
    let Some((scheme, rest)) = text.split_once("://") else { return escapes };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    let port = after.rsplit_once(':').map_or("", |(_, port)| port);
    let scheme = scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
    let host_is_valid = !host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}']);
    escapes && scheme && host_is_valid && port.chars().all(|digit| digit.is_ascii_digit())
}

pub(crate) fn is_address(text: &str) -> bool {
    let bare = text.split_once('%').filter(|(_, zone)| !zone.is_empty());
    match bare {
        Some((address, _)) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => text.parse::<IpAddr>().is_ok(),
    }
}

pub(crate) fn is_prefix(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    let plain = bits == "0" || !bits.starts_with(['0', '+']);
    plain && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

fn ports(text: &str, resolved: &Value) -> Option<Value> {
    if let Some(port) = whole(resolved) {
        return u16::try_from(port).ok().map(Value::from);
    }
    let (low, high) = text.split_once('-')?;
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let (low, high) = (port(low)?, port(high)?);
    Some(if low == high { Value::from(low) } else { Value::from(format!("{low}-{high}")) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scalar_becomes_a_value_of_the_type_of_its_field() {
        let byte = Leaf::Integer(0, 255);
        let size = Leaf::Bytes;
        for (leaf, text, string, expected) in [
            (&Leaf::Text, "1.30", false, Some(json!("1.30"))),
            (&Leaf::Text, "0x1F", false, Some(json!("0x1F"))),
            (&Leaf::Bool, "yes", false, Some(json!(true))),
            (&Leaf::Bool, "true", true, None),
            (&byte, "0177", false, Some(json!(127))),
            (&byte, "1e2", false, Some(json!(100))),
            (&byte, "256", false, None),
            (&byte, "5", true, None),
            (&Leaf::Duration, "1h30m", false, Some(json!("1h30m0s"))),
            (&Leaf::Duration, "1.5s", false, Some(json!("1.5s"))),
            (&Leaf::Duration, "90", false, None),
            (&size, "10GB", false, Some(json!("10GB"))),
            (&size, "10 gibberish", false, None),
            (&Leaf::Prefix, "10.0.0.0/33", false, None),
            (&Leaf::Ports, "80-90", false, Some(json!("80-90"))),
        ] {
            assert_eq!(leaf.decode(text, string).ok(), expected, "{text} as {leaf:?}");
        }
        let free = ["1.30", "0644", "yes", "~", "08", "2026-11-1"].map(resolve);
        let expected = json!([1.3, 420, "yes", null, 8.0, "2026-11-01T00:00:00Z"]);
        assert_eq!(Value::from(free.to_vec()), expected);
    }
}
