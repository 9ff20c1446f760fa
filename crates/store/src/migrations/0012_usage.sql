-- What attempts that are over have used in all, by user and experiment ('' is none); and how much of it held GPUs
-- that did nothing, which is also counted while they run.
CREATE TABLE usage_new (
    user_id TEXT NOT NULL,
    experiment_id TEXT NOT NULL,
    cpu_ms BIGINT NOT NULL,
    gpu_ms BIGINT NOT NULL,
    idle_gpu_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, experiment_id)
);
INSERT INTO usage_new (user_id, experiment_id, cpu_ms, gpu_ms, idle_gpu_ms)
    SELECT user_id, '', cpu_ms, gpu_ms, 0 FROM usage;
DROP TABLE usage;
ALTER TABLE usage_new RENAME TO usage;
