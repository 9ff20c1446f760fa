//! What a snapshot says about its Python environment, and the hash of it.

use super::{StageError, definite, local, tools::Python};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Requirements of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Requirements {
    /// `uv.lock` beside `pyproject.toml`.
    Lock(Files),
    /// `requirements.txt` and the files it includes.
    Text(Files),
    /// `[project].dependencies` of `pyproject.toml`, one a line.
    Project(String),
}

/// Files that decide the environment, and whether it also holds code of the snapshot itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Files {
    bytes: BTreeMap<PathBuf, Vec<u8>>,
    local_code: bool,
}

impl Requirements {
    /// What is found at the snapshot's root, `uv.lock` before `requirements.txt` before
    /// `pyproject.toml`.
    pub(super) fn find(root: &Path) -> Result<Option<Self>, StageError> {
        let lock = read(root, "uv.lock")?;
        let project = read(root, "pyproject.toml")?;
        if let (Some(lock), Some(project)) = (lock, &project) {
            let bytes = BTreeMap::from([("uv.lock".into(), lock), ("pyproject.toml".into(), project.clone())]);
            return Ok(Some(Self::Lock(Files { bytes, local_code: false })));
        }
        if let Some(text) = read(root, "requirements.txt")? {
            let mut files = Files::default();
            files.include(root, Path::new("requirements.txt"), text)?;
            return Ok(Some(Self::Text(files)));
        }
        project.map_or(Ok(None), |project| dependencies(&project)).map(|text| text.map(Self::Project))
    }

    /// The file people know it by.
    pub(super) fn file_name(&self) -> &'static str {
        match self {
            Self::Lock(_) => "uv.lock",
            Self::Text(_) => "requirements.txt",
            Self::Project(_) => "pyproject.toml",
        }
    }

    /// Names the environment: equal hashes, equal environments.
    pub(super) fn hash(&self, python: &Python, snapshot_id: &str) -> String {
        let mut hash = Sha256::new();
        // Each part with its length, so that no two lists of parts run together to the same bytes.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"fetchml/environment/v1");
        part(self.file_name().as_bytes());
        part(python.version.as_bytes());
        part(std::env::consts::ARCH.as_bytes());
        match self {
            Self::Project(text) => part(text.as_bytes()),
            Self::Lock(files) | Self::Text(files) => {
                for (path, bytes) in &files.bytes {
                    part(path.as_os_str().as_encoded_bytes());
                    part(bytes);
                }
                if files.local_code {
                    part(snapshot_id.as_bytes());
                }
            }
        }
        hex::encode(hash.finalize())
    }

    /// Whether code of the snapshot itself is installed: its builder needs all of the snapshot.
    pub(super) fn has_local_code(&self) -> bool {
        match self {
            Self::Project(_) => false,
            Self::Lock(files) | Self::Text(files) => files.local_code,
        }
    }

    /// Writes what was hashed, so that the builder sees this and nothing that another snapshot would have otherwise.
    pub(super) fn write_to(&self, work: &Path) -> io::Result<()> {
        let dir = Self::sources(work);
        match self {
            Self::Project(text) => fs::write(Self::written(work), text),
            Self::Lock(files) | Self::Text(files) => files.bytes.iter().try_for_each(|(path, bytes)| {
                let path = dir.join(path);
                fs::create_dir_all(path.parent().unwrap_or(&dir))?;
                fs::write(path, bytes)
            }),
        }
    }

    /// Where [`Self::write_to`] puts it, in a build's own directory.
    pub(super) fn sources(work: &Path) -> PathBuf {
        work.join("sources")
    }

    /// Where the lines of a project are put.
    pub(super) fn written(work: &Path) -> PathBuf {
        Self::sources(work).join("requirements.txt")
    }
}

impl Files {
    /// Adds a requirements file and those it names by `-r` and `-c`.
    fn include(&mut self, root: &Path, path: &Path, bytes: Vec<u8>) -> Result<(), StageError> {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.bytes.insert(path.to_owned(), bytes);
        for line in text.lines().map(str::trim) {
            self.local_code |= is_local(line);
            let Some(name) = included(line) else { continue };
            let Some(inner) = inside(&path.parent().unwrap_or(Path::new("")).join(name)) else { continue };
            if self.bytes.contains_key(&inner) {
                continue;
            }
            // A file that is missing is for pip to complain of.
            if let Some(bytes) = read(root, &inner)? {
                self.include(root, &inner, bytes)?;
            }
        }
        Ok(())
    }
}

/// The file named by `-r FILE`, `--requirement=FILE`, `-c FILE` or `--constraint=FILE`.
fn included(line: &str) -> Option<&str> {
    let rest = ["--requirement", "--constraint", "-r", "-c"].iter().find_map(|option| line.strip_prefix(option))?;
    let name = rest.trim_start_matches(['=', ' ', '\t']);
    let name = name.split(" #").next().unwrap_or(name).trim();
    (!name.is_empty() && !name.contains("://")).then_some(name)
}

/// Whether a line installs code that lies in the snapshot: then every snapshot has its own environment.
fn is_local(line: &str) -> bool {
    line.starts_with(['.', '/']) || line.starts_with("-e") || line.starts_with("--editable") || line.contains("file:")
}

/// The path without `.` and `..`; `None` when it leaves the snapshot.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::ParentDir if clean.pop() => {}
            _ => return None,
        }
    }
    Some(clean)
}

fn read(root: &Path, name: impl AsRef<Path>) -> Result<Option<Vec<u8>>, StageError> {
    let path = root.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(local(&path, &error)),
    }
}

/// `[project].dependencies`, one a line; `None` when there are none.
fn dependencies(project: &[u8]) -> Result<Option<String>, StageError> {
    let bad = |problem: String| definite(format!("pyproject.toml cannot be read: {problem}"));
    let text = std::str::from_utf8(project).map_err(|error| bad(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| bad(error.message().to_owned()))?;
    let Some(list) = table.get("project").and_then(|project| project.get("dependencies")) else { return Ok(None) };
    let list = list.as_array().ok_or_else(|| bad("project.dependencies is not a list".to_owned()))?;
    let lines = list
        .iter()
        .map(|line| match line.as_str() {
            Some(line) if !line.contains('\n') => Ok(line),
            _ => Err(bad("project.dependencies holds something other than a line of text".to_owned())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok((!lines.is_empty()).then(|| lines.join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(version: &str) -> Python {
        Python { program: "/usr/bin/python3".into(), version: version.into(), prefixes: Vec::new() }
    }

    fn hash_of(root: &Path, version: &str, snapshot: &str) -> String {
        Requirements::find(root).unwrap().unwrap().hash(&python(version), snapshot)
    }

    #[test]
    fn the_hash_covers_what_decides_the_environment_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Requirements::find(dir.path()).unwrap(), None);
        fs::write(dir.path().join("requirements.txt"), "-r more.txt\nnumpy\n").unwrap();
        fs::write(dir.path().join("more.txt"), "six\n").unwrap();
        let first = hash_of(dir.path(), "3.11", "a");
        assert_eq!(first, hash_of(dir.path(), "3.11", "b"), "another snapshot, same requirements");
        assert_ne!(first, hash_of(dir.path(), "3.12", "a"));
        fs::write(dir.path().join("more.txt"), "six==1\n").unwrap();
        assert_ne!(first, hash_of(dir.path(), "3.11", "a"), "an included file changed");
        fs::write(dir.path().join("requirements.txt"), "./package\n").unwrap();
        assert_ne!(hash_of(dir.path(), "3.11", "a"), hash_of(dir.path(), "3.11", "b"), "code of the snapshot");
    }

    #[test]
    fn uv_lock_goes_first_then_requirements_then_the_project() {
        let dir = tempfile::tempdir().unwrap();
        let found = || Requirements::find(dir.path()).unwrap().map(|found| found.file_name());
        fs::write(dir.path().join("pyproject.toml"), "[tool.black]\nline-length = 1\n").unwrap();
        assert_eq!(found(), None);
        fs::write(dir.path().join("pyproject.toml"), "[project]\ndependencies = [\"six\"]\n").unwrap();
        assert_eq!(found(), Some("pyproject.toml"));
        fs::write(dir.path().join("requirements.txt"), "six\n").unwrap();
        assert_eq!(found(), Some("requirements.txt"));
        fs::write(dir.path().join("uv.lock"), "version = 1\n").unwrap();
        assert_eq!(found(), Some("uv.lock"));
    }

    #[test]
    fn a_broken_project_file_is_a_definite_fault() {
        let error = dependencies(b"[project\n").unwrap_err();
        assert!(!error.transient && error.message.starts_with("pyproject.toml cannot be read"));
        assert!(dependencies(b"[project]\ndependencies = [1]\n").is_err());
    }
}
