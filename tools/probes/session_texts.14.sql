-- On sight of new query ids that pg_stat_statements does not know: the running text, to be normalised here.
SELECT /* galen */ DISTINCT ON (query_id) query_id, left(query, 4096) AS query
  FROM pg_catalog.pg_stat_activity
 WHERE query_id = ANY ($1::int8[]) AND coalesce(application_name, '') <> 'galen'
