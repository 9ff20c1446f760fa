-- since: number of the last change before it was made; sealed: what its requests are signed with.
CREATE TABLE webhook (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    since BIGINT NOT NULL,
    key_version BIGINT NOT NULL,
    sealed {blob} NOT NULL
);
CREATE INDEX webhook_by_user ON webhook (user_id, id);

-- What is to be told, and what could not be. lane: what is told of in order, such as a webhook, by its id; seq: number
-- of the change that is told of; failed_at: when it was given up.
CREATE TABLE delivery (
    lane TEXT NOT NULL,
    seq BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    event TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    failed_at BIGINT,
    error TEXT,
    PRIMARY KEY (lane, seq)
);
CREATE INDEX delivery_waiting ON delivery (lane, seq) WHERE failed_at IS NULL;
CREATE INDEX delivery_failed ON delivery (lane, seq) WHERE failed_at IS NOT NULL;
CREATE INDEX delivery_by_failure ON delivery (failed_at) WHERE failed_at IS NOT NULL;
