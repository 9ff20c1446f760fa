//! One line of a task's metrics: an object of names and numbers. What cannot be used is said, and the rest of the line
//! still counts; in particular `NaN` and `Infinity`, which Python writes though JSON has no such numbers.

use fetchml_api::{Micros, limits::METRICS_NAME_BYTES};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// Seconds since 1970 that are taken for a time: from 2001 to 5138.
const SECONDS: std::ops::RangeInclusive<f64> = 1e9..=1e11;

/// What a line says.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Line<'a> {
    /// `step`, or `_step` without one.
    pub(super) step: Option<f64>,
    /// `time` or `_timestamp`: seconds since 1970, or RFC 3339.
    pub(super) time: Option<Micros>,
    /// The other finite numbers.
    pub(super) values: Vec<(Cow<'a, str>, f64)>,
    /// The first thing that could not be used.
    pub(super) problem: Option<String>,
}

/// A member's value, as far as it matters.
#[derive(Clone, PartialEq, Debug)]
enum Value<'a> {
    Number(f64),
    Text(Cow<'a, str>),
    Null,
    /// Something else, in words.
    Other(&'static str),
}

impl<'a> Line<'a> {
    /// Reads a line. Whatever it is, this gives what can be used of it.
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        let mut line = Self::default();
        let mut reader = Reader { bytes, at: 0 };
        if let Err(problem) = line.members(&mut reader) {
            line.say(problem.to_owned());
        }
        line
    }

    fn members(&mut self, reader: &mut Reader<'a>) -> Result<(), &'static str> {
        if !reader.takes(b'{') {
            return Err("is not a JSON object");
        }
        if !reader.takes(b'}') {
            loop {
                let name = reader.text()?;
                if !reader.takes(b':') {
                    return Err("is not JSON");
                }
                let value = reader.value()?;
                self.member(name, value);
                if reader.takes(b'}') {
                    break;
                }
                if !reader.takes(b',') {
                    return Err("is not JSON");
                }
            }
        }
        reader.skip_blanks();
        if reader.at == reader.bytes.len() { Ok(()) } else { Err("is not one JSON object") }
    }

    fn member(&mut self, name: Cow<'a, str>, value: Value<'a>) {
        let value = match value {
            Value::Null => return,
            Value::Number(number) if number.is_finite() => number,
            Value::Number(number) => return self.say(format!("{name:?} is {}", not_finite(number))),
            Value::Other(what) => return self.say(format!("{name:?} is {what}, not a number")),
            Value::Text(text) => {
                let time = matches!(&*name, "time" | "_timestamp").then(|| text.parse().ok()).flatten();
                return match time {
                    Some(time) => self.time = Some(time),
                    None => self.say(format!("{name:?} is a text, not a number")),
                };
            }
        };
        match &*name {
            "step" => self.step = Some(value),
            "_step" => self.step = self.step.or(Some(value)),
            "time" | "_timestamp" if SECONDS.contains(&value) => self.time = Some(Micros((value * 1e6).round() as i64)),
            _ if name.len() > METRICS_NAME_BYTES => {
                self.say(format!("has a name of {} bytes; at most {METRICS_NAME_BYTES} are kept", name.len()));
            }
            _ => self.values.push((name, value)),
        }
    }

    fn say(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }
}

fn not_finite(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Reads JSON from the left. What is rare it leaves to `serde_json`.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let is_there = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn text(&mut self) -> Result<Cow<'a, str>, &'static str> {
        if !self.takes(b'"') {
            return Err("is not JSON");
        }
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'"' || *byte == b'\\' || *byte < b' ').ok_or("is not JSON")?;
        if rest[end] == b'"' {
            self.at += end + 1;
            return std::str::from_utf8(&rest[..end]).map(Cow::Borrowed).map_err(|_| "is not UTF-8");
        }
        self.at -= 1;
        self.other::<String>().map(Cow::Owned)
    }

    fn value(&mut self) -> Result<Value<'a>, &'static str> {
        self.skip_blanks();
        let rest = &self.bytes[self.at..];
        let words: [(&[u8], Value<'a>); 6] = [
            (b"null", Value::Null),
            (b"true", Value::Other("true")),
            (b"false", Value::Other("false")),
            (b"NaN", Value::Number(f64::NAN)),
            (b"Infinity", Value::Number(f64::INFINITY)),
            (b"-Infinity", Value::Number(f64::NEG_INFINITY)),
        ];
        match rest.first() {
            Some(b'"') => self.text().map(Value::Text),
            Some(b'{') => self.other::<IgnoredAny>().map(|_| Value::Other("an object")),
            Some(b'[') => self.other::<IgnoredAny>().map(|_| Value::Other("an array")),
            Some(b'0'..=b'9') => self.number().map(Value::Number),
            Some(b'-') if matches!(rest.get(1), Some(b'0'..=b'9')) => self.number().map(Value::Number),
            _ => {
                let found = words.into_iter().find(|(word, _)| rest.starts_with(word)).ok_or("is not JSON")?;
                self.at += found.0.len();
                Ok(found.1)
            }
        }
    }

    fn number(&mut self) -> Result<f64, &'static str> {
        let rest = &self.bytes[self.at..];
        let is_of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
        let end = rest.iter().position(|byte| !is_of_number(byte)).unwrap_or(rest.len());
        let text = std::str::from_utf8(&rest[..end]).expect("digits and signs are ASCII");
        if !is_json_number(text.as_bytes()) {
            return Err("is not JSON");
        }
        self.at += end;
        text.parse().map_err(|_| "is not JSON")
    }

    fn other<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, &'static str> {
        let mut values = serde_json::Deserializer::from_slice(&self.bytes[self.at..]).into_iter::<T>();
        let value = values.next().and_then(Result::ok).ok_or("is not JSON")?;
        self.at += values.byte_offset();
        Ok(value)
    }
}

/// Whether JSON writes numbers so: Rust reads more.
fn is_json_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> Option<&[u8]> {
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then(|| &text[count..])
    }
    let rest = text.strip_prefix(b"-").unwrap_or(text);
    let is_led_by_zero = rest.first() == Some(&b'0') && rest.get(1).is_some_and(u8::is_ascii_digit);
    let after_point = |rest| match <[u8]>::split_first(rest) {
        Some((b'.', rest)) => digits(rest),
        _ => Some(rest),
    };
    let after_exponent = |rest| match <[u8]>::split_first(rest) {
        Some((b'e' | b'E', rest)) => {
            digits(rest.strip_prefix(b"+").or_else(|| rest.strip_prefix(b"-")).unwrap_or(rest))
        }
        _ => Some(rest),
    };
    !is_led_by_zero && digits(rest).and_then(after_point).and_then(after_exponent).is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(line: &str) -> Vec<(String, f64)> {
        Line::read(line.as_bytes()).values.into_iter().map(|(name, value)| (name.into_owned(), value)).collect()
    }

    fn problem(line: &[u8]) -> String {
        Line::read(line).problem.unwrap_or_default()
    }

    #[test]
    fn numbers_are_taken_and_step_and_time_are_told_apart() {
        let line = Line::read(br#" { "step" : 3, "loss": 1.5e-3, "a/b \"c\"": -0, "time": 1764000000.5 } "#);
        assert_eq!((line.step, line.time), (Some(3.0), Some(Micros(1_764_000_000_500_000))));
        assert_eq!(line.problem, None);
        assert_eq!(
            values(r#"{"loss": 1.5e-3, "a/b \"c\"": -0}"#),
            [("loss".into(), 0.0015), ("a/b \"c\"".into(), 0.0)]
        );
        let line = Line::read(br#"{"_step": 7, "_timestamp": "2025-11-24T16:00:00Z", "time": 12.5, "x": null}"#);
        assert_eq!((line.step, line.time), (Some(7.0), Some(Micros(1_764_000_000_000_000))));
        assert_eq!(line.values, [("time".into(), 12.5)], "not a time of day: a value like others");
        assert_eq!(Line::read(br#"{"_step": 7, "step": 8}"#).step, Some(8.0));
        assert_eq!(Line::read(b"{}"), Line::default());
    }

    #[test]
    fn what_cannot_be_used_is_said_and_the_rest_counts() {
        assert_eq!(problem(b"epoch 3"), "is not a JSON object");
        assert_eq!(problem(b"[1, 2]"), "is not a JSON object");
        assert_eq!(problem(b""), "is not a JSON object");
        assert_eq!(problem(br#"{"loss": 1"#), "is not JSON");
        assert_eq!(problem(br#"{"loss": 1} {"loss": 2}"#), "is not one JSON object");
        assert_eq!(problem(b"{\"\xff\": 1}"), "is not UTF-8");
        for (bad, said) in [
            ("NaN", "\"x\" is NaN"),
            ("Infinity", "\"x\" is Infinity"),
            ("-Infinity", "\"x\" is -Infinity"),
            ("1e999", "\"x\" is Infinity"),
            ("\"low\"", "\"x\" is a text, not a number"),
            ("true", "\"x\" is true, not a number"),
            ("[1, {\"a\": \"}\"}]", "\"x\" is an array, not a number"),
            ("{\"y\": 1}", "\"x\" is an object, not a number"),
        ] {
            let line = format!("{{\"step\": 1, \"x\": {bad}, \"loss\": 2}}");
            assert_eq!(problem(line.as_bytes()), said);
            assert_eq!(values(&line), [("loss".into(), 2.0)], "{line}");
        }
        for bad in ["01", "1.", ".5", "+1", "1e", "0x10", "1_0", "--1", "nan", "undefined"] {
            assert_eq!(problem(format!("{{\"x\": {bad}}}").as_bytes()), "is not JSON", "{bad}");
        }
        let long = "n".repeat(METRICS_NAME_BYTES + 1);
        assert!(problem(format!("{{\"{long}\": 1}}").as_bytes()).contains("name of 257 bytes"));
        assert_eq!(problem("{\"a\":".repeat(500).as_bytes()), "is not JSON", "not deeper than serde_json goes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Line::read(&bytes);
        }

        #[test]
        fn agrees_with_serde_json(text in r#"\{ ?("[a-c]{1,2}" ?: ?(-?[0-9]{1,3}(\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?|true|null|\[1\]|"s"),? ?){0,4}\}?"#) {
            let ours = Line::read(text.as_bytes());
            match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
                Ok(theirs) => {
                    for (name, value) in &theirs {
                        let last = ours.values.iter().rfind(|(ours, _)| ours == name).map(|(_, value)| *value);
                        if value.is_number() {
                            prop_assert_eq!(last, value.as_f64(), "{}", text);
                        }
                    }
                    let strange = theirs.values().any(|value| !value.is_number() && !value.is_null());
                    prop_assert!(!strange || ours.problem.is_some(), "{}", text);
                }
                Err(_) => prop_assert!(ours.problem.is_some(), "{}", text),
            }
        }
    }
}
