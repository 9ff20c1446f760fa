//! Request rates of roles, as text: `user=100/s,burst=200; viewer=50/s`.

use crate::failure::Failure;
use fetchml_api::{Role, validate::nearest};
use fetchml_server::{Rate, RateLimits};
use std::ops::RangeInclusive;

/// Requests per second, and at once.
const REQUESTS: RangeInclusive<u32> = 1..=1_000_000;
/// The roles that have rates.
const ROLES: [Role; 4] = [Role::Admin, Role::Operator, Role::User, Role::Viewer];

/// The rates that a text sets, on top of others. Every problem is told.
pub(super) fn read(text: &str, mut limits: RateLimits) -> Result<RateLimits, Failure> {
    let mut problems = Vec::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        match read_one(part) {
            Ok((role, rate)) => *of(&mut limits, role).expect("it was looked for among those that have one") = rate,
            Err(problem) => problems.push(format!("{part:?}: {problem}")),
        }
    }
    if problems.is_empty() {
        return Ok(limits);
    }
    Err(Failure::usage(format!("the rate limits cannot be used: {}", problems.join("\n  ")))
        .hint("one looks like user=100/s,burst=200; several have ; between"))
}

fn read_one(part: &str) -> Result<(Role, Rate), String> {
    let (role, rate) = part.split_once('=').ok_or("is no ROLE=RATE")?;
    let role = role.trim();
    let role = ROLES.into_iter().find(|known| known.as_str() == role).ok_or_else(|| {
        let near = nearest(role, &mut ROLES.iter().map(|role| role.as_str()));
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        format!("{role:?} is no role that has a rate (admin, operator, user, viewer){near}")
    })?;
    let (per_second, burst) = match rate.split_once(',') {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (rate, None),
    };
    let per_second = per_second.trim().strip_suffix("/s").ok_or("a rate is requests per second, such as 100/s")?;
    let per_second = number(per_second)?;
    let burst = match burst {
        None => per_second.saturating_mul(2).min(*REQUESTS.end()),
        Some(burst) => number(burst.trim().strip_prefix("burst=").ok_or("after the comma comes burst=REQUESTS")?)?,
    };
    Ok((role, Rate { per_second, burst }))
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.trim().parse().ok().filter(|number| REQUESTS.contains(number));
    number.ok_or_else(|| format!("{text:?} is no number from {} to {}", REQUESTS.start(), REQUESTS.end()))
}

const fn of(limits: &mut RateLimits, role: Role) -> Option<&mut Rate> {
    match role {
        Role::Admin => Some(&mut limits.admin),
        Role::Operator => Some(&mut limits.operator),
        Role::User => Some(&mut limits.user),
        Role::Viewer => Some(&mut limits.viewer),
        Role::Worker => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_others_stay() {
        let defaults = RateLimits::default();
        let read = |text| read(text, defaults);
        assert_eq!(read("").unwrap(), defaults);
        let rate = |per_second, burst| Rate { per_second, burst };
        assert_eq!(
            read(" user = 5/s, burst=7 ;viewer=3/s;").unwrap(),
            RateLimits { user: rate(5, 7), viewer: rate(3, 6), ..defaults }
        );
        assert_eq!(read("user=1/s;user=2/s").unwrap().user, rate(2, 4), "the last one counts");
        for (text, told) in [
            ("user", "ROLE=RATE"),
            ("usr=1/s", "did you mean \"user\"?"),
            ("worker=1/s", "no role that has a rate"),
            ("user=1", "100/s"),
            ("user=0/s", "no number from 1"),
            ("user=1000001/s", "no number from 1"),
            ("user=1/s,5", "burst="),
            ("user=1/s,burst=", "no number from 1"),
            ("user=99999999999/s", "no number from 1"),
        ] {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains(told), "{text}: {refused}");
        }
        let both = read("a=1/s; user=x/s").unwrap_err().to_string();
        assert!(both.contains("\"a=1/s\"") && both.contains("\"user=x/s\""), "{both}");
    }
}
