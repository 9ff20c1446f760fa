//! Signed notes against the published example of the format's first implementation, and checkpoints.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fetchml_api::Micros;
use fetchml_audit::{
    Checkpoint, CheckpointError, Frontier, Note, NoteError, Replaced, SigningKey, TrustedKeys, VerifierKey,
    genesis_hash, leaf_hash, limits, origin, standing,
};
use proptest::prelude::*;
use secrecy::ExposeSecret;

const PUBLIC: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const SECRET: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const TEXT: &str =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const SIGNED: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem \
    is.\n\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const LOG: &str = "0198c0de-0000-7000-8000-000000000001";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&origin(LOG), &[seed; 32]).unwrap()
}

fn checkpoint(size: u64) -> Checkpoint {
    let mut tree = Frontier::new();
    (0..size).for_each(|n| tree.push(leaf_hash(&n.to_be_bytes())));
    let head = if size == 0 { genesis_hash(LOG) } else { [size as u8; 32] };
    Checkpoint::new(LOG, &tree, head, Micros(1_764_000_000_000_001))
}

#[test]
fn the_published_example_is_made_and_verified() {
    let signing = SigningKey::parse(SECRET).unwrap();
    assert_eq!(signing.secret_text().expose_secret(), SECRET);
    assert_eq!(signing.verifier().to_string(), PUBLIC);
    assert!(!format!("{signing:?}").contains("AYEKFALVFGyN"), "a key is not printed by accident");
    let public: VerifierKey = PUBLIC.parse().unwrap();
    assert_eq!((public.name(), public.id()), ("PeterNeumann", 0xc74f_20a3));
    let note = Note::sign(TEXT.into(), &[&signing]).unwrap();
    assert_eq!(note.to_string(), SIGNED);
    assert_eq!(Note::parse(SIGNED).unwrap(), note);
    assert_eq!(note.text(), TEXT);
    assert_eq!(note.verify(std::slice::from_ref(&public)).unwrap(), [&public]);
}

#[test]
fn every_mangled_key_is_refused() {
    for bit in 0..PUBLIC.len() * 8 {
        let mut bytes = PUBLIC.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        assert!(text.parse::<VerifierKey>().is_err(), "{text}");
    }
    for start in 0..PUBLIC.len() {
        for end in start..=PUBLIC.len() {
            assert!(end - start == PUBLIC.len() || PUBLIC[start..end].parse::<VerifierKey>().is_err());
        }
    }
    for wrong in [
        // Too long, with the id of that; another kind, with the id of that.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ] {
        assert!(matches!(wrong.parse::<VerifierKey>(), Err(NoteError::Key(_))), "{wrong}");
    }
    for name in ["", "a b", "a+b", "a\u{2028}b", "a\nb", &"x".repeat(limits::KEY_NAME_BYTES + 1)] {
        assert!(matches!(SigningKey::from_seed(name, &[1; 32]), Err(NoteError::Key(_))), "{name:?}");
    }
    assert!(SigningKey::parse(PUBLIC).is_err());
    assert!(SigningKey::parse(&SECRET.replace("c74f20a3", "c74f20a4")).is_err());
}

#[test]
fn every_flipped_bit_of_a_note_is_found() {
    let public: VerifierKey = PUBLIC.parse().unwrap();
    for bit in 0..SIGNED.len() * 8 {
        let mut bytes = SIGNED.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let verified = Note::parse(&text).and_then(|note| note.verify(std::slice::from_ref(&public)).map(|_| ()));
        assert!(verified.is_err(), "bit {bit}: {text}");
    }
}

#[test]
fn what_is_no_note_is_refused() {
    let signature = SIGNED.split_once("\n\n").unwrap().1;
    let many = (0..=limits::NOTE_SIGNATURES).map(|n| signature.replace("PeterNeumann", &format!("P{n}")));
    for wrong in [
        String::new(),
        TEXT.into(),
        format!("{TEXT}\n"),
        SIGNED.trim_end().into(),
        format!("{SIGNED}\n"),
        format!("{SIGNED}{signature}"),
        SIGNED.replace('—', "-"),
        SIGNED.replace("answer", "ans\twer"),
        SIGNED.replace("JnAM=", "JnAM"),
        SIGNED.replace("JnAM=", "JnAN="),
        format!("{TEXT}\n— PeterNeumann x08gow==\n"),
        format!("{TEXT}\n{}", many.collect::<String>()),
        format!("{}{SIGNED}", "x".repeat(limits::NOTE_BYTES)),
    ] {
        assert!(matches!(Note::parse(&wrong), Err(NoteError::Note(_))), "{wrong}");
    }
    assert!(Note::sign("no newline".into(), &[&key(1)]).is_err());
    assert!(Note::sign(TEXT.into(), &[]).is_err());
}

#[test]
fn unknown_keys_are_passed_over_and_wrong_signatures_are_not() {
    let (old, new, stranger) = (key(1), key(2), key(3));
    let note = Note::sign(TEXT.into(), &[&old, &new]).unwrap();
    let [old, new, stranger] = [old, new, stranger].map(|key| key.verifier());
    assert_eq!(note.verify(std::slice::from_ref(&new)).unwrap(), [&new]);
    assert_eq!(note.verify(&[new.clone(), old.clone()]).unwrap(), [&old, &new]);
    assert_eq!(note.verify(std::slice::from_ref(&stranger)), Err(NoteError::UnknownKeys));
    assert_eq!(note.verify(&[]), Err(NoteError::UnknownKeys));
    let forged = Note::parse(&note.to_string().replace("problem", "Problem")).unwrap();
    assert!(matches!(forged.verify(&[stranger, new]), Err(NoteError::Signature(_))));
}

#[test]
fn a_checkpoint_has_one_text() {
    let mut full = checkpoint(5);
    full.next_key = Some(key(2).verifier());
    full.replaces = Some(Replaced { kept: 4, size: 9, root: [9; 32] });
    insta::assert_snapshot!(full.text());
    for checkpoint in [checkpoint(0), checkpoint(1), checkpoint(5), full.clone()] {
        assert_eq!(Checkpoint::parse_text(&checkpoint.text()), Ok(checkpoint));
    }
    let text = full.text();
    for (from, to) in [
        ("fetchml-audit/", "fetchml/"),
        ("\n5\n", "\n05\n"),
        ("\n5\n", "\n+5\n"),
        ("\n5\n", "\n18446744073709551616\n"),
        ("head 05", "head  05"),
        ("head 0505", "head 05"),
        ("000001Z", "0000010Z"),
        ("000001Z", "000001+00:00"),
        ("next-key ", "next-key x"),
        ("replaces 4", "replaces 6"),
        ("replaces 4 9", "replaces 4 4"),
        ("replaces ", "more\nreplaces "),
    ] {
        assert!(text.contains(from), "{from}");
        assert_eq!(Checkpoint::parse_text(&text.replacen(from, to, 1)), Err(CheckpointError::Text), "{from} -> {to}");
    }
    let wrong_genesis = Checkpoint { head: [1; 32], ..checkpoint(0) };
    assert_eq!(Checkpoint::parse_text(&wrong_genesis.text()), Err(CheckpointError::Text));
}

#[test]
fn trust_goes_from_a_key_to_the_next() {
    let (old, new) = (key(1), key(2));
    let rotation = Checkpoint { next_key: Some(new.verifier()), ..checkpoint(3) }.sign(&[&old, &new]).unwrap();
    let after = checkpoint(4).sign(&[&new]).unwrap();
    let mut trusted = TrustedKeys::new([old.verifier()]);
    assert_eq!(trusted.open(&after), Err(CheckpointError::Note(NoteError::UnknownKeys)));
    assert_eq!(trusted.open(&rotation).unwrap().size, 3);
    assert_eq!(trusted.open(&after).unwrap().size, 4);
    assert_eq!(trusted.keys().len(), 2);
    assert_eq!(trusted.open(&rotation).unwrap().size, 3);
    assert_eq!(trusted.keys().len(), 2, "the same key is not taken twice");
    // Whoever begins with the new key does not believe the old one for that.
    let mut later = TrustedKeys::new([new.verifier()]);
    assert_eq!(later.open(&rotation).unwrap().size, 3);
    assert!(later.open(&checkpoint(2).sign(&[&old]).unwrap()).is_err());
}

#[test]
fn a_replaced_end_voids_its_checkpoints() {
    let replaced = Replaced { kept: 3, size: 6, root: [1; 32] };
    let resumed = Checkpoint { replaces: Some(replaced), ..checkpoint(4) };
    let history = [checkpoint(2), checkpoint(3), checkpoint(4), checkpoint(6), resumed, checkpoint(5)];
    let sizes = standing(history).iter().map(|checkpoint| checkpoint.size).collect::<Vec<_>>();
    assert_eq!(sizes, [2, 3, 4, 5]);
}

proptest! {
    #[test]
    fn parsers_take_any_text(text in any::<String>()) {
        let _ = Note::parse(&text);
        let _ = Checkpoint::parse_text(&text);
        let _ = text.parse::<VerifierKey>();
        let _ = SigningKey::parse(&text);
    }
}
