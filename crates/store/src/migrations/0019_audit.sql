-- Pages and totals of the audit log by each filter from an index alone, in the order of the log.
CREATE INDEX audit_by_time ON audit (at, sequence);
CREATE INDEX audit_by_user ON audit (user_id, sequence, at, event_type);
CREATE INDEX audit_by_type ON audit (event_type, sequence, at);
CREATE INDEX audit_by_resource ON audit (resource, sequence);
