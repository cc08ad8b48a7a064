//! Monthly costs: net, in the currency of the account, exact.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// Amount in millionths of a unit of currency, shown with two decimals. Two amounts of one account are
/// compared without their currency, which is the same.
#[derive(Clone, Copy, Debug, Default, JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]+\.[0-9]{2}$"))]
pub struct Money {
    millionths: u64,
    /// `None` only for a sum of nothing.
    currency: Option<Currency>,
}

/// Code of a currency, for example `EUR`. An account is billed in one currency: hcloud-go v2.53.0,
/// `schema.Pricing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency([u8; 3]);

impl Currency {
    /// Parses a code of ISO 4217.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let code: [u8; 3] = text.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_uppercase).then_some(Self(code))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl Money {
    /// Parses a price as the API writes it, for example `3.2900000000`.
    #[must_use]
    pub fn parse(text: &str, currency: Currency) -> Option<Self> {
        Some(Self { millionths: millionths(text)?, currency: Some(currency) })
    }

    /// Returns the currency, unless this is a sum of nothing.
    #[must_use]
    pub fn currency(self) -> Option<Currency> {
        self.currency
    }

    /// Returns the amount in millionths of a unit.
    #[must_use]
    pub fn millionths(self) -> u64 {
        self.millionths
    }

    /// Returns this amount `count` times.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self { millionths: self.millionths.saturating_mul(count), ..self }
    }

    /// Returns the amount with its currency, for example `3.29 EUR`.
    #[must_use]
    pub fn with_currency(self) -> String {
        match self.currency {
            Some(currency) => format!("{self} {currency}"),
            None => self.to_string(),
        }
    }

    fn combined(self, other: Self, millionths: u64) -> Self {
        Self { millionths, currency: self.currency.or(other.currency) }
    }
}

/// Parses a decimal number as millionths. Further digits are cut off.
fn millionths(text: &str) -> Option<u64> {
    let (units, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = rest.chars().chain("000000".chars()).take(6).collect();
    let units: u64 = units.parse().ok()?;
    units.checked_mul(1_000_000)?.checked_add(digits.parse().ok()?)
}

impl PartialEq for Money {
    fn eq(&self, other: &Self) -> bool {
        self.millionths == other.millionths
    }
}

impl Eq for Money {}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cents = self.millionths.saturating_add(5_000) / 10_000;
        write!(f, "{}.{:02}", cents / 100, cents % 100)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Price of a small unit, such as an hour or a gigabyte: millionths of a unit of the account's currency, shown
/// in hundredths of a cent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]+\.[0-9]{4}$"))]
pub struct Rate(u64);

impl Rate {
    /// Parses a price as the API writes it, for example `0.0048000000`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        millionths(text).map(Self)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.saturating_add(50) / 100;
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
        self.combined(other, self.millionths.saturating_add(other.millionths))
    }
}

/// Stops at zero.
impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.combined(other, self.millionths.saturating_sub(other.millionths))
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

    fn euros(text: &str) -> Option<Money> {
        Money::parse(text, Currency::parse("EUR").expect("a code"))
    }

    #[test]
    fn a_price_is_read_exactly_and_shown_in_cents() {
        let read = |text: &str| euros(text).map(|price| price.to_string());
        assert_eq!(read("3.2900000000"), Some("3.29".to_owned()));
        assert_eq!(read("5.3950"), Some("5.40".to_owned()));
        assert_eq!(read("12"), Some("12.00".to_owned()));
        assert_eq!(read("a"), None);
    }

    #[test]
    fn a_sum_has_the_currency_of_its_parts() {
        let sum: Money = [Money::default(), euros("1.5").expect("a price")].into_iter().sum();
        assert_eq!(sum.with_currency(), "1.50 EUR");
        assert_eq!((sum - sum).with_currency(), "0.00 EUR");
        assert_eq!(sum.times(3).with_currency(), "4.50 EUR");
        assert_eq!(Money::default().with_currency(), "0.00");
        for text in ["", "eur", "EURO", "E1R"] {
            assert_eq!(Currency::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_rate_is_shown_in_hundredths_of_a_cent() {
        let read = |text: &str| Rate::parse(text).map(|price| price.to_string());
        assert_eq!(read("0.0048000000"), Some("0.0048".to_owned()));
        assert_eq!(read("0.00476"), Some("0.0048".to_owned()));
        assert_eq!(read("1.1"), Some("1.1000".to_owned()));
    }
}
