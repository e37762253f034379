-- Every few seconds: checkpoints, archiver, vacuum progress, transaction id age, connection limit.
SELECT /* galen */
    extract(epoch FROM clock_timestamp())::float8 * 1000 AS at_ms,
    b.checkpoints_timed::float8, b.checkpoints_req::float8, b.buffers_checkpoint::float8, b.buffers_backend::float8,
    ar.failed_count::float8 AS archive_failures,
    (SELECT count(*) FROM pg_catalog.pg_stat_progress_vacuum) AS vacuum_workers,
    (SELECT max(age(datfrozenxid))::float8 FROM pg_catalog.pg_database) AS frozen_xid_age,
    current_setting('max_connections')::float8 AS max_connections,
    extract(epoch FROM pg_postmaster_start_time())::float8 * 1000 AS started_ms
  FROM pg_catalog.pg_stat_bgwriter b, pg_catalog.pg_stat_archiver ar
