CREATE TABLE incidents(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  target TEXT NOT NULL,
  state TEXT NOT NULL,
  opened_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  headline TEXT,
  top_cause TEXT,
  probability REAL,
  error TEXT
);
CREATE INDEX incidents_by_target ON incidents(target, opened_at);
CREATE INDEX incidents_by_state ON incidents(state);
CREATE TABLE incident_alerts(
  target TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  starts_at INTEGER NOT NULL,
  incident INTEGER NOT NULL REFERENCES incidents(id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  status TEXT NOT NULL,
  source TEXT NOT NULL,
  ends_at INTEGER,
  labels TEXT NOT NULL,
  summary TEXT NOT NULL,
  PRIMARY KEY(target, fingerprint, starts_at)
) WITHOUT ROWID;
CREATE INDEX alerts_by_incident ON incident_alerts(incident);
CREATE TABLE diagnoses(
  incident INTEGER PRIMARY KEY REFERENCES incidents(id) ON DELETE CASCADE,
  at INTEGER NOT NULL,
  report TEXT NOT NULL,
  tree TEXT NOT NULL,
  markdown TEXT NOT NULL,
  html TEXT NOT NULL
);
CREATE TABLE feedback(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  incident INTEGER NOT NULL REFERENCES incidents(id) ON DELETE CASCADE,
  at INTEGER NOT NULL,
  cause TEXT NOT NULL,
  note TEXT NOT NULL
);
