-- Once a second: every session that is not plainly idle, one row each, and the counts over all of them.
-- pg_blocking_pids takes the lock manager's locks, so it is asked only for sessions that wait for a lock.
WITH /* galen */ a AS MATERIALIZED (
    SELECT pid, coalesce(backend_type, '') AS backend_type, coalesce(state, '') AS state,
           coalesce(wait_event_type, '') AS wait_class, coalesce(wait_event, '') AS wait_event,
           query_id AS query_id,
           extract(epoch FROM clock_timestamp() - xact_start)::float8 * 1000 AS xact_age_ms,
           extract(epoch FROM clock_timestamp() - query_start)::float8 * 1000 AS query_age_ms,
           extract(epoch FROM clock_timestamp() - state_change)::float8 * 1000 AS state_age_ms,
           greatest(age(backend_xmin), age(backend_xid))::int8 AS xmin_age,
           coalesce(usename, '')::text AS "user", coalesce(datname, '')::text AS database,
           coalesce(application_name, '') AS application, coalesce(host(client_addr), '') AS client,
           query
      FROM pg_catalog.pg_stat_activity
     WHERE coalesce(application_name, '') <> 'galen'
), c AS (
    SELECT count(*) FILTER (WHERE backend_type = 'client backend') AS clients,
           count(*) FILTER (WHERE backend_type = 'client backend' AND state LIKE 'idle in transaction%') AS idle_in_transaction,
           max(xact_age_ms) FILTER (WHERE backend_type = 'client backend') AS oldest_xact_ms,
           -- A vacuum's own snapshot holds nothing back.
           max(xmin_age) FILTER (WHERE backend_type <> 'autovacuum worker') AS oldest_xmin
      FROM a
)
SELECT c.clients, c.idle_in_transaction, c.oldest_xact_ms, c.oldest_xmin,
       a.pid, a.backend_type, a.state, a.wait_class, a.wait_event, a.query_id, a.xact_age_ms, a.query_age_ms,
       a.state_age_ms, a.xmin_age, a."user", a.database, a.application, a.client,
       -- The text travels only where the server computed no id.
       CASE WHEN coalesce(a.query_id, 0) = 0 THEN left(a.query, 4096) END AS query,
       CASE WHEN a.wait_class = 'Lock' THEN pg_blocking_pids(a.pid) END AS blocked_by
  FROM c LEFT JOIN a ON a.wait_class <> 'Activity' AND CASE a.backend_type
         WHEN 'client backend' THEN a.state NOT IN ('idle', 'disabled', '')
         WHEN 'autovacuum worker' THEN true
         WHEN 'parallel worker' THEN true
         WHEN 'walsender' THEN true
         ELSE a.wait_class IN ('IO', 'LWLock', 'Lock', 'IPC') END
 LIMIT 500
