CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE task (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    job_name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    spec TEXT NOT NULL,
    status TEXT NOT NULL,
    priority BIGINT NOT NULL,
    queued_since BIGINT NOT NULL,
    waited_before BIGINT NOT NULL,
    not_before BIGINT,
    attempt TEXT,
    epoch_incarnation BIGINT,
    epoch_n BIGINT,
    worker_id TEXT,
    started_at BIGINT,
    ended_at BIGINT,
    retry_count BIGINT NOT NULL,
    requeue_count BIGINT NOT NULL,
    attempt_count BIGINT NOT NULL,
    cancelled_by TEXT,
    cause TEXT,
    exit_code BIGINT,
    signal BIGINT,
    error TEXT,
    hidden BIGINT NOT NULL CHECK (hidden IN (0, 1)),
    CHECK (status IN ('queued', 'preparing', 'running', 'collecting', 'completed', 'failed'))
);
CREATE INDEX task_by_status ON task (status, id);
CREATE INDEX task_by_user ON task (user_id, id);
CREATE INDEX task_by_name ON task (job_name, id);
CREATE INDEX task_by_end ON task (ended_at, status, hidden) WHERE ended_at IS NOT NULL;

-- Tasks not hidden, by submitter and status: totals of lists without a scan.
CREATE TABLE counter (
    user_id TEXT NOT NULL,
    status TEXT NOT NULL,
    tasks BIGINT NOT NULL CHECK (tasks >= 0),
    PRIMARY KEY (user_id, status)
);

CREATE TABLE attempt (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL REFERENCES task (id),
    number BIGINT NOT NULL,
    epoch_incarnation BIGINT NOT NULL,
    epoch_n BIGINT NOT NULL,
    worker_id TEXT NOT NULL,
    gpus TEXT NOT NULL,
    phase TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    outcome TEXT,
    UNIQUE (task_id, number)
);

CREATE TABLE artifact (
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    path TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (attempt_id, path)
);

CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    batch_slots BIGINT NOT NULL,
    service_slots BIGINT NOT NULL,
    draining BIGINT NOT NULL CHECK (draining IN (0, 1)),
    connected_at BIGINT NOT NULL
);

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    role TEXT NOT NULL,
    name TEXT,
    digest {blob} NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);

CREATE TABLE snapshot (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    file_count BIGINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- `body` is what was hashed; the other columns only help to find it.
CREATE TABLE audit (
    sequence BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    event_type TEXT NOT NULL,
    user_id TEXT NOT NULL,
    resource TEXT NOT NULL,
    action TEXT NOT NULL,
    success BIGINT NOT NULL,
    body {blob} NOT NULL,
    prev_hash {blob} NOT NULL,
    event_hash {blob} NOT NULL
);

CREATE TABLE change (
    sequence BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    entity TEXT NOT NULL,
    body TEXT NOT NULL
);
