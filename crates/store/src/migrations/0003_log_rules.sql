ALTER TABLE task ADD COLUMN log_rule TEXT;
ALTER TABLE task ADD COLUMN excluded_workers TEXT;
