//! Webhooks and the outbox: what waits, in which order, and what is kept of what was given up.

use crate::{Fixture, build::*};
use fetchml_api::{Micros, WebhookEvent, WebhookId};
use fetchml_store::{Delivery, OutboxWrite, Store, StoreError, WebhookRecord, Write, limits};
use uuid::Uuid;

fn webhook(n: u128, user: &str) -> WebhookRecord {
    WebhookRecord {
        id: WebhookId(Uuid::from_u128(n)),
        user_id: user.into(),
        url: format!("https://example.org/{n}"),
        events: vec![WebhookEvent::Running, WebhookEvent::Failed],
        created_at: NOW,
        since: 7,
        key_version: 3,
        sealed: vec![n as u8, 0, 255],
    }
}

fn delivery(lane: &str, seq: u64) -> Delivery {
    Delivery {
        lane: lane.into(),
        seq,
        user_id: "ann".into(),
        event: "task.failed".into(),
        body: format!("{{\"seq\":{seq}}}"),
        created_at: NOW,
        attempts: 0,
        next_at: NOW,
        failed_at: None,
        error: None,
    }
}

async fn write(store: &Store, writes: impl IntoIterator<Item = OutboxWrite>) {
    store.commit(writes.into_iter().map(Write::Outbox).collect()).await.unwrap();
}

fn put(lane: &str, seq: u64) -> OutboxWrite {
    OutboxWrite::Put(delivery(lane, seq))
}

fn given_up(lane: &str, seq: u64, at: Micros) -> OutboxWrite {
    let error = Some(format!("no answer to {seq}"));
    OutboxWrite::Attempted(Delivery { attempts: 9, failed_at: Some(at), error, ..delivery(lane, seq) })
}

pub(crate) async fn webhooks_read_back_and_are_deleted_with_what_waits(fixture: Fixture) {
    let store = &fixture.store;
    let (a, b) = (webhook(1, "ann"), webhook(2, "bob"));
    write(store, [OutboxWrite::WebhookInsert(b.clone()), OutboxWrite::WebhookInsert(a.clone())]).await;
    assert_eq!(store.webhooks().await.unwrap(), [a.clone(), b.clone()]);
    assert_eq!(store.webhook(b.id).await.unwrap(), Some(b.clone()));
    assert_eq!(store.secret_key_last().await.unwrap(), 3, "a lost key file is noticed by what it sealed");
    let again = store.commit(vec![Write::Outbox(OutboxWrite::WebhookInsert(a.clone()))]).await;
    assert!(matches!(again, Err(StoreError::Data(_))), "{again:?}");

    let (lane_a, lane_b) = (a.id.to_string(), b.id.to_string());
    write(store, [put(&lane_a, 1), put(&lane_b, 1)]).await;
    for _ in 0..2 {
        write(store, [OutboxWrite::WebhookDelete(a.id)]).await;
        assert_eq!(store.webhooks().await.unwrap(), std::slice::from_ref(&b));
        assert_eq!(store.lanes().await.unwrap(), [(lane_b.clone(), "ann".to_owned())]);
    }
    assert_eq!(store.delivery_next(&lane_a).await.unwrap(), None);
}

pub(crate) async fn a_lane_gives_what_waits_in_order(mut fixture: Fixture) {
    let store = &fixture.store;
    write(store, [put("a", 5), put("a", 3), put("b", 4)]).await;
    // A second look at a change makes no second delivery, and leaves what became of the first.
    let later = Delivery { attempts: 1, next_at: Micros(NOW.0 + 9), error: Some("down".into()), ..delivery("a", 3) };
    write(store, [OutboxWrite::Attempted(later.clone()), put("a", 3)]).await;
    assert_eq!(store.delivery_next("a").await.unwrap(), Some(later.clone()));
    assert_eq!(store.lane_counts("a").await.unwrap(), (2, 0));
    fixture.reopen().await;
    let store = &fixture.store;
    let mut lanes = store.lanes().await.unwrap();
    lanes.sort();
    assert_eq!(lanes, ["a", "b"].map(|lane| (lane.to_owned(), "ann".to_owned())));
    assert_eq!(store.delivery_last_error("a").await.unwrap(), Some(later));
    write(store, [OutboxWrite::Done { lane: "a".into(), seq: 3 }]).await;
    assert_eq!(store.delivery_next("a").await.unwrap(), Some(delivery("a", 5)));
    assert_eq!(store.delivery_last_error("a").await.unwrap(), None);
    write(store, [given_up("a", 5, NOW)]).await;
    assert_eq!(store.delivery_next("a").await.unwrap(), None);
    assert_eq!(store.lane_counts("a").await.unwrap(), (0, 1));
    // What is no more is not brought back.
    write(store, [given_up("a", 3, NOW), OutboxWrite::Done { lane: "b".into(), seq: 9 }]).await;
    assert_eq!(store.lane_counts("a").await.unwrap(), (0, 1));
    assert_eq!(store.lane_counts("b").await.unwrap(), (1, 0));
    assert!(store.commit(vec![Write::Outbox(put("a\0", 1))]).await.is_err());
}

pub(crate) async fn a_full_lane_gives_up_what_comes_and_what_was_given_up_goes(fixture: Fixture) {
    let store = &fixture.store;
    let most = u64::from(limits::LANE_WAITING);
    write(store, (1..=most + 3).map(|seq| put("a", seq))).await;
    assert_eq!(store.lane_counts("a").await.unwrap(), (limits::LANE_WAITING, 3));
    let refused = store.delivery_last_error("a").await.unwrap().unwrap();
    assert_eq!((refused.seq, refused.failed_at), (most + 3, Some(NOW)));
    assert_eq!(store.delivery_next("a").await.unwrap(), Some(delivery("a", 1)));

    let kept = u64::from(limits::LANE_FAILED);
    write(store, (1..=kept + 10).map(|seq| given_up("a", seq, NOW))).await;
    let left = limits::LANE_WAITING - (kept + 10) as u32;
    assert_eq!(store.lane_counts("a").await.unwrap(), (left, limits::LANE_FAILED), "the last few are kept");

    write(store, [put("b", 1)]).await;
    let later = Micros(NOW.0 + limits::FAILED_DELIVERY_KEPT + 1);
    write(store, [given_up("b", 1, later)]).await;
    assert_eq!(store.lane_counts("a").await.unwrap(), (left, 0), "and for a while");
    assert_eq!(store.lane_counts("b").await.unwrap(), (0, 1));
}
