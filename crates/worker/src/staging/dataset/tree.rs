//! Directories of the cache that hold the files of an archive: what they take, and how they are removed although
//! nothing in them may be written.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

/// Ending of the file that notes a tree's size.
const SIZE: &str = "size";

/// What a tree takes, bytes.
pub(super) fn size_bytes(root: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(root)?;
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(root)? {
            bytes += size_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}

/// Notes what a tree takes beside it: measuring a million files again at each start would take long.
pub(super) fn note_size(root: &Path, bytes: u64) -> io::Result<()> {
    fs::write(root.with_extension(SIZE), bytes.to_string())
}

/// What was noted; measured where nothing was.
pub(super) fn noted_size(root: &Path) -> io::Result<u64> {
    let noted = fs::read_to_string(root.with_extension(SIZE)).ok().and_then(|text| text.parse().ok());
    noted.map_or_else(|| size_bytes(root), Ok)
}

/// Forgets what was noted of a tree that is gone.
pub(super) fn forget_size(root: &Path) {
    let _ = fs::remove_file(root.with_extension(SIZE));
}

/// Moves a file or tree. Only root may move a directory that its owner may not write: the entry for its parent changes.
pub(super) fn relocate(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if !metadata.is_dir() {
        return fs::rename(from, to);
    }
    let permissions = metadata.permissions();
    fs::set_permissions(from, fs::Permissions::from_mode(permissions.mode() | 0o200))?;
    fs::rename(from, to)?;
    fs::set_permissions(to, permissions)
}

/// Removes a file or tree; what cannot be removed is told and left.
pub(super) fn remove(path: &Path) {
    if let Err(error) = try_remove(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a data set cannot be deleted");
    }
}

fn try_remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    make_writable(path)?;
    fs::remove_dir_all(path)
}

fn make_writable(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_tree_is_measured_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
        for part in ["a/b", "a", ""] {
            fs::set_permissions(tree.join(part), fs::Permissions::from_mode(0o555)).unwrap();
        }
        assert!((1 << 20..2 << 20).contains(&size_bytes(&tree).unwrap()));
        remove(&tree);
        assert!(!tree.exists() && Path::new("/etc/passwd").exists());
        remove(&tree);
    }
}
