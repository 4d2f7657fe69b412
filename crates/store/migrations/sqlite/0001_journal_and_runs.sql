-- All records of one entry are one row, appended in the order of commits.
CREATE TABLE journal (
  entry INTEGER PRIMARY KEY,
  run BIGINT NOT NULL,
  first_sequence BIGINT NOT NULL,
  records BLOB NOT NULL
);
CREATE UNIQUE INDEX journal_run ON journal (run, first_sequence);

-- One row a run, for lists and for finding what is open. Times are microseconds since the Unix epoch.
CREATE TABLE runs (
  number INTEGER PRIMARY KEY,
  run_id BLOB NOT NULL,
  workflow TEXT NOT NULL,
  digest BLOB NOT NULL,
  tenant TEXT NOT NULL,
  priority TEXT NOT NULL,
  labels TEXT NOT NULL,
  submitted_at BIGINT NOT NULL,
  status TEXT NOT NULL,
  finished_at BIGINT,
  total BIGINT NOT NULL,
  succeeded BIGINT NOT NULL,
  failed BIGINT NOT NULL,
  skipped BIGINT NOT NULL,
  cancelled BIGINT NOT NULL,
  failure BLOB,
  resumed_from BLOB,
  key TEXT,
  key_content BLOB,
  key_expires_at BIGINT
);
CREATE UNIQUE INDEX runs_run_id ON runs (run_id);
CREATE INDEX runs_open ON runs (number) WHERE status IN ('running', 'cancelling');
CREATE INDEX runs_key ON runs (tenant, key, key_expires_at) WHERE key IS NOT NULL;

CREATE TABLE definitions (
  digest BLOB NOT NULL PRIMARY KEY,
  canonical BLOB NOT NULL
);
