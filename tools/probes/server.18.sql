-- Every few seconds: checkpoints, archiver, vacuum progress, transaction id age, connection limit.
SELECT /* galen */
    extract(epoch FROM clock_timestamp())::float8 * 1000 AS at_ms,
    c.num_timed::float8 AS checkpoints_timed, c.num_requested::float8 AS checkpoints_req,
    c.buffers_written::float8 AS buffers_checkpoint,
    (SELECT coalesce(sum(write_bytes), 0)::float8 / 8192 FROM pg_catalog.pg_stat_io
      WHERE object = 'relation' AND backend_type NOT IN ('checkpointer', 'background writer')) AS buffers_backend,
    ar.failed_count::float8 AS archive_failures,
    (SELECT count(*) FROM pg_catalog.pg_stat_progress_vacuum) AS vacuum_workers,
    (SELECT max(age(datfrozenxid))::float8 FROM pg_catalog.pg_database) AS frozen_xid_age,
    current_setting('max_connections')::float8 AS max_connections,
    extract(epoch FROM pg_postmaster_start_time())::float8 * 1000 AS started_ms
  FROM pg_catalog.pg_stat_checkpointer c, pg_catalog.pg_stat_archiver ar
