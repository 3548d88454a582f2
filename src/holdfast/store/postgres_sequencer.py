"""Who numbers and signs the entries of a database on PostgreSQL: one of its workers at a time.

Rules
1. Any worker may be the sequencer. Whoever is silent for longer than `ttl_s`, by the database's clock, is replaced: by
   the next epoch, under which alone anything is numbered or signed from then on.
2. A head is kept with a barrier, which flushes the entries it covers too, since those were seen to be committed. It
   leaves this process only when that was acknowledged.
3. Whoever is not the sequencer publishes its heads too, in the anchor of its own machine, and will not take an older
   one after a newer one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, LiteralString

import psycopg

from holdfast.core.note import Frontier
from holdfast.errors import HoldfastError, RolledBack
from holdfast.store.heads import EVERY_S, Heads
from holdfast.store.postgres_guard import Guard
from holdfast.store.postgres_large import AT_ONCE
from holdfast.store.postgres_leaves import PostgresLeaves
from holdfast.store.postgres_numbering import GIVE_BACK, NEWEST, NOT_SEQUENCER, NUMBER, SIGN, TAKE
from holdfast.store.postgres_schema import lost
from holdfast.store.postgres_ways import Connection, connect, warnings_of
from holdfast.store.worker import Worker

TTL_S = 5.0
MOST = 50_000  # entries under one head
HURRIED = 1_000  # entries that have come since the last look, from which on the next one follows at once
LEAST_S = 0.05
LAST = 2**63 - 1


class Sequencer:
    """Numbers, signs and publishes for `worker`, in a thread of its own, until it is closed. `barrier`: what is asked
    of synchronous_commit; `wrong` is told why the log is not the one that was signed: then nothing is signed."""

    def __init__(
        self,
        conninfo: str,
        worker: Worker,
        heads: Heads,
        *,
        guard: Guard,
        barrier: str,
        wrong: Callable[[RolledBack], None],
        ttl_s: float = TTL_S,
    ) -> None:
        self._conninfo, self._worker, self._heads = conninfo, worker, heads
        self._guard, self._barrier, self._wrong, self._ttl_s = guard, barrier, wrong, ttl_s
        self._connection: Connection | None = None
        self._warnings: list[str] = []
        self._leaves = PostgresLeaves(self._ask)
        self._epoch: int | None = None
        self._frontier: Frontier | None = None
        self._pid = os.getpid()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holdfast sequencer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sign what is there, if nobody else does, and end. Idempotent."""
        if os.getpid() == self._pid and self._thread.is_alive():
            self._ending.set()
            self._thread.join()

    def _run(self) -> None:
        wait_s, going = EVERY_S, True
        while going:
            going = not self._ending.wait(wait_s)
            found = self._turn()
            wait_s = max(LEAST_S, EVERY_S * (1 - found / HURRIED))
        self._leave()

    def _turn(self) -> int:
        """One look at what is new: how many entries were. Never raises."""
        try:
            found = self._look()
        except psycopg.Error as error:
            if error.sqlstate == NOT_SEQUENCER:
                self._epoch = None
            if self._connection is not None and lost(self._connection, error):
                self._connection.close()
            return 0
        except RolledBack as error:
            self._wrong(error)
            self._ending.set()
            return 0
        except HoldfastError:  # a head that cannot be read, or an anchor that cannot be written: perhaps next time
            return 0
        return found

    def _look(self) -> int:
        if self._epoch is None and not self._take():
            self._follow()
            return 0
        found = 0
        while True:
            more = self._sign()
            found += more
            if more < AT_ONCE:  # else there may be branches that were not looked at
                return found

    def _take(self) -> bool:
        rows = self._ask(TAKE, (self._worker.id, self._ttl_s))
        self._epoch, self._frontier = (rows[0][0] if rows else None), None
        return bool(rows)

    def _follow(self) -> None:
        """Publish what the sequencer has signed."""
        rows = self._ask(NEWEST, ())
        if rows:
            wrong = self._heads.seen(rows[0][0])
            if wrong is not None:
                raise wrong
            self._heads.publish(shared=True)

    def _sign(self) -> int:
        """Number what is new, and sign it: how many entries those were."""
        assert self._epoch is not None, "who has taken it has an epoch"
        size = self._ask(NUMBER, (self._worker.id, self._epoch, MOST))[0][0]
        if self._frontier is None:
            self._frontier = self._leaves.frontier(LAST)
            self._follow()
        known = self._frontier
        if size > known.size:
            frontier = known.extend(self._leaves.hashes(known.size, size))
            if frontier.size != size:
                raise self._gone(size)
            signed = self._heads.signed(size, frontier)
            row = (self._worker.id, self._epoch, self._barrier, size, signed.note, frontier.encode())
            self._ask(SIGN, row)
            self._frontier = frontier
            self._heads.flushed()
            self._heads.publish(shared=True)
        elif size < known.size:
            raise self._gone(known.size)
        return size - known.size

    def _gone(self, size: int) -> RolledBack:
        return RolledBack(
            f"of {size} entries that were numbered, some are gone",
            where=self._heads.key.verifier.name,
            fix="run `holdfast verify`; restore a backup",
        )

    def _ask(self, sql: LiteralString, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._conninfo)
            self._warnings = warnings_of(self._connection)
        self._warnings.clear()
        with self._guard.over(self._connection):
            rows = self._connection.execute(sql, values, binary=True).fetchall()
        if self._warnings:  # a head that no standby has must not leave
            self._connection.close()
            raise psycopg.OperationalError(f"it is in doubt what was done: {self._warnings[0]}")
        return rows

    def _leave(self) -> None:
        if self._connection is None or self._connection.closed:
            return
        with contextlib.suppress(psycopg.Error):
            if self._epoch is not None:
                self._ask(GIVE_BACK, (self._worker.id, self._epoch))
            self._connection.close()
