"""The way to PostgreSQL that a procrastinate worker is given: it outlives a server that is away for a while.

Rules
1. What is asked here may be asked twice. A job that was handed out and of which the answer was lost is found by whoever
   keeps the fleet, and handed out anew.
2. Notifications only hasten: while nobody hears them, jobs are looked for at intervals.
3. A job is ended only when everything that it had to put down is there; one that is not is put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, LiteralString, TypeVar

import psycopg
from procrastinate import PsycopgConnector
from procrastinate.connector import Notify
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from psycopg.conninfo import conninfo_to_dict

from holdfast.errors import Unwritable
from holdfast.store.postgres_ways import Faithful, defaults

T = TypeVar("T")

ANSWER_S = 30.0  # for an answer, as the store waits; then the connection is given up
PAUSE_S = (0.1, 1.0)
CONNECTIONS = 3


class Patient(PsycopgConnector):
    """Asks again, on another connection, until the server has been away for `patience_s`. `heard`: who is told what is
    said on a channel of ours."""

    def __init__(
        self, conninfo: str, *, where: str, patience_s: float, heard: Mapping[str, Callable[[str], None]]
    ) -> None:
        given = conninfo_to_dict(conninfo)
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            conninfo=conninfo, min_size=1, max_size=CONNECTIONS, timeout=ANSWER_S / 6,
            configure=_configure, connection_class=Faithful,
            kwargs=defaults(conninfo, 5) | {
                "options": f"{given.get('options') or ''} -c search_path=holdfast_fleet".strip(),
                "application_name": "holdfast worker",
            },
        )  # fmt: skip
        self._where = where
        self._patience_s = patience_s
        self._heard = heard

    async def _create_pool(self, pool_args: dict[str, Any]) -> Any:
        """As procrastinate's, but a connection is not tried before it is used: whoever uses a dead one asks again."""
        return self._pool_factory(**pool_args, open=False)

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        """As procrastinate's, patiently."""
        await self._patiently(lambda: super(Patient, self).execute_query_async(query, **arguments))

    async def execute_query_one_async(self, query: LiteralString, **arguments: Any) -> dict[str, Any]:
        """As procrastinate's, patiently."""
        return await self._patiently(lambda: super(Patient, self).execute_query_one_async(query, **arguments))

    async def execute_query_all_async(self, query: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
        """As procrastinate's, patiently."""
        return await self._patiently(lambda: super(Patient, self).execute_query_all_async(query, **arguments))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        until, pause_s = time.monotonic() + self._patience_s, PAUSE_S[0]
        while True:
            try:
                return await asyncio.wait_for(ask(), ANSWER_S)
            except (ConnectorException, TimeoutError) as error:
                if not _away(error):
                    raise
                if time.monotonic() >= until:
                    raise Unwritable(
                        "PostgreSQL does not answer", where=self._where, fix="check the server, then start it again"
                    ) from error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S[1])

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Hear what procrastinate listens for, and what is ours; again and again, whatever becomes of the
        connection."""
        named = list(channels)

        async def told(*, channel: str, payload: str) -> None:
            if channel in self._heard:
                self._heard[channel](payload)
            else:
                await on_notification(channel=channel, payload=payload)

        while True:
            with contextlib.suppress(ConnectorException, TimeoutError, psycopg.Error):
                await super().listen_notify(told, [*named, *self._heard])
            await asyncio.sleep(PAUSE_S[1])


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    """Each statement is a transaction."""
    await connection.set_autocommit(True)


def _away(error: BaseException) -> bool:
    """Whether it is the server or the way to it that failed, and not what was asked."""
    cause = error.__cause__ if isinstance(error, ConnectorException) else error
    return isinstance(cause, TimeoutError | psycopg.OperationalError | psycopg.InterfaceError)


class Jobs(JobManager):
    """The jobs of one worker. `number`: procrastinate's own of it; `mine`: those that it was handed out and has not
    ended; `fetching`: one may be on its way."""

    def __init__(self, connector: Patient, enrol: Callable[[int], Awaitable[None]]) -> None:
        super().__init__(connector)
        self.number: int | None = None
        self.mine: set[int] = set()
        self.fetching = False
        self._left: set[int] = set()
        self._enrol = enrol

    def leave(self, job: int) -> None:
        """This job is not ended: it is put back by whoever finds that nobody is at it."""
        self._left.add(job)

    async def register_worker(self) -> int:
        """As procrastinate's; the fleet knows of the worker before it is handed out anything."""
        self.number = await super().register_worker()
        await self._enrol(self.number)
        return self.number

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """As procrastinate's."""
        self.fetching = True
        try:
            job = await super().fetch_job(queues, worker_id)
            if job is not None and job.id is not None:
                self.mine.add(job.id)
            return job
        finally:
            self.fetching = False

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """As procrastinate's. A job that is not this worker's any more is nobody's to end."""
        assert job.id is not None, "a job that was handed out has a number"
        try:
            if job.id in self._left:
                self._left.discard(job.id)
                return
            await super().finish_job(job, status, delete_job)
        except ConnectorException as error:
            if not isinstance(error.__cause__, psycopg.errors.RaiseException):
                raise
        finally:
            self.mine.discard(job.id)
