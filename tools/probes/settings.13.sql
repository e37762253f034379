-- Every five minutes: run-time settings. What this session set for itself says nothing about the server: left out.
SELECT /* galen */ name, coalesce(setting, '') AS value, coalesce(unit, '') AS unit, source
  FROM pg_catalog.pg_settings
 WHERE source NOT IN ('client', 'session')
