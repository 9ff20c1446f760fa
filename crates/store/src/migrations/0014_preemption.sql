ALTER TABLE attempt ADD COLUMN preempted_for TEXT;
