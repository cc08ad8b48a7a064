//! Pauses that a response demands.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::fmt::rfc2822::DateTimeParser;
use ureq::http::HeaderMap;

/// Headers with the time at which a rate limit ends: Hetzner's
/// (<https://docs.hetzner.cloud/reference/cloud#rate-limiting>) and GitHub's
/// (<https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>).
const RESETS: [&str; 2] = ["ratelimit-reset", "x-ratelimit-reset"];
/// Values below this one are seconds from now, as in the drafts of the IETF
/// (draft-ietf-httpapi-ratelimit-headers), and other values are seconds since 1970. The limit is a day in
/// 2001, and 31 years.
const EPOCH_SECONDS_MIN: u64 = 1_000_000_000;

/// Returns the pause of `Retry-After`, which is a number of seconds or a date (RFC 9110, section 10.2.3).
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, "retry-after")?;
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTimeParser::new().parse_timestamp(text).ok()?;
    let date = u64::try_from(date.as_second()).ok()?;
    Some(Duration::from_secs(date.saturating_sub(now())))
}

/// Returns the time until the rate limit ends, by `RateLimit-Reset` or `X-RateLimit-Reset`.
#[must_use]
pub fn until_reset(headers: &HeaderMap) -> Option<Duration> {
    let reset = RESETS.iter().find_map(|name| text(headers, name)?.parse::<u64>().ok())?;
    let seconds = if reset < EPOCH_SECONDS_MIN { reset } else { reset.saturating_sub(now()) };
    Some(Duration::from_secs(seconds))
}

/// Returns the pause that a response demands: `Retry-After`, otherwise the time until the rate limit
/// ends.
#[must_use]
pub fn demanded_pause(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers).or_else(|| until_reset(headers))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    Some(headers.get(name)?.to_str().ok()?.trim())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use ureq::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    fn demanded(name: &'static str, value: &impl ToString) -> Option<u64> {
        demanded_pause(&headers(&[(name, value.to_string())])).map(|pause| pause.as_secs())
    }

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        assert_eq!(demanded("retry-after", &7), Some(7));
        assert_eq!(demanded("retry-after", &" 7 "), Some(7));
        assert_eq!(demanded("retry-after", &"Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        let far = demanded("retry-after", &"Wed, 21 Oct 2099 07:28:00 GMT").expect("a date");
        assert!(far > 1_000_000_000, "{far}");
        for odd in ["-1", "", "soon", "99999999999999999999"] {
            assert_eq!(demanded("retry-after", &odd), None, "{odd}");
        }
    }

    #[test]
    fn the_end_of_a_rate_limit_is_a_time_or_a_number_of_seconds() {
        for name in RESETS {
            assert_eq!(demanded(name, &30), Some(30));
            assert!(matches!(demanded(name, &(now() + 60)), Some(59..=60)), "{name}");
            assert_eq!(demanded(name, &(now() - 60)), Some(0));
            assert_eq!(demanded(name, &"x"), None);
        }
    }

    #[test]
    fn retry_after_precedes_the_end_of_the_rate_limit() {
        let both = [("retry-after", "3".to_owned()), ("x-ratelimit-reset", "60".to_owned())];
        assert_eq!(demanded_pause(&headers(&both)), Some(Duration::from_secs(3)));
        assert_eq!(demanded_pause(&HeaderMap::new()), None);
    }
}
