-- Every few seconds: counters of user tables. Sizes are those of the last vacuum or analyze; the sizes probe is exact.
SELECT /* galen */
    s.relid::int8 AS oid, s.schemaname || '.' || s.relname AS "table",
    s.seq_scan::float8, s.seq_tup_read::float8, coalesce(s.idx_scan, 0)::float8 AS idx_scan,
    coalesce(s.idx_tup_fetch, 0)::float8 AS idx_tup_fetch, s.n_tup_ins::float8, s.n_tup_upd::float8,
    s.n_tup_hot_upd::float8, s.n_tup_del::float8, s.n_live_tup::float8, s.n_dead_tup::float8,
    s.n_mod_since_analyze::float8,
    extract(epoch FROM now() - greatest(s.last_vacuum, s.last_autovacuum))::float8 AS since_vacuum_s,
    extract(epoch FROM now() - greatest(s.last_analyze, s.last_autoanalyze))::float8 AS since_analyze_s,
    s.autovacuum_count::float8, c.relpages::float8 * 8192 AS table_bytes,
    coalesce((SELECT sum(ic.relpages) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
               WHERE i.indrelid = s.relid), 0)::float8 * 8192 AS index_bytes,
    age(c.relfrozenxid)::float8 AS frozen_xid_age
  FROM pg_catalog.pg_stat_user_tables s
  JOIN pg_catalog.pg_class c ON c.oid = s.relid AND c.relkind IN ('r', 'm')
 WHERE c.relpersistence <> 't'
 ORDER BY c.relpages + s.seq_scan + coalesce(s.idx_scan, 0) + s.n_tup_ins + s.n_tup_upd + s.n_tup_del DESC
 LIMIT 300
