//! Which files of a directory belong to its snapshot.

use super::SnapshotError;
use crate::limits;
use fetchml_api::{limits::MANIFEST_FILES, limits::SNAPSHOT_FILE_BYTES, snapshot::check_relative_path};
use ignore::{DirEntry, WalkBuilder};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

/// Directories that no snapshot needs, whatever the ignore files say.
const ALWAYS_SKIPPED: [&str; 4] = [".git", ".fetchml", "__pycache__", ".venv"];

/// A file or link that belongs to the snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Below the root, `/` between parts.
    pub(super) path: String,
    pub(super) kind: FoundKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FoundKind {
    File { executable: bool, size_bytes: u64 },
    Link { target: String },
}

#[derive(Debug)]
pub(super) struct Listing {
    pub(super) found: Vec<Found>,
    pub(super) skipped: Vec<String>,
}

impl Listing {
    pub(super) fn size_bytes(&self) -> u64 {
        let sizes = self.found.iter().map(|found| match found.kind {
            FoundKind::File { size_bytes, .. } => size_bytes,
            FoundKind::Link { .. } => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }
}

/// Lists `root`, which is canonical.
pub(super) fn list(root: &Path) -> Result<Listing, SnapshotError> {
    // Ignore files above the root count only inside a repository: a `*` in the home directory's
    // .gitignore must not empty every snapshot below it.
    let in_repository = root.ancestors().any(|directory| directory.join(".git").exists());
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .ignore(false)
        .git_ignore(true)
        .git_exclude(true)
        .git_global(false)
        .require_git(false)
        .parents(in_repository)
        .add_custom_ignore_filename(".fetchmlignore")
        .follow_links(false)
        .filter_entry(is_wanted)
        .build();
    let mut listing = Listing { found: Vec::new(), skipped: Vec::new() };
    for entry in walk {
        let entry = entry.map_err(|error| walk_error(root, &error))?;
        if let Some(error) = entry.error() {
            return Err(SnapshotError::Walk(error.to_string()));
        }
        if entry.depth() == 0 || entry.file_type().is_some_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = relative(root, entry.path())?;
        let Some(found) = look(root, &entry, path, &mut listing.skipped)? else { continue };
        if listing.found.len() == MANIFEST_FILES {
            let (largest, files) = largest_part(listing.found.iter().map(|found| found.path.as_str()));
            return Err(SnapshotError::TooManyFiles { largest, files });
        }
        listing.found.push(found);
    }
    Ok(listing)
}

/// The entry of the root below which most of `paths` lie, and how many.
pub(super) fn largest_part<'a>(paths: impl Iterator<Item = &'a str>) -> (String, u64) {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for path in paths {
        let top = path.split_once('/').map_or(path, |(top, _)| &path[..=top.len()]);
        *counts.entry(top).or_default() += 1;
    }
    let largest = counts.into_iter().max_by_key(|(_, files)| *files);
    largest.map_or_else(Default::default, |(top, files)| (top.to_owned(), files))
}

fn is_wanted(entry: &DirEntry) -> bool {
    let is_directory = entry.file_type().is_some_and(|kind| kind.is_dir());
    if entry.depth() == 0 {
        return true;
    }
    if ALWAYS_SKIPPED.iter().any(|name| entry.file_name() == OsStr::new(name)) {
        // `.git` is a file in a worktree; the others only matter as directories or links to them.
        return !(is_directory || entry.path_is_symlink() || entry.file_name() == ".git");
    }
    !(is_directory && entry.path().join("pyvenv.cfg").is_file())
}

fn walk_error(root: &Path, error: &ignore::Error) -> SnapshotError {
    let mut at = error;
    let mut path = None;
    loop {
        match at {
            ignore::Error::WithPath { path: found, err } => {
                path = Some(found.strip_prefix(root).unwrap_or(found).display().to_string());
                at = err;
            }
            ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => at = err,
            ignore::Error::Io(source) => {
                let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
                return match path {
                    Some(path) => SnapshotError::Read { path, source },
                    None => SnapshotError::Walk(source.to_string()),
                };
            }
            _ => return SnapshotError::Walk(error.to_string()),
        }
    }
}

fn relative(root: &Path, path: &Path) -> Result<String, SnapshotError> {
    let below = path.strip_prefix(root).expect("the walk stays below its root");
    let bad = |problem: &str| SnapshotError::BadPath { path: below.to_string_lossy().into(), problem: problem.into() };
    let text = below.to_str().ok_or_else(|| bad("is not UTF-8"))?;
    check_relative_path(text).map_err(bad)?;
    Ok(text.to_owned())
}

fn look(
    root: &Path,
    entry: &DirEntry,
    path: String,
    skipped: &mut Vec<String>,
) -> Result<Option<Found>, SnapshotError> {
    if entry.path_is_symlink() {
        let target = link_target(root, entry.path(), &path)?;
        return Ok(Some(Found { path, kind: FoundKind::Link { target } }));
    }
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return Err(walk_error(root, &error)),
    };
    if !metadata.is_file() {
        if skipped.len() < limits::SKIPPED_LISTED {
            skipped.push(path);
        }
        return Ok(None);
    }
    let size_bytes = metadata.len();
    if size_bytes > SNAPSHOT_FILE_BYTES {
        return Err(SnapshotError::FileTooLarge { path, size_bytes });
    }
    let executable = metadata.permissions().mode() & 0o111 != 0;
    Ok(Some(Found { path, kind: FoundKind::File { executable, size_bytes } }))
}

/// The target as the manifest holds it: relative, and inside the root by its words alone.
fn link_target(root: &Path, link: &Path, path: &str) -> Result<String, SnapshotError> {
    let target = std::fs::read_link(link).map_err(|source| SnapshotError::Read { path: path.into(), source })?;
    let outside = || SnapshotError::LinkOutside { path: path.into(), target: target.to_string_lossy().into_owned() };
    let depth = path.matches('/').count();
    let relative: PathBuf = if target.is_absolute() {
        // An absolute link into the directory works on this machine only: keep its meaning, not its words.
        let inside = target.strip_prefix(root).map_err(|_| outside())?;
        let up: PathBuf = std::iter::repeat_n("..", depth).collect();
        let relative = up.join(inside);
        if relative.as_os_str().is_empty() { ".".into() } else { relative }
    } else {
        target.clone()
    };
    let mut level = depth as i64;
    for part in relative.components() {
        match part {
            Component::ParentDir => level -= 1,
            Component::Normal(_) => level += 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
        if level < 0 {
            return Err(outside());
        }
    }
    match relative.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(SnapshotError::BadPath { path: path.into(), problem: "points to a name that is not UTF-8".into() }),
    }
}
