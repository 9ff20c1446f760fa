-- Each time a secret is set there is a new row; one is current, others are kept while an attempt was given them.
CREATE TABLE secret (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    is_current BIGINT NOT NULL CHECK (is_current IN (0, 1)),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    key_version BIGINT NOT NULL,
    sealed {blob} NOT NULL
);
CREATE UNIQUE INDEX secret_current ON secret (user_id, name) WHERE is_current = 1;

-- What a running attempt was given, so that it is given the same again.
CREATE TABLE attempt_secret (
    attempt_id TEXT NOT NULL REFERENCES attempt (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    secret_id TEXT NOT NULL REFERENCES secret (id) ON DELETE CASCADE,
    PRIMARY KEY (attempt_id, name)
);
CREATE INDEX attempt_secret_by_secret ON attempt_secret (secret_id);
