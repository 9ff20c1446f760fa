//! What the audit log says of values that it must not show: a keyed hash, by which somebody who has the value and the
//! server's pepper can tell that it was this one, and nobody can guess it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;
use std::fmt;

/// Makes the hashes. Its key is made from the pepper, and is no key of anything else.
#[derive(Clone)]
pub struct KeyedHash([u8; 32]);

impl fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedHash(***)")
    }
}

impl KeyedHash {
    /// Of a server with this pepper.
    pub fn new(pepper: &[u8; 32]) -> Self {
        Self(hmac(pepper, b"fetchml/audit/values/v1\n"))
    }

    /// HMAC-SHA256 of the value's canonical JSON, hex.
    ///
    /// # Panics
    /// The value is none that JSON can hold.
    pub fn of(&self, value: &impl Serialize) -> String {
        let json = serde_json_canonicalizer::to_vec(value).expect("texts and maps of texts are JSON");
        hex::encode(hmac(&self.0, &json))
    }
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_depends_on_key_and_value_and_shows_neither() {
        let (one, other) = (KeyedHash::new(&[1; 32]), KeyedHash::new(&[2; 32]));
        let env = BTreeMap::from([("TOKEN", "canary")]);
        assert_eq!(one.of(&env), one.of(&serde_json::json!({"TOKEN": "canary"})));
        assert_ne!(one.of(&env), other.of(&env));
        assert_ne!(one.of(&env), one.of(&BTreeMap::from([("TOKEN", "canary2")])));
        assert_eq!(one.of(&env).len(), 64);
        assert_eq!(format!("{one:?}"), "KeyedHash(***)");
    }
}
