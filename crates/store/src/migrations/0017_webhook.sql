-- place: number of the last change that was told, or was not to be told.
CREATE TABLE webhook (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    place BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    next_attempt_at BIGINT,
    error TEXT
);
CREATE INDEX webhook_by_user ON webhook (user_id, id);
