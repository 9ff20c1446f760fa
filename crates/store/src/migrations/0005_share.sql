-- What users have used, halved for every seven days since, as of an instant: what fair shares compare.
CREATE TABLE share (
    user_id TEXT PRIMARY KEY,
    cpu_ms BIGINT NOT NULL,
    memory_gb_ms BIGINT NOT NULL,
    gpu_ms BIGINT NOT NULL,
    as_of BIGINT NOT NULL
);

-- What attempts that are over have used in all.
CREATE TABLE usage (
    user_id TEXT PRIMARY KEY,
    cpu_ms BIGINT NOT NULL,
    gpu_ms BIGINT NOT NULL
);

CREATE TABLE quota (
    scope TEXT NOT NULL CHECK (scope IN ('role', 'user')),
    name TEXT NOT NULL,
    quota TEXT NOT NULL,
    PRIMARY KEY (scope, name)
);
