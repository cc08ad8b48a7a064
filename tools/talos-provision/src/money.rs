//! Monthly costs: net, in euros, exact.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// Amount in millionths of a euro, shown in euros and cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]+\.[0-9]{2}$"))]
pub struct Money(u64);

impl Money {
    /// Parses a price as the API writes it, for example `3.2900000000`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (euros, rest) = text.split_once('.').unwrap_or((text, ""));
        let digits: String = rest.chars().chain("000000".chars()).take(6).collect();
        let euros: u64 = euros.parse().ok()?;
        euros.checked_mul(1_000_000)?.checked_add(digits.parse().ok()?).map(Self)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cents = self.0.saturating_add(5_000) / 10_000;
        write!(f, "{}.{:02}", cents / 100, cents % 100)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Price of a small unit, such as an hour or a gigabyte, shown in hundredths of a cent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]+\.[0-9]{4}$"))]
pub struct Rate(Money);

impl Rate {
    /// Parses a price as the API writes it, for example `0.0048000000`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Money::parse(text).map(Self)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.0.saturating_add(50) / 100;
        write!(f, "{}.{:04}", parts / 10_000, parts % 10_000)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Stops at zero.
impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_read_exactly_and_shown_in_cents() {
        let read = |text: &str| Money::parse(text).map(|price| price.to_string());
        assert_eq!(read("3.2900000000"), Some("3.29".to_owned()));
        assert_eq!(read("5.3950"), Some("5.40".to_owned()));
        assert_eq!(read("12"), Some("12.00".to_owned()));
        assert_eq!(read("a"), None);
    }

    #[test]
    fn a_rate_is_shown_in_hundredths_of_a_cent() {
        let read = |text: &str| Rate::parse(text).map(|price| price.to_string());
        assert_eq!(read("0.0048000000"), Some("0.0048".to_owned()));
        assert_eq!(read("0.00476"), Some("0.0048".to_owned()));
        assert_eq!(read("1.1"), Some("1.1000".to_owned()));
    }
}
