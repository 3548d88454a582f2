"""The write-ahead log of one SQLite file: large enough from the start, and emptied before it grows long.

Rules
1. Everything here is called under the lock of the writing connection.
2. Readers are not disturbed; what they still need stays for the next time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import apsw

LONG_PAGES = 2048
FULL_BYTES = 12 << 20
EXTEND_AFTER = 16  # barriers: who writes only a word and leaves does not pay for room that others would use


class WriteAheadLog:
    """The write-ahead log that `connection`, the only writer of this process, has for the store in the file `path`."""

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._connection = connection
        self._file = path.with_name(path.name + "-wal")
        self._pages = 0
        self._barriers = 0
        connection.set_wal_hook(self._on_write)

    def _on_write(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    @property
    def long(self) -> bool:
        """Whether it is time to empty it."""
        return self._pages >= LONG_PAGES

    def empty(self) -> None:
        """Move it into the database, if it has grown long: it is then used again from its beginning, and whoever opens
        the store after a crash has little to read."""
        if self.long:
            self._pages = 0
            with contextlib.suppress(apsw.Error):
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def extend(self) -> None:
        """Called at each barrier: let it have its size once and for all when there have been some. A flush then writes
        data only, not the file's size too. Called inside a transaction, so that no other process is writing frames;
        zeroes are no frames."""
        self._barriers += 1
        if self._barriers == EXTEND_AFTER:
            self._fill()

    def _fill(self) -> None:
        with contextlib.suppress(OSError), self._file.open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size < FULL_BYTES:
                file.write(bytes(FULL_BYTES - size))
                os.fsync(file.fileno())

    def wipe(self) -> None:
        """Move it into the database and forget what was in it, if nobody reads it or writes at this moment. If it had
        its size, it has it again."""
        with contextlib.suppress(apsw.BusyError, OSError):
            size = self._file.stat().st_size
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            if size >= FULL_BYTES:
                self._connection.execute("BEGIN IMMEDIATE")
                self._fill()
                self._connection.execute("COMMIT")
