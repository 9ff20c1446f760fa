-- Who refers to what, as columns, so that what is referred to is never collected.
ALTER TABLE task ADD COLUMN snapshot_id TEXT;
ALTER TABLE task ADD COLUMN resume_from TEXT;
ALTER TABLE task ADD COLUMN hidden_at BIGINT;
CREATE INDEX task_by_snapshot ON task (snapshot_id) WHERE snapshot_id IS NOT NULL;
CREATE INDEX task_by_resume ON task (resume_from) WHERE resume_from IS NOT NULL;
CREATE INDEX task_by_hiding ON task (hidden_at, id) WHERE hidden_at IS NOT NULL;
UPDATE task SET hidden_at = COALESCE(ended_at, created_at) WHERE hidden = 1;

-- When somebody was last told that it is there.
ALTER TABLE snapshot ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE checkpoint ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
UPDATE snapshot SET used_at = created_at;
UPDATE checkpoint SET used_at = saved_at;

-- Ended tasks whose log, artifacts and checkpoints are deleted; `done` 0: not all of it yet.
CREATE TABLE collected (
    task_id TEXT PRIMARY KEY REFERENCES task (id),
    at BIGINT NOT NULL,
    why TEXT NOT NULL,
    done BIGINT NOT NULL CHECK (done IN (0, 1))
);
CREATE INDEX collected_in_part ON collected (task_id) WHERE done = 0;
