//! The profile: which server the commands of this user talk to when nothing else says so. `up` and
//! `serve` write it at their first start; nothing else does.

use super::{read_small, same_server};
use crate::{environment, failure::Failure};
use fetchml_api::Fingerprint;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// A server and how to identify oneself to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// Address of the server.
    pub(crate) url: String,
    /// File that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// The key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// What the server is known by, where it vouches for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_fingerprint: Option<Fingerprint>,
}

/// What became of writing a profile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    /// There is one now.
    New(PathBuf),
    /// It was there and says the same.
    Same,
    /// It names another server and was left alone.
    Other {
        /// The profile.
        path: PathBuf,
        /// The server it names.
        url: String,
    },
    /// There is no home directory to write it to.
    Nowhere,
}

/// Where the profile is.
pub(crate) fn path() -> Option<PathBuf> {
    environment::config_dir().map(|dir| dir.join("profile.toml"))
}

/// Reads a profile; none when there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Profile>, Failure> {
    let text = match read_small(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::usage(format!("cannot read the profile {}: {error}", path.display()))),
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        // Not the offending line: it may hold the key.
        Failure::usage(format!("the profile {} cannot be read: {}", path.display(), error.message()))
            .hint("remove it; `fetchml up` writes a new one")
    })
}

/// Writes the profile unless one is there; only its owner may read it.
pub(crate) fn write(profile: &Profile) -> anyhow::Result<Written> {
    let Some(path) = path() else { return Ok(Written::Nowhere) };
    if let Some(found) = read(&path)? {
        let same = same_server(&found.url, &profile.url)
            && found.key_file == profile.key_file
            && found.tls_fingerprint == profile.tls_fingerprint;
        return Ok(if same { Written::Same } else { Written::Other { path, url: found.url } });
    }
    let directory = path.parent().expect("the profile lies in a directory");
    let describe = |error: io::Error| Failure::new(format!("cannot write the profile {}: {error}", path.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(describe)?;
    let text = toml::to_string(profile)?;
    let part = directory.join(format!(".profile.toml.{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &path)
    };
    write().map_err(describe)?;
    Ok(Written::New(path))
}
