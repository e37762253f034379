-- A few at a time: the normalised text of statements newly seen.
SELECT /* galen */ queryid AS query_id, min(left(query, 16384)) AS query
  FROM pg_stat_statements(true)
 WHERE queryid = ANY ($1::int8[])
 GROUP BY queryid
