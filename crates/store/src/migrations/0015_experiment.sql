CREATE TABLE experiment (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    commit_id TEXT,
    user_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    status TEXT NOT NULL
);
CREATE INDEX experiment_by_status ON experiment (status, id);
ALTER TABLE task ADD COLUMN experiment_id TEXT;
CREATE INDEX task_by_experiment ON task (experiment_id, id) WHERE experiment_id IS NOT NULL;
