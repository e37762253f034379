-- Once a minute: use of every index; definitions are fetched apart, for indexes not seen before.
SELECT /* galen */
    s.indexrelid::int8 AS oid, s.schemaname || '.' || s.indexrelname AS index, s.schemaname || '.' || s.relname AS "table",
    s.idx_scan::float8, c.relpages::float8 * 8192 AS bytes,
    (i.indisunique OR i.indisprimary OR i.indisexclusion) AS "constraint", i.indisvalid AS valid
  FROM pg_catalog.pg_stat_user_indexes s
  JOIN pg_catalog.pg_index i ON i.indexrelid = s.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = s.indexrelid
 WHERE c.relpersistence <> 't'
 ORDER BY c.relpages DESC, s.indexrelid
 LIMIT 1000
