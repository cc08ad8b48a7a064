//! The rate limit of the API (<https://docs.hetzner.cloud/reference/cloud#rate-limiting>).

use std::time::Instant;

/// A token bucket. Each call takes one token, and the bucket refills evenly over an hour.
#[derive(Debug)]
pub(crate) struct Bucket {
    size: f64,
    tokens: f64,
    at: Instant,
}

/// Values of the `RateLimit` headers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) limit: f64,
    pub(crate) remaining: f64,
    /// Seconds until the bucket is full again.
    pub(crate) full_in_seconds: f64,
}

impl Bucket {
    pub(crate) fn full(calls_per_hour: u32) -> Self {
        let size = f64::from(calls_per_hour.max(1));
        Self { size, tokens: size, at: Instant::now() }
    }

    /// Takes a token; returns whether the bucket had one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * self.size / 3600.0;
        self.tokens = (self.tokens + refilled).min(self.size);
        self.at = now;
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    pub(crate) fn rate(&self) -> Rate {
        let full_in_seconds = ((self.size - self.tokens) * 3600.0 / self.size).ceil();
        Rate { limit: self.size, remaining: self.tokens.floor(), full_in_seconds }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_empty_bucket_gets_one_token_back_for_each_share_of_the_hour() {
        let start = Instant::now();
        let mut bucket = Bucket { size: 60.0, tokens: 60.0, at: start };
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 60);
        assert_eq!(bucket.rate(), Rate { limit: 60.0, remaining: 0.0, full_in_seconds: 3600.0 });
        assert!(!bucket.take(start + Duration::from_secs(59)));
        assert!(bucket.take(start + Duration::from_secs(61)));
        assert!(!bucket.take(start + Duration::from_secs(62)));
        assert_eq!(
            (0..100).filter(|_| bucket.take(start + Duration::from_secs(99_999))).count(),
            60
        );
    }
}
