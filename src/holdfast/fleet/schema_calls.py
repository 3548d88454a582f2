"""The table of calls that limits count: who is under way, and who stands in whose line.

Rules
1. A row is a call of a worker, from before its intent until after its seal. It goes with its worker's membership.
2. `line` is the limit for whose room a call waits; without one it is under way. Places are given in the order of
   `turn`.
"""

from __future__ import annotations

from typing import LiteralString

_TABLE: LiteralString = """
CREATE TABLE holdfast_fleet.call (
  worker text NOT NULL REFERENCES holdfast_fleet.member ON DELETE CASCADE, number bigint NOT NULL,
  tools text[] NOT NULL, most integer[] NOT NULL, line text, turn bigint GENERATED ALWAYS AS IDENTITY,
  PRIMARY KEY (worker, number)) WITH (fillfactor = 50)
"""

# Under the locks of its limits, which everybody takes in the same order, a call sees what others were told before it.
_ENTER: LiteralString = """
CREATE FUNCTION holdfast_fleet.enter_1(by_worker text, a_number bigint, named text[], at_most integer[])
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  own_turn bigint;
  own_line text;
  next_line text;
  fresh boolean;
BEGIN
  PERFORM 1 FROM member WHERE worker = by_worker FOR KEY SHARE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  FOR i IN 1 .. cardinality(named) LOOP
    PERFORM pg_advisory_xact_lock(hashtextextended('holdfast call ' || named[i], 0));
  END LOOP;
  INSERT INTO call (worker, number, tools, most, line) VALUES (by_worker, a_number, named, at_most, named[1])
    ON CONFLICT DO NOTHING;
  fresh := FOUND;
  SELECT turn, line INTO own_turn, own_line FROM call WHERE worker = by_worker AND number = a_number;
  IF own_line IS NULL THEN
    RETURN true;
  END IF;
  FOR i IN 1 .. cardinality(named) LOOP
    IF (SELECT count(*) FROM call c WHERE named[i] = ANY (c.tools)
        AND (c.line IS NULL OR (c.line = named[i] AND c.turn < own_turn))) >= at_most[i] THEN
      next_line := named[i];
      EXIT;
    END IF;
  END LOOP;
  IF next_line IS DISTINCT FROM own_line THEN
    UPDATE call SET line = next_line WHERE worker = by_worker AND number = a_number;
  END IF;
  IF next_line IS NULL AND NOT fresh THEN
    PERFORM next_1(named);  -- there may be room for one more
  END IF;
  RETURN next_line IS NULL;
END $$
"""

_NEXT: LiteralString = """
CREATE FUNCTION holdfast_fleet.next_1(named text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  next_call text;
BEGIN
  FOR next_call IN SELECT DISTINCT ON (c.line) c.worker || ' ' || c.number FROM call c
      WHERE c.line = ANY (named) ORDER BY c.line, c.turn LOOP
    PERFORM pg_notify('holdfast_call', next_call);
  END LOOP;
END $$
"""

_LEFT: LiteralString = """
CREATE FUNCTION holdfast_fleet.left_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
BEGIN
  PERFORM next_1(array_agg(DISTINCT t)) FROM gone, unnest(gone.tools) AS t;
  RETURN NULL;
END $$
"""

CALLS: tuple[LiteralString, ...] = (
    _TABLE,
    _NEXT,
    _ENTER,
    _LEFT,
    (  # also where a worker's membership takes its calls with it
        "CREATE TRIGGER call_left AFTER DELETE ON holdfast_fleet.call REFERENCING OLD TABLE AS gone FOR EACH STATEMENT"
        " EXECUTE FUNCTION holdfast_fleet.left_1()"
    ),
)
