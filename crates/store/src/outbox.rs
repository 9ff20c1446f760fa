//! Webhooks, and the outbox: what is to be told outside, until it was told or given up.
//!
//! What is told in order, one after the other, is a lane. A delivery is known by its lane and by the number of the
//! change that it tells of, so that looking at a change twice makes no second one.

use crate::{
    limits,
    model::StoreError,
    prepare::Prepared,
    read::{all, one},
    store::Store,
    value::{Row, Statement, Value},
};
use fetchml_api::{Micros, WebhookEvent, WebhookId};

/// A webhook, as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookRecord {
    /// Its id; its lane has the same name.
    pub id: WebhookId,
    /// Whose tasks it hears of.
    pub user_id: String,
    /// Where requests are sent.
    pub url: String,
    /// What it is told of.
    pub events: Vec<WebhookEvent>,
    /// When it was made.
    pub created_at: Micros,
    /// Number of the last change before it was made.
    pub since: u64,
    /// Version of the server's key that `sealed` is sealed with.
    pub key_version: u32,
    /// What its requests are signed with, sealed.
    pub sealed: Vec<u8>,
}

/// Something to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// What it is told in.
    pub lane: String,
    /// Number of the change that it tells of.
    pub seq: u64,
    /// Whose task it tells of.
    pub user_id: String,
    /// What happened.
    pub event: String,
    /// What is told.
    pub body: String,
    /// When it was put into the outbox.
    pub created_at: Micros,
    /// Attempts that failed.
    pub attempts: u32,
    /// No attempt is made before.
    pub next_at: Micros,
    /// When it was given up.
    pub failed_at: Option<Micros>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// A change of webhooks or of the outbox.
#[derive(Clone, Debug)]
pub enum OutboxWrite {
    /// A new webhook. A known id is refused for data.
    WebhookInsert(WebhookRecord),
    /// A webhook is no more, nor is anything that waits for it. Repeating it changes nothing.
    WebhookDelete(WebhookId),
    /// Something to be told. One that is known is left as it is; where [`limits::LANE_WAITING`] wait already it is
    /// given up at once.
    Put(Delivery),
    /// It was told.
    Done {
        /// Lane.
        lane: String,
        /// Number of the change.
        seq: u64,
    },
    /// An attempt failed: another one is made, or none any more. Nothing for a delivery that is no more.
    Attempted(Delivery),
}

const WEBHOOK_INSERT: &str = "INSERT INTO webhook (id, user_id, url, events, created_at, since, key_version, sealed) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING";

const WEBHOOK_DELETE: &str = "DELETE FROM webhook WHERE id = $1";

const LANE_DELETE: &str = "DELETE FROM delivery WHERE lane = $1";

const WEBHOOK_GET: &str =
    "SELECT id, user_id, url, events, created_at, since, key_version, sealed FROM webhook WHERE id = $1";

const WEBHOOKS: &str =
    "SELECT id, user_id, url, events, created_at, since, key_version, sealed FROM webhook ORDER BY id";

const DELIVERY_PUT: &str = "INSERT INTO delivery (lane, seq, user_id, event, body, created_at, attempts, next_at, \
    failed_at, error) SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS TEXT), CAST($4 AS TEXT), \
    CAST($5 AS TEXT), CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST($8 AS BIGINT), \
    CASE WHEN waiting < CAST($9 AS BIGINT) THEN NULL ELSE CAST($6 AS BIGINT) END, \
    CASE WHEN waiting < CAST($9 AS BIGINT) THEN NULL ELSE CAST($10 AS TEXT) END \
    FROM (SELECT COUNT(*) AS waiting FROM delivery WHERE lane = $1 AND failed_at IS NULL) AS counted \
    WHERE TRUE ON CONFLICT (lane, seq) DO NOTHING";

const DELIVERY_DONE: &str = "DELETE FROM delivery WHERE lane = $1 AND seq = $2";

const DELIVERY_ATTEMPTED: &str = "UPDATE delivery SET attempts = $3, next_at = $4, failed_at = $5, error = $6 \
    WHERE lane = $1 AND seq = $2";

/// What was given up is kept for a while, and of each lane the last few.
const FAILED_PRUNE: &str = "DELETE FROM delivery WHERE failed_at IS NOT NULL AND failed_at < $1";

const FAILED_TRIM: &str = "DELETE FROM delivery WHERE lane = $1 AND failed_at IS NOT NULL AND seq <= \
    (SELECT seq FROM delivery WHERE lane = $1 AND failed_at IS NOT NULL ORDER BY seq DESC LIMIT 1 OFFSET $2)";

const LANES: &str = "SELECT DISTINCT lane, user_id FROM delivery WHERE failed_at IS NULL";

const DELIVERY_NEXT: &str = "SELECT lane, seq, user_id, event, body, created_at, attempts, next_at, failed_at, error \
    FROM delivery WHERE lane = $1 AND failed_at IS NULL ORDER BY seq LIMIT 1";

const DELIVERY_LAST_ERROR: &str = "SELECT lane, seq, user_id, event, body, created_at, attempts, next_at, failed_at, \
    error FROM delivery WHERE lane = $1 AND error IS NOT NULL ORDER BY seq DESC LIMIT 1";

const LANE_COUNTS: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN failed_at IS NULL THEN 1 ELSE 0 END), 0) AS \
    BIGINT) FROM delivery WHERE lane = $1";

impl Prepared {
    pub(crate) fn outbox(&mut self, write: OutboxWrite) -> Result<(), StoreError> {
        match write {
            OutboxWrite::WebhookInsert(record) => {
                self.saw(record.created_at.0);
                let insert = Statement::new(WEBHOOK_INSERT, webhook(record)?);
                self.statements.push(insert.must_change("the id of a webhook is taken"));
            }
            OutboxWrite::WebhookDelete(id) => {
                self.push(WEBHOOK_DELETE, vec![Value::word(id)]);
                self.push(LANE_DELETE, vec![Value::word(id)]);
            }
            OutboxWrite::Put(delivery) => self.delivery_put(delivery)?,
            OutboxWrite::Done { lane, seq } => {
                self.push(DELIVERY_DONE, vec![Value::text(lane)?, Value::unsigned(seq)?]);
            }
            OutboxWrite::Attempted(delivery) => self.delivery_attempted(delivery)?,
        }
        Ok(())
    }

    fn delivery_put(&mut self, delivery: Delivery) -> Result<(), StoreError> {
        let Delivery { lane, seq, user_id, event, body, created_at, attempts, next_at, failed_at: _, error: _ } =
            delivery;
        self.saw(created_at.0);
        let lane = Value::text(lane)?;
        let full = format!("{} waited already", limits::LANE_WAITING);
        let params = vec![
            lane.clone(),
            Value::unsigned(seq)?,
            Value::text(user_id)?,
            Value::text(event)?,
            Value::text(body)?,
            created_at.into(),
            attempts.into(),
            next_at.into(),
            limits::LANE_WAITING.into(),
            Value::text(full)?,
        ];
        self.push(DELIVERY_PUT, params);
        self.push(FAILED_TRIM, vec![lane, limits::LANE_FAILED.into()]);
        Ok(())
    }

    fn delivery_attempted(&mut self, delivery: Delivery) -> Result<(), StoreError> {
        let Delivery { lane, seq, attempts, next_at, failed_at, error, .. } = delivery;
        let lane = Value::text(lane)?;
        let params = vec![
            lane.clone(),
            Value::unsigned(seq)?,
            attempts.into(),
            next_at.into(),
            failed_at.into(),
            Value::optional_text(error.as_ref())?,
        ];
        self.push(DELIVERY_ATTEMPTED, params);
        if let Some(at) = failed_at {
            self.saw(at.0);
            self.push(FAILED_PRUNE, vec![Micros(at.0.saturating_sub(limits::FAILED_DELIVERY_KEPT)).into()]);
            self.push(FAILED_TRIM, vec![lane, limits::LANE_FAILED.into()]);
        }
        Ok(())
    }
}

impl Store {
    /// A webhook.
    pub async fn webhook(&self, id: WebhookId) -> Result<Option<WebhookRecord>, StoreError> {
        one(self.reads().point(WEBHOOK_GET, &[Value::word(id)]).await?, read_webhook)
    }

    /// All webhooks, oldest first.
    pub async fn webhooks(&self) -> Result<Vec<WebhookRecord>, StoreError> {
        all(self.reads().list(WEBHOOKS, Vec::new()).await?, read_webhook)
    }

    /// The lanes in which something waits, and whose they are.
    pub async fn lanes(&self) -> Result<Vec<(String, String)>, StoreError> {
        all(self.reads().list(LANES, Vec::new()).await?, |mut row| Ok((row.text()?, row.text()?)))
    }

    /// What is to be told next in a lane.
    pub async fn delivery_next(&self, lane: &str) -> Result<Option<Delivery>, StoreError> {
        one(self.reads().point(DELIVERY_NEXT, &[Value::text(lane.to_owned())?]).await?, read_delivery)
    }

    /// The last of a lane that failed, given up or not.
    pub async fn delivery_last_error(&self, lane: &str) -> Result<Option<Delivery>, StoreError> {
        one(self.reads().point(DELIVERY_LAST_ERROR, &[Value::text(lane.to_owned())?]).await?, read_delivery)
    }

    /// How many wait in a lane, and how many were given up and are kept.
    pub async fn lane_counts(&self, lane: &str) -> Result<(u32, u32), StoreError> {
        let read = |mut row: Row| {
            let (of_all, waiting): (u32, u32) = (row.number()?, row.number()?);
            Ok((waiting, of_all.saturating_sub(waiting)))
        };
        let counts = one(self.reads().point(LANE_COUNTS, &[Value::text(lane.to_owned())?]).await?, read)?;
        Ok(counts.unwrap_or_default())
    }
}

fn webhook(record: WebhookRecord) -> Result<Vec<Value>, StoreError> {
    let WebhookRecord { id, user_id, url, events, created_at, since, key_version, sealed } = record;
    Ok(vec![
        Value::word(id),
        Value::text(user_id)?,
        Value::text(url)?,
        Value::json(&events)?,
        created_at.into(),
        Value::unsigned(since)?,
        key_version.into(),
        Value::Blob(sealed),
    ])
}

fn read_webhook(mut row: Row) -> Result<WebhookRecord, StoreError> {
    Ok(WebhookRecord {
        id: row.parse()?,
        user_id: row.text()?,
        url: row.text()?,
        events: row.json()?,
        created_at: row.time()?,
        since: row.number()?,
        key_version: row.number()?,
        sealed: row.blob()?,
    })
}

fn read_delivery(mut row: Row) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        lane: row.text()?,
        seq: row.number()?,
        user_id: row.text()?,
        event: row.text()?,
        body: row.text()?,
        created_at: row.time()?,
        attempts: row.number()?,
        next_at: row.time()?,
        failed_at: row.optional_time()?,
        error: row.optional_text()?,
    })
}
