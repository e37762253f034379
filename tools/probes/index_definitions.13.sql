-- For indexes not seen before ($1): key columns, definition and exact size.
SELECT /* galen */
    i.indexrelid::int8 AS oid, pg_get_indexdef(i.indexrelid) AS definition,
    ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) k ORDER BY k) AS columns
  FROM pg_catalog.pg_index i
 WHERE i.indexrelid::int8 = ANY ($1::int8[])
