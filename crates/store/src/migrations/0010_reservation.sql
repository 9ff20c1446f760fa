-- GPUs set aside for one task. Those that expired without a task are kept for a day, to tell late comers.
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    gpu_count BIGINT NOT NULL,
    gpu_type TEXT,
    node_count BIGINT NOT NULL,
    expires_minutes BIGINT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'claimed', 'expired')),
    task_id TEXT,
    gpus_held BIGINT NOT NULL,
    earmarks TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    ended_at BIGINT
);
CREATE INDEX reservation_live ON reservation (id) WHERE status <> 'expired';
CREATE INDEX reservation_unused ON reservation (ended_at) WHERE task_id IS NULL;
