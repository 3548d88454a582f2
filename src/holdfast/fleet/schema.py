"""The tables of the fleet, in a schema of their own beside the log: procrastinate's, as it ships them, and ours.

Rules
1. "Look at run R" is put down in the transaction that makes R able to go on: where an entry is placed without a claim
   (somebody's word), and where a claim is given back. The database does it, whoever wrote: no writer need know of it.
2. A run has at most one job that waits and one that is at work. What is to happen later waits under a low priority, so
   that a search for work does not read all that sleeps.
3. A job that is given up is put down anew under another number, so that whoever had it cannot end it any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import LiteralString, cast

import psycopg
from procrastinate.schema import SchemaManager, migrations_path

from holdfast.errors import Corrupt
from holdfast.fleet.schema_calls import CALLS
from holdfast.store.postgres_schema import known, opened, place_of, translate
from holdfast.store.postgres_ways import Connection, connect

MIGRATING = 0x48464C32  # "HFL2": the advisory lock of whoever migrates
QUEUE = "holdfast"
WORD = "holdfast_word"  # the channel on which a run is named that somebody has said a word to
CALL = "holdfast_call"  # and that on which a call is named for which there may be room
_SEARCH = "SELECT set_config('search_path', 'holdfast_fleet', true)"

_DEFER: LiteralString = """
CREATE FUNCTION holdfast_fleet.defer_1(a_run text, at timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  own_priority integer;
  own_queue text;
  number bigint;
BEGIN
  SELECT priority, queue INTO own_priority, own_queue FROM run WHERE run = a_run;
  own_priority := coalesce(own_priority, 0);
  own_queue := coalesce(own_queue, 'holdfast');
  INSERT INTO procrastinate_jobs AS j (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
    VALUES (own_queue, 'advance', CASE WHEN at IS NULL THEN own_priority ELSE -1000000 END, a_run, a_run,
      jsonb_build_object('run', a_run), at)
    ON CONFLICT (queueing_lock) WHERE status = 'todo' DO UPDATE
      SET scheduled_at = excluded.scheduled_at, priority = excluded.priority, queue_name = excluded.queue_name
      WHERE j.queue_name <> excluded.queue_name
        OR (j.scheduled_at IS NOT NULL AND (excluded.scheduled_at IS NULL OR excluded.scheduled_at < j.scheduled_at))
    RETURNING j.id INTO number;
  IF number IS NOT NULL AND at IS NULL THEN
    PERFORM pg_notify('procrastinate_queue_v1#' || own_queue,
      json_build_object('type', 'job_inserted', 'job_id', number)::text);
  END IF;
END $$
"""

_HEARD: LiteralString = """
CREATE FUNCTION holdfast_fleet.heard_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  a_run text;
BEGIN
  SELECT split_part(name, '@', 1) INTO a_run FROM holdfast.branch WHERE id = NEW.branch;
  PERFORM defer_1(a_run, NULL), pg_notify('holdfast_word', a_run);
  RETURN NULL;
END $$
"""

# A claim that a worker of the fleet gives back at the end of a job needs no other job: this one looks again. Of a run
# that has one branch, and has ended, nothing is left to do.
_FREED: LiteralString = """
CREATE FUNCTION holdfast_fleet.freed_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  a_run text := split_part(NEW.name, '@', 1);
BEGIN
  IF EXISTS (SELECT 1 FROM procrastinate_jobs j JOIN member m ON m.number = j.worker_id
      WHERE j.lock = a_run AND j.status = 'doing' AND m.worker = OLD.worker) THEN
    RETURN NULL;
  END IF;
  IF EXISTS (SELECT 1 FROM holdfast.entry
        WHERE branch = NEW.id AND seq = NEW.seq AND key = convert_to('finished', 'UTF8'))
      AND NOT EXISTS (SELECT 1 FROM holdfast.branch
        WHERE name >= (a_run || '@') COLLATE "C" AND name < (a_run || 'A') COLLATE "C" AND id <> NEW.id) THEN
    RETURN NULL;
  END IF;
  PERFORM defer_1(a_run, NULL);
  RETURN NULL;
END $$
"""

_ENDED: LiteralString = """
CREATE FUNCTION holdfast_fleet.ended_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  a_queue text;
BEGIN
  SELECT queue_name INTO a_queue FROM procrastinate_jobs
    WHERE queueing_lock = OLD.lock AND status = 'todo' AND scheduled_at IS NULL;
  IF FOUND THEN
    PERFORM pg_notify('procrastinate_queue_v1#' || a_queue,
      json_build_object('type', 'job_inserted', 'job_id', OLD.id)::text);
  END IF;
  RETURN NULL;
END $$
"""

_DUE: LiteralString = """
CREATE FUNCTION holdfast_fleet.due_1(most integer) RETURNS double precision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT id, lock, queue_name FROM procrastinate_jobs
      WHERE status = 'todo' AND scheduled_at <= clock_timestamp() ORDER BY scheduled_at LIMIT most
      FOR UPDATE SKIP LOCKED LOOP
    UPDATE procrastinate_jobs SET scheduled_at = NULL,
        priority = coalesce((SELECT r.priority FROM run r WHERE r.run = one.lock), 0) WHERE id = one.id;
    PERFORM pg_notify('procrastinate_queue_v1#' || one.queue_name,
      json_build_object('type', 'job_inserted', 'job_id', 0)::text);
  END LOOP;
  RETURN (SELECT extract(epoch FROM min(scheduled_at) - clock_timestamp())::double precision FROM procrastinate_jobs
    WHERE status = 'todo' AND scheduled_at IS NOT NULL);
END $$
"""

# What was under way goes on before what only waits.
_BURY: LiteralString = """
CREATE FUNCTION holdfast_fleet.bury_1(gone text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  own_number bigint;
  found_runs text[];
  one text;
BEGIN
  DELETE FROM member WHERE worker = gone RETURNING number INTO own_number;
  WITH given_up AS (DELETE FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = own_number RETURNING lock),
    held AS (SELECT split_part(name, '@', 1) AS lock FROM holdfast.branch WHERE worker = gone)
    SELECT array_agg(DISTINCT u.lock ORDER BY u.lock) INTO found_runs
      FROM (SELECT lock FROM given_up UNION SELECT lock FROM held) u;
  FOREACH one IN ARRAY coalesce(found_runs, '{}') LOOP
    PERFORM defer_1(one, NULL);
    UPDATE procrastinate_jobs SET priority = priority + 500000
      WHERE queueing_lock = one AND status = 'todo' AND priority < 250000;
  END LOOP;
  DELETE FROM seat WHERE worker = gone;
  RETURN cardinality(coalesce(found_runs, '{}'));
END $$
"""

_ORPHANS: LiteralString = """
CREATE FUNCTION holdfast_fleet.orphans_1() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  found_runs text[];
  one text;
BEGIN
  WITH given_up AS (DELETE FROM procrastinate_jobs j WHERE status = 'doing'
      AND NOT EXISTS (SELECT 1 FROM member m WHERE m.number = j.worker_id) RETURNING lock)
    SELECT array_agg(DISTINCT lock ORDER BY lock) INTO found_runs FROM given_up;
  FOREACH one IN ARRAY coalesce(found_runs, '{}') LOOP
    PERFORM defer_1(one, NULL);
  END LOOP;
  RETURN cardinality(coalesce(found_runs, '{}'));
END $$
"""

_SIT: LiteralString = """
CREATE FUNCTION holdfast_fleet.sit_1(a_run text, an_agent text, at_most integer, by_worker text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  free boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('holdfast seat ' || an_agent, 0));
  free := (SELECT count(*) FROM seat WHERE agent = an_agent AND worker IS NOT NULL AND run <> a_run) < at_most;
  INSERT INTO seat AS s (run, agent, most, worker, since)
    VALUES (a_run, an_agent, at_most, CASE WHEN free THEN by_worker END, clock_timestamp())
    ON CONFLICT (run) DO UPDATE SET agent = excluded.agent, most = excluded.most, worker = excluded.worker;
  RETURN free;
END $$
"""

_TURN: LiteralString = """
CREATE FUNCTION holdfast_fleet.turn_1(left_by text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdfast_fleet, pg_temp AS $$
DECLARE
  one record;
  next_run text;
BEGIN
  DELETE FROM seat WHERE run = left_by AND worker IS NOT NULL;
  FOR one IN SELECT agent, max(most) AS most FROM seat GROUP BY agent HAVING bool_or(worker IS NULL) ORDER BY agent LOOP
    PERFORM pg_advisory_xact_lock(hashtextextended('holdfast seat ' || one.agent, 0));
    FOR next_run IN DELETE FROM seat WHERE run IN (
        SELECT run FROM seat WHERE agent = one.agent AND worker IS NULL ORDER BY since LIMIT greatest(0, one.most -
          (SELECT count(*) FROM seat WHERE agent = one.agent AND worker IS NOT NULL)))
      RETURNING run LOOP
      PERFORM defer_1(next_run, NULL);
    END LOOP;
  END LOOP;
END $$
"""

MIGRATIONS: tuple[tuple[LiteralString, ...], ...] = (
    (
        (
            "CREATE TABLE holdfast_fleet.member (worker text PRIMARY KEY, number bigint NOT NULL, agents text NOT NULL,"
            " at_once integer NOT NULL, draining boolean NOT NULL DEFAULT false,"
            " since timestamptz NOT NULL DEFAULT clock_timestamp())"
        ),
        (
            "CREATE TABLE holdfast_fleet.run (run text PRIMARY KEY, priority integer NOT NULL DEFAULT 0,"
            " queue text NOT NULL DEFAULT 'holdfast', agent text NOT NULL DEFAULT '')"
        ),
        (
            "CREATE TABLE holdfast_fleet.seat (run text PRIMARY KEY, agent text NOT NULL, most integer NOT NULL,"
            " worker text, since timestamptz NOT NULL)"
        ),
        "CREATE INDEX seat_line ON holdfast_fleet.seat (agent, since)",
        (
            "CREATE INDEX job_due ON holdfast_fleet.procrastinate_jobs (scheduled_at)"
            " WHERE status = 'todo' AND scheduled_at IS NOT NULL"
        ),
        _DEFER, _HEARD, _FREED, _ENDED, _DUE, _BURY, _ORPHANS, _SIT, _TURN,
        (
            "CREATE TRIGGER fleet_heard AFTER INSERT ON holdfast.entry FOR EACH ROW WHEN (NEW.epoch = 0)"
            " EXECUTE FUNCTION holdfast_fleet.heard_1()"
        ),
        (  # at the end of the transaction: only then are the entries there that were written with it
            "CREATE CONSTRAINT TRIGGER fleet_freed AFTER UPDATE OF worker ON holdfast.branch"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.worker IS NOT NULL AND NEW.worker IS NULL)"
            " EXECUTE FUNCTION holdfast_fleet.freed_1()"
        ),
        (
            "CREATE TRIGGER fleet_ended AFTER DELETE ON holdfast_fleet.procrastinate_jobs FOR EACH ROW"
            " WHEN (OLD.status = 'doing') EXECUTE FUNCTION holdfast_fleet.ended_1()"
        ),
        # whatever was there before the fleet is looked at once
        (
            "SELECT holdfast_fleet.defer_1(r.run, NULL) FROM (SELECT DISTINCT split_part(b.name, '@', 1) AS run"
            " FROM holdfast.branch b WHERE b.seq > 0 AND NOT EXISTS (SELECT 1 FROM holdfast.entry e"
            " WHERE e.branch = b.id AND e.seq = b.seq AND e.key = convert_to('finished', 'UTF8'))) r"
        ),
    ),
    CALLS,
)  # fmt: skip
_IS_THERE = (
    "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'holdfast_fleet' AND c.relname = 'meta'"
)


def queue_of(agent: str) -> str:
    """The queue of the runs of an agent's module. Short, since PostgreSQL refuses to speak on a channel with a long
    name."""
    module = agent.partition(":")[0]
    return f"{QUEUE}-{hashlib.sha256(module.encode()).hexdigest()[:16]}"


def install(conninfo: str) -> None:
    """Bring the schema of the fleet up to date, and that of the store before it. Raises Stopped."""
    where = place_of(conninfo)
    try:
        with connect(conninfo) as connection:
            opened(connection, where)
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', '60s', true)")
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
                connection.execute(_SEARCH)
                if not connection.execute(_IS_THERE).fetchall():
                    _begin(connection)
                _procrastinate(connection)
                _ours(connection, where)
    except psycopg.Error as error:
        raise translate(error, where) from error


def _begin(connection: Connection) -> None:
    connection.execute("CREATE SCHEMA IF NOT EXISTS holdfast_fleet")
    connection.execute("CREATE TABLE holdfast_fleet.meta (name text PRIMARY KEY, value text NOT NULL)")
    connection.execute("INSERT INTO holdfast_fleet.meta VALUES ('schema', '0')")
    connection.execute("CREATE TABLE holdfast_fleet.procrastinate_migration (name text PRIMARY KEY)")
    schema = SchemaManager.get_schema()
    connection.execute(schema)
    _note(connection, _shipped())


def _procrastinate(connection: Connection) -> None:
    """Apply what a newer procrastinate brings. What breaks older workers waits until there is no worker."""
    done = {row[0] for row in connection.execute("SELECT name FROM procrastinate_migration").fetchall()}
    fresh = [name for name in _shipped() if name not in done]
    if not fresh:
        return
    alone = not connection.execute("SELECT 1 FROM procrastinate_workers").fetchall()
    for name in fresh:
        if alone or "_pre_" in name:
            statement = cast(LiteralString, (migrations_path / name).read_text())
            connection.execute(statement)
            _note(connection, [name])


def _shipped() -> list[str]:
    """The migrations that the installed procrastinate knows, in their order."""
    return sorted(path.name for path in migrations_path.glob("*.sql"))


def _note(connection: Connection, names: Iterable[str]) -> None:
    connection.execute("INSERT INTO procrastinate_migration SELECT unnest(%s::text[])", (list(names),))


def _ours(connection: Connection, where: str) -> None:
    rows = connection.execute("SELECT value FROM holdfast_fleet.meta WHERE name = 'schema'").fetchall()
    number = int(rows[0][0])
    if number > len(MIGRATIONS):
        raise Corrupt(
            f"the fleet has schema {number}; this Holdfast knows up to {len(MIGRATIONS)}",
            where=where,
            fix="use the Holdfast that wrote it, or a newer one",
        )
    for migration in MIGRATIONS[number:]:
        for statement in migration:
            connection.execute(statement)
    connection.execute("UPDATE holdfast_fleet.meta SET value = %s WHERE name = 'schema'", (str(len(MIGRATIONS)),))


def installed(conninfo: str) -> bool:
    """Whether a store has a fleet. Nothing is made. Raises Unwritable."""
    where = place_of(conninfo)
    try:
        with connect(conninfo) as connection:
            return known(connection, where) is not None and bool(connection.execute(_IS_THERE).fetchall())
    except psycopg.Error as error:
        raise translate(error, where) from error
