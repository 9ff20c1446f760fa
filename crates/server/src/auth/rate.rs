//! Token buckets: one per key for requests, one counter per address for refused keys.

use crate::{limits, options::Rate};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

const POLICY_HEADER: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT_HEADER: HeaderName = HeaderName::from_static("ratelimit");

/// How a key or an address stands with its limit, for the headers of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    /// What is limited: `key` or `address`.
    pub(crate) policy: &'static str,
    /// Requests that may come at once.
    pub(crate) quota: u32,
    /// Time in which all of them come back, seconds.
    pub(crate) window_s: u64,
    /// Requests that may come now.
    pub(crate) remaining: u32,
    /// Until all of them may, seconds.
    pub(crate) reset_s: u64,
    /// Refused: whole seconds until one may come, at least 1.
    pub(crate) retry_after_s: Option<u64>,
}

impl Standing {
    /// Of an address whose keys were refused too often.
    pub(crate) const fn of_address(max_per_minute: u32, retry_after_s: u64) -> Self {
        Self {
            policy: "address",
            quota: max_per_minute,
            window_s: WINDOW.as_secs(),
            remaining: 0,
            reset_s: retry_after_s,
            retry_after_s: Some(retry_after_s),
        }
    }

    /// Writes `RateLimit-Policy` and `RateLimit`, as the IETF's draft of rate limit headers has them.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let Self { policy, quota, window_s, remaining, reset_s, .. } = self;
        let values = [
            (POLICY_HEADER, format!("\"{policy}\";q={quota};w={window_s}")),
            (LIMIT_HEADER, format!("\"{policy}\";r={remaining};t={reset_s}")),
        ];
        for (name, value) in values {
            headers.insert(name, HeaderValue::from_str(&value).expect("digits and fixed words are a valid header"));
        }
    }
}

/// A token bucket, filled by time.
#[derive(Debug)]
pub(crate) struct Bucket {
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn full(rate: Rate) -> Self {
        Self { state: Mutex::new((f64::from(rate.burst), Instant::now())) }
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&self, rate: Rate, now: Instant) -> Standing {
        let mut state = self.state.lock().expect("no code panics while it holds a bucket");
        let (per_second, burst) = (f64::from(rate.per_second.max(1)), f64::from(rate.burst.max(1)));
        let gained = now.saturating_duration_since(state.1).as_secs_f64() * per_second;
        state.0 = (state.0 + gained).min(burst);
        state.1 = state.1.max(now);
        let taken = state.0 >= 1.0;
        if taken {
            state.0 -= 1.0;
        }
        let seconds_until = |tokens: f64| ((tokens - state.0) / per_second).ceil() as u64;
        Standing {
            policy: "key",
            quota: rate.burst.max(1),
            window_s: ((burst / per_second).ceil() as u64).max(1),
            remaining: state.0 as u32,
            reset_s: seconds_until(burst),
            retry_after_s: (!taken).then(|| seconds_until(1.0).max(1)),
        }
    }
}

/// What to do with a refused key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// Write an audit event of its own.
    pub(crate) audited: bool,
    /// Answer 429 with this many seconds instead of 401.
    pub(crate) retry_after_s: Option<u64>,
    /// Failures of the address's minute before that were only counted.
    pub(crate) uncounted_before: u32,
}

#[derive(Clone, Copy)]
struct Window {
    began: Instant,
    failures: u32,
}

/// Refused keys per address, in windows of one minute.
#[derive(Default)]
pub(crate) struct Failures {
    windows: Mutex<HashMap<IpAddr, Window>>,
}

const WINDOW: Duration = Duration::from_mins(1);

impl Failures {
    /// Notes a refused key.
    pub(crate) fn note(&self, address: IpAddr, max_per_minute: u32, now: Instant) -> Refusal {
        let mut windows = self.windows.lock().expect("no code panics while it holds the windows");
        if windows.len() >= limits::ADDRESSES_MAX && !windows.contains_key(&address) {
            windows.retain(|_, w| now.saturating_duration_since(w.began) < WINDOW);
            if windows.len() >= limits::ADDRESSES_MAX {
                // A flood from more addresses than we remember: nobody unknown gets an event or a 401.
                return Refusal { audited: false, retry_after_s: Some(60), uncounted_before: 0 };
            }
        }
        let window = windows.entry(address).or_insert(Window { began: now, failures: 0 });
        let mut uncounted_before = 0;
        let age = now.saturating_duration_since(window.began);
        if age >= WINDOW {
            uncounted_before = window.failures.saturating_sub(limits::AUTH_FAILURES_AUDITED_PER_MINUTE);
            *window = Window { began: now, failures: 0 };
        }
        window.failures = window.failures.saturating_add(1);
        let left = WINDOW.saturating_sub(now.saturating_duration_since(window.began));
        Refusal {
            audited: window.failures <= limits::AUTH_FAILURES_AUDITED_PER_MINUTE,
            retry_after_s: (window.failures > max_per_minute).then(|| left.as_secs().max(1)),
            uncounted_before,
        }
    }

    /// Takes the windows that are over and had failures that were only counted.
    pub(crate) fn take_ended(&self, now: Instant) -> Vec<(IpAddr, u32)> {
        let mut windows = self.windows.lock().expect("no code panics while it holds the windows");
        let mut ended = Vec::new();
        windows.retain(|address, window| {
            let over = now.saturating_duration_since(window.began) >= WINDOW;
            let uncounted = window.failures.saturating_sub(limits::AUTH_FAILURES_AUDITED_PER_MINUTE);
            if over && uncounted > 0 {
                ended.push((*address, uncounted));
            }
            !over
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let rate = Rate { per_second: 10, burst: 3 };
        let bucket = Bucket::full(rate);
        let start = Instant::now();
        let take = |after_ms| bucket.take(rate, start + Duration::from_millis(after_ms)).retry_after_s;
        assert_eq!([0; 4].map(take), [None, None, None, Some(1)]);
        assert_eq!(take(100), None);
        assert_eq!(take(100), Some(1));
        assert_eq!(take(60_000), None);
    }

    #[test]
    fn a_standing_counts_down_and_says_when_all_is_back() {
        let rate = Rate { per_second: 1, burst: 3 };
        let bucket = Bucket::full(rate);
        let start = Instant::now();
        let seen = [0; 4].map(|_| {
            let mut headers = HeaderMap::new();
            bucket.take(rate, start).write(&mut headers);
            assert_eq!(headers[POLICY_HEADER], "\"key\";q=3;w=3");
            headers[LIMIT_HEADER].to_str().unwrap().to_owned()
        });
        assert_eq!(seen, ["\"key\";r=2;t=1", "\"key\";r=1;t=2", "\"key\";r=0;t=3", "\"key\";r=0;t=3"]);
    }

    #[test]
    fn failures_are_audited_ten_times_refused_after_fifty_and_counted_after_a_minute() {
        let failures = Failures::default();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let start = Instant::now();
        let seen: Vec<Refusal> = (0..60).map(|_| failures.note(address, 50, start)).collect();
        assert_eq!(seen.iter().filter(|r| r.audited).count(), 10);
        assert_eq!(seen.iter().filter(|r| r.retry_after_s.is_some()).count(), 10);
        assert!(failures.take_ended(start).is_empty());
        assert_eq!(failures.take_ended(start + WINDOW), [(address, 50)]);
        assert_eq!(failures.note(address, 50, start + WINDOW).retry_after_s, None);
    }

    #[test]
    fn a_flood_from_many_addresses_stays_bounded() {
        let failures = Failures::default();
        let now = Instant::now();
        for n in 0..limits::ADDRESSES_MAX as u32 + 100 {
            failures.note(IpAddr::from(n.to_be_bytes()), 50, now);
        }
        assert!(failures.windows.lock().unwrap().len() <= limits::ADDRESSES_MAX);
    }
}
