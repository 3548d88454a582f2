"""Nobody waits for an answer of PostgreSQL for ever: a connection on which it stays away is cut.

A host that is gone is noticed by its silence (TCP keepalives). A server that is stopped, and whatever stands between
and hangs, keep a connection alive and never answer: whoever waits there gets no error, unless somebody makes one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Generator

import psycopg
from psycopg.pq import ConnStatus

from holdfast.store.postgres_ways import Connection


class Guard:
    """Cuts connections that were waited on for longer than `answer_s`. Its thread runs while anybody waits, and for
    some moments after."""

    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._waited_on: dict[Connection, float] = {}
        self._awake = False

    @contextlib.contextmanager
    def over(self, connection: Connection) -> Generator[None]:
        """While something is asked on a connection, by one thread at a time."""
        with self._lock:
            self._waited_on[connection] = time.monotonic()
            if not self._awake:
                self._awake = True
                threading.Thread(target=self._watch, name="holdfast guard", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._waited_on.pop(connection, None)

    def _watch(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(min(1.0, self._answer_s / 4))
            now = time.monotonic()
            with self._lock:
                for connection, since in self._waited_on.items():
                    if now - since > self._answer_s:
                        _cut(connection)
                if self._waited_on:
                    idle_since = now
                elif now - idle_since > self._answer_s:
                    self._awake = False
                    return


def _cut(connection: Connection) -> None:
    """Whoever waits on it gets an error at once."""
    with contextlib.suppress(OSError, psycopg.Error):
        if connection.pgconn.status == ConnStatus.OK:
            with socket.socket(fileno=os.dup(connection.pgconn.socket)) as twin:
                twin.shutdown(socket.SHUT_RDWR)
