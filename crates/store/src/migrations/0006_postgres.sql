UPDATE task SET snapshot_id = spec::json ->> 'snapshot_id', resume_from = spec::json ->> 'resume_from';
