//! Golden bytes and hashes (computed once by an independent program), and bodies of any text.

use fetchml_api::{AuditDraft, AuditKind, Micros};
use fetchml_audit::{BodyError, Chain, genesis_hash, parse_body};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn draft() -> AuditDraft {
    AuditDraft {
        at: Micros(1_764_000_000_000_001),
        kind: AuditKind::JobQueued,
        user_id: "ann".into(),
        resource: "tasks/1".into(),
        action: "submit".into(),
        success: true,
        ip_address: None,
        error: None,
        metadata: BTreeMap::from([("job_name".into(), "a".into())]),
    }
}

#[test]
fn golden_vectors() {
    assert_eq!(hex::encode(genesis_hash("log-1")), "43562432831a5b7835a258e6183fcd4c39e6fb5474751519ac5a091d8ffb1c8b");
    let mut chain = Chain::new("log-1");
    let first = chain.append(&draft());
    assert_eq!(
        String::from_utf8(first.body).unwrap(),
        r#"{"action":"submit","event_type":"job_queued","metadata":{"job_name":"a"},"resource":"tasks/1","sequence_num":1,"success":true,"timestamp":"2025-11-24T16:00:00.000001Z","user_id":"ann"}"#
    );
    assert_eq!(hex::encode(first.event_hash), "54bc68564c0173dd00490d781f25009c74cc7b89d05015f7d199abed4fcab5ff");
    let second = chain.append(&AuditDraft {
        ip_address: Some("::1".into()),
        error: Some("no ü\u{2028} \u{1f}\n\"\\ 😀".into()),
        success: false,
        ..draft()
    });
    assert_eq!(second.prev_hash, first.event_hash);
    assert_eq!(hex::encode(second.event_hash), "183544818320173244171acc7c0ed1bb1ee841714bd1b2cf649d0e79e48f38d0");
    assert_eq!((chain.sequence, chain.head), (2, second.event_hash));
}

#[test]
fn only_canonical_bytes_are_a_body() {
    let body = Chain::new("x").append(&draft()).body;
    let text = String::from_utf8(body).unwrap();
    for other in [
        text.replace(":true", ": true"),
        text.replace("\"success\":true", "\"success\":true,\"success\":true"),
        text.replace("\"success\":true", "\"more\":1,\"success\":true"),
        text.replace(".000001Z", ".0000019Z"),
        text.replace(".000001Z", ".000001+00:00"),
        text.replace("num\":1", "num\":1.0"),
        text.replace("num\":1", "num\":9007199254740992"),
        text.replace("ann", "\\u0061nn"),
    ] {
        assert_ne!(other, text);
        assert!(matches!(parse_body(other.as_bytes()), Err(BodyError::Json(_) | BodyError::NotCanonical)), "{other}");
    }
}

#[test]
fn times_keep_their_width() {
    for at in [i64::MIN, -1, 0, 999, i64::MAX] {
        let body = Chain::new("x").append(&AuditDraft { at: Micros(at), ..draft() }).body;
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["timestamp"].as_str().unwrap().len(), "2025-11-24T16:00:00.000001Z".len());
        parse_body(&body).unwrap();
    }
}

proptest! {
    #[test]
    fn any_text_survives(
        texts in proptest::array::uniform3(any::<String>()),
        optional in proptest::array::uniform2(any::<Option<String>>()),
        metadata in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..5),
        at in 0..4_000_000_000_000_000_i64,
        success in any::<bool>(),
    ) {
        let [user_id, resource, action] = texts;
        let [ip_address, error] = optional;
        let kind = AuditKind::FileAccess;
        let draft = AuditDraft { at: Micros(at), kind, user_id, resource, action, success, ip_address, error, metadata };
        let mut chain = Chain::new("x");
        chain.append(&draft);
        let event = parse_body(&chain.append(&draft).body).unwrap();
        prop_assert_eq!(event.sequence_num, 2);
        let told = AuditDraft {
            at: event.timestamp,
            kind: event.event_type,
            user_id: event.user_id,
            resource: event.resource,
            action: event.action,
            success: event.success,
            ip_address: event.ip_address,
            error: event.error,
            metadata: event.metadata,
        };
        prop_assert_eq!(told, draft);
    }
}
