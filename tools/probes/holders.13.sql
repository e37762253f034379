-- Every few seconds: replicas, replication slots and prepared transactions, whatever can lag or hold back cleanup.
WITH /* galen */ here AS MATERIALIZED (
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END AS lsn
)
SELECT 'replica' AS kind, coalesce(nullif(application_name, ''), 'pid ' || pid) AS name, state = 'streaming' AS active,
       pg_wal_lsn_diff(lsn, replay_lsn)::float8 AS lag_bytes,
       extract(epoch FROM replay_lag)::float8 * 1000 AS lag_ms, age(backend_xmin)::int8 AS xmin_age
  FROM here, pg_catalog.pg_stat_replication
 WHERE state IN ('streaming', 'catchup')
UNION ALL
SELECT 'slot', slot_name::text, active, pg_wal_lsn_diff(lsn, restart_lsn)::float8, NULL::float8,
       greatest(age(xmin), age(catalog_xmin))::int8
  FROM here, pg_catalog.pg_replication_slots
UNION ALL
SELECT 'prepared', left(gid, 64), true, NULL::float8,
       extract(epoch FROM clock_timestamp() - prepared)::float8 * 1000, age(transaction)::int8
  FROM pg_catalog.pg_prepared_xacts
 LIMIT 200
