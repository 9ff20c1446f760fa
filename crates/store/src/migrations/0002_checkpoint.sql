CREATE TABLE checkpoint (
    attempt_id TEXT PRIMARY KEY REFERENCES attempt (id),
    saved_at BIGINT NOT NULL,
    files TEXT NOT NULL
);
