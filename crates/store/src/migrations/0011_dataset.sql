CREATE TABLE dataset (
    name TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    spec TEXT NOT NULL
);
