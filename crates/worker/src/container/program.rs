//! A copy of this program for containers to see: with the libraries it runs with and their loader, so that it runs in
//! any image, whatever libraries that has or lacks. One for each version, below the worker's data directory, where it
//! stays when the program on disk is replaced.

use crate::shim::INIT;
use rustix::fs::{AtFlags, CWD, linkat};
use std::{
    collections::BTreeSet,
    fs::{self, Metadata, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

const OWN: &str = "/proc/self/exe";
/// Its name in the copy.
const NAME: &str = "fetchml";

/// A copy.
#[derive(Debug)]
pub(super) struct Program {
    /// The directory that is mounted.
    pub(super) dir: PathBuf,
    /// Name of the loader in it; none: a program without libraries.
    loader: Option<String>,
}

impl Program {
    /// The copy of this very program below `base`, made if it is not there.
    pub(super) fn at_hand(base: &Path) -> io::Result<Self> {
        let own = fs::metadata(OWN)?;
        let libraries = libraries(&fs::read_to_string("/proc/self/maps")?);
        let loader = libraries.iter().filter_map(|path| path.file_name()?.to_str()).find(|name| is_loader(name));
        let program = Self { dir: base.join(key(&own)), loader: loader.map(ToOwned::to_owned) };
        if !program.dir.exists() {
            program.make(base, &own, &libraries)?;
        }
        Ok(program)
    }

    /// In a directory of its own first: another runner may do the same.
    fn make(&self, base: &Path, own: &Metadata, libraries: &BTreeSet<PathBuf>) -> io::Result<()> {
        fs::create_dir_all(base)?;
        let new = base.join(format!("new-{}", std::process::id()));
        let _ = fs::remove_dir_all(&new);
        fs::create_dir(&new)?;
        let program = new.join(NAME);
        let open_to_all = own.mode() & 0o005 == 0o005;
        if !open_to_all || linkat(CWD, OWN, CWD, &program, AtFlags::SYMLINK_FOLLOW).is_err() {
            fs::copy(OWN, &program)?;
            fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        }
        for library in libraries {
            let name = library.file_name().ok_or(io::ErrorKind::InvalidData)?;
            fs::copy(library, new.join(name))
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", library.display())))?;
            fs::set_permissions(new.join(name), Permissions::from_mode(0o755))?;
        }
        fs::set_permissions(&new, Permissions::from_mode(0o755))?;
        match fs::rename(&new, &self.dir) {
            Err(_) if self.dir.exists() => fs::remove_dir_all(&new),
            other => other,
        }
    }

    /// What a container starts: [`crate::shim::init_main`] with the way to the runner.
    pub(super) fn command(&self, link: &str) -> Vec<String> {
        let within = |name: &str| format!("{}/{name}", super::blueprint::PROGRAM_DIR);
        let mut words = Vec::new();
        if let Some(loader) = &self.loader {
            words.extend([within(loader), "--library-path".to_owned(), super::blueprint::PROGRAM_DIR.to_owned()]);
        }
        words.extend([within(NAME), INIT.to_owned(), link.to_owned()]);
        words
    }
}

/// Another file has another key, also when it has the same path.
fn key(own: &Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}",
        own.dev(),
        own.ino(),
        own.size(),
        own.mtime_nsec().cast_unsigned() ^ own.mtime().cast_unsigned()
    )
}

/// Libraries in this process' memory, the loader among them.
fn libraries(maps: &str) -> BTreeSet<PathBuf> {
    let paths = maps.lines().filter_map(|line| Some(Path::new(line.get(line.find('/')?..)?)));
    let is_library = |path: &&Path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_library);
    paths.filter(is_library).map(Path::to_owned).collect()
}

fn is_library(name: &str) -> bool {
    is_loader(name) || format!("{name}.").contains(".so.")
}

fn is_loader(name: &str) -> bool {
    name.starts_with("ld-") || name.starts_with("ld.so") || name.starts_with("ld64.so")
}

/// Removes copies that are not this program's; what runs from one keeps it.
pub(crate) fn forget_others(base: &Path, current: &Path) {
    let Ok(own) = fs::metadata(current) else { return };
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_str() != Some(&key(&own)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_process_are_those_it_has_in_memory() {
        let maps = "\
55d0-55d1 r--p 00000000 fe:00 12 /opt/a b/fetchml
7f00-7f01 r-xp 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6
7f01-7f02 r--p 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6
7f02-7f03 r--p 00000000 fe:00 14 /usr/lib/locale/locale-archive
7f04-7f05 r--p 00000000 fe:00 15 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
7ffe-7fff rw-p 00000000 00:00 0 [stack]
";
        let found: Vec<PathBuf> = libraries(maps).into_iter().collect();
        assert_eq!(
            found,
            ["/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu/libc.so.6"]
                .map(PathBuf::from)
        );
    }

    #[test]
    fn a_copy_runs_by_its_own_loader_and_an_older_one_is_forgotten() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("old")).unwrap();
        let program = Program::at_hand(base.path()).unwrap();
        let again = Program::at_hand(base.path()).unwrap();
        assert_eq!(program.dir, again.dir);
        forget_others(base.path(), Path::new(OWN));
        assert!(program.dir.exists() && !base.path().join("old").exists());
        let local = |word: &String| word.replace(super::super::blueprint::PROGRAM_DIR, program.dir.to_str().unwrap());
        let words: Vec<String> = program.command("/link").iter().map(local).collect();
        let init = words.iter().position(|word| word == INIT).unwrap();
        // Without a library path of the system's: a broken one would show.
        let output = std::process::Command::new(&words[0])
            .args(&words[1..init])
            .arg("--list")
            .env("LD_LIBRARY_PATH", "/nonexistent")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
