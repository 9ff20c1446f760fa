//! Exports: whole ones verify with nothing but the file and the key, and one flipped bit anywhere is named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fetchml_api::{AuditDraft, AuditKind, Micros};
use fetchml_audit::{
    AuditRow, Chain, Checkpoint, ExportError, ExportVerifier, Frontier, Note, Replaced, Report, SigningKey, Start,
    TrustedKeys, checkpoint_line, event_line, header_line, limits, origin,
};
use std::{collections::BTreeMap, path::Path, process::Command};

const LOG: &str = "0198c0de-0000-7000-8000-000000000001";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&origin(LOG), &[seed; 32]).unwrap()
}

fn trusted(keys: &[&SigningKey]) -> TrustedKeys {
    TrustedKeys::new(keys.iter().map(|key| key.verifier()))
}

/// A log that grows, and what it was at each size.
struct Log {
    chain: Chain,
    tree: Frontier,
    rows: Vec<AuditRow>,
    starts: Vec<Start>,
}

impl Log {
    fn of(events: u64) -> Self {
        let mut log =
            Self { chain: Chain::new(LOG), tree: Frontier::new(), rows: vec![], starts: vec![Start::genesis(LOG)] };
        (0..events).for_each(|n| log.append(&format!("tasks/{n}")));
        log
    }

    fn append(&mut self, resource: &str) {
        let sealed = self.chain.append(&AuditDraft {
            at: Micros(1_764_000_000_000_000),
            kind: AuditKind::JobQueued,
            user_id: "jörg \"J\" \\ 😀\u{2028}".into(),
            resource: resource.into(),
            action: "submit".into(),
            success: true,
            ip_address: None,
            error: Some("line\n\u{1f}".into()),
            metadata: BTreeMap::from([("job_name".into(), "JJ".into())]),
        });
        self.tree.push(sealed.leaf);
        self.starts.push(Start { tree: self.tree.clone(), head: sealed.event_hash });
        let (sequence, body) = (sealed.sequence, sealed.body);
        self.rows.push(AuditRow { sequence, body, prev_hash: sealed.prev_hash, event_hash: sealed.event_hash });
    }

    fn checkpoint(&self, size: usize) -> Checkpoint {
        let Start { tree, head } = &self.starts[size];
        Checkpoint::new(LOG, tree, *head, Micros(1_764_000_000_000_000 + size as i64))
    }
}

/// The lines of events `after + 1..` with checkpoints behind those numbers.
fn export(log: &Log, after: usize, notes: &[(usize, Note)], keys: &[&SigningKey]) -> Vec<Vec<u8>> {
    let keys = keys.iter().map(|key| key.verifier()).collect::<Vec<_>>();
    let start = (after > 0).then(|| log.checkpoint(after).sign(&[&key(1)]).unwrap());
    let mut lines = vec![header_line(LOG, &log.starts[after], &keys, start.as_ref()).unwrap()];
    for row in &log.rows[after..] {
        lines.push(event_line(row).unwrap());
        let here = notes.iter().filter(|(size, _)| *size as u64 == row.sequence);
        lines.extend(here.map(|(_, note)| checkpoint_line(note)));
    }
    lines
}

/// Six events; checkpoints at 2 by the old key, at 4 handing over, at 6 by the new key.
fn rotated() -> (Log, Vec<Vec<u8>>) {
    let (old, new) = (key(1), key(2));
    let log = Log::of(6);
    let handing_over = Checkpoint { next_key: Some(new.verifier()), ..log.checkpoint(4) };
    let notes = [
        (2, log.checkpoint(2).sign(&[&old]).unwrap()),
        (4, handing_over.sign(&[&old, &new]).unwrap()),
        (6, log.checkpoint(6).sign(&[&new]).unwrap()),
    ];
    let lines = export(&log, 0, &notes, &[&old, &new]);
    (log, lines)
}

fn verify(trusted: TrustedKeys, file: &[u8]) -> Report {
    let mut verifier = ExportVerifier::new(trusted);
    verifier.push(file);
    verifier.finish()
}

#[test]
fn a_whole_export_verifies_by_either_key() {
    let (_, lines) = rotated();
    insta::assert_snapshot!(String::from_utf8(lines.concat()).unwrap());
    for (trust, proven) in [(trusted(&[&key(1)]), 6), (trusted(&[&key(2)]), 6), (trusted(&[&key(1), &key(2)]), 6)] {
        let report = verify(trust, &lines.concat());
        assert_eq!((report.problem, report.first_tampered), (None, None));
        assert_eq!((report.checked_events, report.proven, report.log_id.as_str()), (6, proven, LOG));
        assert_eq!(report.checkpoint.unwrap().size, 6);
    }
}

#[test]
fn one_flipped_bit_anywhere_is_named() {
    let (_, lines) = rotated();
    // What each line's flip names: the header 1, an event itself, a checkpoint the first event behind the one before.
    let named = [1, 1, 2, 0, 3, 4, 0, 5, 6, 0];
    assert_eq!(lines.len(), named.len());
    let file = lines.concat();
    for trust in [trusted(&[&key(1)]), trusted(&[&key(2)])] {
        let mut at = 0;
        let mut before = ExportVerifier::new(trust);
        // By the new key alone, the checkpoint by the old one proves nothing, but a flip in it is found just so.
        let mut proven = 0;
        for (line, number) in lines.iter().zip(named) {
            let is_checkpoint = line.starts_with(b"{\"ch");
            let number = if is_checkpoint { proven + 1 } else { number };
            for bit in 0..line.len() * 8 {
                let mut flipped = file[at..].to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let mut verifier = before.clone();
                verifier.push(&flipped);
                let report = verifier.finish();
                let shown = || String::from_utf8_lossy(&flipped[..line.len()]).into_owned();
                assert_eq!(report.first_tampered, Some(number), "bit {bit} of {}: {report:?}", shown());
            }
            at += line.len();
            assert!(before.push(line));
            proven = before.clone().finish().proven;
        }
    }
}

/// `examples/verify_audit.py` was written from docs/audit.md alone and shares nothing with this crate.
#[test]
fn a_verifier_in_another_language_agrees() {
    // <target>/tmp
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let environment = target.join("audit-environment");
    assert!(environment.join("built-from").exists(), "{} is missing: `cargo xtask test` builds it", target.display());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let (log, lines) = rotated();
    let segment = export(&log, 4, &[(6, log.checkpoint(6).sign(&[&key(1)]).unwrap())], &[&key(1)]);
    for (lines, named, step) in
        [(lines, &["1", "1", "2", "1", "3", "4", "3", "5", "6", "5"][..], "11"), (segment, &["1", "5", "6", "5"], "11")]
    {
        let file = dir.path().join("export.jsonl");
        std::fs::write(&file, lines.concat()).unwrap();
        let output = Command::new(environment.join("bin/python"))
            .arg(here.join("tests/python/flip_bits.py"))
            .arg(here.join("../../examples/verify_audit.py"))
            .arg(&file)
            .args([&key(1).verifier().to_string(), step])
            .args(named)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let flips = lines.iter().map(|line| (line.len() * 8).div_ceil(11)).sum::<usize>();
        assert_eq!(said, format!("6 events, {flips} flips\n"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn lines_that_are_missing_repeated_or_swapped_are_named() {
    let (_, lines) = rotated();
    let first_tampered = |lines: &[Vec<u8>]| verify(trusted(&[&key(1)]), &lines.concat()).first_tampered;
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat();
    assert_eq!(first_tampered(&[]), Some(1));
    assert_eq!(first_tampered(&without(0)), Some(1), "no header");
    for (line, missing) in [(1, 1), (2, 2), (4, 3), (5, 4), (7, 5), (8, 6)] {
        assert_eq!(first_tampered(&without(line)), Some(missing), "line {line}");
        let repeated = [&lines[..=line], &lines[line..]].concat();
        assert_eq!(first_tampered(&repeated), Some(missing), "line {line} twice");
    }
    assert_eq!(first_tampered(&without(3)), None, "what one checkpoint covers the next covers too");
    assert_eq!(first_tampered(&without(6)), Some(3), "without the line that hands over, the new key is a stranger");
    assert_eq!(first_tampered(&without(9)), Some(5), "the last events are not covered");
    for cut in 1..lines.len() {
        let expected = [1, 1, 1, 3, 3, 3, 5, 5, 5][cut - 1];
        let found = first_tampered(&lines[..cut]);
        // Cut right behind a checkpoint, an export is a whole one of a shorter log.
        assert_eq!(found, (![4, 7].contains(&cut)).then_some(expected), "{cut} lines");
    }
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    assert_eq!(first_tampered(&swapped), Some(1));
    let mut moved = lines.clone();
    moved.swap(2, 3);
    assert_eq!(first_tampered(&moved), Some(2), "a checkpoint stands where its size is reached");
}

#[test]
fn a_shorter_export_is_found_by_a_checkpoint_from_elsewhere() {
    let (log, lines) = rotated();
    let verifier = |file: &[u8], elsewhere| {
        let mut verifier = ExportVerifier::new(trusted(&[&key(1)])).with_checkpoints([elsewhere]);
        verifier.push(file);
        verifier.finish().first_tampered
    };
    assert_eq!(verifier(&lines.concat(), log.checkpoint(6)), None);
    assert_eq!(verifier(&lines.concat(), log.checkpoint(5)), None);
    assert_eq!(verifier(&lines[..7].concat(), log.checkpoint(6)), Some(5));
    assert_eq!(verifier(&lines.concat(), Checkpoint { root: [1; 32], ..log.checkpoint(5) }), Some(5));
    assert_eq!(verifier(&lines.concat(), Checkpoint { log_id: "other".into(), ..log.checkpoint(6) }), Some(1));
}

#[test]
fn a_stranger_s_log_proves_nothing() {
    let log = Log::of(3);
    let stranger = SigningKey::from_seed(&origin(LOG), &[9; 32]).unwrap();
    let notes = [(3, log.checkpoint(3).sign(&[&stranger]).unwrap())];
    let file = export(&log, 0, &notes, &[&stranger]).concat();
    let report = verify(trusted(&[&key(1)]), &file);
    assert_eq!((report.first_tampered, report.proven), (Some(1), 0));
    assert_eq!(verify(trusted(&[&stranger]), &file).first_tampered, None);
}

#[test]
fn a_rewritten_suffix_is_named_from_the_last_checkpoint_that_fits() {
    let (_, lines) = rotated();
    let mut forged = Log::of(4);
    forged.append("tasks/forged");
    forged.append("tasks/5");
    let mut file = lines.clone();
    (file[7], file[8]) = (event_line(&forged.rows[4]).unwrap(), event_line(&forged.rows[5]).unwrap());
    let report = verify(trusted(&[&key(1)]), &file.concat());
    assert_eq!((report.first_tampered, report.proven), (Some(5), 4));
    assert_eq!(report.problem.unwrap().line, 10);
}

#[test]
fn a_segment_verifies_from_its_start() {
    let log = Log::of(7);
    let notes = [(7, log.checkpoint(7).sign(&[&key(1)]).unwrap())];
    for after in [1, 4, 6] {
        let lines = export(&log, after, &notes, &[&key(1)]);
        let report = verify(trusted(&[&key(1)]), &lines.concat());
        assert_eq!((report.problem, report.first_tampered), (None, None), "after {after}");
        assert_eq!((report.after, report.checked_events, report.proven), (after as u64, 7 - after as u64, 7));
        for bit in 0..lines[0].len() * 8 {
            let mut flipped = lines.concat();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = verify(trusted(&[&key(1)]), &flipped).first_tampered;
            assert!([Some(1), Some(after as u64 + 1)].contains(&found), "bit {bit}: {found:?}");
        }
    }
    assert!(matches!(header_line(LOG, &log.starts[2], &[], None), Err(ExportError::Start)));
}

#[test]
fn a_given_up_end_is_told_and_voids_older_checkpoints() {
    let before = Log::of(6);
    let given_up = before.checkpoint(6);
    let mut log = Log::of(3);
    log.append("audit/restore");
    log.append("tasks/other");
    let replaces = Replaced { kept: 3, size: 6, root: given_up.root };
    let at = Micros(1_764_000_000_100_000);
    let accepted = Checkpoint { replaces: Some(replaces), at, ..log.checkpoint(4) };
    let last = Checkpoint { at, ..log.checkpoint(5) };
    let notes = [(4, accepted.sign(&[&key(1)]).unwrap()), (5, last.sign(&[&key(1)]).unwrap())];
    let file = export(&log, 0, &notes, &[&key(1)]).concat();
    for elsewhere in [given_up, before.checkpoint(4), before.checkpoint(5), before.checkpoint(3)] {
        let mut verifier = ExportVerifier::new(trusted(&[&key(1)])).with_checkpoints([elsewhere.clone()]);
        verifier.push(&file);
        let report = verifier.finish();
        assert_eq!((report.first_tampered, &report.given_up[..]), (None, &[replaces][..]), "{}", elsewhere.size);
    }
}

#[test]
fn chunks_of_any_size_are_the_same_file() {
    let (_, lines) = rotated();
    let file = lines.concat();
    let whole = verify(trusted(&[&key(1)]), &file);
    for size in [1, 2, 3, 7, 64, 1_000, file.len()] {
        let mut verifier = ExportVerifier::new(trusted(&[&key(1)]));
        assert!(file.chunks(size).all(|chunk| verifier.push(chunk)));
        assert_eq!(verifier.finish(), whole);
    }
}

#[test]
fn a_line_without_end_is_refused_in_bounded_memory() {
    let (_, lines) = rotated();
    let mut verifier = ExportVerifier::new(trusted(&[&key(1)]));
    assert!(verifier.push(&lines[0]));
    let chunk = vec![b'x'; 1 << 20];
    let mut pushed = 0;
    while verifier.push(&chunk) {
        pushed += chunk.len();
        assert!(pushed <= limits::LINE_BYTES);
    }
    let report = verifier.finish();
    assert_eq!(report.first_tampered, Some(1));
    assert_eq!(report.problem.unwrap().line, 2);
}

#[test]
fn what_cannot_be_exported_is_said() {
    let mut row = Log::of(1).rows.remove(0);
    row.body = vec![0xff];
    assert!(matches!(event_line(&row), Err(ExportError::Body(1))));
    row.body = vec![b'x'; limits::BODY_BYTES + 1];
    assert!(matches!(event_line(&row), Err(ExportError::TooLong(1))));
    let many = vec![key(1).verifier(); limits::EXPORT_KEYS + 1];
    assert!(matches!(header_line(LOG, &Start::genesis(LOG), &many, None), Err(ExportError::Keys)));
}
