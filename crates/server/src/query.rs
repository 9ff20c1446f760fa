//! Reading query strings: every problem at once, unknown parameters ignored.

use crate::error::AppError;
use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use fetchml_api::{Micros, Problem};
use percent_encoding::percent_decode_str;
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

/// The query of a request.
pub(crate) struct Query {
    pairs: Vec<(String, Result<String, ()>)>,
    problems: Vec<Problem>,
}

impl Query {
    fn read(text: &str) -> Self {
        let decode = |part: &str| {
            let spaced = part.replace('+', " ");
            match percent_decode_str(&spaced).decode_utf8() {
                Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
                _ => Err(()),
            }
        };
        let pairs = text
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .filter_map(|(name, value)| Some((decode(name).ok()?, decode(value))))
            .collect();
        Self { pairs, problems: Vec::new() }
    }

    /// A text; `None` when absent.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let mut values = self.pairs.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone());
        let (first, more) = (values.next()?, values.next().is_some());
        if more {
            self.problem(name, "is given more than once");
        }
        if first.is_err() {
            self.problem(name, "is not UTF-8 text, or contains U+0000");
        }
        first.ok()
    }

    /// A whole number in a range.
    pub(crate) fn int(&mut self, name: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let text = self.text(name)?;
        let value = text.parse().ok().filter(|n| range.contains(n));
        if value.is_none() {
            let most = if *range.end() == i64::MAX { String::new() } else { format!(" and at most {}", range.end()) };
            self.problem(name, format!("must be a whole number of at least {}{most}", range.start()));
        }
        value
    }

    /// A time in whole seconds, such as `30s` or `30`, of at most `longest`.
    pub(crate) fn seconds(&mut self, name: &str, longest: Duration) -> Option<Duration> {
        let text = self.text(name)?;
        let digits = text.strip_suffix('s').unwrap_or(&text);
        let time = digits.parse().ok().map(Duration::from_secs).filter(|time| *time <= longest);
        if time.is_none() {
            self.problem(
                name,
                format!("must be a time in whole seconds of at most {0}, such as {0}s", longest.as_secs()),
            );
        }
        time
    }

    /// The texts whose names begin so, by the rest of their names; at most so many.
    pub(crate) fn texts_below(&mut self, prefix: &str, most: usize) -> BTreeMap<String, String> {
        let below = self.pairs.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(name, _)| name.clone());
        let names: BTreeSet<String> = below.collect();
        if names.len() > most {
            self.problem(prefix, format!("may be given {most} times at most"));
            return BTreeMap::new();
        }
        names.into_iter().filter_map(|name| Some((name[prefix.len()..].to_owned(), self.text(&name)?))).collect()
    }

    /// `true` or `false`; absent is `false`.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            Some("true") => true,
            Some("false") | None => false,
            Some(_) => {
                self.problem(name, "must be true or false");
                false
            }
        }
    }

    /// Anything that can be read from text.
    pub(crate) fn parsed<T: FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.problem(name, format!("must be {wanted}"));
        }
        value
    }

    /// An instant, as RFC 3339 writes it.
    pub(crate) fn instant(&mut self, name: &str) -> Option<Micros> {
        self.parsed(name, "an instant such as 2026-01-31T12:00:00Z (a + in it must be sent as %2B)")
    }

    /// Notes a problem.
    pub(crate) fn problem(&mut self, name: &str, problem: impl Into<String>) {
        self.problems.push(Problem::new(name, problem));
    }

    /// # Errors
    /// 400 with every problem found.
    pub(crate) fn finish(self) -> Result<(), AppError> {
        match self.problems.first() {
            None => Ok(()),
            Some(first) => {
                let error = format!("The query parameter {} {}.", first.field, first.problem);
                Err(AppError::BadRequest { error, details: self.problems })
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::read(parts.uri.query().unwrap_or("")))
    }
}

/// A part of the path. What cannot be decoded names nothing: 404.
pub(crate) struct PathText<T>(pub(crate) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for PathText<T> {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AppError> {
        let Path(value) = Path::from_request_parts(parts, state).await.map_err(|_| AppError::not_found("path"))?;
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_every_problem_is_told() {
        let mut query = Query::read("a=x%20y+z&n=5&big=5000&twice=1&twice=2&nul=%00&flag=maybe&on=true&bare&one=1");
        assert_eq!(query.text("a").unwrap(), "x y z");
        assert_eq!(query.int("n", 0..=10), Some(5));
        assert!(query.flag("on") && !query.flag("absent"));
        assert!(query.problems.is_empty());
        query.int("big", 0..=1000);
        query.text("twice");
        query.text("nul");
        // As the document says: nothing else means yes, and surely not nothing.
        assert!(!query.flag("flag") && !query.flag("bare") && !query.flag("one"));
        let fields: Vec<_> = query.problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["big", "twice", "nul", "flag", "bare", "one"]);
        assert!(query.finish().is_err());

        let mut entries = Query::read("m.a=1&m.b%20=x+y&n=2&m.=&m.c=1&m.c=2&m.d=%00");
        let read = entries.texts_below("m.", 5);
        assert_eq!(
            read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(),
            [("", ""), ("a", "1"), ("b ", "x y"), ("c", "1")]
        );
        assert_eq!(entries.problems.len(), 2);
        assert!(entries.texts_below("m.", 4).is_empty());
        assert_eq!(entries.problems.len(), 3);

        let mut times = Query::read("a=30s&b=0&c=61s&d=1m&e=-1&f=s&g=1.5s&h=99999999999999999999");
        let mut read = |name| times.seconds(name, Duration::from_mins(1)).map(|time| time.as_secs());
        assert_eq!((read("a"), read("b"), read("absent")), (Some(30), Some(0), None));
        assert!(["c", "d", "e", "f", "g", "h"].into_iter().all(|name| read(name).is_none()));
        assert_eq!(times.problems.len(), 6);
    }
}
