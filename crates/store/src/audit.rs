//! Reads of the audit log: pages of events by filter, and rows as they stand there for whoever verifies them. A row
//! that somebody has changed is read like any other: it must be found, not stop the reader.

use crate::{
    limits::PAGE_ROWS,
    model::StoreError,
    read::Query,
    store::Store,
    value::{Row, Value},
};
use fetchml_api::{AuditKind, Micros};
use fetchml_audit::{AuditEvent, AuditRow};

const COLUMNS: &str = "SELECT sequence, body, prev_hash, event_hash, at, event_type, user_id, resource, action, success \
    FROM audit";
/// One by one: SQLite looks through all rows for both in one.
const BOUNDS: &str = "SELECT (SELECT MIN(sequence) FROM audit), (SELECT MAX(sequence) FROM audit)";
const BOUNDS_AND_COUNT: &str = "SELECT MIN(sequence), MAX(sequence), COUNT(*) FROM audit";

/// Filter of a list of audit events; all that are set must match.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditFilter {
    /// Not earlier.
    pub from: Option<Micros>,
    /// Not later.
    pub to: Option<Micros>,
    /// Kind.
    pub kind: Option<AuditKind>,
    /// Who.
    pub user_id: Option<String>,
    /// What was acted on.
    pub resource: Option<String>,
    /// Only events behind this one in the order of the list.
    pub after: Option<u64>,
    /// Newest first.
    pub newest_first: bool,
    /// Matches to skip.
    pub offset: i64,
    /// Most events to return.
    pub limit: i64,
}

impl AuditFilter {
    fn is_open(&self) -> bool {
        let Self { from, to, kind, user_id, resource, .. } = self;
        from.is_none() && to.is_none() && kind.is_none() && user_id.is_none() && resource.is_none()
    }
}

/// An audit row with the columns by which it is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredAudit {
    /// What was hashed, and the hashes. What is no hash of 32 bytes reads as zeros, what is no body as nothing, and
    /// what is no number as 2^64 - 1: none of these ever verifies.
    pub row: AuditRow,
    /// When it happened.
    pub at: Micros,
    /// The contract's kind, when it is one.
    pub kind: Option<AuditKind>,
    /// Who.
    pub user_id: String,
    /// What was acted on.
    pub resource: String,
    /// Exactly what happened.
    pub action: String,
    /// Whether it was done; none: the column holds neither 0 nor 1.
    pub success: Option<bool>,
}

impl StoredAudit {
    fn read(mut row: Row) -> Self {
        let number = |value| match value {
            Value::Int(number) => Some(number),
            _ => None,
        };
        let text = |value| match value {
            Value::Text(text) => text.into_owned(),
            _ => String::new(),
        };
        let bytes = |value| match value {
            Value::Blob(bytes) => bytes,
            _ => Vec::new(),
        };
        let sequence = number(row.value()).map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(0));
        let body = bytes(row.value());
        let mut hash = || bytes(row.value()).try_into().unwrap_or([0; 32]);
        let (prev_hash, event_hash) = (hash(), hash());
        Self {
            row: AuditRow { sequence, body, prev_hash, event_hash },
            at: Micros(number(row.value()).unwrap_or(-1)),
            kind: text(row.value()).parse().ok(),
            user_id: text(row.value()),
            resource: text(row.value()),
            action: text(row.value()),
            success: match number(row.value()) {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
        }
    }

    /// Whether the columns say what the body says.
    pub fn agrees_with(&self, body: &AuditEvent) -> bool {
        self.at == body.timestamp
            && self.kind == Some(body.event_type)
            && self.user_id == body.user_id
            && self.resource == body.resource
            && self.action == body.action
            && self.success == Some(body.success)
    }
}

impl Store {
    /// A page of audit events; and how many match the filter regardless of `after`, `offset` and `limit`.
    pub async fn audit_events(&self, filter: &AuditFilter) -> Result<(Vec<StoredAudit>, i64), StoreError> {
        let open = filter.is_open();
        let mut query = if open { Query::new(BOUNDS, "") } else { Query::new(BOUNDS_AND_COUNT, " WHERE 1 = 1") };
        query.audit_filter(filter, "at");
        let mut row = self.rows(query).await?.pop().ok_or_else(|| crate::value::unreadable("no row"))?;
        let (Some(first), Some(last)) = (row.optional_int()?, row.optional_int()?) else { return Ok((Vec::new(), 0)) };
        // Numbers are dense: whether they still are is for a verification to find.
        let total = if open { last.saturating_sub(first).saturating_add(1) } else { row.int()? };
        if filter.limit <= 0 {
            return Ok((Vec::new(), total));
        }
        let mut query = Query::new(COLUMNS, " WHERE 1 = 1");
        // Times grow with the numbers but for a few: the numbers lead to them, and no index of times that would have
        // to be sorted by number.
        query.audit_filter(filter, "+at");
        let after = filter.after.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let (low, high) = match (after, filter.newest_first) {
            (None, _) => (first, last),
            (Some(after), false) => (first.max(after.saturating_add(1)), last),
            (Some(after), true) => (first, last.min(after.saturating_sub(1))),
        };
        query.and("sequence >= ", low.into());
        query.and("sequence <= ", high.into());
        let order = if filter.newest_first { " ORDER BY sequence DESC LIMIT " } else { " ORDER BY sequence LIMIT " };
        query.and_also(order, filter.limit.min(i64::from(PAGE_ROWS)).into());
        query.and_also(" OFFSET ", filter.offset.max(0).into());
        let page = self.rows(query).await?;
        Ok((page.into_iter().map(StoredAudit::read).collect(), total))
    }

    /// Audit rows after a number in order, as they stand there; none: from the first, whatever its number. At most
    /// `limit`, and never more than [`PAGE_ROWS`].
    pub async fn audit_stored(&self, after: Option<u64>, limit: u32) -> Result<Vec<StoredAudit>, StoreError> {
        let after = after.map_or(i64::MIN, |after| i64::try_from(after).unwrap_or(i64::MAX));
        let mut query = Query::new(COLUMNS, " WHERE 1 = 1");
        query.and("sequence > ", after.into());
        query.and_also(" ORDER BY sequence LIMIT ", limit.min(PAGE_ROWS).into());
        Ok(self.rows(query).await?.into_iter().map(StoredAudit::read).collect())
    }

    async fn rows(&self, query: Query) -> Result<Vec<Row>, StoreError> {
        self.reads().list(query.text, query.params).await
    }
}

impl Query {
    fn audit_filter(&mut self, filter: &AuditFilter, at: &str) {
        if let Some(from) = filter.from {
            self.and(&format!("{at} >= "), from.into());
        }
        if let Some(to) = filter.to {
            self.and(&format!("{at} <= "), to.into());
        }
        if let Some(kind) = filter.kind {
            self.and("event_type = ", kind.as_str().into());
        }
        for (column, value) in [("user_id = ", &filter.user_id), ("resource = ", &filter.resource)] {
            if let Some(value) = value {
                self.and(column, crate::read::stored_text(value));
            }
        }
    }
}
