//! Values that go into and come out of a database, the same for both.

use crate::model::StoreError;
use fetchml_api::Micros;
use serde::{Deserialize, de::DeserializeOwned, de::IntoDeserializer, de::value::Error as WordError};
use std::{borrow::Cow, fmt::Display, ops::Deref, str::FromStr, sync::Arc, vec};

/// A value of one of the four portable column types.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(Cow<'static, str>),
    Blob(Vec<u8>),
}

impl Value {
    /// A text. U+0000 is refused on both databases, since PostgreSQL cannot store it.
    pub(crate) fn text(text: impl Into<Cow<'static, str>>) -> Result<Self, StoreError> {
        let text = text.into();
        if text.as_bytes().contains(&0) {
            return Err(StoreError::Data("a text contains U+0000".into()));
        }
        Ok(Self::Text(text))
    }

    /// A text that may be absent.
    pub(crate) fn optional_text(text: Option<&String>) -> Result<Self, StoreError> {
        text.map_or(Ok(Self::Null), |text| Self::text(text.clone()))
    }

    /// An id or another word that cannot hold U+0000.
    pub(crate) fn word(word: impl Display) -> Self {
        Self::Text(word.to_string().into())
    }

    /// A number that may be over what the databases hold.
    pub(crate) fn unsigned(number: u64) -> Result<Self, StoreError> {
        i64::try_from(number).map(Self::Int).map_err(|_| StoreError::Data(format!("{number} is over 2^63 - 1")))
    }

    /// A structure as JSON text. JSON escapes U+0000, so strings within are looked at by the caller.
    pub(crate) fn json(value: &impl serde::Serialize) -> Result<Self, StoreError> {
        let json =
            serde_json::to_string(value).map_err(|e| StoreError::Data(format!("cannot be written as JSON: {e}")))?;
        if json.contains("\\u0000") && holds_nul(&json) {
            return Err(StoreError::Data("a text contains U+0000".into()));
        }
        Ok(Self::Text(json.into()))
    }
}

/// Whether JSON holds the escape of U+0000, and not only an escaped backslash before `u0000`.
fn holds_nul(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        if rest[at..].starts_with("\\u0000") {
            return true;
        }
        // Skips the escaped character, which may itself be a backslash; all of them are ASCII.
        rest = &rest[at + 2..];
    }
    false
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Int(truth.into())
    }
}

impl From<Micros> for Value {
    fn from(time: Micros) -> Self {
        Self::Int(time.0)
    }
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Text(word.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// SQL text: fixed, or built once for a number of rows.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Fixed(&'static str),
    Built(Arc<str>),
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Built(text) => text,
        }
    }
}

/// One statement of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) sql: Text,
    pub(crate) params: Vec<Value>,
    /// Refused for data when it changes no row; says what is missing.
    pub(crate) must_change: Option<&'static str>,
}

impl Statement {
    pub(crate) fn new(sql: &'static str, params: Vec<Value>) -> Self {
        Self { sql: Text::Fixed(sql), params, must_change: None }
    }

    pub(crate) fn must_change(mut self, missing: &'static str) -> Self {
        self.must_change = Some(missing);
        self
    }

    /// Borrows it for one execution.
    pub(crate) fn run(&self) -> Run<'_> {
        Run { sql: self.sql.clone(), rows: vec![&self.params], must_change: self.must_change }
    }
}

/// One execution of a statement: its parameters are those of all `rows` in order.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) sql: Text,
    pub(crate) rows: Vec<&'a [Value]>,
    pub(crate) must_change: Option<&'static str>,
}

impl<'a> Run<'a> {
    pub(crate) fn params(&self) -> impl Iterator<Item = &'a Value> {
        self.rows.iter().flat_map(|row| row.iter())
    }

    /// Looks at the number of rows changed.
    pub(crate) fn check(&self, changed: u64) -> Result<(), StoreError> {
        match self.must_change {
            Some(missing) if changed == 0 => Err(StoreError::Data(missing.into())),
            _ => Ok(()),
        }
    }
}

/// A row that was read; its columns are taken in order.
#[derive(Debug)]
pub(crate) struct Row(vec::IntoIter<Value>);

impl Row {
    pub(crate) fn new(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }

    /// Whatever is there.
    pub(crate) fn value(&mut self) -> Value {
        self.0.next().unwrap_or(Value::Null)
    }

    pub(crate) fn optional_int(&mut self) -> Result<Option<i64>, StoreError> {
        match self.0.next() {
            Some(Value::Int(number)) => Ok(Some(number)),
            Some(Value::Null) => Ok(None),
            other => Err(unreadable(format!("{other:?} is not a number"))),
        }
    }

    pub(crate) fn int(&mut self) -> Result<i64, StoreError> {
        self.optional_int()?.ok_or_else(|| unreadable("a number is missing"))
    }

    /// A number within the range of `T`.
    pub(crate) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        let number = self.int()?;
        T::try_from(number).map_err(|_| unreadable(format!("{number} is out of range")))
    }

    pub(crate) fn optional_number<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, StoreError> {
        let number = self.optional_int()?;
        number.map(T::try_from).transpose().map_err(|_| unreadable(format!("{number:?} is out of range")))
    }

    pub(crate) fn time(&mut self) -> Result<Micros, StoreError> {
        self.int().map(Micros)
    }

    pub(crate) fn optional_time(&mut self) -> Result<Option<Micros>, StoreError> {
        Ok(self.optional_int()?.map(Micros))
    }

    pub(crate) fn truth(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    pub(crate) fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(Some(text.into_owned())),
            Some(Value::Null) => Ok(None),
            other => Err(unreadable(format!("{other:?} is not a text"))),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(|| unreadable("a text is missing"))
    }

    pub(crate) fn blob(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.0.next() {
            Some(Value::Blob(bytes)) => Ok(bytes),
            other => Err(unreadable(format!("{other:?} is not a run of bytes"))),
        }
    }

    pub(crate) fn hash(&mut self) -> Result<[u8; 32], StoreError> {
        self.blob()?.try_into().map_err(|_| unreadable("a hash is not 32 bytes long"))
    }

    /// A text that `T` parses, such as an id.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&mut self) -> Result<T, StoreError> {
        parse(&self.text()?)
    }

    pub(crate) fn optional_parse<T: FromStr<Err: Display>>(&mut self) -> Result<Option<T>, StoreError> {
        self.optional_text()?.map(|text| parse(&text)).transpose()
    }

    /// A word that `T` reads in JSON.
    pub(crate) fn word<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, StoreError> {
        word(&self.text()?)
    }

    pub(crate) fn optional_word<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, StoreError> {
        self.optional_text()?.map(|text| word(&text)).transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        serde_json::from_str(&self.text()?).map_err(unreadable)
    }

    pub(crate) fn optional_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StoreError> {
        self.optional_text()?.map(|text| serde_json::from_str(&text)).transpose().map_err(unreadable)
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|why| unreadable(format!("{text:?}: {why}")))
}

fn word<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, StoreError> {
    let deserializer: serde::de::value::StrDeserializer<'_, WordError> = text.into_deserializer();
    T::deserialize(deserializer).map_err(unreadable)
}

/// A row that this version did not write.
pub(crate) fn unreadable(why: impl Display) -> StoreError {
    StoreError::Data(format!("a stored row cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_refused_and_what_only_looks_like_it_is_not() {
        assert!(Value::text("a\0").is_err());
        assert!(Value::json(&"a\0").is_err());
        assert!(Value::json(&"\\\0").is_err());
        assert!(Value::json(&"\\u0000").is_ok());
        assert!(Value::json(&"\\\\u0000").is_ok());
    }
}
