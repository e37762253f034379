-- Before a hypothetical index is made: the table ($1) and columns ($2), found in the catalog and quoted by the server.
SELECT /* galen */
    quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS "table",
    ARRAY(SELECT quote_ident(a.attname) FROM unnest($2::text[]) WITH ORDINALITY AS w(name, position)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = w.name
                 AND a.attnum > 0 AND NOT a.attisdropped
           ORDER BY w.position) AS columns
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname || '.' || c.relname = $1 AND c.relkind IN ('r', 'm', 'p')
