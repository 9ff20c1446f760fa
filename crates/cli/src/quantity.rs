//! Durations and sizes as people write and read them.

use jiff::Timestamp;
use std::time::Duration;

/// Reads `90`, `90s`, `1h30m`, `2d`: whole seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a duration; write seconds (90) or units (1h30m, 45s, 2d)");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| bad());
    }
    let mut total: i64 = 0;
    let mut digits = String::new();
    let mut last_unit = i64::MAX;
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return Err(bad()),
        };
        // Each unit once, from the largest down: anything else is more likely a slip than a wish.
        if unit >= last_unit {
            return Err(bad());
        }
        last_unit = unit;
        let count: i64 = digits.parse().map_err(|_| bad())?;
        digits.clear();
        total = count.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
    }
    if digits.is_empty() && last_unit != i64::MAX { Ok(total) } else { Err(bad()) }
}

/// Reads `--time-limit`.
pub(crate) fn parse_time_limit(text: &str) -> Result<i64, String> {
    let max = fetchml_api::limits::TIME_LIMIT_S_MAX;
    match parse_seconds(text)? {
        seconds if (1..=max).contains(&seconds) => Ok(seconds),
        seconds => Err(format!("must be between 1 s and {} days, got {seconds} s", max / 86_400)),
    }
}

/// Reads `reserve --for`: whole minutes, rounded up.
pub(crate) fn parse_minutes(text: &str) -> Result<i32, String> {
    let max = fetchml_api::limits::RESERVATION_MINUTES_MAX;
    match parse_seconds(text)? {
        seconds if (1..=max * 60).contains(&seconds) => i32::try_from((seconds + 59) / 60).map_err(|e| e.to_string()),
        seconds => Err(format!("must be between 1 minute and {} days, got {seconds} s", max / (24 * 60))),
    }
}

/// Reads `--timeout`.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_seconds(text).map(|seconds| Duration::from_secs(seconds.unsigned_abs()))
}

/// Reads a memory size into whole GiB, rounded up: `16`, `16G`, `512M`, `1.5T` is not accepted.
pub(crate) fn parse_memory_gb(text: &str) -> Result<i32, String> {
    let bad = || format!("{text:?} is not a memory size; write GiB (16) or units (16G, 512M)");
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, mib_per_unit) = match number.chars().last() {
        Some('t') => (&number[..number.len() - 1], 1_i64 << 20),
        Some('g') => (&number[..number.len() - 1], 1 << 10),
        Some('m') => (&number[..number.len() - 1], 1),
        _ => (number, 1 << 10),
    };
    let mib = digits.parse::<i64>().ok().and_then(|count| count.checked_mul(mib_per_unit)).ok_or_else(bad)?;
    let gib = mib / 1_024 + i64::from(mib % 1_024 > 0);
    let max = fetchml_api::limits::MEMORY_GB_MAX;
    if (0..=max).contains(&gib) { Ok(gib as i32) } else { Err(format!("must be between 0 and {max} GiB")) }
}

/// Reads a size on disk into bytes: `500` (GiB), `500G`, `2T`, `512M`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size; write GiB (500) or units (500G, 2T, 512M)");
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, unit) = match number.chars().last() {
        Some('t') => (&number[..number.len() - 1], 1_u64 << 40),
        Some('g') => (&number[..number.len() - 1], 1 << 30),
        Some('m') => (&number[..number.len() - 1], 1 << 20),
        _ => (number, 1 << 30),
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(bad)
}

/// `42s`, `3m05s`, `2h07m`, `3d04h`.
pub(crate) fn show_micros(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    match seconds {
        0 if micros > 0 => format!("{:.1}s", micros as f64 / 1e6),
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `512 B`, `1.2 MiB`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1_024.0 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Microseconds since 1970, by this machine's clock.
pub(crate) fn now() -> fetchml_api::Micros {
    fetchml_api::Micros(Timestamp::now().as_microsecond())
}

/// `3`, `0.0123457`, `1.5e-9`: six digits, and whole numbers as such.
pub(crate) fn show_number(number: f64) -> String {
    let size = number.abs();
    if number.fract() == 0.0 && size < 1e15 {
        return format!("{number:.0}");
    }
    if !(1e-4..1e6).contains(&size) {
        let text = format!("{number:.5e}");
        let (digits, exponent) = text.split_once('e').expect("written with an exponent");
        return format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    let digits = (5 - size.log10().floor() as i32).max(0) as usize;
    format!("{number:.digits$}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A time in the user's own time zone, to the second.
pub(crate) fn show_time(time: fetchml_api::Micros) -> String {
    let Ok(timestamp) = Timestamp::from_microsecond(time.0) else { return time.to_string() };
    timestamp.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("1h30m", 5_400), ("2d", 172_800), ("1d1h1m1s", 90_061)] {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for text in ["", "h", "1x", "30m1h", "1h1h", "1h30", "-5", "1.5h", "99999999999999999999", "9999999999999999d"]
        {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
        assert!(parse_time_limit("0").is_err());
        assert!(parse_time_limit("366d").is_err());
    }

    #[test]
    fn memory_is_rounded_up_to_gib() {
        for (text, gib) in [("0", 0), ("16", 16), ("16G", 16), ("16GiB", 16), ("16gb", 16), ("512M", 1), ("1T", 1_024)]
        {
            assert_eq!(parse_memory_gb(text), Ok(gib), "{text}");
        }
        for text in ["", "G", "1.5", "-1", "70000", "1P"] {
            assert!(parse_memory_gb(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_on_disk_are_read() {
        for (text, bytes) in [("1", 1 << 30), ("50G", 50 << 30), ("2TiB", 2 << 40), (" 512m ", 512 << 20), ("0", 0)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1.5", "-1", "1K", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_are_short() {
        let shown: Vec<_> = [300_000, 42_000_000, 185_000_000, 7_620_000_000, 273_600_000_000].map(show_micros).into();
        assert_eq!(shown, ["0.3s", "42s", "3m05s", "2h07m", "3d04h"]);
        assert_eq!([0, 1_023, 1_258_291].map(show_bytes), ["0 B", "1023 B", "1.2 MiB"]);
        let numbers = [0.0, -3.0, 0.012_345_678, 99.999_99, 123_456.78, 1.5e-9, -2.5e20, 0.5, 1e14];
        assert_eq!(
            numbers.map(show_number),
            ["0", "-3", "0.0123457", "100", "123457", "1.5e-9", "-2.5e20", "0.5", "100000000000000"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,24}") {
            let _ = parse_seconds(&text);
            let _ = parse_memory_gb(&text);
        }

        #[test]
        fn written_durations_are_read_back(h in 0..1_000_i64, m in 0..1_000_i64, s in 0..1_000_i64) {
            prop_assert_eq!(parse_seconds(&format!("{h}h{m}m{s}s")), Ok(h * 3_600 + m * 60 + s));
        }
    }
}
