ALTER TABLE task ADD COLUMN blocked BIGINT NOT NULL DEFAULT 0 CHECK (blocked IN (0, 1));
ALTER TABLE task ADD COLUMN array_id TEXT;
CREATE INDEX task_by_array ON task (array_id, id) WHERE array_id IS NOT NULL;
