//! Every way to tamper with a log of 200 events is found, and at the right number. Checkpoints at 50, 100, 150 and 200 are
//! where the attacker cannot reach.

use fetchml_api::{AuditDraft, AuditKind, Micros};
use fetchml_audit::{AuditRow, Chain, Checkpoint, Fault, Frontier, Indexed, Verdict, Verifier, parse_body, verify};
use std::collections::BTreeMap;

const LOG: &str = "log-1";
const EVENTS: u64 = 200;
const CHECKPOINT_EVERY: u64 = 50;

/// A log, its checkpoints, and the verifier as it is before each row.
struct Log {
    rows: Vec<AuditRow>,
    checkpoints: Vec<Checkpoint>,
    before: Vec<Verifier>,
}

impl Log {
    fn new() -> Self {
        let mut chain = Chain::new(LOG);
        let mut tree = Frontier::new();
        let (mut rows, mut checkpoints) = (Vec::new(), Vec::new());
        for number in 1..=EVENTS {
            let sealed = chain.append(&draft(number));
            tree.push(sealed.leaf);
            let (sequence, body) = (sealed.sequence, sealed.body);
            rows.push(AuditRow { sequence, body, prev_hash: sealed.prev_hash, event_hash: sealed.event_hash });
            if number % CHECKPOINT_EVERY == 0 {
                checkpoints.push(Checkpoint::new(LOG, &tree, chain.head, Micros(number as i64)));
            }
        }
        let mut verifier = Verifier::new(LOG).with_checkpoints(checkpoints.clone());
        let mut before = vec![verifier.clone()];
        for row in &rows {
            assert!(push(&mut verifier, row));
            before.push(verifier.clone());
        }
        Self { rows, checkpoints, before }
    }

    /// The chain behind event `size`.
    fn chain(&self, size: u64) -> Chain {
        match size {
            0 => Chain::new(LOG),
            _ => Chain { log_id: LOG.into(), sequence: size, head: self.rows[size as usize - 1].event_hash },
        }
    }

    /// What is found when the first `same` rows are as they were and these follow.
    fn verdict<'a>(&self, same: u64, rest: impl IntoIterator<Item = &'a AuditRow>) -> Verdict {
        let mut verifier = self.before[same as usize].clone();
        for row in rest {
            push(&mut verifier, row);
            if verifier.found().is_some() {
                break;
            }
        }
        verifier.finish()
    }

    fn first_tampered<'a>(&self, same: u64, rest: impl IntoIterator<Item = &'a AuditRow>) -> Option<u64> {
        self.verdict(same, rest).first_tampered
    }

    /// What is found when event `number` is changed like this and all others are as they were.
    fn edited(&self, number: u64, edit: impl FnOnce(&mut AuditRow)) -> Option<u64> {
        let mut row = self.rows[number as usize - 1].clone();
        edit(&mut row);
        assert_ne!(row, self.rows[number as usize - 1]);
        self.first_tampered(number - 1, [&row].into_iter().chain(&self.rows[number as usize..]))
    }
}

/// Takes a row with the columns that belong beside its body.
fn push(verifier: &mut Verifier, row: &AuditRow) -> bool {
    match parse_body(&row.body) {
        Ok(event) => verifier.push_indexed(row, &Indexed::of(&event)),
        Err(_) => verifier.push(row),
    }
}

fn draft(number: u64) -> AuditDraft {
    AuditDraft {
        at: Micros(1_764_000_000_000_000 + number as i64),
        kind: AuditKind::JobQueued,
        user_id: "ann".into(),
        resource: format!("tasks/{number}"),
        action: "submit".into(),
        success: !number.is_multiple_of(3),
        ip_address: Some("127.0.0.1".into()),
        error: number.is_multiple_of(3).then(|| "größer als erlaubt".into()),
        metadata: BTreeMap::from([("job_name".into(), "größe \u{1f}\"".into())]),
    }
}

fn forged() -> AuditDraft {
    AuditDraft { user_id: "mallory".into(), ..draft(1) }
}

fn append(chain: &mut Chain, draft: &AuditDraft) -> AuditRow {
    let sealed = chain.append(draft);
    let (sequence, body) = (sealed.sequence, sealed.body);
    AuditRow { sequence, body, prev_hash: sealed.prev_hash, event_hash: sealed.event_hash }
}

/// The first number that the last checkpoint up to `size` does not cover.
const fn uncovered(size: u64) -> u64 {
    size / CHECKPOINT_EVERY * CHECKPOINT_EVERY + 1
}

#[test]
fn an_untouched_log_verifies() {
    let log = Log::new();
    let verdict = log.verdict(0, &log.rows);
    assert_eq!((verdict.checked, verdict.proven, verdict.first_tampered, verdict.fault), (EVENTS, EVENTS, None, None));
    assert_eq!(verdict.head, log.rows.last().unwrap().event_hash);
    assert_eq!(verdict.tree.root(), log.checkpoints.last().unwrap().root);
    assert_eq!(verify(LOG, &log.rows).first_tampered, None);
}

#[test]
fn every_edit_of_every_byte_of_every_field_is_found() {
    let log = Log::new();
    let mut tamperings = 0;
    for row in &log.rows {
        let number = row.sequence;
        let mut check = |edit: &dyn Fn(&mut AuditRow)| {
            assert_eq!(log.edited(number, edit), Some(number));
            tamperings += 1;
        };
        // Each byte of some bodies, and some bytes of each.
        for at in (0..row.body.len()).step_by(if number % 20 == 0 { 1 } else { 13 }) {
            check(&|row| row.body[at] ^= 1);
        }
        check(&|row| row.body.truncate(row.body.len() - 1));
        check(&|row| row.body.push(b' '));
        check(&|row| row.body.clear());
        for at in (0..32).step_by(if number % 20 == 0 { 1 } else { 8 }) {
            check(&|row| row.prev_hash[at] ^= 0x80);
            check(&|row| row.event_hash[at] ^= 0x80);
        }
        for wrong in [0, 1, number.saturating_sub(2), number - 1, number + 1, 1_000, u64::MAX] {
            if wrong != number {
                check(&|row| row.sequence = wrong);
            }
        }
    }
    assert!(tamperings > 6_000, "{tamperings}");
}

#[test]
fn a_body_that_means_the_same_in_other_bytes_is_found() {
    let log = Log::new();
    for number in 1..EVENTS {
        let mut chain = log.chain(number - 1);
        let mut row = append(&mut chain, &draft(number));
        let text = String::from_utf8(row.body).unwrap();
        // With a hash of its own, so that nothing but the form gives it away.
        row.body = text.replacen("\"action\"", " \"action\"", 1).into_bytes();
        let leaf = fetchml_audit::leaf_hash(&row.body);
        row.event_hash = fetchml_audit::event_hash(number, &row.prev_hash, &leaf);
        let verdict = log.verdict(number - 1, [&row]);
        assert_eq!((verdict.first_tampered, verdict.fault), (Some(number), Some(Fault::Changed)));
    }
}

#[test]
fn every_column_that_says_otherwise_than_the_body_is_found() {
    let log = Log::new();
    for row in &log.rows {
        let event = parse_body(&row.body).unwrap();
        let right = Indexed::of(&event);
        for wrong in [
            Indexed { at: Micros(right.at.0 + 1), ..right },
            Indexed { event_type: "job_started", ..right },
            Indexed { user_id: "anne", ..right },
            Indexed { resource: "tasks/0", ..right },
            Indexed { action: "", ..right },
            Indexed { success: !right.success, ..right },
        ] {
            let mut verifier = log.before[row.sequence as usize - 1].clone();
            assert!(!verifier.push_indexed(row, &wrong));
            let verdict = verifier.finish();
            assert_eq!((verdict.first_tampered, verdict.fault), (Some(row.sequence), Some(Fault::Indexed)));
        }
    }
}

#[test]
fn a_row_rewritten_with_its_hash_is_found_by_its_successor() {
    let log = Log::new();
    for number in 1..EVENTS {
        let row = append(&mut log.chain(number - 1), &forged());
        let found = log.first_tampered(number - 1, [&row].into_iter().chain(&log.rows[number as usize..]));
        assert_eq!(found, Some(number));
    }
    let last = append(&mut log.chain(EVENTS - 1), &forged());
    assert_eq!(
        log.first_tampered(EVENTS - 1, [&last]),
        Some(151),
        "nothing follows the last: any since 150 may be new"
    );
}

#[test]
fn a_row_given_another_predecessor_is_found() {
    let log = Log::new();
    for number in 2..=EVENTS {
        let edit = |row: &mut AuditRow| {
            row.prev_hash[0] ^= 1;
            let leaf = fetchml_audit::leaf_hash(&row.body);
            row.event_hash = fetchml_audit::event_hash(row.sequence, &row.prev_hash, &leaf);
        };
        assert_eq!(log.edited(number, edit), Some(number));
    }
}

#[test]
fn a_missing_row_is_found_by_its_number() {
    let log = Log::new();
    for number in 1..EVENTS {
        let rest = &log.rows[number as usize..];
        assert_eq!(log.first_tampered(number - 1, rest), Some(number));
        let renumbered: Vec<_> =
            rest.iter().map(|row| AuditRow { sequence: row.sequence - 1, ..row.clone() }).collect();
        assert_eq!(log.first_tampered(number - 1, &renumbered), Some(number), "renumbering does not hide it");
    }
}

#[test]
fn a_cut_head_is_found() {
    let log = Log::new();
    for cut in 1..EVENTS {
        assert_eq!(log.first_tampered(0, &log.rows[cut as usize..]), Some(1));
    }
}

#[test]
fn a_cut_tail_is_found_behind_what_is_left() {
    let log = Log::new();
    for left in 0..EVENTS {
        let verdict = log.verdict(left, []);
        assert_eq!((verdict.first_tampered, verdict.fault), (Some(left + 1), Some(Fault::Truncated)));
        assert_eq!(verify(LOG, &log.rows[..left as usize]).first_tampered, None, "a chain alone does not show it");
    }
}

#[test]
fn the_end_that_the_writer_knows_is_compared() {
    let log = Log::new();
    let of = |rows: &[AuditRow], end: u64, hash| {
        let mut verifier = Verifier::new(LOG).with_end(end, hash);
        for row in rows {
            verifier.push(row);
        }
        verifier.finish().first_tampered
    };
    for size in 1..=EVENTS {
        let rows = &log.rows[..size as usize];
        let hash = rows.last().unwrap().event_hash;
        assert_eq!(of(rows, size, hash), None);
        assert_eq!(of(rows, size + 1, hash), Some(size + 1), "cut");
        assert_eq!(of(rows, size, [1; 32]), Some(size), "another end");
        assert_eq!(of(rows, size - 1, rows[0].prev_hash), Some(size), "more than there were");
    }
}

#[test]
fn swapped_rows_are_found() {
    let log = Log::new();
    for a in 1..EVENTS {
        for b in (a + 1..=EVENTS).step_by(if a % 10 == 0 { 1 } else { 9 }) {
            let other = &log.rows[b as usize - 1];
            assert_eq!(log.first_tampered(a - 1, [other]), Some(a), "order alone");
            let renumbered = AuditRow { sequence: a, ..other.clone() };
            assert_eq!(log.first_tampered(a - 1, [&renumbered]), Some(a), "renumbered");
        }
    }
}

#[test]
fn repeated_and_inserted_rows_are_found() {
    let log = Log::new();
    for number in 1..=EVENTS {
        let row = &log.rows[number as usize - 1];
        let verdict = log.verdict(number, [row]);
        assert_eq!((verdict.first_tampered, verdict.fault), (Some(number), Some(Fault::Repeated)));
        let inserted = append(&mut log.chain(number - 1), &forged());
        let found = log.first_tampered(number - 1, [&inserted, row]);
        // The forged one takes the number; where a checkpoint ends, it says that the event before it is not its own.
        let expected = if number % CHECKPOINT_EVERY == 0 { uncovered(number - 1) } else { number };
        assert_eq!(found, Some(expected));
        if number > 1 {
            let again = &log.rows[0];
            assert_eq!(log.first_tampered(number, [again]), Some(number + 1), "an old one at a later place");
        }
    }
}

#[test]
fn a_suffix_written_anew_is_found_behind_the_last_checkpoint_that_fits() {
    let log = Log::new();
    for kept in 0..EVENTS {
        let mut chain = log.chain(kept);
        let suffix: Vec<_> = (kept..EVENTS).map(|_| append(&mut chain, &forged())).collect();
        let verdict = log.verdict(kept, &suffix);
        assert_eq!(verdict.first_tampered, Some(uncovered(kept)));
        assert_eq!(verdict.proven, uncovered(kept) - 1);
    }
}

/// The rows up to `kept`, as an older database has them, and then others.
#[test]
fn an_older_database_that_went_on_is_found() {
    let log = Log::new();
    for kept in (0..EVENTS).step_by(3) {
        for size in (kept..EVENTS).step_by(7) {
            let mut chain = log.chain(kept);
            let others: Vec<_> = (kept..size).map(|_| append(&mut chain, &forged())).collect();
            // Before the next checkpoint's size only the end is missing; at it, all since the last is another's.
            let expected = if uncovered(kept) == uncovered(size) { size + 1 } else { uncovered(kept) };
            assert_eq!(log.first_tampered(kept, &others), Some(expected), "{kept} kept of {size}");
        }
    }
}

#[test]
fn a_replaced_log_is_found() {
    let log = Log::new();
    let mut same_name = Chain::new(LOG);
    let rows: Vec<_> = (0..EVENTS).map(|_| append(&mut same_name, &forged())).collect();
    assert_eq!(log.first_tampered(0, &rows), Some(1));
    let mut other_name = Chain::new("log-2");
    let rows: Vec<_> = (1..=EVENTS).map(|number| append(&mut other_name, &draft(number))).collect();
    assert_eq!(log.first_tampered(0, &rows), Some(1));
    let other = Verifier::new("log-2").with_checkpoints(log.checkpoints.clone()).finish();
    assert_eq!((other.first_tampered, other.fault), (Some(1), Some(Fault::OtherLog)));
}

#[test]
fn a_checkpoint_that_does_not_fit_is_found() {
    let log = Log::new();
    for wrong in 0..log.checkpoints.len() {
        let fields: [fn(&mut Checkpoint); 2] = [|c| c.root[5] ^= 4, |c| c.head[5] ^= 4];
        for edit in fields {
            let mut checkpoints = log.checkpoints.clone();
            edit(&mut checkpoints[wrong]);
            let mut verifier = Verifier::new(LOG).with_checkpoints(checkpoints);
            for row in &log.rows {
                verifier.push(row);
            }
            assert_eq!(verifier.finish().first_tampered, Some(wrong as u64 * CHECKPOINT_EVERY + 1));
        }
    }
}
