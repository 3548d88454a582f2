"""What a database on PostgreSQL needs once its log is large: pages of branches by an index, and partitions.

Rules
1. The newest branches are found without looking at the others, and so are those that have not ended. What changes with
   each entry (the newest entry's place and time) is in no index: then a row could not be changed in place.
2. `recent` is the time of the newest entry in steps of 17 minutes; of those in one step the few rows are sorted.
   `open`: the newest entry is no end. Both are the database's own work, also beside writers that do not know of them.
3. What was numbered is counted from where a branch was numbered last, for some branches at a time, the oldest first: so
   what waits to be numbered may be long.
4. A partitioned table is the same table: nothing else in here, or in any Holdfast, knows of it.
"""

from __future__ import annotations

from typing import LiteralString

AT_ONCE = 2_000  # branches that are looked at in one numbering
STEP_BITS = 20  # of `recent`: milliseconds are shifted by so many

_SHELVED: LiteralString = """
CREATE FUNCTION holdfast.shelved_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.recent := NEW.at_ms >> 20;
  NEW.open := NEW.ended_seq IS DISTINCT FROM NEW.seq;
  RETURN NEW;
END $$
"""

_ENDED: LiteralString = """
CREATE FUNCTION holdfast.ended_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE holdfast.branch SET ended_seq = NEW.seq WHERE id = NEW.branch;
  RETURN NULL;
END $$
"""

_NUMBER: LiteralString = """
CREATE FUNCTION holdfast.number_2(by_worker text, by_epoch bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  total bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM holdfast.is_sequencer_1(by_worker, by_epoch);
  SELECT coalesce((SELECT s.start + s.count FROM holdfast.stretch s ORDER BY s.start DESC LIMIT 1), 0) INTO total;
  WITH taken AS (DELETE FROM holdfast.grown WHERE branch IN
      (SELECT DISTINCT g.branch FROM holdfast.grown g ORDER BY g.branch LIMIT 2000) RETURNING branch),
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

_PARTITION: LiteralString = """
CREATE FUNCTION holdfast.partition_1(name text, parts integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  whole regclass := format('holdfast.%I', name);
  hashed text := CASE name WHEN 'blob' THEN 'digest' WHEN 'entry' THEN 'branch' WHEN 'recall' THEN 'branch' END;
  made text[];
  rights text[];
  owner name;
  moved bigint;
  statement text;
BEGIN
  IF hashed IS NULL OR parts NOT BETWEEN 2 AND 1024 THEN
    RAISE EXCEPTION 'entry, recall or blob, in 2 to 1024 parts';
  END IF;
  EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', whole);
  IF (SELECT relkind FROM pg_class WHERE oid = whole) = 'p' THEN
    RAISE EXCEPTION '% is partitioned already', name;
  END IF;
  SELECT relowner::regrole::text INTO owner FROM pg_class WHERE oid = whole;
  SELECT array_agg(d ORDER BY part, d) INTO made FROM (
    SELECT 1, format('ALTER TABLE holdfast.%I ADD CONSTRAINT %I %s', name, conname, pg_get_constraintdef(oid))
      FROM pg_constraint WHERE conrelid = whole AND contype = 'p'
    UNION ALL SELECT 2, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = whole AND NOT indisprimary
    UNION ALL SELECT 3, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = whole AND NOT tgisinternal) d(part, d);
  SELECT array_agg(format('GRANT %s ON holdfast.%I TO %s', a.privilege_type, name,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)) INTO rights
    FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = whole AND a.grantee <> c.relowner;
  EXECUTE format('ALTER TABLE %s RENAME TO %I', whole, name || '_whole');
  EXECUTE format('CREATE TABLE holdfast.%I (LIKE holdfast.%I INCLUDING STORAGE) PARTITION BY HASH (%I)', name,
    name || '_whole', hashed);
  FOR part IN 0 .. parts - 1 LOOP
    EXECUTE format('CREATE TABLE holdfast.%I PARTITION OF holdfast.%I FOR VALUES WITH (MODULUS %s, REMAINDER %s)',
      name || '_' || part, name, parts, part);
    EXECUTE format('ALTER TABLE holdfast.%I OWNER TO %s', name || '_' || part, owner);
  END LOOP;
  EXECUTE format('ALTER TABLE holdfast.%I OWNER TO %s', name, owner);
  EXECUTE format('INSERT INTO holdfast.%I SELECT * FROM holdfast.%I', name, name || '_whole');
  GET DIAGNOSTICS moved = ROW_COUNT;
  EXECUTE format('DROP TABLE holdfast.%I', name || '_whole');
  FOREACH statement IN ARRAY made || rights LOOP
    EXECUTE statement;
  END LOOP;
  RETURN moved;
END $$
"""

LARGE: tuple[LiteralString, ...] = (  # none of these takes longer for a larger database
    (
        "ALTER TABLE holdfast.branch ADD COLUMN ended_seq bigint, ADD COLUMN recent bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN open boolean NOT NULL DEFAULT true"
    ),
    _SHELVED,
    (
        "CREATE TRIGGER shelved BEFORE INSERT OR UPDATE ON holdfast.branch FOR EACH ROW WHEN"
        " (NEW.recent <> NEW.at_ms >> 20 OR NEW.open <> (NEW.ended_seq IS DISTINCT FROM NEW.seq))"
        " EXECUTE FUNCTION holdfast.shelved_1()"
    ),
    _ENDED,
    (
        "CREATE TRIGGER ended AFTER INSERT ON holdfast.entry FOR EACH ROW"
        " WHEN (NEW.key = '\\x66696e6973686564'::bytea) EXECUTE FUNCTION holdfast.ended_1()"  # "finished"
    ),
    _NUMBER,
    _PARTITION,
)
SHELVING: tuple[LiteralString, ...] = (  # what takes long is looked up first: until then nobody waits
    (
        "CREATE TEMPORARY TABLE holdfast_over ON COMMIT DROP AS SELECT b.id, b.seq FROM holdfast.branch b"
        " JOIN holdfast.entry e ON e.branch = b.id AND e.seq = b.seq WHERE e.key = convert_to('finished', 'UTF8')"
    ),
    (  # in the order in which everybody locks branches
        "DO $$ BEGIN PERFORM 1 FROM holdfast.branch WHERE seq > 0 ORDER BY id FOR NO KEY UPDATE; END $$"
    ),
    (
        "UPDATE holdfast.branch b SET ended_seq = o.seq FROM pg_temp.holdfast_over o"
        " WHERE b.id = o.id AND b.seq = o.seq AND b.ended_seq IS NULL"
    ),
    "UPDATE holdfast.branch SET recent = at_ms >> 20 WHERE recent <> at_ms >> 20",
)
SHELVES: tuple[LiteralString, ...] = (  # apart: who waits for one of those rows has a lock on the table already
    "CREATE INDEX branch_recent ON holdfast.branch (recent)",
    "CREATE INDEX branch_open ON holdfast.branch (recent) WHERE open",
)
