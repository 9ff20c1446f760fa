//! tar, as GNU, BSD and POSIX write it.

use super::{
    super::source::definite,
    Budget,
    builder::{Builder, damaged},
};
use crate::{limits, staging::SourceError};
use std::io::Read;
use tar::{Archive, Entry, EntryType};

/// Reads all entries.
pub(super) fn read(from: impl Read, builder: &mut Builder<'_>) -> Result<(), SourceError> {
    let (from, budget) = Budget::new(from);
    let mut archive = Archive::new(from);
    let mut entries = archive.entries().map_err(|error| damaged(&error))?;
    loop {
        // Long names and attributes are read into memory before their entry is given.
        budget.set(limits::UNPACK_HEADER_BYTES);
        let Some(entry) = entries.next() else { return Ok(()) };
        let entry = entry.map_err(|error| damaged(&error))?;
        budget.set(u64::MAX);
        take(entry, builder)?;
    }
}

fn take(mut entry: Entry<'_, impl Read>, builder: &mut Builder<'_>) -> Result<(), SourceError> {
    let name = entry.path_bytes().into_owned();
    let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
    let kind = entry.header().entry_type();
    match kind {
        EntryType::Directory => builder.dir(&name),
        // The old way to write a directory.
        EntryType::Regular if name.ends_with(b"/") => builder.dir(&name),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
            builder.file(&name, executable, &mut entry)
        }
        EntryType::Symlink => builder.link(&name, &target.unwrap_or_default()),
        EntryType::Link => builder.hard_link(&name, &target.unwrap_or_default()),
        // Says something of all that follow; nothing that counts here.
        EntryType::XGlobalHeader => Ok(()),
        _ => Err(definite(format!(
            "it holds {:?}, which is neither file, directory nor link",
            String::from_utf8_lossy(&name)
        ))),
    }
}
