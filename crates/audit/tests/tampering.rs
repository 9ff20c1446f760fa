//! Every way to alter one row of a log of 50 events is found at the right number.

use fetchml_api::{AuditDraft, AuditKind, Micros};
use fetchml_audit::{AuditRow, Chain, Verifier, verify};
use std::collections::BTreeMap;

const LOG: &str = "log-1";
const EVENTS: usize = 50;

fn log() -> Vec<AuditRow> {
    let mut chain = Chain::new(LOG);
    (0..EVENTS).map(|n| row(&mut chain, &format!("tasks/{n}"))).collect()
}

fn row(chain: &mut Chain, resource: &str) -> AuditRow {
    let sealed = chain.append(&AuditDraft {
        at: Micros(1_764_000_000_000_000),
        kind: AuditKind::JobQueued,
        user_id: "ann".into(),
        resource: resource.into(),
        action: "submit".into(),
        success: true,
        ip_address: Some("127.0.0.1".into()),
        error: None,
        metadata: BTreeMap::from([("job_name".into(), "größe".into())]),
    });
    AuditRow {
        sequence: sealed.sequence,
        body: sealed.body,
        prev_hash: sealed.prev_hash,
        event_hash: sealed.event_hash,
    }
}

fn first_tampered(rows: &[AuditRow]) -> Option<u64> {
    verify(LOG, rows).first_tampered
}

#[test]
fn an_untouched_log_verifies() {
    let rows = log();
    let verdict = verify(LOG, &rows);
    assert_eq!((verdict.checked, verdict.first_tampered), (50, None));
    assert_eq!(verdict.head, rows[49].event_hash);
}

#[test]
fn every_edit_of_every_byte_of_every_field_is_found() {
    let rows = log();
    let mut tamperings = 0;
    let mut before = Verifier::new(LOG);
    for (row, number) in rows.iter().zip(1..) {
        let mut check = |edit: &dyn Fn(&mut AuditRow)| {
            let mut edited = row.clone();
            edit(&mut edited);
            let mut verifier = before.clone();
            assert!(!verifier.push(&edited));
            assert_eq!(verifier.finish().first_tampered, Some(number));
            tamperings += 1;
        };
        for at in 0..row.body.len() {
            check(&|row| row.body[at] ^= 1);
        }
        check(&|row| row.body.truncate(row.body.len() - 1));
        check(&|row| row.body.push(b' '));
        check(&|row| row.body.clear());
        for at in 0..32 {
            check(&|row| row.prev_hash[at] ^= 0x80);
            check(&|row| row.event_hash[at] ^= 0x80);
        }
        assert!(before.push(row));
    }
    assert!(tamperings > 6_000, "{tamperings}");
}

#[test]
fn wrong_numbers_are_found() {
    let rows = log();
    for n in 0..EVENTS {
        for wrong in [0, 7, 1_000, u64::MAX] {
            let mut edited = rows.clone();
            if wrong == edited[n].sequence {
                continue;
            }
            edited[n].sequence = wrong;
            assert_eq!(first_tampered(&edited), Some(n as u64 + 1));
        }
    }
}

#[test]
fn a_missing_row_is_found_by_its_number() {
    let whole = log();
    for n in 0..EVENTS - 1 {
        let mut rows = whole.clone();
        rows.remove(n);
        assert_eq!(first_tampered(&rows), Some(n as u64 + 1));
        for row in &mut rows[n..] {
            row.sequence -= 1;
        }
        assert_eq!(first_tampered(&rows), Some(n as u64 + 1), "renumbering does not hide it");
    }
}

#[test]
fn a_cut_head_is_found() {
    let rows = log();
    for cut in 1..EVENTS {
        assert_eq!(first_tampered(&rows[cut..]), Some(1));
    }
}

/// The chain alone holds without its newest events: only a checkpoint can show that they are gone.
#[test]
fn a_cut_tail_is_not_found_without_a_checkpoint() {
    let rows = log();
    for left in 0..EVENTS {
        assert_eq!(first_tampered(&rows[..left]), None);
    }
}

#[test]
fn swapped_rows_are_found() {
    let whole = log();
    for a in 0..EVENTS {
        for b in a + 1..EVENTS {
            let mut rows = whole.clone();
            rows.swap(a, b);
            assert_eq!(first_tampered(&rows), Some(a as u64 + 1), "order alone");
            (rows[a].sequence, rows[b].sequence) = (a as u64 + 1, b as u64 + 1);
            assert_eq!(first_tampered(&rows), Some(a as u64 + 1), "renumbered");
        }
    }
}

#[test]
fn inserted_rows_are_found() {
    let whole = log();
    for n in 0..EVENTS {
        let mut rows = whole.clone();
        rows.insert(n, rows[n].clone());
        // The copy is genuine where it stands first; the second of that number is one too many.
        assert_eq!(first_tampered(&rows), Some(n as u64 + 1));
    }
}

#[test]
fn a_row_rewritten_with_its_hash_is_found_by_its_successor() {
    let whole = log();
    for n in 0..EVENTS - 1 {
        let mut rows = whole.clone();
        let mut chain = Chain { log_id: LOG.into(), sequence: n as u64, head: rows[n].prev_hash };
        rows[n] = row(&mut chain, "tasks/forged");
        assert_eq!(first_tampered(&rows), Some(n as u64 + 1));
    }
}

#[test]
fn a_log_of_another_installation_is_found() {
    let mut chain = Chain::new("log-2");
    let rows: Vec<_> = (0..3).map(|_| row(&mut chain, "tasks/1")).collect();
    assert_eq!(first_tampered(&rows), Some(1));
}
