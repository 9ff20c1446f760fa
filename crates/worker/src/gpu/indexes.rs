//! Which index each device has. NVML counts anew at each start and leaves out what is broken, but an
//! index stands in the server's records for as long as an attempt has the device: so each device keeps
//! the one it got first, also over restarts.

use crate::agent::write_json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

/// Indexes by UUID, kept in a file.
#[derive(Debug)]
pub(super) struct Indexes {
    file: PathBuf,
    of: BTreeMap<String, u32>,
    /// Indexes of attempts that an earlier agent left: their devices may be away for the moment.
    held: BTreeSet<u32>,
    /// What an earlier agent knew and nobody has seen since.
    unseen: BTreeSet<String>,
}

impl Indexes {
    /// As an earlier agent left them. Without a readable file all begins anew, apart from what is held.
    pub(super) fn load(file: PathBuf, held: BTreeSet<u32>) -> Self {
        let of: BTreeMap<String, u32> = match fs::read(&file).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(of)) => of,
            Ok(Err(error)) => {
                tracing::warn!(%error, path = %file.display(), "the indexes of GPUs cannot be read");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        let unseen = of.keys().cloned().collect();
        Self { file, of, held, unseen }
    }

    /// The index of each device, given with the index it would best have.
    pub(super) fn give(&mut self, devices: &[(&str, Option<u32>)]) -> Vec<u32> {
        for (uuid, _) in devices {
            self.unseen.remove(*uuid);
        }
        let before = self.of.len();
        let mut dropped = false;
        for (uuid, preferred) in devices {
            if self.of.contains_key(*uuid) {
                continue;
            }
            let wanted = preferred.filter(|index| self.make_free(*index, &mut dropped));
            let index = wanted.unwrap_or_else(|| {
                (0..=u32::MAX)
                    .find(|index| self.make_free(*index, &mut dropped))
                    .expect("there are more indexes than devices")
            });
            self.of.insert((*uuid).to_owned(), index);
        }
        if dropped || self.of.len() != before {
            self.save();
        }
        devices.iter().map(|(uuid, _)| self.of[*uuid]).collect()
    }

    /// Whether nobody has an index, or one that is gone since before this start and can be forgotten.
    fn make_free(&mut self, index: u32, dropped: &mut bool) -> bool {
        let Some(owner) = self.of.iter().find(|(_, of)| **of == index).map(|(uuid, _)| uuid.clone()) else {
            return true;
        };
        let forgotten = self.unseen.contains(&owner) && !self.held.contains(&index);
        if forgotten {
            self.of.remove(&owner);
            *dropped = true;
        }
        forgotten
    }

    fn save(&self) {
        if let Err(error) = write_json(&self.file, &self.of, true) {
            tracing::error!(%error, path = %self.file.display(), "the indexes of GPUs cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(dir: &tempfile::TempDir, held: &[u32]) -> Indexes {
        Indexes::load(dir.path().join("gpus.json"), held.iter().copied().collect())
    }

    #[test]
    fn a_device_keeps_its_index_whatever_is_listed_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = indexes(&dir, &[]);
        assert_eq!(first.give(&[("a", Some(0)), ("b", Some(1))]), [0, 1]);
        // One is broken and left out: NVML counts the other as the first.
        assert_eq!(first.give(&[("b", Some(0))]), [1]);
        assert_eq!(first.give(&[("b", Some(0)), ("c", Some(1))]), [1, 2], "the first may come back");
        assert_eq!(indexes(&dir, &[]).give(&[("b", Some(0)), ("c", Some(1)), ("a", Some(2))]), [1, 2, 0]);
    }

    #[test]
    fn what_was_away_at_a_start_is_forgotten_unless_an_attempt_has_it() {
        let dir = tempfile::tempdir().unwrap();
        indexes(&dir, &[]).give(&[("a", Some(0)), ("b", Some(1))]);
        assert_eq!(indexes(&dir, &[0]).give(&[("b", Some(0)), ("new", Some(0))]), [1, 2]);
        assert_eq!(indexes(&dir, &[]).give(&[("b", Some(0)), ("newer", Some(0))]), [1, 0]);
    }

    #[test]
    fn parts_take_what_is_free_and_a_broken_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gpus.json"), "{").unwrap();
        assert_eq!(indexes(&dir, &[]).give(&[("MIG-1", None), ("MIG-2", None), ("c", Some(1))]), [0, 1, 2]);
    }
}
