-- Every few seconds: cumulative counters by query id of the current database, without the texts.
SELECT /* galen */
    queryid AS query_id, sum(calls)::float8 AS calls, sum(total_exec_time)::float8 AS total_exec_ms,
    sum(rows)::float8 AS rows, sum(shared_blks_hit)::float8 AS shared_blks_hit,
    sum(shared_blks_read)::float8 AS shared_blks_read, sum(shared_blks_dirtied)::float8 AS shared_blks_dirtied,
    sum(temp_blks_read)::float8 AS temp_blks_read, sum(temp_blks_written)::float8 AS temp_blks_written,
    sum(wal_bytes)::float8 AS wal_bytes,
    0::float8 AS jit_ms
  FROM pg_stat_statements(false)
 WHERE queryid IS NOT NULL AND calls > 0
   AND dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
 GROUP BY queryid
