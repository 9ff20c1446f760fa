//! Sealing of values: AES-256-GCM-SIV under a key that lies outside of the database. What a value belongs to
//! is authenticated with it, so that no row can stand in for another.

use crate::data_dir::{DataDir, DataDirError};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use fetchml_api::{SecretRecord, SecretText};
use secrecy::zeroize::Zeroizing;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Name of the file with the keys: a line for each, its version and 64 hex digits.
const KEY_FILE: &str = "secrets.key";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// What a sealed value is longer than the value, bytes.
pub(super) const OVERHEAD_BYTES: usize = NONCE_LEN + TAG_BYTES;

/// Why a sealed value cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Its key is not there.
    #[error("the key that sealed it is not in secrets.key")]
    KeyMissing,
    /// It was changed, belongs elsewhere, or its key is another than it says.
    #[error("it does not authenticate")]
    Forged,
}

/// The keys, by version.
pub(super) struct SealKeys(BTreeMap<u32, RandomizedNonceKey>);

impl SealKeys {
    /// Reads the key file; when there is none, draws a key with a version above `used`, the highest in the database.
    ///
    /// # Errors
    /// The file cannot be read, written or understood, or no key drawn.
    pub(super) fn load(data_dir: &DataDir, used: u32) -> Result<Self, DataDirError> {
        let text = if let Some(bytes) = data_dir.read_secret(KEY_FILE)? {
            Zeroizing::new(bytes)
        } else {
            if used > 0 {
                tracing::warn!(
                    "{KEY_FILE} is missing from the data directory: no secret that was set before can be read, and \
                     each must be set again"
                );
            }
            let text = draw(used.saturating_add(1)).map_err(|why| data_dir.unusable(why))?;
            data_dir.write_secret(KEY_FILE, &text)?;
            text
        };
        Self::parse(&text).ok_or_else(|| {
            data_dir.unusable(format!("the file `{KEY_FILE}` does not hold a version and 64 hex digits"))
        })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut keys = BTreeMap::new();
        for line in std::str::from_utf8(text).ok()?.lines() {
            let (version, digits) = line.split_once(' ')?;
            let mut bytes = Zeroizing::new([0; KEY_BYTES]);
            hex::decode_to_slice(digits, &mut *bytes).ok()?;
            keys.insert(version.parse().ok()?, RandomizedNonceKey::new(&AES_256_GCM_SIV, &*bytes).ok()?);
        }
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Seals a value into `record`, under the newest key.
    pub(super) fn seal(&self, record: &mut SecretRecord, value: &SecretText) {
        let (version, key) = self.0.last_key_value().expect("never without a key");
        record.key_version = *version;
        // With room for all, so that no copy of the value is left behind where it grew.
        let mut text = Vec::with_capacity(value.expose().len() + TAG_BYTES);
        text.extend_from_slice(value.expose().as_bytes());
        let nonce = key
            .seal_in_place_append_tag(Aad::from(belongs(record)), &mut text)
            .expect("random numbers were there at the start, and the value is short");
        record.sealed = [&nonce.as_ref()[..], &text].concat();
    }

    /// The value of a record.
    pub(super) fn open(&self, record: &SecretRecord) -> Result<SecretText, OpenError> {
        let key = self.0.get(&record.key_version).ok_or(OpenError::KeyMissing)?;
        let (nonce, text) = record.sealed.split_at_checked(NONCE_LEN).ok_or(OpenError::Forged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Forged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let text = key.open_in_place(nonce, Aad::from(belongs(record)), &mut text).map_err(|_| OpenError::Forged)?;
        let text = std::str::from_utf8(text).map_err(|_| OpenError::Forged)?;
        Ok(SecretText::from(text.to_owned()))
    }
}

/// A line of the key file.
fn draw(version: u32) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(|e| format!("no random numbers: {e}"))?;
    let digits = Zeroizing::new(hex::encode(*key));
    Ok(Zeroizing::new(format!("{version} {}\n", &*digits).into_bytes()))
}

/// What a value belongs to: each part with its length, so that no two lists of parts are the same bytes.
fn belongs(record: &SecretRecord) -> Vec<u8> {
    let SecretRecord { id, user_id, name, key_version, created_at: _, updated_at: _, sealed: _ } = record;
    let id: &Uuid = id;
    let parts: [&[u8]; 5] =
        [b"fetchml/secret/v1", &key_version.to_be_bytes(), id.as_bytes(), user_id.as_bytes(), name.as_bytes()];
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::Micros;

    fn record(n: u128, user: &str, name: &str) -> SecretRecord {
        SecretRecord {
            id: Uuid::from_u128(n),
            user_id: user.into(),
            name: name.into(),
            created_at: Micros(1),
            updated_at: Micros(2),
            key_version: 0,
            sealed: Vec::new(),
        }
    }

    fn keys(used: u32) -> (tempfile::TempDir, DataDir, SealKeys) {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::take(&parent.path().join("data")).unwrap();
        let keys = SealKeys::load(&dir, used).unwrap();
        (parent, dir, keys)
    }

    #[test]
    fn a_value_opens_only_where_it_was_sealed() {
        let (_parent, dir, keys) = keys(0);
        let mut sealed = record(1, "ann", "TOKEN");
        keys.seal(&mut sealed, &"canary-value".to_owned().into());
        assert_eq!(sealed.key_version, 1);
        assert_eq!(sealed.sealed.len(), "canary-value".len() + OVERHEAD_BYTES);
        assert!(!sealed.sealed.windows(6).any(|part| part == b"canary"));
        assert_eq!(keys.open(&sealed).unwrap().expose(), "canary-value");
        assert_eq!(SealKeys::load(&dir, 1).unwrap().open(&sealed).unwrap().expose(), "canary-value", "after a restart");

        let elsewhere = |change: fn(&mut SecretRecord)| {
            let mut moved = sealed.clone();
            change(&mut moved);
            keys.open(&moved).map(|value| value.expose().to_owned())
        };
        let moves: [fn(&mut SecretRecord); 6] = [
            |r| r.user_id = "bob".into(),
            |r| r.name = "OTHER".into(),
            |r| r.id = Uuid::from_u128(2),
            |r| r.sealed[0] ^= 1,
            |r| *r.sealed.last_mut().unwrap() ^= 1,
            |r| r.sealed.truncate(5),
        ];
        for (i, change) in moves.into_iter().enumerate() {
            assert_eq!(elsewhere(change), Err(OpenError::Forged), "{i}");
        }
        assert_eq!(elsewhere(|r| r.key_version = 9), Err(OpenError::KeyMissing));
        // Parts that run together are other parts.
        assert_ne!(belongs(&record(1, "ab", "c")), belongs(&record(1, "a", "bc")));
    }

    #[test]
    fn the_same_value_is_never_sealed_the_same() {
        let (_parent, _dir, keys) = keys(0);
        let (mut a, mut b) = (record(1, "ann", "A"), record(1, "ann", "A"));
        for record in [&mut a, &mut b] {
            keys.seal(record, &"x".to_owned().into());
        }
        assert_ne!(a.sealed, b.sealed);
    }

    #[test]
    fn a_lost_key_file_gives_a_key_of_another_version_and_a_broken_one_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_parent, dir, old) = keys(0);
        let mut sealed = record(1, "ann", "A");
        old.seal(&mut sealed, &"x".to_owned().into());
        let file = dir.join(KEY_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(&file).unwrap();
        let new = SealKeys::load(&dir, 1).unwrap();
        assert_eq!(new.open(&sealed).unwrap_err(), OpenError::KeyMissing);
        let mut again = record(2, "ann", "A");
        new.seal(&mut again, &"y".to_owned().into());
        assert_eq!(again.key_version, 2);

        // Two keys: the newest seals, both open.
        let second = std::fs::read_to_string(&file).unwrap();
        let third = second.replacen('2', "3", 1);
        std::fs::write(&file, format!("{second}{third}")).unwrap();
        let both = SealKeys::load(&dir, 2).unwrap();
        assert_eq!(both.open(&again).unwrap().expose(), "y");
        both.seal(&mut again, &"z".to_owned().into());
        assert_eq!(again.key_version, 3);
        for broken in ["", "1", "1 abc", "x 00"] {
            std::fs::write(&file, broken).unwrap();
            assert!(SealKeys::load(&dir, 0).is_err(), "{broken:?}");
        }
    }
}
