//! Unpacks an archive into a directory of the cache. Nothing of an archive is trusted: no path leads out, no link
//! does, nothing but files, directories and links is made, and count, size and depth are bounded.

mod builder;
mod tar;
mod zip;

use super::{
    cache::{Cache, Form, Pin},
    source::{definite, transient},
};
use crate::{limits, staging::SourceError};
use builder::Builder;
use flate2::read::MultiGzDecoder;
use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    rc::Rc,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Unpacks the archive that `archive` keeps. Blocks. Ends early when cancelled.
pub(super) fn unpack(cache: &Arc<Cache>, archive: &Pin, cancel: &CancellationToken) -> Result<Pin, SourceError> {
    let key = archive.sha256();
    let file = File::open(archive.path()).map_err(|error| disk(&error))?;
    let root = cache.new_path();
    let made = Builder::new(cache, &root, archive.size_bytes(), cancel).and_then(|mut builder| {
        read(file, &mut builder)?;
        builder.finish()
    });
    let kept =
        made.and_then(|made| cache.put(Form::Tree, key, &root, made.bytes, made.room).map_err(|error| disk(&error)));
    match kept {
        Ok(pin) => {
            // Whoever needs it unpacked finds the tree.
            cache.demote(Form::File, key);
            Ok(pin)
        }
        Err(error) => {
            super::tree::remove(&root);
            Err(error)
        }
    }
}

fn read(mut file: File, builder: &mut Builder<'_>) -> Result<(), SourceError> {
    let mut magic = [0; 4];
    let length = file.read(&mut magic).map_err(|error| disk(&error))?;
    file.seek(SeekFrom::Start(0)).map_err(|error| disk(&error))?;
    match &magic[..length] {
        [0x1f, 0x8b, ..] => {
            let packed = BufReader::with_capacity(limits::DATASET_READ_BYTES, file);
            tar::read(MultiGzDecoder::new(packed), builder)
        }
        b"PK\x03\x04" | b"PK\x05\x06" => zip::read(file, builder),
        [0xfd, b'7', b'z', b'X'] => Err(unknown("an xz file")),
        [0x28, 0xb5, 0x2f, 0xfd] => Err(unknown("a zstd file")),
        [b'B', b'Z', b'h', ..] => Err(unknown("a bzip2 file")),
        _ => tar::read(BufReader::with_capacity(limits::DATASET_READ_BYTES, file), builder),
    }
}

fn unknown(what: &str) -> SourceError {
    definite(format!("it is {what}; only tar, tar.gz and zip archives are unpacked"))
}

fn disk(error: &io::Error) -> SourceError {
    transient(format!("the worker's disk: {error}"))
}

/// A reader that gives so many bytes and then fails: what a library reads into memory by itself stays bounded.
struct Budget<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R> Budget<R> {
    fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
        let left = Rc::new(Cell::new(u64::MAX));
        (Self { inner, left: Rc::clone(&left) }, left)
    }
}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("its names and attributes are larger than they may be"));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Budget<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests;
