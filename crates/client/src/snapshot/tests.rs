use super::*;
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, fs::symlink},
    sync::Mutex,
};
use tempfile::TempDir;

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn build(dir: &TempDir) -> Result<Snapshot, SnapshotError> {
    Snapshot::build(dir.path(), &|_| {})
}

fn paths(dir: &TempDir) -> Vec<String> {
    build(dir).unwrap().manifest().entries.iter().map(|entry| entry.path.clone()).collect()
}

#[test]
fn ignore_files_count_without_git_and_some_directories_never_come_along() {
    let dir = directory(&[
        (".gitignore", "*.ckpt\n/data/\n"),
        (".fetchmlignore", "notes.txt\n!keep.ckpt\n"),
        (".git/config", ""),
        (".fetchml/state", ""),
        (".venv/lib/x.py", ""),
        ("myenv/pyvenv.cfg", ""),
        ("myenv/lib/y.py", ""),
        ("lab/__pycache__/a.pyc", ""),
        ("lab/model.py", ""),
        ("lab/.gitignore", "local.py\n"),
        ("lab/local.py", ""),
        ("lab/data/kept", ""),
        ("data/set.bin", ""),
        ("big.ckpt", ""),
        ("keep.ckpt", ""),
        ("notes.txt", ""),
        ("train.py", ""),
        (".hidden", ""),
    ]);
    let expected = [
        ".fetchmlignore",
        ".gitignore",
        ".hidden",
        "keep.ckpt",
        "lab/.gitignore",
        "lab/data/kept",
        "lab/model.py",
        "train.py",
    ];
    assert_eq!(paths(&dir), expected);
}

#[test]
fn ignore_files_above_count_only_inside_a_repository() {
    let dir = directory(&[(".gitignore", "*\n"), ("home/train.py", "")]);
    let below = |dir: &TempDir| Snapshot::build(&dir.path().join("home"), &|_| {}).unwrap().manifest().entries.len();
    assert_eq!(below(&dir), 1);
    fs::create_dir(dir.path().join(".git")).unwrap();
    assert_eq!(below(&dir), 0);
}

#[test]
fn the_id_depends_on_bytes_paths_and_modes_only() {
    let a = directory(&[("x.py", "1"), ("d/y.sh", "2")]);
    let b = directory(&[("d/y.sh", "2"), ("x.py", "1")]);
    let id = |dir: &TempDir| build(dir).unwrap().id().to_owned();
    assert_eq!(id(&a), id(&b));
    fs::set_permissions(b.path().join("d/y.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_ne!(id(&a), id(&b));
    let snapshot = build(&b).unwrap();
    let entry = &snapshot.manifest().entries[0];
    assert_eq!((entry.path.as_str(), entry.mode, entry.size_bytes), ("d/y.sh", 0o755, 1));
    assert_eq!(Manifest::id_of(&snapshot.canonical()), snapshot.id());
}

#[test]
fn links_inside_are_kept_and_links_outside_are_named() {
    let dir = directory(&[("a/real", "x")]);
    symlink("../a/real", dir.path().join("a/relative")).unwrap();
    symlink(dir.path().canonicalize().unwrap().join("a/real"), dir.path().join("a/absolute")).unwrap();
    let snapshot = build(&dir).unwrap();
    let links: Vec<_> = snapshot.manifest().entries.iter().filter_map(|entry| entry.link.as_deref()).collect();
    assert_eq!(links, ["../a/real", "../a/relative"].map(|_| "../a/real"));

    for target in ["/etc/passwd", "../../x", "a/../../x"] {
        let dir = directory(&[]);
        symlink(target, dir.path().join("leak")).unwrap();
        let error = build(&dir).unwrap_err();
        assert_eq!(error.to_string(), format!("the symbolic link \"leak\" leads out of the directory, to {target:?}"));
        assert!(error.hint().unwrap().contains("/leak"));
    }
}

#[test]
fn a_link_to_a_directory_outside_is_not_walked() {
    let outside = directory(&[("secret", "x")]);
    let dir = directory(&[]);
    symlink(outside.path(), dir.path().join("data")).unwrap();
    assert!(matches!(build(&dir), Err(SnapshotError::LinkOutside { .. })));
    fs::write(dir.path().join(".fetchmlignore"), "/data\n").unwrap();
    assert_eq!(paths(&dir), [".fetchmlignore"]);
}

#[test]
fn names_no_manifest_can_hold_are_refused_with_what_to_ignore() {
    let dir = directory(&[("a\\b", "")]);
    let error = build(&dir).unwrap_err();
    assert!(matches!(&error, SnapshotError::BadPath { path, .. } if path == "a\\b"), "{error}");
    assert!(error.hint().unwrap().contains(".fetchmlignore"));
}

#[test]
fn special_files_are_left_out_and_listed() {
    let dir = directory(&[("x", "")]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert_eq!(build(&dir).unwrap().skipped(), ["socket"]);
    assert_eq!(paths(&dir), ["x"]);
}

#[test]
fn a_missing_directory_and_a_file_are_named() {
    let dir = directory(&[("file", "")]);
    for path in ["nothing", "file"] {
        let error = Snapshot::build(&dir.path().join(path), &|_| {}).unwrap_err();
        assert!(error.to_string().contains(path) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn many_files_are_hashed_in_parallel_like_one_by_one() {
    use sha2::{Digest as _, Sha256};
    let dir = directory(&[]);
    for n in 0..300 {
        fs::write(dir.path().join(format!("f{n:03}")), format!("{n}").repeat(n)).unwrap();
    }
    let hashed = Mutex::new(0);
    let snapshot = Snapshot::build(dir.path(), &|progress| {
        if let Progress::Hashed { bytes } = progress {
            *hashed.lock().unwrap() += bytes;
        }
    })
    .unwrap();
    for (n, entry) in snapshot.manifest().entries.iter().enumerate() {
        let text = format!("{n}").repeat(n);
        assert_eq!(entry.path, format!("f{n:03}"));
        assert_eq!(entry.sha256.as_deref(), Some(hex::encode(Sha256::digest(text.as_bytes())).as_str()));
    }
    assert_eq!(hashed.into_inner().unwrap(), snapshot.manifest().size_bytes());
}

#[test]
fn a_file_that_keeps_growing_is_named_after_three_tries() {
    let dir = directory(&[("busy.log", "x")]);
    let path = dir.path().join("busy.log");
    let changes = Mutex::new(0);
    // Progress is told after each read: growing the file there makes every reading see a change.
    let error = Snapshot::build(dir.path(), &|progress| match progress {
        Progress::Hashed { .. } => {
            let length = fs::metadata(&path).unwrap().len();
            if length < 1_000 {
                fs::write(&path, "x".repeat(length as usize + 100)).unwrap();
            }
        }
        Progress::Changed { .. } => *changes.lock().unwrap() += 1,
        _ => {}
    });
    match error {
        // The file grows until it is 1,000 bytes long within one reading or over several.
        Err(SnapshotError::KeepsChanging { path }) => assert_eq!(path, "busy.log"),
        Ok(snapshot) => assert_eq!(snapshot.manifest().size_bytes(), 1_001),
        Err(error) => panic!("{error}"),
    }
    assert!(*changes.lock().unwrap() >= 1);
}

#[test]
fn the_fullest_part_is_named_when_there_are_too_many_files() {
    let (largest, files) = walk::largest_part(["a/x", "data/1", "data/2", "train.py"].into_iter());
    assert_eq!((largest.as_str(), files), ("data/", 2));
    let hint = SnapshotError::TooManyFiles { largest, files }.hint().unwrap();
    assert_eq!(hint, "\"data/\" holds 2 of them: add `/data/` to .fetchmlignore to leave it out");
}
