-- Values that expire, in the engine's time.

CREATE OR REPLACE FUNCTION put(which bytea, content bytea, rule integer, expected bigint, ttl bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v record;
  fresh bigint;
  ends timestamptz := clock_timestamp() + ttl * interval '1 millisecond';
BEGIN
  LOOP
    SELECT version, expires INTO v FROM value WHERE key = which FOR UPDATE;
    IF NOT FOUND THEN
      IF rule = 2 THEN RETURN NULL; END IF;
      fresh := nextval('versions');
      INSERT INTO value (key, version, bytes, expires) VALUES (which, fresh, content, ends) ON CONFLICT DO NOTHING;
      IF FOUND THEN RETURN fresh; END IF;
      CONTINUE;
    END IF;
    IF v.expires <= clock_timestamp() THEN v.version := NULL; END IF;
    IF rule = 1 AND v.version IS NOT NULL OR rule = 2 AND v.version IS DISTINCT FROM expected THEN RETURN NULL; END IF;
    fresh := nextval('versions');
    UPDATE value SET version = fresh, bytes = content, expires = ends WHERE key = which;
    RETURN fresh;
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION set_field(which bytea, name bytea, content bytea, ttl bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  ended timestamptz;
  ends timestamptz := clock_timestamp() + ttl * interval '1 millisecond';
BEGIN
  LOOP
    INSERT INTO map (key, expires) VALUES (which, ends) ON CONFLICT DO NOTHING;
    EXIT WHEN FOUND;
    SELECT expires INTO ended FROM map WHERE key = which FOR UPDATE;
    CONTINUE WHEN NOT FOUND;
    IF ended <= clock_timestamp() THEN DELETE FROM field WHERE map = which; END IF;
    UPDATE map SET expires = ends WHERE key = which;
    EXIT;
  END LOOP;
  IF content IS NOT NULL THEN
    INSERT INTO field (map, field, bytes) VALUES (which, name, content)
    ON CONFLICT (map, field) DO UPDATE SET bytes = excluded.bytes;
    RETURN;
  END IF;
  DELETE FROM field WHERE map = which AND field = name;
  DELETE FROM map WHERE key = which AND NOT EXISTS (SELECT FROM field WHERE map = which);
END $$;

-- A sliding window in 16 slots, each counted until it has left the window whole. `length` is a slot's, in microseconds.
CREATE OR REPLACE FUNCTION take(which bytea, most bigint, cost bigint, length bigint)
RETURNS TABLE (granted boolean, remaining bigint, wait bigint) LANGUAGE plpgsql AS $$
DECLARE
  q record;
  micros bigint;
  slot bigint;
  used bigint := 0;
  free bigint;
  kept bigint[] := '{}';
  sums bigint[] := '{}';
BEGIN
  LOOP
    INSERT INTO quota (key, expires) VALUES (which, clock_timestamp() + interval '1 day') ON CONFLICT DO NOTHING;
    SELECT d.slots, d.granted INTO q FROM quota d WHERE d.key = which FOR UPDATE;
    EXIT WHEN FOUND;
  END LOOP;
  micros := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
  slot := micros / length;
  FOR n IN 1..cardinality(q.slots) LOOP
    IF q.slots[n] + 16 >= slot THEN
      kept := kept || q.slots[n];
      sums := sums || q.granted[n];
      used := used + q.granted[n];
    END IF;
  END LOOP;
  remaining := greatest(most - used, 0);
  granted := cost <= remaining;
  wait := 0;
  IF granted THEN
    remaining := remaining - cost;
    IF kept[cardinality(kept)] >= slot THEN
      sums[cardinality(sums)] := sums[cardinality(sums)] + cost;
    ELSE
      kept := kept || slot;
      sums := sums || cost;
    END IF;
    UPDATE quota d SET slots = kept, granted = sums,
      expires = clock_timestamp() + length * 18 * interval '1 microsecond'
    WHERE d.key = which;
  ELSE
    wait := -1;
    free := remaining;
    FOR n IN 1..cardinality(kept) LOOP
      free := free + sums[n];
      IF free >= cost THEN
        wait := greatest((kept[n] + 17) * length - micros, 1);
        EXIT;
      END IF;
    END LOOP;
  END IF;
  RETURN NEXT;
END $$;
