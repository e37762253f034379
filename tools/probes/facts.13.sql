-- Once a connection: what the server is, and what this role may see.
SELECT /* galen */
    current_setting('server_version_num')::int4 AS version_num,
    current_user::text AS role,
    current_database()::text AS database,
    (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS superuser,
    (SELECT min(r.rolname)::text FROM pg_catalog.pg_roles r
      WHERE r.rolsuper AND pg_has_role(current_user, r.oid, 'MEMBER')) AS superuser_of,
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS reads_stats,
    extract(epoch FROM pg_postmaster_start_time())::float8 * 1000 AS started_ms,
    pg_backend_pid() AS pid,
    CASE WHEN pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')
         THEN current_setting('data_directory', true) END AS data_directory,
    coalesce(current_setting('compute_query_id', true), 'off') AS compute_query_id,
    (SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
      WHERE e.extname = 'pg_stat_statements') AS statements_schema
