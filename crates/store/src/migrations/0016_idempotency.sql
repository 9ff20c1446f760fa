-- Requests that are done once however often they are sent; id: a hash of user, operation and key.
CREATE TABLE idempotency (
    id TEXT PRIMARY KEY,
    body_sha256 TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);
