"""What may be pruned beside writers of a database on PostgreSQL: tables and functions.

Rules
1. Writers do not send again what they take for stored. So the database counts (`deletions`), and each says which count
   it goes by: one that goes by another is refused (`HF005`), and sends all that it names. The count is odd while
   something is being pruned.
2. It is compared under the lock of the worker's own row, which every transaction that places entries takes. Who prunes
   raises the count first, and then waits for each of these locks once, one after another: from then on all who went by
   the older count are done, and what they have placed is seen. No writer waits for another, or for a table.
3. What is to go is listed (`doomed`) before the count is raised. While it is odd, whoever places an entry takes what
   this names from the list, and writes it anew; what it only refers to (pieces, what is stored outside) must be there
   and not on the list, or it is refused (`HF006`), and sends that too.
4. So what is still on the list is named by nobody, and is deleted so many at a time, each in one statement. Each prune
   has a list of its own: what was taken from it is not put on it again by another.
"""

from __future__ import annotations

from typing import LiteralString

COUNTED_ON, GONE, OVERTAKEN = "HF005", "HF006", "HF007"

_PLACE: LiteralString = """
CREATE FUNCTION holdfast.place_2(believed bigint, relied bytea[],
  by_worker text, by_lane bigint, batch_number bigint, durability text,
  found_id bigint[], found_seq bigint[], found_epoch bigint[], found_worker text[],
  seqs bigint[], digests bytea[], times bigint[], unclaimed bigint[], epochs bigint[], workers text[],
  e_branch bigint[], e_seq bigint[], e_epoch bigint[], e_at bigint[], e_key bytea[], e_body bytea[], e_digest bytea[],
  b_digest bytea[], b_form bigint[], b_data bytea[], recalled bigint[])
  RETURNS double precision LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  now_ms double precision;
  counted bigint;
BEGIN
  IF believed % 2 = 1 OR cardinality(relied) > 0 THEN
    PERFORM holdfast.spare_1(relied, b_digest, b_form, b_data);
  END IF;
  now_ms := holdfast.placed_1(by_worker, by_lane, batch_number, durability, found_id, found_seq, found_epoch,
    found_worker, seqs, digests, times, unclaimed, epochs, workers, e_branch, e_seq, e_epoch, e_at, e_key, e_body,
    e_digest, b_digest, b_form, b_data, recalled);
  IF believed >= 0 THEN
    SELECT value::bigint INTO STRICT counted FROM holdfast.meta WHERE name = 'deletions';
    IF counted <> believed THEN
      RAISE EXCEPTION 'something was pruned meanwhile' USING ERRCODE = 'HF005', DETAIL = counted::text;
    END IF;
  END IF;
  RETURN now_ms;
END $$
"""

_SPARE: LiteralString = """
CREATE FUNCTION holdfast.spare_1(relied bytea[], b_digest bytea[], b_form bigint[], b_data bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  spared bytea[];
BEGIN
  PERFORM set_config('lock_timeout', '10s', true);
  PERFORM 1 FROM holdfast.doomed WHERE digest = ANY (b_digest || relied) ORDER BY digest, prune FOR UPDATE;
  IF EXISTS (SELECT 1 FROM unnest(relied) r(digest)
      WHERE NOT EXISTS (SELECT 1 FROM holdfast.blob b WHERE b.digest = r.digest)
        OR EXISTS (SELECT 1 FROM holdfast.doomed d WHERE d.digest = r.digest)) THEN
    RAISE EXCEPTION 'what a payload rests on was pruned' USING ERRCODE = 'HF006';
  END IF;
  WITH gone AS (DELETE FROM holdfast.doomed WHERE digest = ANY (b_digest) RETURNING digest)
    SELECT array_agg(digest) INTO spared FROM gone;
  IF spared IS NOT NULL THEN  -- as it is sent, since what it was made of may go
    UPDATE holdfast.blob b SET form = u.form, data = u.data
      FROM unnest(b_digest, b_form, b_data) AS u(digest, form, data)
      WHERE b.digest = u.digest AND u.digest = ANY (spared);
  END IF;
END $$
"""

_BEGIN: LiteralString = """
CREATE FUNCTION holdfast.prune_begin_1(expected bigint, mine bigint, needed bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '10s', true);
  UPDATE holdfast.meta SET value = mine::text WHERE name = 'deletions' AND value::bigint = expected;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  UPDATE holdfast.meta SET value = needed::text WHERE name = 'needs' AND value::bigint < needed;
  IF to_regproc('holdfast.place_1') IS NOT NULL THEN  -- those who write by it know nothing of pruning
    EXECUTE 'DROP FUNCTION holdfast.place_1';
  END IF;
  RETURN true;
END $$
"""

_MARK: LiteralString = """
CREATE FUNCTION holdfast.prune_mark_1(seen_branch text[], seen_seq bigint[], runs text[], m_branch text[],
  m_upto bigint[], m_extent text[], by_whom text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  moved text;
BEGIN
  PERFORM set_config('lock_timeout', '10s', true);
  PERFORM 1 FROM holdfast.branch WHERE name = ANY (seen_branch) ORDER BY id FOR NO KEY UPDATE;
  SELECT b.name INTO moved FROM unnest(runs) AS r(run)
    JOIN holdfast.branch b ON b.name >= r.run || '@' COLLATE "C" AND b.name < r.run || 'A' COLLATE "C" AND b.seq > 0
    LEFT JOIN unnest(seen_branch, seen_seq) AS s(name, seq) ON s.name = b.name
    WHERE s.seq IS DISTINCT FROM b.seq LIMIT 1;
  IF moved IS NULL THEN
    INSERT INTO holdfast.pruned (branch, extent, upto, at_ms, by)
      SELECT b.id, m.extent, m.upto, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, by_whom
      FROM unnest(m_branch, m_upto, m_extent) AS m(name, upto, extent) JOIN holdfast.branch b ON b.name = m.name
      ON CONFLICT (branch, extent) DO UPDATE SET upto = greatest(pruned.upto, excluded.upto), at_ms = excluded.at_ms,
        by = excluded.by;
  END IF;
  RETURN moved;
END $$
"""

_DELETE: LiteralString = """
CREATE FUNCTION holdfast.prune_delete_1(mine bigint, list bigint, digests bytea[]) RETURNS SETOF bytea
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '10s', true);
  PERFORM 1 FROM holdfast.meta WHERE name = 'deletions' AND value::bigint = mine FOR SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another process prunes' USING ERRCODE = 'HF007';
  END IF;
  PERFORM 1 FROM holdfast.doomed WHERE prune = list AND digest = ANY (digests) ORDER BY digest FOR UPDATE;
  RETURN QUERY
    WITH gone AS (DELETE FROM holdfast.doomed d WHERE d.prune = list AND d.digest = ANY (digests) RETURNING d.digest),
      deleted AS (DELETE FROM holdfast.blob b USING gone WHERE b.digest = gone.digest RETURNING b.digest)
    SELECT digest FROM deleted;
END $$
"""

_END: LiteralString = """
CREATE FUNCTION holdfast.prune_end_1(mine bigint, most bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  struck bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '10s', true);
  DELETE FROM holdfast.doomed WHERE (digest, prune) IN
    (SELECT d.digest, d.prune FROM holdfast.doomed d ORDER BY d.digest, d.prune LIMIT most FOR UPDATE);
  GET DIAGNOSTICS struck = ROW_COUNT;
  IF struck < most THEN
    UPDATE holdfast.meta SET value = (mine + 1)::text WHERE name = 'deletions' AND value::bigint = mine;
  END IF;
  RETURN struck;
END $$
"""


def pruning(place: LiteralString) -> tuple[LiteralString, ...]:
    """The statements of the migration; `place`: the function that places entries, as it was before."""
    return (
        "INSERT INTO holdfast.meta VALUES ('deletions', '0')",
        (
            "CREATE TABLE holdfast.pruned (branch bigint NOT NULL, extent text NOT NULL, upto bigint NOT NULL,"
            " at_ms bigint NOT NULL, by text NOT NULL, PRIMARY KEY (branch, extent))"
        ),
        (
            "CREATE TABLE holdfast.doomed (digest bytea NOT NULL, prune bigint NOT NULL, PRIMARY KEY (digest, prune))"
            " WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)"
        ),
        place.replace("holdfast.place_1", "holdfast.placed_1"),
        _SPARE,
        _PLACE,
        _BEGIN,
        _MARK,
        _DELETE,
        _END,
        (
            "CREATE TRIGGER blob_moved BEFORE UPDATE ON holdfast.blob FOR EACH ROW WHEN (NEW.form >= 4)"
            " EXECUTE FUNCTION holdfast.outside_1()"
        ),
    )


PLACE: LiteralString = (
    "SELECT holdfast.place_2(%s::bigint, %b, %s::text, %s::bigint, %s::bigint, %s::text, %b, %b, %b, %b, %b, %b, %b,"
    " %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)"
)
COUNT: LiteralString = "SELECT value::bigint FROM holdfast.meta WHERE name = 'deletions'"
BEGIN: LiteralString = "SELECT holdfast.prune_begin_1(%s::bigint, %s::bigint, %s::bigint)"
WORKERS: LiteralString = "SELECT id FROM holdfast.worker"
PASS: LiteralString = (
    "WITH s AS MATERIALIZED (SELECT set_config('lock_timeout', '10s', true))"
    " SELECT w.id FROM s, holdfast.worker w WHERE w.id = %s FOR SHARE OF w"
)
MARK: LiteralString = "SELECT holdfast.prune_mark_1(%b, %b, %b, %b, %b, %b, %s::text)"
DOOM: LiteralString = "INSERT INTO holdfast.doomed SELECT d, %s::bigint FROM unnest(%b) d ON CONFLICT DO NOTHING"
DELETE: LiteralString = "SELECT holdfast.prune_delete_1(%s::bigint, %s::bigint, %b)"
END: LiteralString = "SELECT holdfast.prune_end_1(%s::bigint, %s::bigint)"
MARKS: LiteralString = (
    "SELECT b.name, p.upto, p.extent FROM holdfast.pruned p JOIN holdfast.branch b ON b.id = p.branch ORDER BY p.at_ms"
)
