-- Before a statement is planned: planning runs immutable functions, so nothing the database's own users wrote may be
-- reached by it. $1 names of functions (and columns: f(t) can be written t.f), $2 of operators, $3 of relations as named.
WITH /* galen */ RECURSIVE own AS MATERIALIZED (
    SELECT p.oid, p.proname
      FROM pg_catalog.pg_proc p
     WHERE p.oid >= 16384
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                        WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND e.objid = p.oid AND e.deptype = 'e')
), rel AS (
    SELECT c.oid, c.relkind::text AS kind
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
       AND (c.relname::text = ANY ($3::text[]) OR n.nspname || '.' || c.relname = ANY ($3::text[]))
    UNION
    SELECT i.inhrelid, 'r' FROM pg_catalog.pg_inherits i JOIN rel ON rel.oid = i.inhparent
), parts AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid AS class, rel.oid FROM rel
    UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, x.indexrelid FROM pg_catalog.pg_index x JOIN rel ON rel.oid = x.indrelid
    UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid FROM pg_catalog.pg_attrdef d JOIN rel ON rel.oid = d.adrelid
    UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid FROM pg_catalog.pg_constraint k JOIN rel ON rel.oid = k.conrelid
    UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, y.oid FROM pg_catalog.pg_policy y JOIN rel ON rel.oid = y.polrelid
)
SELECT CASE
    WHEN EXISTS (SELECT FROM own WHERE proname::text = ANY ($1::text[]))
        THEN 'it calls a function that the database''s own users wrote'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_operator o JOIN own ON own.oid = o.oprcode WHERE o.oprname::text = ANY ($2::text[]))
        THEN 'it uses an operator that the database''s own users wrote'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_cast c JOIN own ON own.oid = c.castfunc)
        THEN 'the database has casts that its own users wrote'
    WHEN EXISTS (SELECT FROM rel WHERE kind NOT IN ('r', 'p', 'm'))
        THEN 'it reads a view or a foreign table'
    WHEN EXISTS (SELECT FROM parts JOIN pg_catalog.pg_depend d ON d.classid = parts.class AND d.objid = parts.oid
                   JOIN own ON own.oid = d.refobjid
                  WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
        THEN 'its tables have defaults, indexes, checks or policies with functions that the database''s own users wrote'
END AS why
