//! A mount namespace of a root worker's sandbox, made before its user is dropped: what the sandbox needs
//! is bound, at its own path, over parents that the dropped user could not walk through (root's home, a
//! `mktemp -d`). Nothing of it reaches the machine's own mounts.

use super::confine::{Confinement, Layer};
use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, mount_remount,
        move_mount, open_tree,
    },
};
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Enters a namespace in which `confinement` can be carried out as its user.
pub(super) fn enter(confinement: &Confinement) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let mut covers = Vec::new();
    if confinement.layer == Layer::Landlock {
        // Here nothing else keeps the user from paths that permissions allow.
        covers.push(topmost_closed(&confinement.hidden).unwrap_or_else(|| confinement.hidden.clone()));
    }
    for mount in &confinement.mounts {
        covers.extend(topmost_closed(&mount.source));
    }
    covers.sort();
    covers.dedup();
    // A cover hides those below it.
    let covers: Vec<PathBuf> = covers
        .iter()
        .filter(|path| !covers.iter().any(|other| other != *path && path.starts_with(other)))
        .cloned()
        .collect();
    // Everything is opened before anything is covered.
    let mut binds = Vec::new();
    for mount in &confinement.mounts {
        if covers.iter().any(|cover| mount.source.starts_with(cover)) {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(CWD, &mount.source, flags).map_err(|error| at(&mount.source, error))?;
            binds.push((mount, tree, fs::metadata(&mount.source)?.is_dir()));
        }
    }
    let options = CString::new("mode=0755,size=1m").expect("no zero byte");
    for cover in &covers {
        mount("fetchml", cover, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
            .map_err(|error| at(cover, error))?;
    }
    for (mount, tree, is_dir) in binds {
        bind(&mount.source, &tree, is_dir)?;
        if !mount.writable {
            mount_remount(&mount.source, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, "")
                .map_err(|error| at(&mount.source, error))?;
        }
    }
    Ok(())
}

fn bind(target: &Path, tree: &OwnedFd, is_dir: bool) -> io::Result<()> {
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create(target)?;
    }
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(|error| at(target, error))
}

/// The topmost directory on the way to `path` that not everybody may walk through.
fn topmost_closed(path: &Path) -> Option<PathBuf> {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
    parents.reverse();
    let closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    parents.into_iter().find(closed).map(Path::to_owned)
}

fn at(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_closed_parent_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("a/b/c");
        fs::create_dir_all(&open).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(topmost_closed(&open), None);
        fs::set_permissions(dir.path().join("a/b"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(topmost_closed(&open), Some(dir.path().join("a/b")));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(topmost_closed(&open), Some(dir.path().to_owned()));
    }
}
