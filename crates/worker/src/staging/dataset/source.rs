//! A source of a data set: opened at an offset, it gives bytes and tells which version they are of. Two stretches
//! of bytes are put together only when their versions are the same.

use super::{file::Directories, guard::Guard, http, store::Stores};
use crate::staging::{Chunks, SourceError};
use serde::{Deserialize, Serialize};

/// What a server or file system says of a file: equal versions have equal bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Version {
    /// The entity tag, quoted as it came; a weak one begins with `W/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    /// The time of its last change, in the source's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modified: Option<String>,
    /// Length, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
}

impl Version {
    /// Whether a later answer can be told to be of the same version.
    pub(super) fn is_known(&self) -> bool {
        self.etag.is_some() || self.modified.is_some()
    }

    /// What to put into `If-Range`: a strong entity tag, else the time of change.
    pub(super) fn if_range(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/")).or(self.modified.as_deref())
    }

    /// Whether both are known to be the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let sizes = self.size.is_none() || other.size.is_none() || self.size == other.size;
        let same = match (&self.etag, &other.etag) {
            (Some(one), Some(other)) => one == other,
            _ => self.modified.is_some() && self.modified == other.modified,
        };
        sizes && same
    }
}

/// Where to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume<'a> {
    /// Bytes that are here already.
    pub(super) offset: u64,
    /// The version they are of.
    pub(super) version: &'a Version,
}

/// An answer.
pub(super) struct Opened {
    pub(super) version: Version,
    /// Where the bytes begin: where to go on, or 0 when that cannot be done.
    pub(super) offset: u64,
    pub(super) body: Chunks,
}

/// One source.
#[derive(Debug)]
pub(super) struct Source<'a> {
    url: &'a str,
    kind: Kind<'a>,
}

#[derive(Debug)]
enum Kind<'a> {
    Http(&'a Guard),
    File(&'a Directories),
    Store(&'a Stores),
}

/// The ways to sources.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) guard: Guard,
    pub(super) directories: Directories,
    pub(super) stores: Stores,
}

impl Ways {
    /// The source of a URL.
    pub(super) fn source<'a>(&'a self, url: &'a str) -> Result<Source<'a>, SourceError> {
        let kind = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("http" | "https") => Kind::Http(&self.guard),
            Some("file") => Kind::File(&self.directories),
            Some("s3") => Kind::Store(&self.stores),
            _ => return Err(definite("its scheme is not known to this worker; upgrade it".to_owned())),
        };
        Ok(Source { url, kind })
    }
}

impl Source<'_> {
    /// Begins to read.
    pub(super) async fn open(&self, resume: Option<Resume<'_>>) -> Result<Opened, SourceError> {
        match &self.kind {
            Kind::Http(guard) => http::open(guard, self.url, resume).await,
            Kind::File(directories) => directories.open(self.url, resume).await,
            Kind::Store(stores) => stores.open(self.url, resume).await,
        }
    }
}

/// Trying again changes nothing.
pub(super) fn definite(message: String) -> SourceError {
    SourceError { transient: false, is_away: false, message }
}

/// Trying again may help.
pub(super) fn transient(message: String) -> SourceError {
    SourceError { transient: true, is_away: false, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(etag: Option<&str>, modified: Option<&str>, size: Option<u64>) -> Version {
        Version { etag: etag.map(Into::into), modified: modified.map(Into::into), size }
    }

    #[test]
    fn versions_are_the_same_only_when_that_is_known() {
        let same = |a: &Version, b: &Version| a.is_same(b);
        let tagged = version(Some("\"a\""), Some("Mon"), Some(3));
        assert!(same(&tagged, &version(Some("\"a\""), None, None)));
        assert!(!same(&tagged, &version(Some("\"b\""), Some("Mon"), Some(3))), "the tag counts");
        assert!(!same(&tagged, &version(Some("\"a\""), None, Some(4))), "another length");
        assert!(same(&version(None, Some("Mon"), Some(3)), &tagged));
        assert!(!same(&version(None, None, Some(3)), &version(None, None, Some(3))), "nothing is known");
    }

    #[test]
    fn a_weak_tag_does_not_vouch_for_bytes() {
        assert_eq!(version(Some("\"a\""), Some("Mon"), None).if_range(), Some("\"a\""));
        assert_eq!(version(Some("W/\"a\""), Some("Mon"), None).if_range(), Some("Mon"));
        assert_eq!(version(Some("W/\"a\""), None, None).if_range(), None);
    }
}
