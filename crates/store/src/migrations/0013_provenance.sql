-- What workers say of how they run attempts: the same for many, so each is kept once, under its hash.
CREATE TABLE provenance (
    sha256 TEXT PRIMARY KEY,
    body TEXT NOT NULL
);
CREATE TABLE attempt_provenance (
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    node BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (attempt_id, node)
);
CREATE INDEX attempt_provenance_by_hash ON attempt_provenance (sha256);
