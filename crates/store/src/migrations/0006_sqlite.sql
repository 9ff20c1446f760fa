UPDATE task SET snapshot_id = json_extract(spec, '$.snapshot_id'), resume_from = json_extract(spec, '$.resume_from');
