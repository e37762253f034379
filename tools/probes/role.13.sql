-- Every few seconds: primary or standby, and the timeline on which a primary writes. A probe of its own, since not every
-- managed PostgreSQL lets these functions be called.
SELECT /* galen */
    pg_is_in_recovery() AS in_recovery,
    CASE WHEN NOT pg_is_in_recovery()
         THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int4 END AS timeline
