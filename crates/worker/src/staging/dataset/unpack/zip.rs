//! zip, stored or deflated.

use super::{
    super::source::definite,
    Budget,
    builder::{Builder, damaged},
};
use crate::{limits, staging::SourceError};
use std::{
    fs::File,
    io::{self, BufReader, Read as _},
};
use zip::{ZipArchive, read::ZipFile, result::ZipError};

const TYPE: u32 = 0o170_000;
const TYPE_REGULAR: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;

/// Reads all entries.
pub(super) fn read(file: File, builder: &mut Builder<'_>) -> Result<(), SourceError> {
    let (from, budget) = Budget::new(BufReader::with_capacity(limits::HASH_BUFFER_BYTES, file));
    // The directory at the end is read into memory whole.
    budget.set(limits::UNPACK_ZIP_DIRECTORY_BYTES);
    let mut archive = ZipArchive::new(from).map_err(fault)?;
    budget.set(u64::MAX);
    if archive.len() as u64 > limits::UNPACK_ENTRIES_MAX {
        return Err(definite(format!("it holds more than {} files", limits::UNPACK_ENTRIES_MAX)));
    }
    for index in 0..archive.len() {
        take(archive.by_index(index).map_err(fault)?, builder)?;
    }
    Ok(())
}

fn take(mut entry: ZipFile<'_, impl io::Read>, builder: &mut Builder<'_>) -> Result<(), SourceError> {
    let name = entry.name().map_err(fault)?.as_bytes().to_vec();
    let mode = entry.unix_mode();
    if entry.is_dir() {
        return builder.dir(&name);
    }
    if entry.is_symlink() {
        let mut target = Vec::new();
        let most = fetchml_api::limits::PATH_BYTES as u64 + 1;
        entry.take(most).read_to_end(&mut target).map_err(|error| damaged(&error))?;
        return builder.link(&name, &target);
    }
    match mode.map(|mode| mode & TYPE) {
        None | Some(0 | TYPE_REGULAR | TYPE_DIRECTORY) => {}
        Some(_) => {
            let name = String::from_utf8_lossy(&name);
            return Err(definite(format!("it holds {name:?}, which is neither file, directory nor link")));
        }
    }
    let executable = mode.is_some_and(|mode| mode & 0o111 != 0);
    builder.file(&name, executable, &mut entry)
}

fn fault(error: ZipError) -> SourceError {
    match error {
        ZipError::UnsupportedArchive(what) => definite(format!("it is a zip archive that cannot be unpacked: {what}")),
        error => damaged(&io::Error::other(error)),
    }
}
