-- Once a second: the counters of the current database, and the position of the write-ahead log.
SELECT /* galen */
    extract(epoch FROM clock_timestamp())::float8 * 1000 AS at_ms,
    xact_commit::float8, xact_rollback::float8, blks_read::float8, blks_hit::float8, tup_returned::float8,
    tup_fetched::float8, tup_inserted::float8, tup_updated::float8, tup_deleted::float8, temp_files::float8,
    temp_bytes::float8, deadlocks::float8, sessions::float8 AS sessions,
    pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                    '0/0')::float8 AS wal_bytes
  FROM pg_catalog.pg_stat_database
 WHERE datname = current_database()
