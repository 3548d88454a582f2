"""How entries get their places in a database on PostgreSQL: functions, each of which is one transaction of a writer.

Rules
1. Everything that a batch was decided from is compared under the locks of its branches, which are taken in one order.
2. The worker's own row comes first: whoever has lost its lane writes nothing.
"""

from __future__ import annotations

from typing import LiteralString

PLACE: LiteralString = """
CREATE FUNCTION holdfast.place_1(
  by_worker text, by_lane bigint, batch_number bigint, durability text,
  found_id bigint[], found_seq bigint[], found_epoch bigint[], found_worker text[],
  seqs bigint[], digests bytea[], times bigint[], unclaimed bigint[], epochs bigint[], workers text[],
  e_branch bigint[], e_seq bigint[], e_epoch bigint[], e_at bigint[], e_key bytea[], e_body bytea[], e_digest bytea[],
  b_digest bytea[], b_form bigint[], b_data bytea[], recalled bigint[]) RETURNS double precision
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  moved text;
BEGIN
  PERFORM set_config('synchronous_commit', durability, true), set_config('lock_timeout', '10s', true);
  UPDATE holdfast.worker SET batch = batch_number, seen_at = clock_timestamp() WHERE id = by_worker AND lane = by_lane;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another connection of this worker has taken over' USING ERRCODE = 'HF001';
  END IF;
  IF cardinality(found_id) = 1 THEN
    UPDATE holdfast.branch b SET seq = seqs[1], digest = digests[1], at_ms = times[1], unclaimed_seq = unclaimed[1],
        epoch = epochs[1], worker = workers[1]
      WHERE b.id = found_id[1] AND b.seq = found_seq[1] AND b.epoch = found_epoch[1]
        AND b.worker IS NOT DISTINCT FROM found_worker[1];
    IF NOT FOUND THEN
      moved := found_id[1]::text;
    END IF;
  ELSE
    PERFORM 1 FROM holdfast.branch WHERE id = ANY (found_id) ORDER BY id FOR NO KEY UPDATE;
    SELECT string_agg(f.id::text, ',') INTO moved
      FROM unnest(found_id, found_seq, found_epoch, found_worker) AS f(id, seq, epoch, worker)
      LEFT JOIN holdfast.branch b ON b.id = f.id AND b.seq = f.seq AND b.epoch = f.epoch
        AND b.worker IS NOT DISTINCT FROM f.worker
      WHERE b.id IS NULL;
  END IF;
  IF moved IS NOT NULL THEN
    RAISE EXCEPTION 'a branch is not as it was read' USING ERRCODE = 'HF002', DETAIL = moved;
  END IF;
  IF cardinality(b_digest) > 0 THEN
    INSERT INTO holdfast.blob (digest, form, data) SELECT * FROM unnest(b_digest, b_form, b_data)
      ON CONFLICT DO NOTHING;
  END IF;
  IF cardinality(found_id) = 1 THEN
    FOR i IN 1 .. cardinality(e_seq) LOOP
      INSERT INTO holdfast.entry (branch, seq, epoch, at_ms, key, body, digest)
        VALUES (e_branch[i], e_seq[i], e_epoch[i], e_at[i], e_key[i], e_body[i], e_digest[i]);
    END LOOP;
  ELSE
    INSERT INTO holdfast.entry (branch, seq, epoch, at_ms, key, body, digest)
      SELECT * FROM unnest(e_branch, e_seq, e_epoch, e_at, e_key, e_body, e_digest);
    UPDATE holdfast.branch b SET seq = f.seq, digest = f.digest, at_ms = f.at_ms, unclaimed_seq = f.unclaimed,
        epoch = f.epoch, worker = f.worker
      FROM unnest(found_id, seqs, digests, times, unclaimed, epochs, workers)
        AS f(id, seq, digest, at_ms, unclaimed, epoch, worker)
      WHERE b.id = f.id AND (b.seq <> f.seq OR b.epoch <> f.epoch OR b.worker IS DISTINCT FROM f.worker);
  END IF;
  IF cardinality(recalled) > 0 THEN
    INSERT INTO holdfast.recall (branch, key, seq)
      SELECT e.branch, e.key, e.seq FROM unnest(recalled) AS r(id) JOIN holdfast.entry e ON e.branch = r.id
      WHERE length(e.key) = 32
        AND e.seq > coalesce((SELECT max(k.seq) FROM holdfast.recall k WHERE k.branch = r.id), 0)
      ON CONFLICT DO NOTHING;
  END IF;
  RETURN extract(epoch FROM clock_timestamp()) * 1000;
END $$
"""

STANDING: LiteralString = """
CREATE FUNCTION holdfast.standing_1(names text[], fresh text[], origins bytea[]) RETURNS TABLE (
  id bigint, name text, seq bigint, digest bytea, at_ms bigint, unclaimed_seq bigint, epoch bigint, worker text,
  place text, pid bigint, born text, host text, silent_ms double precision, now_ms double precision)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  IF cardinality(fresh) > 0 THEN
    PERFORM set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '10s', true);
    INSERT INTO holdfast.branch (name, seq, digest, at_ms, unclaimed_seq, epoch)
      SELECT n, 0, d, 0, 0, 0 FROM unnest(fresh, origins) AS f(n, d) ORDER BY n ON CONFLICT DO NOTHING;
  END IF;
  RETURN QUERY SELECT b.id, b.name, b.seq, b.digest, b.at_ms, b.unclaimed_seq, b.epoch, coalesce(b.worker, ''),
      w.place, w.pid, w.born, w.host,
      (extract(epoch FROM clock_timestamp() - w.seen_at) * 1000)::double precision,
      (extract(epoch FROM clock_timestamp()) * 1000)::double precision
    FROM holdfast.branch b LEFT JOIN holdfast.worker w ON w.id = b.worker WHERE b.name = ANY (names);
END $$
"""
