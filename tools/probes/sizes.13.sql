-- Once a minute: exact sizes. A relation under ACCESS EXCLUSIVE would make this probe wait in the lock queue: skipped.
SELECT /* galen */ 0::int8 AS oid, pg_database_size(current_database())::float8 AS table_bytes, NULL::float8 AS index_bytes
UNION ALL
SELECT t.oid::int8, pg_table_size(t.oid)::float8, pg_indexes_size(t.oid)::float8
  FROM (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
           AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l
                            WHERE l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation'
                              AND (l.relation = c.oid OR l.relation IN
                                   (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid)))
         ORDER BY c.relpages DESC LIMIT 300) t
