-- A message queue in a table, as many services have one: producers insert, workers take with SKIP LOCKED, finished jobs go.
CREATE TABLE jobs (
    id bigserial PRIMARY KEY,
    queue text NOT NULL,
    state text NOT NULL DEFAULT 'ready',
    priority int NOT NULL DEFAULT 0,
    payload text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    taken_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE TABLE job_log (id bigserial PRIMARY KEY, job_id bigint NOT NULL, outcome text NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE workers (id int PRIMARY KEY, name text NOT NULL, jobs_done bigint NOT NULL, seen_at timestamptz NOT NULL) WITH (fillfactor = 50);
CREATE TABLE archive (id bigint PRIMARY KEY, queue text NOT NULL, payload text NOT NULL, finished_at timestamptz NOT NULL);
INSERT INTO jobs (queue, payload, created_at) SELECT 'mail-' || n % 8, repeat(md5(n::text), 4), now() - interval '1 minute' FROM generate_series(1, 2000) n;
INSERT INTO job_log (job_id, outcome, at) SELECT n, CASE n % 50 WHEN 0 THEN 'failed' ELSE 'done' END, now() - (400000 - n) * interval '1 second' FROM generate_series(1, 400000) n;
INSERT INTO workers SELECT n, 'worker-' || n, 0, now() FROM generate_series(1, 200) n;
INSERT INTO archive SELECT n, 'mail-' || n % 8, repeat(md5(n::text), 4), now() - (300000 - n) * interval '1 second' FROM generate_series(1, 300000) n;
CREATE INDEX jobs_ready_idx ON jobs (queue, priority, id) WHERE state = 'ready';
CREATE INDEX job_log_job_id_idx ON job_log (job_id);
CREATE INDEX archive_finished_at_idx ON archive (finished_at);
