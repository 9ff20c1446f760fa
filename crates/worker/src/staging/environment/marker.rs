//! The file that makes an environment count: written last, with its size. Its time is when the environment was last
//! used.

use crate::shim::boot_id;
use rustix::fs::syncfs;
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Where it is.
pub(in crate::staging) fn path(root: &Path) -> PathBuf {
    root.join(".ready")
}

/// Says that all of `root`, which takes so many bytes, is there, once all of it is on disk.
pub(in crate::staging) fn write(root: &Path, size_bytes: u64) -> io::Result<()> {
    let path = path(root);
    // Builders may have left anything under that name.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let marker = File::create_new(path)?;
    writeln!(&marker, "{}\n{size_bytes}", boot_id()?)?;
    syncfs(&marker)?;
    Ok(())
}

/// The marker, and the size of its environment; `None` when there is none. What an older version wrote says no size:
/// it is measured.
pub(in crate::staging) fn read(root: &Path) -> io::Result<Option<(fs::Metadata, u64)>> {
    let path = path(root);
    let metadata = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        // A builder's, not ours.
        return Ok(None);
    }
    let text = fs::read_to_string(&path)?;
    let noted = text.lines().nth(1).and_then(|line| line.parse().ok());
    let size_bytes = match noted {
        Some(size_bytes) => size_bytes,
        None => size_of(root)?,
    };
    Ok(Some((metadata, size_bytes)))
}

/// What a tree takes on the disk, bytes.
pub(super) fn size_of(root: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += size_of(&entry.path())?;
        }
    }
    Ok(bytes)
}
