-- Readings of devices, a partition a month: appended all the time, read by device and time.
CREATE TABLE devices (id int PRIMARY KEY, name text NOT NULL, site text NOT NULL, last_seen timestamptz NOT NULL) WITH (fillfactor = 70);
CREATE TABLE readings (device_id int NOT NULL, at timestamptz NOT NULL, value double precision NOT NULL, quality smallint NOT NULL DEFAULT 0) PARTITION BY RANGE (at);
CREATE TABLE readings_old PARTITION OF readings FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE readings_2020 PARTITION OF readings FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE readings_2021 PARTITION OF readings FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE readings_now PARTITION OF readings FOR VALUES FROM ('2022-01-01') TO (MAXVALUE);
CREATE TABLE alarms (id bigserial PRIMARY KEY, device_id int NOT NULL, raised_at timestamptz NOT NULL DEFAULT now(), text text NOT NULL);
INSERT INTO devices SELECT n, 'Device ' || n, 'Site ' || n % 40, now() FROM generate_series(1, 2000) n;
INSERT INTO readings SELECT 1 + n % 2000, timestamptz '2020-01-01' + n * interval '30 seconds', random() * 100 FROM generate_series(1, 700000) n;
INSERT INTO readings SELECT 1 + n % 2000, timestamptz '2021-01-01' + n * interval '30 seconds', random() * 100 FROM generate_series(1, 700000) n;
INSERT INTO readings SELECT 1 + n % 2000, now() - n * interval '1 second', random() * 100 FROM generate_series(1, 200000) n;
INSERT INTO alarms (device_id, raised_at, text) SELECT 1 + n % 2000, now() - n * interval '1 minute', 'value out of range ' || md5(n::text) FROM generate_series(1, 300000) n;
CREATE INDEX readings_device_id_at_idx ON readings (device_id, at);
CREATE INDEX alarms_device_id_idx ON alarms (device_id);
