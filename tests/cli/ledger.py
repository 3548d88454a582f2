"""A store's database as the second hand of the tests writes it: entries in their order, payloads and heads, in SQLite
and on PostgreSQL alike. So that one attack can be made on either."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import psycopg

from holdfast.core.note import Frontier
from holdfast.store.url import open_url
from tests.core.bundle_writer import Writer, sha256


class Ledger:
    """The database at `url`, an own store with the key in `key`. `anchor` is its file."""

    def __init__(self, url: str, key: Path, anchor: Path) -> None:
        glue = "&" if "?" in url else "?"
        self.url = f"{url}{glue}key={key}&anchor={anchor}"
        self.key, self.anchor = key, anchor
        self._server = None if url.startswith("sqlite:") else url
        self._file = url.removeprefix("sqlite:///")

    def read_only(self) -> bool:
        """Whether a worker that opens the store may not write; it makes the store if there is none."""
        store = open_url(self.url).store
        wrong = store.read_only  # type: ignore[attr-defined]
        with contextlib.suppress(AttributeError):
            store.let_go()  # type: ignore[attr-defined]
            return wrong is not None
        store._reader.close()  # type: ignore[attr-defined]
        store.committer.close()  # type: ignore[attr-defined]
        return wrong is not None

    def hand(self, log: Writer) -> Writer:
        """`log`, under the name and the key of this store."""
        log.seed = bytes.fromhex(self.key.read_text())
        log.origin = f"holdfast.local/{self._log_id()}"
        log.republish(8, 16, 22)
        return log

    def _log_id(self) -> str:
        sql = "SELECT value FROM {}meta WHERE name = 'log'"
        if self._server is None:
            with contextlib.closing(sqlite3.connect(self._file)) as database:
                return str(database.execute(sql.format("")).fetchall()[0][0])
        with psycopg.connect(self._server) as connection:
            return str(connection.execute(sql.format("holdfast.")).fetchall()[0][0])  # type: ignore[arg-type]

    def write(self, log: Writer) -> None:
        """Let the database say what `log` says, and nothing else."""
        names = list(dict.fromkeys(row.branch for row in log.rows))
        ids = {name: number for number, name in enumerate(names, 1)}
        heads = [(int(head.split("\n")[1]), head) for head in log.heads]
        edges = [
            (size, head, Frontier().extend(row.leaf() for row in log.rows[:size]).encode()) for size, head in heads
        ]
        blobs = [(sha256(data), 0, data) for data in log.blobs]
        if self._server is None:
            self._write_sqlite(log, ids, edges, blobs)
        else:
            self._write_postgres(self._server, log, ids, edges, blobs)

    def _write_sqlite(
        self,
        log: Writer,
        ids: dict[str, int],
        heads: list[tuple[int, str, bytes]],
        blobs: list[tuple[bytes, int, bytes]],
    ) -> None:
        with contextlib.closing(sqlite3.connect(self._file)) as database:
            database.executescript(
                "DELETE FROM entry; DELETE FROM claim; DELETE FROM branch; DELETE FROM blob; DELETE FROM blob_place;"
                "DELETE FROM head"
            )
            database.executemany("INSERT INTO branch VALUES (?, ?)", [(number, name) for name, number in ids.items()])
            database.executemany(
                "INSERT INTO entry (branch, seq, epoch, at_ms, key, body, digest) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(ids[r.branch], r.seq, r.epoch, r.at_ms, r.key or None, r.body, r.digest) for r in log.rows],
            )
            database.executemany("INSERT INTO blob (digest, form, data) VALUES (?, ?, ?)", blobs)
            database.execute("INSERT INTO blob_place SELECT digest, id FROM blob")
            database.execute("UPDATE meta SET value = (SELECT max(id) FROM blob) WHERE name = 'placed'")
            database.executemany("INSERT INTO head VALUES (?, ?, ?)", heads)
            database.commit()

    def _write_postgres(
        self,
        server: str,
        log: Writer,
        ids: dict[str, int],
        heads: list[tuple[int, str, bytes]],
        blobs: list[tuple[bytes, int, bytes]],
    ) -> None:
        with psycopg.connect(server) as connection, connection.cursor() as cursor:
            cursor.execute(
                "TRUNCATE holdfast.entry, holdfast.stretch, holdfast.head, holdfast.branch, holdfast.blob,"
                " holdfast.grown"
            )
            for name, number in ids.items():
                newest = [row for row in log.rows if row.branch == name][-1]
                cursor.execute(
                    "INSERT INTO holdfast.branch (id, name, seq, digest, at_ms, unclaimed_seq, epoch)"
                    " OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, 0, %s)",
                    (number, name, newest.seq, newest.digest, newest.at_ms, newest.epoch),
                )
            cursor.executemany(
                "INSERT INTO holdfast.entry VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [(ids[r.branch], r.seq, r.epoch, r.at_ms, r.key or None, r.body, r.digest) for r in log.rows],
            )
            cursor.executemany(
                "INSERT INTO holdfast.stretch VALUES (%s, %s, %s, 1)",
                [(index, ids[row.branch], row.seq) for index, row in enumerate(log.rows)],
            )
            cursor.executemany("INSERT INTO holdfast.blob VALUES (%s, %s, %s)", blobs)
            cursor.executemany("INSERT INTO holdfast.head VALUES (%s, %s, %s)", heads)
