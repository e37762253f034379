-- Where hypopg is installed in this database, as a quoted name; no row when it is not.
SELECT /* galen */ quote_ident(n.nspname) AS schema
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'hypopg'
