-- Revisions count within one store: whoever follows one has to see when another has taken its place.
ALTER TABLE about ADD COLUMN identity TEXT NOT NULL DEFAULT '';
UPDATE about SET identity = lower(hex(randomblob(8)));
