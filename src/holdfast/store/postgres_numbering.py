"""The order of all entries of a database on PostgreSQL, and who may number them: tables and functions.

Rules
1. Writers say nothing but which branches have grown (a trigger does); what has grown is counted from where the branch
   was numbered last, so no entry is passed over, in whatever order transactions commit.
2. Branches that have grown are numbered in the order in which they were made: what a branch stands on comes before it.
3. One worker at a time numbers and signs. Each of its statements locks the row of the sequencer, and does nothing if
   the worker or the epoch there is another one.
"""

from __future__ import annotations

from typing import LiteralString

NOT_SEQUENCER = "HF003"

_GROWN: LiteralString = """
CREATE FUNCTION holdfast.grown_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO holdfast.grown (branch) VALUES (NEW.id);
  RETURN NULL;
END $$
"""

_IS_SEQUENCER: LiteralString = """
CREATE FUNCTION holdfast.is_sequencer_1(by_worker text, by_epoch bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM set_config('lock_timeout', '10s', true);
  UPDATE holdfast.sequencer SET seen_at = clock_timestamp() WHERE worker = by_worker AND epoch = by_epoch;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another worker numbers the entries' USING ERRCODE = 'HF003';
  END IF;
END $$
"""

_NUMBER: LiteralString = """
CREATE FUNCTION holdfast.number_1(by_worker text, by_epoch bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  total bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM holdfast.is_sequencer_1(by_worker, by_epoch);
  SELECT coalesce((SELECT s.start + s.count FROM holdfast.stretch s ORDER BY s.start DESC LIMIT 1), 0) INTO total;
  WITH taken AS (DELETE FROM holdfast.grown RETURNING branch),
  grown AS (
    SELECT b.id, b.seq, coalesce(
        (SELECT s.seq + s.count FROM holdfast.stretch s WHERE s.branch = b.id ORDER BY s.seq DESC LIMIT 1),
        (SELECT min(e.seq) FROM holdfast.entry e WHERE e.branch = b.id)) AS first
    FROM holdfast.branch b WHERE b.id IN (SELECT branch FROM taken)),
  counted AS (
    SELECT id, first, seq - first + 1 AS length,
      coalesce(sum(seq - first + 1) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint
        AS before
    FROM grown WHERE seq >= first),
  later AS (INSERT INTO holdfast.grown (branch) SELECT id FROM counted WHERE before + length > most)
  INSERT INTO holdfast.stretch (start, branch, seq, count)
    SELECT total + before, id, first, least(length, most - before) FROM counted WHERE before < most;
  RETURN coalesce((SELECT s.start + s.count FROM holdfast.stretch s ORDER BY s.start DESC LIMIT 1), 0);
END $$
"""

_SIGN: LiteralString = """
CREATE FUNCTION holdfast.sign_1(by_worker text, by_epoch bigint, durability text, of_size bigint, of_note text,
  of_frontier bytea) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM set_config('synchronous_commit', durability, true);
  PERFORM holdfast.is_sequencer_1(by_worker, by_epoch);
  INSERT INTO holdfast.head (size, note, frontier) VALUES (of_size, of_note, of_frontier) ON CONFLICT DO NOTHING;
END $$
"""

NUMBERING: tuple[LiteralString, ...] = (
    (
        "CREATE TABLE holdfast.sequencer (id integer PRIMARY KEY CHECK (id = 1), epoch bigint NOT NULL, worker text,"
        " seen_at timestamptz NOT NULL) WITH (fillfactor = 20)"
    ),
    "INSERT INTO holdfast.sequencer VALUES (1, 0, NULL, clock_timestamp())",
    (
        "CREATE TABLE holdfast.stretch (start bigint PRIMARY KEY, branch bigint NOT NULL, seq bigint NOT NULL,"
        " count bigint NOT NULL)"
    ),
    "CREATE INDEX stretch_of_branch ON holdfast.stretch (branch, seq)",
    "CREATE TABLE holdfast.head (size bigint PRIMARY KEY, note text NOT NULL, frontier bytea NOT NULL)",
    (
        "CREATE TABLE holdfast.grown (branch bigint NOT NULL)"
        " WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)"
    ),
    _GROWN,
    (
        "CREATE TRIGGER grown AFTER UPDATE ON holdfast.branch FOR EACH ROW WHEN (NEW.seq > OLD.seq)"
        " EXECUTE FUNCTION holdfast.grown_1()"
    ),
    "INSERT INTO holdfast.grown SELECT id FROM holdfast.branch WHERE seq > 0",
    _IS_SEQUENCER,
    _NUMBER,
    _SIGN,
)

TAKE: LiteralString = (
    "WITH s AS (SELECT set_config('synchronous_commit', 'off', true))"
    " UPDATE holdfast.sequencer q SET epoch = q.epoch + 1, worker = %s, seen_at = clock_timestamp() FROM s"
    " WHERE q.worker IS NULL OR q.seen_at < clock_timestamp() - %s * interval '1 second' RETURNING q.epoch"
)
GIVE_BACK: LiteralString = (
    "WITH s AS (SELECT set_config('synchronous_commit', 'off', true))"
    " UPDATE holdfast.sequencer q SET worker = NULL FROM s WHERE q.worker = %s AND q.epoch = %s RETURNING q.epoch"
)
NUMBER: LiteralString = "SELECT holdfast.number_2(%s::text, %s::bigint, %s::bigint)"  # postgres_large.py
SIGN: LiteralString = "SELECT holdfast.sign_1(%s::text, %s::bigint, %s::text, %s::bigint, %s::text, %b::bytea)"
NEWEST: LiteralString = "SELECT note FROM holdfast.head ORDER BY size DESC LIMIT 1"
