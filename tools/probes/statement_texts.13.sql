-- A few at a time: the normalised text of statements newly seen.
-- `own` where nobody but this role ran it.
SELECT /* galen */ queryid AS query_id, min(left(query, 16384)) AS query,
    bool_and(userid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)) AS own
  FROM pg_stat_statements(true)
 WHERE queryid = ANY ($1::int8[])
 GROUP BY queryid
