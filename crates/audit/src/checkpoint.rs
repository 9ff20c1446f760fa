//! Checkpoints: what the log was at some size, signed (`c2sp.org/tlog-checkpoint`). Three lines as there, then lines of
//! ours: the head of the chain, when it was made, and where a key or a restored database takes over.

use crate::{
    chain::{Hash, genesis_hash},
    note::{Note, NoteError, SigningKey, VerifierKey},
    tree::Frontier,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use fetchml_api::Micros;
use std::fmt::Write;

/// Begins the origin of every log.
const ORIGIN_PREFIX: &str = "fetchml-audit/";

/// First line of a log's checkpoints, and the name of its keys.
pub fn origin(log_id: &str) -> String {
    format!("{ORIGIN_PREFIX}{log_id}")
}

/// What a log was at some size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The log.
    pub log_id: String,
    /// Number of events.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Hash of the last of them, or of the genesis.
    pub head: Hash,
    /// When it was made.
    pub at: Micros,
    /// The key that signs from here on: whoever believes this checkpoint believes it too.
    pub next_key: Option<VerifierKey>,
    /// What was given up when an older database was restored and accepted.
    pub replaces: Option<Replaced>,
}

/// A log's end that was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// Events up to this number were kept.
    pub kept: u64,
    /// Number of events that there had been.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

/// Why a checkpoint is not one to believe.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The note or its signatures.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The signed text is not that of a checkpoint.
    #[error("the signed text is not a checkpoint of an audit log")]
    Text,
}

impl Checkpoint {
    /// The log as it is. `tree` and `head` must be of the same events.
    pub fn new(log_id: impl Into<String>, tree: &Frontier, head: Hash, at: Micros) -> Self {
        let log_id = log_id.into();
        Self { log_id, size: tree.size(), root: tree.root(), head, at, next_key: None, replaces: None }
    }

    /// The text that is signed.
    pub fn text(&self) -> String {
        let Self { log_id, size, root, head, at, next_key, replaces } = self;
        let root = STANDARD.encode(root);
        let mut text = format!("{}\n{size}\n{root}\nhead {}\ntime {at}\n", origin(log_id), hex::encode(head));
        if let Some(key) = next_key {
            writeln!(text, "next-key {key}").expect("a String takes all");
        }
        if let Some(Replaced { kept, size, root }) = replaces {
            writeln!(text, "replaces {kept} {size} {}", STANDARD.encode(root)).expect("a String takes all");
        }
        text
    }

    /// Reads the text of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Text`] when it is not exactly what [`Checkpoint::text`] writes.
    pub fn parse_text(text: &str) -> Result<Self, CheckpointError> {
        let checkpoint = Self::read(text).ok_or(CheckpointError::Text)?;
        // Whatever else would mean the same is not what was written.
        if checkpoint.text() == text && checkpoint.is_possible() { Ok(checkpoint) } else { Err(CheckpointError::Text) }
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n').peekable();
        let log_id = lines.next()?.strip_prefix(ORIGIN_PREFIX)?.to_owned();
        let size = lines.next()?.parse().ok()?;
        let root = hash_of_base64(lines.next()?)?;
        let mut head = [0; 32];
        hex::decode_to_slice(lines.next()?.strip_prefix("head ")?, &mut head).ok()?;
        let at = lines.next()?.strip_prefix("time ")?.parse().ok()?;
        let next_key = match lines.next_if(|line| line.starts_with("next-key ")) {
            Some(line) => Some(line.strip_prefix("next-key ")?.parse().ok()?),
            None => None,
        };
        let replaces = match lines.next() {
            Some(line) => Some(Replaced::read(line.strip_prefix("replaces ")?)?),
            None => None,
        };
        lines.next().is_none().then_some(Self { log_id, size, root, head, at, next_key, replaces })
    }

    /// Whether what it says of an empty log and of what it replaces can be.
    fn is_possible(&self) -> bool {
        let empty = self.size != 0 || (self.root, self.head) == (Frontier::new().root(), genesis_hash(&self.log_id));
        empty && self.replaces.is_none_or(|replaced| replaced.kept <= self.size && replaced.kept < replaced.size)
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`NoteError::Note`] when there are no keys or too many.
    pub fn sign(&self, keys: &[&SigningKey]) -> Result<Note, NoteError> {
        Note::sign(self.text(), keys)
    }
}

impl Replaced {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (kept, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let root = hash_of_base64(words.next()?)?;
        words.next().is_none().then_some(Self { kept, size, root })
    }
}

fn hash_of_base64(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Keys whose checkpoints are believed. Grows where one of them hands over to another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrustedKeys(Vec<VerifierKey>);

impl TrustedKeys {
    /// These keys.
    pub fn new(keys: impl IntoIterator<Item = VerifierKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// The keys.
    pub fn keys(&self) -> &[VerifierKey] {
        &self.0
    }

    /// Reads a signed checkpoint. From one that hands over to another key on, that one is trusted too.
    ///
    /// # Errors
    /// [`CheckpointError`] when no trusted key signed it, a signature does not fit, or the text is no checkpoint.
    pub fn open(&mut self, note: &Note) -> Result<Checkpoint, CheckpointError> {
        note.verify(&self.0)?;
        let checkpoint = Checkpoint::parse_text(note.text())?;
        if let Some(next) = &checkpoint.next_key
            && !self.0.contains(next)
        {
            self.0.push(next.clone());
        }
        Ok(checkpoint)
    }
}

/// Those of a log's checkpoints, in the order in which they were made, that still stand: one which replaces a log's
/// end voids all before it that are of that end.
pub fn standing(history: impl IntoIterator<Item = Checkpoint>) -> Vec<Checkpoint> {
    let mut standing: Vec<Checkpoint> = Vec::new();
    for checkpoint in history {
        if let Some(replaced) = checkpoint.replaces {
            standing.retain(|earlier| earlier.size <= replaced.kept);
        }
        standing.push(checkpoint);
    }
    standing
}
