//! Signed notes and their keys as C2SP writes them (`c2sp.org/signed-note`), with Ed25519 only: text, an empty line,
//! and a line for each signature. Read strictly: what would be written otherwise is refused.

use crate::limits::{KEY_NAME_BYTES, NOTE_BYTES, NOTE_SIGNATURES};
use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::Signer;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// Begins a line of a signature: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";
/// Type of a key and of its signatures.
const ED25519: u8 = 0x01;
/// Begins the text of a signing key.
const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";

/// Why a text is not a note or a key, or a note not one to believe.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoteError {
    /// The text is not a signed note.
    #[error("not a signed note: {0}")]
    Note(&'static str),
    /// The text is not a key.
    #[error("not an Ed25519 key of the form NAME+ID+BASE64: {0}")]
    Key(&'static str),
    /// A signature in the name of a known key is not by it.
    #[error("the signature of {0} does not fit")]
    Signature(String),
    /// No signature is by a known key.
    #[error("no signature is by a known key")]
    UnknownKeys,
}

/// The public half of a key: `NAME+ID+BASE64`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    key: ed25519_dalek::VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, bytes: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        let key =
            ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| NoteError::Key("no point of the curve"))?;
        if key.is_weak() {
            return Err(NoteError::Key("a weak point of the curve"));
        }
        Ok(Self { name: name.to_owned(), id: key_id(name, bytes), key })
    }

    /// Its name, which for a log is its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number within its name.
    pub const fn id(&self) -> u32 {
        self.id
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}+{}", self.name, self.id, key_text(self.key.as_bytes()))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({self})")
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, id, bytes) = split_key(text)?;
        let key = Self::new(name, &bytes)?;
        if key.id == id { Ok(key) } else { Err(NoteError::Key("its id is another key's")) }
    }
}

/// A key that signs. Its text form is secret.
#[derive(Clone)]
pub struct SigningKey {
    name: String,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// The key of 32 random bytes.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the name is empty, too long, or has a space or a plus.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key: ed25519_dalek::SigningKey::from_bytes(seed) })
    }

    /// Reads [`SigningKey::secret_text`].
    ///
    /// # Errors
    /// [`NoteError::Key`] when it is none.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let text = text.strip_prefix(PRIVATE_PREFIX).ok_or(NoteError::Key("a signing key begins with PRIVATE+KEY+"))?;
        let (name, id, seed) = split_key(text)?;
        let key = Self::from_seed(name, &seed)?;
        if key.verifier().id == id { Ok(key) } else { Err(NoteError::Key("its id is another key's")) }
    }

    /// `PRIVATE+KEY+NAME+ID+BASE64`, for a file that nobody else can read.
    pub fn secret_text(&self) -> SecretString {
        let id = self.verifier().id;
        format!("{PRIVATE_PREFIX}{}+{id:08x}+{}", self.name, key_text(self.key.as_bytes())).into()
    }

    /// Its public half.
    pub fn verifier(&self) -> VerifierKey {
        let key = self.key.verifying_key();
        VerifierKey { name: self.name.clone(), id: key_id(&self.name, key.as_bytes()), key }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}+{:08x})", self.name, self.verifier().id)
    }
}

/// One signature of a note.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Signature {
    name: String,
    id: u32,
    bytes: Vec<u8>,
}

/// A text with signatures, none of them checked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// Signs a text with each of the keys.
    ///
    /// # Errors
    /// [`NoteError::Note`] when the text is not one that a note can have, or there are no keys or too many.
    pub fn sign(text: String, keys: &[&SigningKey]) -> Result<Self, NoteError> {
        let signatures = keys
            .iter()
            .map(|key| Signature {
                name: key.name.clone(),
                id: key.verifier().id,
                bytes: key.key.sign(text.as_bytes()).to_bytes().to_vec(),
            })
            .collect();
        let note = Self { text, signatures };
        Self::parse(&note.to_string())
    }

    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError::Note`] when it is none, or longer than [`NOTE_BYTES`], or signed more than [`NOTE_SIGNATURES`] times,
    /// or twice by one key.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES {
            return Err(NoteError::Note("it is too long"));
        }
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Note("it has a control character"));
        }
        let end = note.rfind("\n\n").ok_or(NoteError::Note("no empty line stands before its signatures"))?;
        let (text, lines) = (&note[..=end], &note[end + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Note("it does not end with a signature's line"))?;
        let mut signatures: Vec<Signature> = Vec::new();
        for line in lines.split('\n') {
            let signature = Signature::parse(line)?;
            if signatures.iter().any(|other| (other.id, &other.name) == (signature.id, &signature.name)) {
                return Err(NoteError::Note("a key signed it twice"));
            }
            signatures.push(signature);
            if signatures.len() > NOTE_SIGNATURES {
                return Err(NoteError::Note("it has too many signatures"));
            }
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The text that is signed, with its last newline. To believe only after [`Note::verify`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Number of signatures.
    pub fn signature_count(&self) -> usize {
        self.signatures.len()
    }

    /// Which of `known` signed it: at least one.
    ///
    /// # Errors
    /// [`NoteError::Signature`] when a signature in the name of a known key is not by it, [`NoteError::UnknownKeys`] when
    /// there is none by a known key.
    pub fn verify<'k>(&self, known: &'k [VerifierKey]) -> Result<Vec<&'k VerifierKey>, NoteError> {
        let mut signers = Vec::new();
        for signature in &self.signatures {
            let Some(key) = known.iter().find(|key| (key.id, &key.name) == (signature.id, &signature.name)) else {
                continue;
            };
            let fits = ed25519_dalek::Signature::from_slice(&signature.bytes)
                .and_then(|bytes| key.key.verify_strict(self.text.as_bytes(), &bytes));
            if fits.is_err() {
                return Err(NoteError::Signature(format!("{}+{:08x}", key.name, key.id)));
            }
            signers.push(key);
        }
        if signers.is_empty() { Err(NoteError::UnknownKeys) } else { Ok(signers) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for Signature { name, id, bytes } in &self.signatures {
            writeln!(
                f,
                "{SIGNATURE_PREFIX}{name} {}",
                STANDARD.encode([&id.to_be_bytes(), bytes.as_slice()].concat())
            )?;
        }
        Ok(())
    }
}

impl Signature {
    fn parse(line: &str) -> Result<Self, NoteError> {
        const NOT_ONE: NoteError = NoteError::Note("a line behind the text is not a signature");
        let (name, bytes) = line.strip_prefix(SIGNATURE_PREFIX).and_then(|rest| rest.split_once(' ')).ok_or(NOT_ONE)?;
        check_name(name).map_err(|_| NOT_ONE)?;
        let bytes = STANDARD.decode(bytes).map_err(|_| NOT_ONE)?;
        let (id, bytes) = bytes.split_first_chunk().ok_or(NOT_ONE)?;
        if bytes.is_empty() {
            return Err(NOT_ONE);
        }
        Ok(Self { name: name.to_owned(), id: u32::from_be_bytes(*id), bytes: bytes.to_vec() })
    }
}

fn check_name(name: &str) -> Result<(), NoteError> {
    if name.is_empty() || name.len() > KEY_NAME_BYTES {
        return Err(NoteError::Key("the name has 1 to 256 bytes"));
    }
    if name.chars().any(|c| c == '+' || c.is_whitespace() || c.is_control()) {
        return Err(NoteError::Key("the name has a space, a plus or a control character"));
    }
    Ok(())
}

fn key_id(name: &str, public: &[u8; 32]) -> u32 {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(public).finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

fn key_text(bytes: &[u8; 32]) -> String {
    STANDARD.encode([&[ED25519], bytes.as_slice()].concat())
}

/// Name, id and the 32 bytes of a key's text.
fn split_key(text: &str) -> Result<(&str, u32, [u8; 32]), NoteError> {
    let (name, rest) = text.split_once('+').ok_or(NoteError::Key("there is no plus"))?;
    let (id, bytes) = rest.split_once('+').ok_or(NoteError::Key("there is only one plus"))?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.len() != 8 || !id.bytes().all(is_hex) {
        return Err(NoteError::Key("the id is not eight digits of 0-9a-f"));
    }
    let id = u32::from_str_radix(id, 16).expect("eight hexadecimal digits");
    let bytes = STANDARD.decode(bytes).map_err(|_| NoteError::Key("the key is not base64"))?;
    let (kind, bytes) = bytes.split_first().ok_or(NoteError::Key("the key is empty"))?;
    if *kind != ED25519 {
        return Err(NoteError::Key("it is of another kind"));
    }
    Ok((name, id, bytes.try_into().map_err(|_| NoteError::Key("it does not have 32 bytes"))?))
}
