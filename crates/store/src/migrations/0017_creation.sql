-- Lists of tasks by when they were made, and their totals, without a look at other tasks.
CREATE INDEX task_by_creation ON task (created_at, id) WHERE hidden = 0;
