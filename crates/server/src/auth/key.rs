//! The form of an API key: `fml_<id>_<secret><checksum>`, base32 throughout.
//!
//! The id (60 bits) is public. The secret has 256 random bits. The checksum (30 bits of SHA-256 over
//! what stands before it) lets a slip of the keyboard be refused before anything is looked up.

use fetchml_api::KeyId;
use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const PREFIX: &str = "fml_";
const ID_CHARS: usize = 12;
const SECRET_BYTES: usize = 32;
const SECRET_CHARS: usize = 52;
const CHECKSUM_CHARS: usize = 6;
const KEY_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS + CHECKSUM_CHARS;

/// A fresh key and its id.
///
/// # Errors
/// The operating system gives no random bytes.
pub fn generate() -> Result<(KeyId, String), getrandom::Error> {
    let mut random = [0_u8; 8 + SECRET_BYTES];
    getrandom::fill(&mut random)?;
    let id: String = base32(&random[..8]).chars().take(ID_CHARS).collect();
    let unchecked = format!("{PREFIX}{id}_{}", base32(&random[8..]));
    let checksum = checksum(&unchecked);
    Ok((KeyId(id), unchecked + &checksum))
}

/// The id of a well-formed key; `None` when form or checksum is wrong.
pub fn parse(key: &str) -> Option<KeyId> {
    if key.len() != KEY_CHARS || !key.is_ascii() {
        return None;
    }
    let (unchecked, given) = key.split_at(KEY_CHARS - CHECKSUM_CHARS);
    let (id, secret) = unchecked.strip_prefix(PREFIX)?.split_once('_')?;
    let in_alphabet = |text: &str| text.bytes().all(|b| ALPHABET.contains(&b));
    let well_formed = id.len() == ID_CHARS && in_alphabet(id) && in_alphabet(secret) && checksum(unchecked) == given;
    well_formed.then(|| KeyId(id.to_owned()))
}

fn checksum(text: &str) -> String {
    base32(&Sha256::digest(text)[..4]).chars().take(CHECKSUM_CHARS).collect()
}

/// Base32 without padding, most significant bits first.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut buffer, mut bits) = (0_u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_key_is_well_formed_and_never_the_same() {
        let (id, key) = generate().unwrap();
        assert_eq!(key.len(), KEY_CHARS);
        assert_eq!(parse(&key), Some(id));
        assert_ne!(generate().unwrap().1, key);
    }

    #[test]
    fn one_wrong_character_anywhere_is_found() {
        let (_, key) = generate().unwrap();
        for at in 0..key.len() {
            let mut wrong = key.clone().into_bytes();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(parse(std::str::from_utf8(&wrong).unwrap()), None, "position {at}");
        }
        assert_eq!(parse(""), None);
        assert_eq!(parse(&"é".repeat(40)), None);
    }
}
