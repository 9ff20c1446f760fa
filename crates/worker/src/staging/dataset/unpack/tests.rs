//! Good archives come out whole, and a corpus of hostile ones does not come out at all.

use super::{super::tree, *};
use ::tar::{EntryType, Header};
use ::zip::{ZipWriter, write::SimpleFileOptions};
use fetchml_api::DatasetKey;
use flate2::{Compression, write::GzEncoder};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
};

struct Rig {
    dir: tempfile::TempDir,
    cache: Arc<Cache>,
}

impl Rig {
    fn new() -> Self {
        Self::with_room(1 << 40)
    }

    fn with_room(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(&dir.path().join("cache"), Some(bytes)).unwrap());
        Self { dir, cache }
    }

    fn unpack(&self, archive: &[u8]) -> Result<PathBuf, SourceError> {
        let key = DatasetKey::of_source(&hex::encode(&archive[..archive.len().min(2_048)]));
        let new = self.cache.new_path();
        fs::write(&new, archive).unwrap();
        let room = self.cache.reserve(archive.len() as u64, 0).unwrap();
        let pin = self.cache.put(Form::File, key, &new, archive.len() as u64, room).unwrap();
        Ok(unpack(&self.cache, &pin, &CancellationToken::new())?.path())
    }

    /// It is refused for good, for this reason, and nothing of it is left, inside or outside.
    fn refuses(&self, what: &str, archive: &[u8], why: &str) {
        let error = self.unpack(archive).expect_err(what);
        assert!(!error.transient, "{what}: {error}");
        assert!(error.message.contains(why), "{what}: {error}");
        for dir in ["new", "unpacked"] {
            assert_eq!(fs::read_dir(self.dir.path().join("cache").join(dir)).unwrap().count(), 0, "{what}: {dir}");
        }
        let outside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(outside, ["cache"], "{what}");
        assert!(!PathBuf::from("/tmp/fetchml-slipped").exists(), "{what}");
    }
}

/// An entry whose name and target stand as they are, whatever they are.
fn entry(kind: EntryType, name: &[u8], target: &[u8], mode: u32, body: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(body.len() as u64);
    let raw = header.as_gnu_mut().unwrap();
    raw.name[..name.len()].copy_from_slice(name);
    raw.linkname[..target.len()].copy_from_slice(target);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, body: &str) -> Vec<u8> {
    entry(EntryType::Regular, name.as_bytes(), b"", 0o644, body.as_bytes())
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0o777, b"")
}

fn special(kind: EntryType, name: &str, target: &str) -> Vec<u8> {
    entry(kind, name.as_bytes(), target.as_bytes(), 0o644, b"")
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend_from_slice(&[0; 1_024]);
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, mode, body) in entries {
        writer.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
        writer.write_all(body).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Sets the whole mode of the first entry in a zip's directory, its type included.
fn with_mode(mut archive: Vec<u8>, mode: u32) -> Vec<u8> {
    let at = archive.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    archive[at + 5] = 3;
    archive[at + 38..at + 42].copy_from_slice(&(mode << 16).to_le_bytes());
    archive
}

#[test]
fn a_tar_comes_out_with_its_files_modes_and_links() {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, mode, body) in
        [("./train/a.csv", 0o600, "1,2\n"), ("run.sh", 0o755, "#!"), (long.as_str(), 0o644, "long")]
    {
        let mut header = Header::new_gnu();
        header.set_mode(mode);
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, name, body.as_bytes()).unwrap();
    }
    let mut archive = builder.into_inner().unwrap();
    archive.truncate(archive.len() - 1_024);
    let more = tar(&[
        special(EntryType::Directory, "./", ""),
        special(EntryType::Directory, "empty/", ""),
        special(EntryType::Regular, "old-style/", ""),
        link("train/up", "../run.sh"),
        link("latest", "train"),
        special(EntryType::Link, "train/b.csv", "train/a.csv"),
        file("twice", "first"),
        file("twice", "second"),
        special(EntryType::XGlobalHeader, "pax_global_header", ""),
    ]);
    archive.extend_from_slice(&more);
    for archive in [archive.clone(), gz(&archive)] {
        let rig = Rig::new();
        let root = rig.unpack(&archive).unwrap();
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(
            (read("train/a.csv"), read("train/b.csv"), read("train/up")),
            ("1,2\n".into(), "1,2\n".into(), "#!".into())
        );
        assert_eq!(
            (read("latest/a.csv"), read("twice"), read(&long)),
            ("1,2\n".into(), "second".into(), "long".into())
        );
        let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("train/a.csv"), mode("run.sh"), mode("train"), mode("")), (0o444, 0o555, 0o555, 0o555));
        assert!(root.join("empty").is_dir() && root.join("old-style").is_dir());
        assert_eq!(fs::metadata(root.join("train/a.csv")).unwrap().nlink(), 2);
        assert!(tree::noted_size(&root).unwrap() > 0);
    }
}

#[test]
fn a_zip_comes_out_with_its_files_modes_and_links() {
    let rig = Rig::new();
    let large = "0123456789".repeat(100_000);
    let archive = zip(&[("a/b/c.csv", 0o644, b"1,2\n"), ("run.sh", 0o755, b"#!"), ("large", 0o600, large.as_bytes())]);
    let root = rig.unpack(&archive).unwrap();
    assert_eq!(fs::read_to_string(root.join("a/b/c.csv")).unwrap(), "1,2\n");
    assert_eq!(fs::read_to_string(root.join("large")).unwrap(), large);
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("run.sh"), mode("large"), mode("a")), (0o555, 0o444, 0o555));
    let linked = with_mode(zip(&[("link", 0o777, b"target"), ("target", 0o644, b"x")]), 0o120_777);
    assert_eq!(fs::read_to_string(rig.unpack(&linked).unwrap().join("link")).unwrap(), "x");
}

/// Paths and links that lead out, in tar, tar.gz and zip.
#[test]
fn nothing_slips_out() {
    let names = [
        "../slipped",
        "a/../../slipped",
        "/tmp/fetchml-slipped",
        "//tmp/fetchml-slipped",
        "./../slipped",
        "./..",
        "..",
        "a/..",
        "a/./b",
        "a//b",
        "a\\..\\b",
        "a\nb",
    ];
    let rig = Rig::new();
    for name in names {
        for archive in [tar(&[file(name, "x")]), gz(&tar(&[file(name, "x")])), zip(&[(name, 0o644, b"x")])] {
            rig.refuses(name, &archive, "path");
        }
        rig.refuses(name, &tar(&[special(EntryType::Directory, name, "")]), "path");
        rig.refuses(name, &tar(&[link(name, "x")]), "path");
        rig.refuses(name, &tar(&[special(EntryType::Link, name, "x")]), "path");
    }
    let targets = [
        "/etc/passwd",
        "..",
        "../..",
        "a/../../x",
        // Harmless by its words, but not when `here` is a link to itself or above.
        "here/../x",
        "./here/.././x",
        "",
    ];
    for target in targets {
        rig.refuses(target, &tar(&[link("here", "."), link("l", target)]), "target");
        if !target.is_empty() {
            let archive = with_mode(zip(&[("l", 0o777, target.as_bytes())]), 0o120_777);
            rig.refuses(target, &archive, "target");
        }
    }
    let below = tar(&[link("d", "."), file("d/x", "x")]);
    rig.refuses("a file below a link", &below, "which is a link");
    let below = tar(&[file("d", "x"), file("d/x", "x")]);
    rig.refuses("a file below a file", &below, "which is a file");
    rig.refuses("a link where a directory is", &tar(&[file("d/x", "x"), link("d", ".")]), "something else too");
    let through = tar(&[link("d", "."), special(EntryType::Link, "h", "d/x")]);
    rig.refuses("another name through a link", &through, "no file before it");
    let early = tar(&[special(EntryType::Link, "h", "later"), file("later", "x")]);
    rig.refuses("another name of what comes later", &early, "no file before it");
    rig.refuses(
        "another name of a link",
        &tar(&[link("l", "x"), special(EntryType::Link, "h", "l")]),
        "no file before it",
    );
    rig.refuses("another name of /etc/passwd", &tar(&[special(EntryType::Link, "h", "/etc/passwd")]), "absolute");
}

#[test]
fn only_files_directories_and_links_are_made() {
    let rig = Rig::new();
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::new(b'V'), EntryType::new(b'M')] {
        rig.refuses("a device", &tar(&[special(kind, "x", "")]), "neither file, directory nor link");
    }
    for mode in [0o020_666, 0o060_666, 0o010_644, 0o140_755] {
        let archive = with_mode(zip(&[("x", 0o644, b"")]), mode);
        rig.refuses("a device in a zip", &archive, "neither file, directory nor link");
    }
    // What a mode says beyond that is not taken over.
    let root = rig.unpack(&tar(&[entry(EntryType::Regular, b"su", b"", 0o6755, b"x")])).unwrap();
    assert_eq!(fs::metadata(root.join("su")).unwrap().permissions().mode() & 0o7777, 0o555);
}

#[test]
fn bombs_go_off_at_their_limits() {
    let rig = Rig::with_room(8 << 20);
    let zeros = vec![0; 64 << 20];
    let bomb = gz(&tar(&[entry(EntryType::Regular, b"zeros", b"", 0o644, &zeros)]));
    assert!(bomb.len() < 1 << 20);
    let error = rig.unpack(&bomb).unwrap_err();
    assert!(error.transient && error.message.contains("--dataset-cache"), "this worker has no room for it: {error}");
    let rig = Rig::new();
    // A name of a gigabyte, packed to a megabyte.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 30);
    header.set_cksum();
    let mut long = header.as_bytes().to_vec();
    long.resize(16 << 20, b'a');
    rig.refuses("a name without end", &gz(&long), "larger than they may be");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 30);
    header.set_cksum();
    let mut pax = header.as_bytes().to_vec();
    pax.resize(16 << 20, b'a');
    rig.refuses("attributes without end", &gz(&pax), "larger than they may be");
    let deep = "d/".repeat(limits::UNPACK_DEPTH_MAX + 1) + "f";
    rig.refuses("too deep", &zip(&[(&deep, 0o644, b"")]), "deeper");
    let mut claims = zip(&[("a", 0o644, b"x")]);
    let at = claims.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").unwrap();
    claims[at + 8..at + 12].copy_from_slice(&[0xff; 4]);
    assert!(!rig.unpack(&claims).unwrap_err().transient, "a zip that claims 65,535 files");
}

#[test]
fn what_is_no_archive_or_half_of_one_is_told() {
    let rig = Rig::new();
    rig.refuses("text", &b"not an archive, but long enough ".repeat(64), "no whole tar");
    let good = gz(&tar(&[file("a", &"x".repeat(10_000))]));
    rig.refuses("half a tar.gz", &good[..good.len() / 2], "no whole tar");
    rig.refuses("half a tar", &tar(&[file("a", &"x".repeat(10_000))])[..5_000], "no whole tar");
    let archive = zip(&[("a", 0o644, &[b'x'; 10_000])]);
    rig.refuses("half a zip", &archive[..archive.len() / 2], "no whole tar");
    let mut flipped = zip(&[("a", 0o644, b"hello, hello, hello")]);
    let at = flipped.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    flipped[at + 16] ^= 1;
    let local = 14;
    flipped[local] ^= 1;
    rig.refuses("a wrong checksum", &flipped, "no whole tar");
    for (magic, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh9", "bzip2")] {
        rig.refuses(name, &[magic, &[0; 1_024]].concat(), name);
    }
    rig.refuses("not UTF-8", &tar(&[entry(EntryType::Regular, b"a\xff", b"", 0o644, b"")]), "not UTF-8");
    assert!(rig.unpack(&tar(&[])).unwrap().is_dir(), "an empty archive is an empty directory");
}

#[test]
fn a_cancelled_one_leaves_nothing() {
    let rig = Rig::new();
    let new = rig.cache.new_path();
    let archive = tar(&[file("a", "x")]);
    fs::write(&new, &archive).unwrap();
    let room = rig.cache.reserve(1, 0).unwrap();
    let pin = rig.cache.put(Form::File, DatasetKey::of_source("x"), &new, 1, room).unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(unpack(&rig.cache, &pin, &cancel).unwrap_err().transient);
    assert_eq!(fs::read_dir(rig.dir.path().join("cache/new")).unwrap().count(), 0);
}
