//! What is installed in an environment, from the records that every installer leaves beside the packages. No program
//! of the environment is run for that: its packages could take part in what it does.

use crate::limits;
use fetchml_api::{PythonFacts, without_user};
use serde::Deserialize;
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Beside the marker of an environment that is ready.
const FACTS: &str = ".facts.json";

/// `direct_url.json`: a package that came from somewhere else than an index (PEP 610).
#[derive(Debug, Deserialize)]
struct DirectUrl {
    url: String,
    vcs_info: Option<VcsInfo>,
    dir_info: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct VcsInfo {
    vcs: String,
    commit_id: String,
}

/// Writes down what is in an environment that was just built.
pub(super) fn record(root: &Path, facts: PythonFacts) -> io::Result<()> {
    let facts = PythonFacts { packages: installed(root)?, ..facts };
    fs::write(root.join(FACTS), serde_json::to_vec(&facts)?)
}

/// What was written down.
pub(super) fn read(root: &Path) -> io::Result<PythonFacts> {
    Ok(serde_json::from_slice(&fs::read(root.join(FACTS))?)?)
}

/// Every distribution below the environment's root, `name==version` or `name @ address`, in order.
fn installed(root: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for dir in site_packages(root)? {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "dist-info") {
                found.extend(distribution(&path));
            }
        }
    }
    found.sort_by_cached_key(|line| line.to_lowercase());
    found.dedup();
    Ok(bounded(found))
}

fn site_packages(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(root.join("lib"))? {
        let dir = entry?.path().join("site-packages");
        if dir.is_dir() {
            dirs.push(dir);
        }
    }
    Ok(dirs)
}

/// A broken record tells nothing; the package is there all the same, under the name of its directory.
fn distribution(dir: &Path) -> Option<String> {
    let text = head(&dir.join("METADATA")).unwrap_or_default();
    let field = |name: &str| {
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    let stem = dir.file_stem()?.to_string_lossy().into_owned();
    let (name, version) = match (field("Name"), field("Version")) {
        (Some(name), Some(version)) => (name, version),
        _ => stem.split_once('-').map(|(name, version)| (name.to_owned(), version.to_owned()))?,
    };
    let origin = head(&dir.join("direct_url.json")).ok().and_then(|text| serde_json::from_str(&text).ok());
    let line = match origin {
        Some(DirectUrl { url, vcs_info: Some(VcsInfo { vcs, commit_id }), .. }) => {
            format!("{name} @ {vcs}+{}@{commit_id}", without_user(&url))
        }
        // A directory of the snapshot: its address is another one for each attempt.
        Some(DirectUrl { dir_info: Some(_), .. }) | None => format!("{name}=={version}"),
        Some(DirectUrl { url, .. }) => format!("{name} @ {}", without_user(&url)),
    };
    Some(line.chars().filter(|c| !c.is_control()).take(limits::PACKAGE_CHARS).collect())
}

fn head(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(limits::PACKAGE_RECORD_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn bounded(mut found: Vec<String>) -> Vec<String> {
    let mut left = limits::PACKAGES_BYTES;
    let fits = found.iter().take_while(|line| {
        left = left.saturating_sub(line.len() + 4);
        left > 0
    });
    let count = fits.count();
    if count < found.len() {
        let more = found.len() - count;
        found.truncate(count);
        found.push(format!("# and {more} more"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(root: &Path, dir: &str, files: &[(&str, &str)]) {
        let dir = root.join("lib/python3.11/site-packages").join(dir);
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn packages_are_read_from_their_records() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let metadata = |name: &str| format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\nName: not this\n");
        package(root, "numpy-1.0.dist-info", &[("METADATA", &metadata("numpy"))]);
        package(root, "Torch-1.0.dist-info", &[("METADATA", &metadata("Torch"))]);
        let git = r#"{"url": "https://ada:pw@lab/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}"#;
        package(root, "lab-1.0.dist-info", &[("METADATA", &metadata("lab")), ("direct_url.json", git)]);
        let archive = r#"{"url": "https://lab/y.whl", "archive_info": {}}"#;
        package(root, "wheel-1.0.dist-info", &[("METADATA", &metadata("wheel")), ("direct_url.json", archive)]);
        let local = r#"{"url": "file:///data/attempts/1/work", "dir_info": {}}"#;
        package(root, "own-1.0.dist-info", &[("METADATA", &metadata("own")), ("direct_url.json", local)]);
        package(root, "broken-2.0.dist-info", &[("METADATA", "\u{1}\u{2}")]);
        package(root, "numpy", &[("__init__.py", "")]);
        let facts = PythonFacts { environment: "e".into(), version: "cpython 3.11".into(), ..PythonFacts::default() };
        record(root, facts.clone()).unwrap();
        let expected = [
            "broken==2.0",
            "lab @ git+https://lab/x.git@abc",
            "numpy==1.0",
            "own==1.0",
            "Torch==1.0",
            "wheel @ https://lab/y.whl",
        ];
        let packages = expected.map(str::to_owned).to_vec();
        assert_eq!(read(root).unwrap(), PythonFacts { packages, ..facts });
    }

    #[test]
    fn a_list_has_an_end() {
        let many: Vec<String> = (0..100_000).map(|n| format!("package-{n}==1.0")).collect();
        let shown = bounded(many);
        assert!(serde_json::to_vec(&shown).unwrap().len() <= limits::PACKAGES_BYTES + 100);
        let told: usize = shown.last().unwrap().split(' ').nth(2).unwrap().parse().unwrap();
        assert_eq!(told + shown.len() - 1, 100_000);
    }
}
