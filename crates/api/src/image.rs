//! Names of container images, read as docker reads them: a name without a registry is of `docker.io`, and one
//! without an owner there of `library`.

use std::{fmt, str::FromStr};

/// The registry of names that say none.
const DOCKER_HUB: &str = "docker.io";
/// The owner of names of [`DOCKER_HUB`] that say none.
const LIBRARY: &str = "library";
/// The tag of names that say none.
const LATEST: &str = "latest";
/// Longest name without tag and digest, as registries take it, bytes.
const REPOSITORY_BYTES: usize = 255;

/// A container image's full name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ImageName {
    /// Host of the registry, with a port where one was given.
    registry: String,
    repository: String,
    version: Version,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Version {
    Tag(String),
    /// With `sha256:`; says exactly which image, so a tag beside it counts for nothing.
    Digest(String),
}

impl ImageName {
    /// The registry, such as `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The whole name without tag and digest, such as `docker.io/library/python`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `sha256:<hex>` where the name says exactly which image it is.
    pub fn digest(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }

    /// Whether it may mean another image tomorrow by its very name: tag `latest`, or none.
    pub fn is_latest(&self) -> bool {
        matches!(&self.version, Version::Tag(tag) if tag == LATEST)
    }

    /// Whether it was made on this machine and no registry has it.
    pub fn is_local(&self) -> bool {
        self.registry == "localhost"
    }

    /// As people write it: without what docker adds by itself.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let hub = full.strip_prefix("docker.io/");
        hub.map_or(full.as_str(), |rest| rest.strip_prefix("library/").unwrap_or(rest)).to_owned()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, repository, version } = self;
        match version {
            Version::Tag(tag) => write!(f, "{registry}/{repository}:{tag}"),
            Version::Digest(digest) => write!(f, "{registry}/{repository}@{digest}"),
        }
    }
}

impl FromStr for ImageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (first, rest.to_owned()),
            Some(_) => (DOCKER_HUB, name.to_owned()),
            None => (DOCKER_HUB, format!("{LIBRARY}/{name}")),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        if !is_host(registry) {
            return Err(format!("{registry:?} is not the host of a registry"));
        }
        if name.is_empty() || !repository.split('/').all(is_component) {
            return Err(format!(
                "{text:?} is not the name of an image: [registry/]name[:tag|@sha256:...], in lower case"
            ));
        }
        if registry.len() + 1 + repository.len() > REPOSITORY_BYTES {
            return Err(format!("is longer than the {REPOSITORY_BYTES} bytes that registries take"));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(format!("{tag:?} is not a tag: up to 128 letters, digits, _, . and -"));
        }
        if let Some(digest) = digest.filter(|digest| !is_digest(digest)) {
            return Err(format!("{digest:?} is not a digest: sha256: and 64 lower-case hex digits"));
        }
        let version = match (tag, digest) {
            (_, Some(digest)) => Version::Digest(digest.to_owned()),
            (tag, None) => Version::Tag(tag.unwrap_or(LATEST).to_owned()),
        };
        Ok(Self { registry: registry.to_ascii_lowercase(), repository, version })
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Runs of lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_well = text.bytes().next().is_some_and(is_word) && text.bytes().last().is_some_and(is_word);
    let mut joints =
        text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|joint| !joint.is_empty());
    ends_well && joints.all(|joint| matches!(joint, "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|rest| rest.len() == 64 && rest.bytes().all(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, full, familiar) in [
            ("python", "docker.io/library/python:latest", "python:latest"),
            ("python:3.12-slim", "docker.io/library/python:3.12-slim", "python:3.12-slim"),
            ("pytorch/pytorch:2", "docker.io/pytorch/pytorch:2", "pytorch/pytorch:2"),
            (
                "nvcr.io/nvidia/pytorch:24.05-py3",
                "nvcr.io/nvidia/pytorch:24.05-py3",
                "nvcr.io/nvidia/pytorch:24.05-py3",
            ),
            ("localhost/bb:1", "localhost/bb:1", "localhost/bb:1"),
            ("localhost:5000/a__b/c-d", "localhost:5000/a__b/c-d:latest", "localhost:5000/a__b/c-d:latest"),
            ("Lab.Example:5000/x", "lab.example:5000/x:latest", "lab.example:5000/x:latest"),
            ("index.docker.io/library/x:1", "docker.io/library/x:1", "x:1"),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!((name.to_string(), name.familiar()), (full.to_owned(), familiar.to_owned()), "{text}");
            assert_eq!(name.to_string().parse(), Ok(name), "{text}");
        }
        let exact: ImageName = format!("python:3@{digest}").parse().unwrap();
        assert_eq!(exact.to_string(), format!("docker.io/library/python@{digest}"));
        assert!(!exact.is_latest() && !exact.is_local());
        assert!("python".parse::<ImageName>().unwrap().is_latest());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":1",
            "Python",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a\nb",
            "../a",
            "a..b",
            "a___b",
            "-a",
            "a:",
            "a:b c",
            "a@sha256:12",
            "a@md5:00",
            "http://a.b/c",
            "a.b:0/c",
            "a.b:x/c",
            "-.b/c",
            &long,
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
    }
}
