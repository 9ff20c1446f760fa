//! Data sets: what a user says of one, and what a task and the registry keep of it.
//!
//! A source is a URL that names one file. It carries no secret: it is shown to everyone who may see the task.

mod place;
mod read;
mod source;

pub use place::check_mount_path;
pub(crate) use read::take;
pub use read::{Registry, create_dataset, is_name};
pub use source::{check_source, is_bucket_name};

use crate::{snapshot::is_sha256_hex, time::Micros};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;

/// A data set named in a task. Without `source` the name is one of `GET /v1/datasets`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DatasetSpec {
    /// Name for people, and of the file below `$FETCHML_DATASET_DIR`: letters, digits, `_`, `-` and `.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 64, example = "digits")]
    pub name: Option<String>,
    /// Where it comes from: the URL of one file, `https://`, `http://`, `s3://` or `file://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 2048, example = "https://data.example.org/digits.csv")]
    pub source: Option<String>,
    /// Expected SHA-256, lower-case hex. With it, any other bytes are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{64}$")]
    pub sha256: Option<String>,
    /// Where the task sees it, read-only; absent: `$FETCHML_DATASET_DIR/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 1024, example = "/data/digits.csv")]
    pub mount_path: Option<String>,
    /// Whether the file is a tar, tar.gz or zip archive that the task sees as a directory; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub unpack: Option<bool>,
}

/// A data set with everything a worker needs to have it: part of a task that never changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name in the task.
    pub name: String,
    /// The URL.
    pub source: String,
    /// Expected SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where the task sees it; absent: below `$FETCHML_DATASET_DIR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// Whether it is unpacked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpack: bool,
}

impl Dataset {
    /// What a worker is asked for that holds it already.
    pub fn key(&self) -> DatasetKey {
        match self.sha256.as_deref().and_then(|sha256| sha256.parse().ok()) {
            Some(key) => key,
            None => DatasetKey::of_source(&self.source),
        }
    }

    /// As the API shows it.
    pub fn to_spec(&self) -> DatasetSpec {
        DatasetSpec {
            name: Some(self.name.clone()),
            source: Some(self.source.clone()),
            sha256: self.sha256.clone(),
            mount_path: self.mount_path.clone(),
            unpack: self.unpack.then_some(true),
        }
    }
}

/// Names the content of a data set by its SHA-256; where no hash is declared, the SHA-256 of its source stands
/// for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetKey([u8; 32]);

impl DatasetKey {
    /// The key of a data set without a declared hash.
    pub fn of_source(source: &str) -> Self {
        Self(Sha256::new().chain_update("fetchml/dataset-source/v1\n").chain_update(source).finalize().into())
    }
}

impl fmt::Display for DatasetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DatasetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DatasetKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut key = [0; 32];
        if !is_sha256_hex(text) || hex::decode_to_slice(text, &mut key).is_err() {
            return Err("must be 64 lower-case hex digits");
        }
        Ok(Self(key))
    }
}

impl Serialize for DatasetKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatasetKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A data set that tasks can name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RegisteredDataset {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// Expected SHA-256, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where a task sees it unless it says otherwise; absent: `$FETCHML_DATASET_DIR/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// Whether it is an archive that tasks see unpacked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpack: bool,
    /// Who registered it.
    pub user_id: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
}

impl RegisteredDataset {
    /// What a task that names it gets.
    pub fn dataset(&self) -> Dataset {
        Dataset {
            name: self.name.clone(),
            source: self.source.clone(),
            sha256: self.sha256.clone(),
            mount_path: self.mount_path.clone(),
            unpack: self.unpack,
        }
    }
}

/// All that is registered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetList {
    /// In order of their names.
    pub datasets: Vec<RegisteredDataset>,
}

/// Registers a data set under a name. Read by [`create_dataset`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CreateDatasetRequest {
    /// The name: letters, digits, `_`, `-` and `.`, beginning with a letter or digit.
    #[schema(max_length = 64, pattern = "^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", example = "digits")]
    pub name: String,
    /// The URL of one file: `http://`, `https://` or `file://`, without a password or token.
    #[schema(max_length = 2048, example = "https://data.example.org/digits.csv")]
    pub source: String,
    /// Expected SHA-256, lower-case hex. With it, any other bytes are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{64}$")]
    pub sha256: Option<String>,
    /// Where a task sees it unless it says otherwise; absent: `$FETCHML_DATASET_DIR/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 1024)]
    pub mount_path: Option<String>,
    /// Whether it is a tar, tar.gz or zip archive that tasks see as a directory; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub unpack: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_hash_or_stand_for_the_source() {
        let mut set = Dataset {
            name: "digits".into(),
            source: "https://data.example.org/digits.csv".into(),
            sha256: Some("a".repeat(64)),
            mount_path: None,
            unpack: false,
        };
        assert_eq!(set.key().to_string(), "a".repeat(64));
        set.sha256 = None;
        assert_eq!(set.key(), DatasetKey::of_source(&set.source));
        assert_ne!(set.key(), DatasetKey::of_source("https://else.example/"));
        let json = serde_json::to_string(&set.key()).unwrap();
        assert_eq!(serde_json::from_str::<DatasetKey>(&json).unwrap(), set.key());
        assert!(serde_json::from_str::<DatasetKey>("\"xyz\"").is_err());
    }
}
