//! Reading JSON bodies strictly: no duplicate keys, bounded depth, and lone surrogates turned into
//! U+0000 so that validation can name the field they stand in.

use crate::limits::JSON_DEPTH;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{borrow::Cow, fmt};

/// Parses a body.
///
/// # Errors
/// One sentence with line and column: syntax, a repeated key, nesting over [`JSON_DEPTH`], a number
/// that no double can hold.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    let body = mask_lone_surrogates(body);
    let mut deserializer = serde_json::Deserializer::from_slice(&body);
    let value = Strict { depth: 0 }.deserialize(&mut deserializer).map_err(|e| e.to_string())?;
    deserializer.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// Replaces each `\uD800`..`\uDFFF` escape that is not half of a pair with `\u0000`, which has the
/// same length and which no field accepts.
fn mask_lone_surrogates(body: &[u8]) -> Cow<'_, [u8]> {
    let mut masked = Cow::Borrowed(body);
    let mut at = 0;
    while at + 1 < body.len() {
        if body[at] != b'\\' {
            at += 1;
            continue;
        }
        match escape(body, at) {
            None => at += 2,
            Some(0xD800..=0xDBFF) if matches!(escape(body, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                masked.to_mut()[at + 2..at + 6].copy_from_slice(b"0000");
                at += 6;
            }
            Some(_) => at += 6,
        }
    }
    masked
}

/// The code unit of a `\uXXXX` escape at `at`.
fn escape(body: &[u8], at: usize) -> Option<u16> {
    let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= JSON_DEPTH {
            return Err(E::custom(format!("nested deeper than {JSON_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self.deeper()?)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} appears twice")));
            }
            let value = map.next_value_seed(self.deeper()?)?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeated_keys_and_deep_nesting_are_refused() {
        assert!(parse(br#"{"a":1,"a":2}"#).unwrap_err().contains("appears twice"));
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(deep(JSON_DEPTH).as_bytes()).is_ok());
        assert!(parse(deep(JSON_DEPTH + 1).as_bytes()).unwrap_err().contains("nested deeper"));
        assert!(parse(b"1e400").is_err());
        assert!(parse(b"{} x").is_err());
    }

    #[test]
    fn lone_surrogates_become_nul_and_pairs_stay() {
        assert_eq!(parse(br#""\ud83d\ude00""#).unwrap(), "\u{1F600}");
        assert_eq!(parse(br#""a\ud800b""#).unwrap(), "a\0b");
        assert_eq!(parse(br#""\udc00\ud800\n""#).unwrap(), "\0\0\n");
        assert_eq!(parse(br#""\\ud800""#).unwrap(), "\\ud800");
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_what_it_accepts(text in r#"[\[\]{}",:\\ud8c0-9a-f.e+ -]{0,40}"#) {
            if let Ok(value) = parse(text.as_bytes()) && !text.contains("\\u") {
                prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
            }
        }
    }
}
