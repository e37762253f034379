-- Only while somebody is blocked ($1 waiters, $2 their blockers): the locks waited for, what the blockers hold on
-- the same objects, and the row (tuple) locks of the waiters, which name the table behind a wait for a transaction.
WITH /* galen */ l AS MATERIALIZED (
    SELECT * FROM pg_catalog.pg_locks WHERE pid = ANY ($1::int4[]) OR pid = ANY ($2::int4[])
), wanted AS (
    SELECT DISTINCT locktype, database, relation, transactionid, virtualxid, classid, objid, objsubid
      FROM l WHERE NOT granted
)
SELECT l.pid, l.locktype::text AS lock_type, n.nspname || '.' || c.relname AS relation, l.mode::text AS mode, l.granted
  FROM l
  LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
        AND l.database IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT l.granted
    OR (l.locktype = 'tuple' AND l.pid = ANY ($1::int4[]))
    OR (l.pid = ANY ($2::int4[]) AND EXISTS (
        SELECT FROM wanted w
         WHERE w.locktype = l.locktype AND w.database IS NOT DISTINCT FROM l.database
           AND w.relation IS NOT DISTINCT FROM l.relation AND w.transactionid IS NOT DISTINCT FROM l.transactionid
           AND w.virtualxid IS NOT DISTINCT FROM l.virtualxid AND w.classid IS NOT DISTINCT FROM l.classid
           AND w.objid IS NOT DISTINCT FROM l.objid AND w.objsubid IS NOT DISTINCT FROM l.objsubid))
 LIMIT 500
