-- The layout, in a schema of its own. Names of streams are a letter for the kind and the key, in bytes.

CREATE TABLE IF NOT EXISTS meta (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version integer NOT NULL,
  life bigint NOT NULL DEFAULT 0,      -- the generation: the epoch that every life is above
  system bigint,                       -- the cluster and its timeline that were met last
  timeline bigint,
  weak boolean NOT NULL DEFAULT false  -- whether some session did not wait for the disk
);
-- Empty after the server has recovered from a crash, and on a standby that was promoted.
CREATE UNLOGGED TABLE IF NOT EXISTS run (one boolean PRIMARY KEY DEFAULT true CHECK (one));

-- Where streams are. A stream that has ended leaves seq = 0 and what was proposed, for a day.
CREATE TABLE IF NOT EXISTS head (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name bytea NOT NULL UNIQUE,
  epoch bigint NOT NULL DEFAULT 0,
  seq bigint NOT NULL DEFAULT 0,
  node bigint NOT NULL DEFAULT 0,      -- the tag of the newest entry, and its hash
  count bigint NOT NULL DEFAULT 0,
  hash bigint NOT NULL DEFAULT 0,
  proposed bigint NOT NULL DEFAULT 0,  -- the highest epoch that anybody proposed
  life bigint NOT NULL DEFAULT 0,      -- the generation in which the epoch was given
  expires timestamptz                  -- of a stream that has ended: when this row goes
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX IF NOT EXISTS head_expires ON head (expires) WHERE expires IS NOT NULL;

CREATE TABLE IF NOT EXISTS log (
  id bigint NOT NULL, seq bigint NOT NULL, node bigint NOT NULL, count bigint NOT NULL, prev bigint NOT NULL,
  entry bytea NOT NULL,
  PRIMARY KEY (id, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE log ALTER COLUMN entry SET STORAGE EXTERNAL;

CREATE TABLE IF NOT EXISTS snapshot (id bigint PRIMARY KEY, seq bigint NOT NULL, bytes bytea NOT NULL);
ALTER TABLE snapshot ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- Whose turn it is to append, and who waits.
CREATE UNLOGGED TABLE IF NOT EXISTS turn (
  name bytea PRIMARY KEY, holder bigint NOT NULL, until timestamptz NOT NULL, queue bigint[] NOT NULL DEFAULT '{}'
);

-- Messages that are too long for a notification.
CREATE UNLOGGED TABLE IF NOT EXISTS mail (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL, sent timestamptz NOT NULL DEFAULT now()
);

CREATE SEQUENCE IF NOT EXISTS versions;
CREATE UNLOGGED TABLE IF NOT EXISTS value (
  key bytea PRIMARY KEY, version bigint NOT NULL, bytes bytea NOT NULL, expires timestamptz
);
CREATE INDEX IF NOT EXISTS value_expires ON value (expires) WHERE expires IS NOT NULL;
CREATE UNLOGGED TABLE IF NOT EXISTS map (key bytea PRIMARY KEY, expires timestamptz);
CREATE INDEX IF NOT EXISTS map_expires ON map (expires) WHERE expires IS NOT NULL;
CREATE UNLOGGED TABLE IF NOT EXISTS field (
  map bytea NOT NULL, field bytea NOT NULL, bytes bytea NOT NULL, PRIMARY KEY (map, field)
);
CREATE UNLOGGED TABLE IF NOT EXISTS quota (
  key bytea PRIMARY KEY, slots bigint[] NOT NULL DEFAULT '{}', granted bigint[] NOT NULL DEFAULT '{}',
  expires timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS quota_expires ON quota (expires);
CREATE UNLOGGED TABLE IF NOT EXISTS lease (
  name bytea PRIMARY KEY, holder bigint NOT NULL, version bigint NOT NULL, expires timestamptz NOT NULL
);

-- Called on every new connection, before it is used: the generation. Begins another one, above `fresh`, if the server
-- may have lost what it acknowledged: after a crash if some session did not wait for the disk; in another cluster; on
-- another timeline, which a promoted standby or a restored copy begins.
CREATE OR REPLACE FUNCTION enter(fresh bigint, durable boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  m meta;
  system_now bigint := 0;
  timeline_now bigint := 0;
  weak_now boolean := current_setting('synchronous_commit') = 'off' OR current_setting('fsync') = 'off';
  intact boolean;
BEGIN
  BEGIN
    SELECT system_identifier INTO system_now FROM pg_control_system();
    timeline_now := ('x' || lpad(substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), 16, '0'))::bit(64)::bigint;
  EXCEPTION WHEN insufficient_privilege OR feature_not_supported THEN
    NULL;  -- the operator of a managed server has other ways
  END;
  FOR attempt IN 1..2 LOOP
    IF attempt = 1 THEN SELECT * INTO m FROM meta; ELSE SELECT * INTO m FROM meta FOR UPDATE; END IF;
    intact := EXISTS (SELECT FROM run);
    IF intact AND m.system = system_now AND m.timeline = timeline_now AND (m.weak OR NOT weak_now) THEN
      RETURN m.life;
    END IF;
  END LOOP;
  IF NOT durable AND m.system IS NOT NULL
    AND (m.system <> system_now OR m.timeline <> timeline_now OR (NOT intact AND (m.weak OR weak_now)))
  THEN
    m.life := greatest(m.life + 1, fresh);
  END IF;
  IF NOT intact THEN
    INSERT INTO run DEFAULT VALUES ON CONFLICT DO NOTHING;
    PERFORM setval('versions', greatest(nextval('versions'), fresh));
  END IF;
  -- Once weak, it is so until a crash was met: what one session did not wait for, another cannot know.
  UPDATE meta SET life = m.life, system = system_now, timeline = timeline_now,
    weak = weak_now OR (m.weak AND intact);
  RETURN m.life;
END $$;

-- Removes what has expired, a part at a time.
CREATE OR REPLACE FUNCTION sweep(most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  h record;
  keys bytea[];
BEGIN
  FOR h IN SELECT id, seq FROM head WHERE expires <= now() LIMIT most FOR UPDATE SKIP LOCKED LOOP
    IF h.seq > 0 THEN PERFORM bury(h.id); ELSE DELETE FROM head WHERE id = h.id; END IF;
  END LOOP;
  DELETE FROM value WHERE key IN (SELECT key FROM value WHERE expires <= now() LIMIT most FOR UPDATE SKIP LOCKED);
  SELECT array_agg(m.key) INTO keys FROM (SELECT key FROM map WHERE expires <= now() LIMIT most FOR UPDATE SKIP LOCKED) m;
  DELETE FROM field WHERE map = ANY (keys);
  DELETE FROM map WHERE key = ANY (keys);
  DELETE FROM quota WHERE key IN (SELECT key FROM quota WHERE expires <= now() LIMIT most FOR UPDATE SKIP LOCKED);
  DELETE FROM lease WHERE name IN (SELECT name FROM lease WHERE expires <= now() LIMIT most FOR UPDATE SKIP LOCKED);
  DELETE FROM turn WHERE name IN (
    SELECT name FROM turn WHERE until <= now() - interval '1 minute' LIMIT most FOR UPDATE SKIP LOCKED);
  DELETE FROM mail WHERE id IN (
    SELECT id FROM mail WHERE sent <= now() - interval '1 minute' LIMIT most FOR UPDATE SKIP LOCKED);
END $$;
