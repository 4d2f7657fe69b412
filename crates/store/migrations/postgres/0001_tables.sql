-- One row a run, for lists and for finding what is open. Times are microseconds since the Unix epoch.
-- Runs and journal are cut into partitions by number, which are dropped when all in them is old.
CREATE TABLE runs (
  number BIGINT NOT NULL PRIMARY KEY,
  run_id UUID NOT NULL,
  workflow TEXT NOT NULL,
  digest BYTEA NOT NULL,
  tenant TEXT NOT NULL,
  priority TEXT NOT NULL,
  labels JSONB NOT NULL,
  submitted_at BIGINT NOT NULL,
  status TEXT NOT NULL,
  finished_at BIGINT,
  total BIGINT NOT NULL,
  succeeded BIGINT NOT NULL,
  failed BIGINT NOT NULL,
  skipped BIGINT NOT NULL,
  cancelled BIGINT NOT NULL,
  failure BYTEA,
  resumed_from UUID
) PARTITION BY RANGE (number);
CREATE INDEX runs_run_id ON runs (run_id);
CREATE INDEX runs_open ON runs (number) WHERE status IN ('running', 'cancelling');
CREATE INDEX runs_not_succeeded ON runs (status, number) WHERE status IN ('failed', 'cancelled');
CREATE INDEX runs_workflow ON runs (workflow, number);
CREATE INDEX runs_tenant ON runs (tenant, number);
CREATE INDEX runs_labels ON runs USING gin (labels jsonb_path_ops) WHERE labels <> '{}';

-- All records that one commit adds to a run are one row.
CREATE TABLE journal (
  run BIGINT NOT NULL,
  first_sequence BIGINT NOT NULL,
  records BYTEA NOT NULL,
  PRIMARY KEY (run, first_sequence)
) PARTITION BY RANGE (run);

-- Submit keys are looked for in one table, and not in the partitions of all days.
CREATE TABLE submit_keys (
  run BIGINT NOT NULL PRIMARY KEY,
  run_id UUID NOT NULL,
  tenant TEXT NOT NULL,
  key TEXT NOT NULL,
  content BYTEA NOT NULL,
  expires_at BIGINT
);
CREATE INDEX submit_keys_key ON submit_keys (tenant, key, expires_at, run);

CREATE TABLE definitions (
  digest BYTEA NOT NULL PRIMARY KEY,
  canonical BYTEA NOT NULL
);

-- The coordinators. A commit locks the row of the one that it is of; whoever takes its shards locks it too.
CREATE TABLE members (
  id UUID NOT NULL PRIMARY KEY,
  address TEXT NOT NULL,
  http_address TEXT,
  version TEXT NOT NULL,
  is_leaving BOOLEAN NOT NULL,
  expires_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

CREATE SEQUENCE epochs;
CREATE TABLE shards (
  shard SMALLINT NOT NULL PRIMARY KEY,
  owner UUID,
  epoch BIGINT NOT NULL DEFAULT 0,
  expires_at TIMESTAMPTZ NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
