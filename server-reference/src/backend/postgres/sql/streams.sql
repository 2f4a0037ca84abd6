-- Operations on streams. A stream whose generation is over has another epoch wherever it is looked at.

CREATE OR REPLACE FUNCTION lived(epoch bigint, life bigint, generation bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN life < generation THEN greatest(epoch + 1, generation) ELSE epoch END $$;

-- Ends a life: what is left tells late copies of appends. The caller has locked the head.
CREATE OR REPLACE FUNCTION bury(which bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE head SET epoch = lived(head.epoch, head.life, meta.life), life = meta.life,
    proposed = greatest(proposed, lived(head.epoch, head.life, meta.life)),
    seq = 0, node = 0, count = 0, hash = 0, expires = clock_timestamp() + interval '1 day'
  FROM meta WHERE id = which;
  DELETE FROM log WHERE id = which;
  DELETE FROM snapshot WHERE id = which;
END $$;

-- Passes a turn on. Answers the node whose it is then.
CREATE OR REPLACE FUNCTION hand_on(which bytea, author bigint, held interval) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  t turn;
BEGIN
  SELECT * INTO t FROM turn WHERE name = which FOR UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  t.queue := array_remove(t.queue, author);
  IF t.holder <> author THEN
    UPDATE turn SET queue = t.queue WHERE name = which;
    RETURN NULL;
  END IF;
  IF cardinality(t.queue) = 0 THEN
    DELETE FROM turn WHERE name = which;
    RETURN NULL;
  END IF;
  UPDATE turn SET holder = t.queue[1], queue = t.queue[2:], until = clock_timestamp() + held WHERE name = which;
  RETURN t.queue[1];
END $$;

CREATE OR REPLACE FUNCTION take_turn(which bytea, author bigint, held interval) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  t turn;
BEGIN
  LOOP
    INSERT INTO turn (name, holder, until) VALUES (which, author, clock_timestamp() + held) ON CONFLICT DO NOTHING;
    IF FOUND THEN RETURN true; END IF;
    SELECT * INTO t FROM turn WHERE name = which FOR UPDATE;
    EXIT WHEN FOUND;
  END LOOP;
  IF t.until <= clock_timestamp() THEN
    -- The holder is gone. Whoever asks is not.
    UPDATE turn SET holder = author, until = clock_timestamp() + held, queue = array_remove(queue, author)
    WHERE name = which;
    RETURN true;
  END IF;
  IF t.holder <> author AND NOT author = ANY (t.queue) THEN
    UPDATE turn SET queue = queue || author WHERE name = which;
  END IF;
  RETURN t.holder = author;
END $$;

-- Appends to many streams, each at most once in a call. `item` counts from 1 in each array, `owners` and `numbers` tell
-- which item's which entry each entry is. Locks heads in the order of their ids, and names before those, so that no two
-- calls wait for each other. An item without an answer has met the removal of its head: its author repeats it.
CREATE OR REPLACE FUNCTION append(
  names bytea[], epochs bigint[], seqs bigint[], nodes bigint[], counts bigint[], hashes bigint[],
  behinds boolean[], tag_nodes bigint[], tag_counts bigint[], tag_hashes bigint[], ttls bigint[], turns boolean[],
  sizes bigint[], owners integer[], numbers integer[], entries bytea[], most_missed bigint, author bigint, held interval
) RETURNS TABLE (
  item integer, stored boolean, epoch bigint, seq bigint, node bigint, count bigint, before_hash bigint, heir bigint,
  e_nodes bigint[], e_counts bigint[], e_prevs bigint[], e_bytes bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  many integer := cardinality(names);
  clock timestamptz := clock_timestamp();
  generation bigint := (SELECT m.life FROM meta m);
  w_ids bigint[] := array_fill(0::bigint, ARRAY[many]);
  w_epochs bigint[] := w_ids;
  w_seqs bigint[] := w_ids;
  w_prevs bigint[] := w_ids;
  any_stored boolean := false;
  h record;
  is_birth boolean;
  is_same boolean;
  missed bigint;
  found_at integer;
  own integer;
BEGIN
  IF 0 = ANY (seqs) THEN
    INSERT INTO head (name, expires)
    SELECT u.name, clock + interval '1 day' FROM unnest(names, seqs) AS u (name, seq) WHERE u.seq = 0 ORDER BY u.name
    ON CONFLICT DO NOTHING;
  END IF;
  FOR h IN
    SELECT u.item, d.id, lived(d.epoch, d.life, generation) AS epoch, d.seq, d.node, d.count, d.hash, d.proposed,
      d.expires
    FROM unnest(names) WITH ORDINALITY AS u (name, item) JOIN head d ON d.name = u.name ORDER BY d.id FOR UPDATE OF d
  LOOP
    item := h.item;
    stored := false;
    heir := NULL;
    e_nodes := NULL; e_counts := NULL; e_prevs := NULL; e_bytes := NULL;
    is_birth := seqs[item] = 0;
    IF h.seq > 0 AND h.expires <= clock THEN
      PERFORM bury(h.id);
      h.seq := 0; h.node := 0; h.count := 0; h.hash := 0;
      h.proposed := greatest(h.proposed, h.epoch);
    END IF;
    epoch := h.epoch; seq := h.seq; node := h.node; count := h.count; before_hash := h.hash;
    IF h.seq = 0 THEN
      IF NOT is_birth OR epochs[item] <= greatest(h.proposed, generation) THEN
        IF is_birth AND epochs[item] > h.proposed THEN
          UPDATE head d SET proposed = epochs[item] WHERE d.id = h.id;
        END IF;
        epoch := greatest(h.proposed, generation);
        RETURN NEXT;
        CONTINUE;
      END IF;
      epoch := epochs[item];
    ELSIF NOT (epoch = epochs[item] AND seq = seqs[item] AND node = nodes[item] AND count = counts[item]) THEN
      IF is_birth AND epochs[item] > h.proposed THEN
        UPDATE head d SET proposed = epochs[item] WHERE d.id = h.id;
      END IF;
      is_same := epoch = epochs[item];
      missed := seq - seqs[item];
      IF missed <= 0 OR NOT (is_same OR is_birth) THEN
        RETURN NEXT;
        CONTINUE;
      END IF;
      SELECT array_agg(l.node), array_agg(l.count), array_agg(l.prev), array_agg(l.entry)
      INTO e_nodes, e_counts, e_prevs, e_bytes
      FROM (SELECT * FROM log g WHERE g.id = h.id AND g.seq > seqs[item] ORDER BY g.seq) l;
      IF coalesce(cardinality(e_nodes), 0) <> missed OR e_prevs[1] <> hashes[item] THEN
        e_nodes := NULL; e_counts := NULL; e_prevs := NULL; e_bytes := NULL;
        RETURN NEXT;
        CONTINUE;
      END IF;
      found_at := NULL;
      FOR n IN 1..missed LOOP
        IF e_nodes[n] = tag_nodes[item] AND e_counts[n] = tag_counts[item] THEN found_at := n; EXIT; END IF;
      END LOOP;
      IF found_at IS NOT NULL THEN
        own := found_at;
        WHILE own < missed AND e_nodes[own + 1] = tag_nodes[item] AND e_counts[own + 1] = tag_counts[item] LOOP
          own := own + 1;
        END LOOP;
        stored := true;
        seq := seq - (missed - own); node := tag_nodes[item]; count := tag_counts[item];
        e_nodes := e_nodes[:found_at - 1]; e_counts := e_counts[:found_at - 1]; e_prevs := e_prevs[:found_at - 1];
        e_bytes := e_bytes[:found_at - 1];
        before_hash := NULL;
        RETURN NEXT;
        CONTINUE;
      END IF;
      IF NOT is_same OR NOT behinds[item] THEN
        IF NOT is_same OR (SELECT sum(length(b)) FROM unnest(e_bytes) AS b) > most_missed THEN
          e_nodes := NULL; e_counts := NULL; e_prevs := NULL; e_bytes := NULL;
        END IF;
        RETURN NEXT;
        CONTINUE;
      END IF;
    END IF;
    w_ids[item] := h.id;
    w_epochs[item] := epoch;
    w_seqs[item] := seq;
    w_prevs[item] := before_hash;
    any_stored := true;
    stored := true;
    seq := seq + sizes[item]; node := tag_nodes[item]; count := tag_counts[item];
    IF turns[item] THEN heir := hand_on(names[item], author, held); END IF;
    IF e_nodes IS NULL THEN e_nodes := '{}'; e_counts := '{}'; e_prevs := '{}'; e_bytes := '{}'; END IF;
    RETURN NEXT;
  END LOOP;
  IF any_stored THEN
    INSERT INTO log (id, seq, node, count, prev, entry)
    SELECT w_ids[u.item], w_seqs[u.item] + u.number, tag_nodes[u.item], tag_counts[u.item],
      CASE WHEN u.number = 1 THEN w_prevs[u.item] ELSE tag_hashes[u.item] END, u.entry
    FROM unnest(owners, numbers, entries) AS u (item, number, entry) WHERE w_ids[u.item] <> 0;
    UPDATE head d SET epoch = w_epochs[u], seq = w_seqs[u] + sizes[u], node = tag_nodes[u], count = tag_counts[u],
      hash = tag_hashes[u], life = generation,
      proposed = CASE WHEN seqs[u] = 0 THEN greatest(d.proposed, epochs[u]) ELSE d.proposed END,
      expires = CASE WHEN ttls[u] >= 0 THEN clock + ttls[u] * interval '1 millisecond' END
    FROM generate_series(1, many) AS u WHERE d.id = w_ids[u];
  END IF;
END $$;

-- No row: there is no such stream. In one statement's snapshot (STABLE), so that head and log fit together.
CREATE OR REPLACE FUNCTION load(which bytea, at_epoch bigint, at_seq bigint, at_node bigint, at_count bigint, at_hash bigint)
RETURNS TABLE (
  whole boolean, epoch bigint, seq bigint, node bigint, count bigint, snapped bigint, bytes bytea,
  e_nodes bigint[], e_counts bigint[], e_prevs bigint[], e_bytes bytea[]
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
DECLARE
  h record;
  since bigint := 0;
  missed bigint;
BEGIN
  SELECT d.id, d.seq, d.node, d.count, lived(d.epoch, d.life, m.life) AS epoch INTO h FROM head d, meta m
  WHERE d.name = which AND d.seq > 0 AND (d.expires IS NULL OR d.expires > clock_timestamp());
  IF NOT FOUND THEN RETURN; END IF;
  epoch := h.epoch; seq := h.seq; node := h.node; count := h.count;
  whole := false;
  missed := seq - at_seq;
  IF at_epoch = epoch AND missed >= 0 THEN
    IF missed = 0 AND node = at_node AND count = at_count THEN
      e_nodes := '{}'; e_counts := '{}'; e_prevs := '{}'; e_bytes := '{}';
      RETURN NEXT;
      RETURN;
    END IF;
    SELECT array_agg(l.node), array_agg(l.count), array_agg(l.prev), array_agg(l.entry)
    INTO e_nodes, e_counts, e_prevs, e_bytes
    FROM (SELECT * FROM log g WHERE g.id = h.id AND g.seq > at_seq ORDER BY g.seq) l;
    IF missed > 0 AND cardinality(e_nodes) = missed AND e_prevs[1] = at_hash THEN
      RETURN NEXT;
      RETURN;
    END IF;
  END IF;
  whole := true;
  SELECT s.seq, s.bytes INTO snapped, bytes FROM snapshot s WHERE s.id = h.id;
  SELECT coalesce(array_agg(l.node), '{}'), coalesce(array_agg(l.count), '{}'), coalesce(array_agg(l.prev), '{}'),
    coalesce(array_agg(l.entry), '{}')
  INTO e_nodes, e_counts, e_prevs, e_bytes
  FROM (SELECT * FROM log g WHERE g.id = h.id ORDER BY g.seq) l;
  RETURN NEXT;
END $$;

CREATE OR REPLACE FUNCTION keep(
  which bytea, at_epoch bigint, at_seq bigint, at_node bigint, at_count bigint, content bytea, most bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  h record;
BEGIN
  SELECT d.id, d.seq, d.node, d.count INTO h FROM head d, meta m
  WHERE d.name = which AND d.seq >= at_seq AND d.seq > 0 AND lived(d.epoch, d.life, m.life) = at_epoch
    AND (d.expires IS NULL OR d.expires > clock_timestamp())
  FOR UPDATE OF d;
  IF NOT FOUND THEN RETURN; END IF;
  IF h.seq > at_seq THEN
    PERFORM FROM log l WHERE l.id = h.id AND l.seq = at_seq AND l.node = at_node AND l.count = at_count;
    IF NOT FOUND THEN RETURN; END IF;
  ELSIF h.node <> at_node OR h.count <> at_count THEN
    RETURN;
  END IF;
  INSERT INTO snapshot (id, seq, bytes) VALUES (h.id, at_seq, content)
  ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, bytes = excluded.bytes WHERE snapshot.seq < excluded.seq;
  IF FOUND THEN DELETE FROM log l WHERE l.id = h.id AND l.seq <= at_seq - most; END IF;
END $$;

CREATE OR REPLACE FUNCTION remove(which bytea, at_epoch bigint, at_seq bigint, at_node bigint, at_count bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  found_id bigint;
BEGIN
  SELECT d.id INTO found_id FROM head d, meta m
  WHERE d.name = which AND d.seq = at_seq AND d.seq > 0 AND d.node = at_node AND d.count = at_count
    AND lived(d.epoch, d.life, m.life) = at_epoch
  FOR UPDATE OF d;
  IF FOUND THEN PERFORM bury(found_id); END IF;
END $$;
