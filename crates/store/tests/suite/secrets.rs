//! Secrets: which value is the current one, and how long others are kept.

use crate::{Fixture, build::*};
use fetchml_api::{AttemptPhase, AttemptRecord, Micros, SecretInfo, SecretRecord};
use fetchml_store::{SecretHead, Store, Write};
use uuid::Uuid;

fn secret(n: u128, user: &str, name: &str) -> SecretRecord {
    let at = Micros(NOW.0 + n as i64);
    SecretRecord {
        id: Uuid::from_u128(n),
        user_id: user.into(),
        name: name.into(),
        created_at: at,
        updated_at: at,
        key_version: 7,
        sealed: vec![n as u8, 0, 255],
    }
}

/// How a secret is listed that was first set as number `first` and last as number `last`.
fn listed(name: &str, first: i64, last: i64) -> SecretHead {
    let info = SecretInfo { name: name.into(), created_at: Micros(NOW.0 + first), updated_at: Micros(NOW.0 + last) };
    SecretHead { info, sealed_bytes: 3 }
}

fn bind(attempt: u64, names: &[&str]) -> Write {
    let names = names.iter().map(ToString::to_string).collect();
    Write::SecretsBind { attempt: attempt_id(attempt), user_id: "ann".into(), names }
}

fn delete(name: &str) -> Write {
    Write::SecretDelete { user_id: "ann".into(), name: name.into() }
}

async fn attempts(store: &Store, phases: &[(u64, AttemptPhase)]) {
    let mut writes = vec![insert(1, "ann", "a")];
    for (n, phase) in phases {
        writes.push(Write::AttemptPut(AttemptRecord { phase: *phase, ..attempt(*n, 1, *n as u32) }));
    }
    store.commit(writes).await.unwrap();
}

async fn given(store: &Store, attempt: u64) -> Vec<u128> {
    store.attempt_secrets(attempt_id(attempt)).await.unwrap().iter().map(|secret| secret.id.as_u128()).collect()
}

pub(crate) async fn a_secret_has_one_current_value(fixture: Fixture) {
    let store = &fixture.store;
    assert_eq!(store.secret_key_last().await.unwrap(), 0);
    let writes = [secret(1, "ann", "B"), secret(2, "ann", "A"), secret(3, "bob", "A")].map(Write::SecretPut);
    store.commit(writes.into()).await.unwrap();
    assert_eq!(store.secrets("ann").await.unwrap(), [listed("A", 2, 2), listed("B", 1, 1)]);

    store.commit(vec![Write::SecretPut(secret(4, "ann", "A"))]).await.unwrap();
    store.commit(vec![Write::SecretPut(secret(5, "ann", "A"))]).await.unwrap();
    assert_eq!(store.secrets("ann").await.unwrap(), [listed("A", 2, 5), listed("B", 1, 1)]);
    assert_eq!(store.secrets("bob").await.unwrap(), [listed("A", 3, 3)]);
    assert_eq!(store.secret_key_last().await.unwrap(), 7);

    for _ in 0..2 {
        store.commit(vec![delete("A")]).await.unwrap();
        assert_eq!(store.secrets("ann").await.unwrap(), [listed("B", 1, 1)]);
    }
    store.commit(vec![Write::SecretPut(secret(6, "ann", "A"))]).await.unwrap();
    assert_eq!(store.secrets("ann").await.unwrap()[0], listed("A", 6, 6), "first set when it was set anew");
    assert!(store.secrets("a\0").await.unwrap().is_empty());
}

pub(crate) async fn an_attempt_keeps_the_values_it_was_given(fixture: Fixture) {
    let store = &fixture.store;
    attempts(store, &[(1, AttemptPhase::Accepted), (2, AttemptPhase::Ready)]).await;
    let writes = [secret(1, "ann", "A"), secret(2, "ann", "B"), secret(3, "bob", "C")].map(Write::SecretPut);
    store.commit(writes.into()).await.unwrap();
    store.commit(vec![bind(1, &["A", "B", "C", "D"])]).await.unwrap();
    let read = store.attempt_secrets(attempt_id(1)).await.unwrap();
    assert_eq!(read, [secret(1, "ann", "A"), secret(2, "ann", "B")]);
    assert_eq!(given(store, 1).await, [1, 2], "not those of others, nor what is not there");

    store.commit(vec![Write::SecretPut(secret(4, "ann", "A")), delete("B")]).await.unwrap();
    store.commit(vec![bind(1, &["A", "B"]), bind(2, &["A", "B"])]).await.unwrap();
    assert_eq!((given(store, 1).await, given(store, 2).await), (vec![1, 2], vec![4]));
    store.commit(vec![delete("A")]).await.unwrap();
    assert_eq!((given(store, 1).await, given(store, 2).await), (vec![1, 2], vec![4]));
    assert!(store.secrets("ann").await.unwrap().is_empty());
}

pub(crate) async fn only_an_attempt_that_has_not_started_is_given_values(fixture: Fixture) {
    let store = &fixture.store;
    let phases = [AttemptPhase::Running, AttemptPhase::Collecting, AttemptPhase::Ended, AttemptPhase::Abandoned];
    let numbered: Vec<_> = (1..).zip(phases).collect();
    attempts(store, &numbered).await;
    store.commit(vec![Write::SecretPut(secret(1, "ann", "A"))]).await.unwrap();
    for n in 1..=5 {
        store.commit(vec![bind(n, &["A"])]).await.unwrap();
        assert!(given(store, n).await.is_empty(), "attempt {n}");
    }
}

pub(crate) async fn a_value_is_gone_with_the_last_that_has_it(fixture: Fixture) {
    let store = &fixture.store;
    attempts(store, &[(1, AttemptPhase::Accepted), (2, AttemptPhase::Accepted)]).await;
    let held = "INSERT INTO meta (name, value) SELECT 'held', id FROM secret";
    store.commit(vec![Write::SecretPut(secret(1, "ann", "A")), bind(1, &["A"]), bind(2, &["A"])]).await.unwrap();
    store.commit(vec![Write::SecretPut(secret(2, "ann", "A")), delete("A")]).await.unwrap();
    store.commit(vec![Write::SecretsRelease { attempt: attempt_id(1) }]).await.unwrap();
    assert_eq!((given(store, 1).await, given(store, 2).await), (vec![], vec![1]));
    fixture.execute(held).await.unwrap();
    assert_eq!(store.meta("held").await.unwrap(), Some(Uuid::from_u128(1).to_string()), "2 was nobody's and went");

    for _ in 0..2 {
        store.commit(vec![Write::SecretsRelease { attempt: attempt_id(2) }]).await.unwrap();
        assert!(given(store, 2).await.is_empty());
    }
    assert_eq!(store.secret_key_last().await.unwrap(), 0, "no row is left");
    // What is current stays, whoever had it.
    store.commit(vec![Write::SecretPut(secret(3, "ann", "A")), bind(1, &["A"])]).await.unwrap();
    store.commit(vec![Write::SecretsRelease { attempt: attempt_id(1) }]).await.unwrap();
    assert_eq!(store.secrets("ann").await.unwrap(), [listed("A", 3, 3)]);
}
