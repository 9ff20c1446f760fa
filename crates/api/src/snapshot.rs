//! Content-addressed snapshots of a working directory.
//!
//! A manifest lists files (path, mode, sha256, size) and symbolic links that stay inside. The id of
//! a snapshot is `sha256:` and the SHA-256 of its canonical manifest: entries sorted by path, JSON
//! without white space, in the field order of the types here.

use crate::{error::Problem, limits, time::Micros};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use utoipa::ToSchema;

/// One file or symbolic link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ManifestEntry {
    /// Path below the snapshot's root, `/` between parts.
    pub path: String,
    /// Permission bits: 420 (0o644) or 493 (0o755); 511 (0o777) for links.
    pub mode: u32,
    /// SHA-256 of the bytes, lower-case hex; absent for a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Size, bytes; 0 for a link.
    pub size_bytes: u64,
    /// Target of a symbolic link, relative, inside the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// All files of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// The files and links, sorted by path when canonical.
    pub entries: Vec<ManifestEntry>,
}

impl Manifest {
    /// Sorts into canonical order and returns the canonical bytes.
    pub fn canonicalize(&mut self) -> Vec<u8> {
        self.entries.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        serde_json::to_vec(self).expect("a manifest has only string keys and finite numbers")
    }

    /// `sha256:<hex>` of canonical bytes.
    pub fn id_of(canonical: &[u8]) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(canonical)))
    }

    /// Every problem of this manifest; empty when it may be stored.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.entries.len() > limits::MANIFEST_FILES {
            problems.push(Problem::new(
                "entries",
                format!(
                    "{} files; at most {} are allowed: add patterns to .fetchmlignore",
                    self.entries.len(),
                    limits::MANIFEST_FILES
                ),
            ));
            return problems;
        }
        let mut seen = HashSet::with_capacity(self.entries.len());
        let links: HashSet<&str> = self.entries.iter().filter(|e| e.link.is_some()).map(|e| e.path.as_str()).collect();
        for (i, entry) in self.entries.iter().enumerate() {
            let mut bad = |problem: String| problems.push(Problem::new(format!("entries[{i}]"), problem));
            if let Err(why) = check_relative_path(&entry.path) {
                bad(format!("path {:?}: {why}", entry.path));
            }
            if !seen.insert(entry.path.as_str()) {
                bad(format!("path {:?} appears twice", entry.path));
            }
            if let Some(parent) = parents(&entry.path).find(|parent| links.contains(parent)) {
                bad(format!("path {:?} lies under the link {parent:?}", entry.path));
            }
            match (&entry.sha256, &entry.link) {
                (Some(sha), None) => {
                    if !is_sha256_hex(sha) {
                        bad(format!("path {:?}: sha256 must be 64 lower-case hex digits", entry.path));
                    }
                    if entry.mode != 0o644 && entry.mode != 0o755 {
                        bad(format!("path {:?}: mode must be 420 (0o644) or 493 (0o755)", entry.path));
                    }
                    if entry.size_bytes > limits::SNAPSHOT_FILE_BYTES {
                        bad(format!(
                            "path {:?}: larger than {} bytes; use a data set",
                            entry.path,
                            limits::SNAPSHOT_FILE_BYTES
                        ));
                    }
                }
                (None, Some(target)) => {
                    if let Err(why) = check_link(&entry.path, target) {
                        bad(format!("link {:?} -> {target:?}: {why}", entry.path));
                    }
                }
                _ => bad(format!("path {:?}: exactly one of sha256 and link is needed", entry.path)),
            }
        }
        // A path that is both a file and the directory of another cannot be laid out.
        for (i, entry) in self.entries.iter().enumerate() {
            if let Some(parent) = parents(&entry.path).find(|p| seen.contains(p) && !links.contains(p)) {
                problems.push(Problem::new(
                    format!("entries[{i}]"),
                    format!("path {:?}: {parent:?} is a file", entry.path),
                ));
            }
        }
        problems
    }

    /// Sum of the file sizes, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.size_bytes).fold(0, u64::saturating_add)
    }
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Whether `text` is 64 lower-case hex digits.
pub fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `text` is `sha256:` and 64 lower-case hex digits.
pub fn is_snapshot_id(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_sha256_hex)
}

/// Checks that a path is relative and stays below its root.
///
/// # Errors
/// Says in words what is wrong with the path.
pub fn check_relative_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if path.len() > limits::PATH_BYTES {
        return Err("is longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return Err("is absolute; only paths below the snapshot are allowed");
    }
    if path.bytes().any(|b| b == 0 || b == b'\\' || b < 0x20 || b == 0x7f) {
        return Err("contains a control character or a backslash");
    }
    for part in path.split('/') {
        match part {
            "" => return Err("has an empty part"),
            "." | ".." => return Err("contains `.` or `..`"),
            part if part.len() > 255 => return Err("has a part longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

fn check_link(path: &str, target: &str) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > limits::PATH_BYTES || target.contains('\0') {
        return Err("the target is empty, too long or contains NUL");
    }
    if target.starts_with('/') {
        return Err("the target is absolute");
    }
    let mut depth = path.matches('/').count() as i64;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return Err("the target leaves the snapshot");
        }
    }
    Ok(())
}

/// Answer of `POST /v1/snapshots`: what is still missing, or the finished snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SnapshotResponse {
    /// `sha256:<hex>` of the canonical manifest.
    pub snapshot_id: String,
    /// SHA-256 of blobs to `PUT /v1/blobs/{sha256}` before posting the manifest again; empty: the
    /// snapshot is stored and may be named by a task.
    pub missing: Vec<String>,
    /// Number of files and links.
    pub file_count: u64,
    /// Sum of the file sizes, bytes.
    pub size_bytes: u64,
    /// When it was first stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Micros>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> ManifestEntry {
        ManifestEntry { path: path.into(), mode: 0o644, sha256: Some("a".repeat(64)), size_bytes: 1, link: None }
    }

    fn link(path: &str, target: &str) -> ManifestEntry {
        ManifestEntry { path: path.into(), mode: 0o777, sha256: None, size_bytes: 0, link: Some(target.into()) }
    }

    #[test]
    fn the_id_does_not_depend_on_the_order_of_entries() {
        let mut a = Manifest { entries: vec![file("b"), file("a/c")] };
        let mut b = Manifest { entries: vec![file("a/c"), file("b")] };
        assert_eq!(Manifest::id_of(&a.canonicalize()), Manifest::id_of(&b.canonicalize()));
        assert!(a.problems().is_empty());
    }

    #[test]
    fn paths_that_leave_the_root_are_found_all_at_once() {
        let manifest = Manifest {
            entries: vec![
                file("../x"),
                file("/etc/passwd"),
                file("a/../../b"),
                file("a//b"),
                link("l", "../out"),
                link("d/l", "../ok"),
                link("abs", "/etc"),
                file("l/under"),
                file("twice"),
                file("twice"),
                file("twice/below"),
            ],
        };
        let fields: Vec<_> = manifest.problems().into_iter().map(|p| p.field).collect();
        assert_eq!(
            fields,
            [
                "entries[0]",
                "entries[1]",
                "entries[2]",
                "entries[3]",
                "entries[4]",
                "entries[6]",
                "entries[7]",
                "entries[9]",
                "entries[10]"
            ]
        );
    }
}
