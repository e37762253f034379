-- What was taken in from documents. Times are nanoseconds since 1970; a revision is the number of a commit.
CREATE TABLE about(
  one INTEGER PRIMARY KEY CHECK (one = 1),
  revision INTEGER NOT NULL,
  -- Deletions before this revision are no longer known: who follows from further back begins anew.
  oldest INTEGER NOT NULL
) STRICT;
INSERT INTO about VALUES (1, 0, 0);

CREATE TABLE document(
  id INTEGER PRIMARY KEY,
  path TEXT NOT NULL UNIQUE,
  title TEXT NOT NULL,
  size INTEGER NOT NULL,
  -- -1 where the file was so young that it may change again within the clock's grain: its content is looked at next time.
  mtime INTEGER NOT NULL,
  hash TEXT NOT NULL,
  extractor TEXT NOT NULL,
  -- Why its last version could not be read; chunks are then those of the version before.
  error TEXT
) STRICT;

CREATE TABLE chunk(
  row INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  document INTEGER NOT NULL REFERENCES document(id) ON DELETE CASCADE,
  place INTEGER NOT NULL,
  -- Revision at which it last changed.
  revision INTEGER NOT NULL,
  -- Id of the chunk that says the same and is shown in its stead.
  same_as TEXT,
  -- Fingerprint of its words: those of near-duplicates have a part in common.
  print BLOB NOT NULL,
  linked INTEGER NOT NULL,
  body TEXT NOT NULL
) STRICT;
CREATE INDEX chunk_document ON chunk(document, place);
CREATE INDEX chunk_revision ON chunk(revision);
CREATE INDEX chunk_same_as ON chunk(same_as) WHERE same_as IS NOT NULL;

-- Chunks that are gone, or no longer shown, since a revision.
CREATE TABLE gone(
  id TEXT PRIMARY KEY,
  revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX gone_revision ON gone(revision);
