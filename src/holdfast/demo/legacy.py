"""The legacy database: SQLite in a process of its own, reached over a socket, that writes down who changed it.

Rules
1. A request is one transaction: a line `{"statements": [[sql, [parameter, …]], …]}`. All of it happens or none.
   The answer is a line `{"results": [{"columns": […], "rows": [[…], …], "changed": N}, …]}` or `{"error": "…"}`.
2. The database, not its client, keeps the table `alterations`: every transaction that changed rows adds one row,
   inside that transaction. Nobody can alter it without being counted.
3. With `--late-s S`, the first alteration is answered S seconds after it is done. Databases do that under load; a
   client that dies in that time has changed the database and does not know it.
"""

import argparse
import json
import socket
import socketserver
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypeAlias, cast

from holdfast.demo import server

Cell: TypeAlias = str | int | float | None
Statement: TypeAlias = tuple[str, Sequence[Cell]]

AUDIT = "CREATE TABLE IF NOT EXISTS alterations (at REAL NOT NULL, statement TEXT NOT NULL, rows INTEGER NOT NULL)"
ACCOUNTS = (("ada", 120), ("grace", 75), ("edsger", 310), ("barbara", 42), ("donald", 8))
LEGACY_SCHEMA: tuple[Statement, ...] = (
    ("CREATE TABLE accounts (owner TEXT PRIMARY KEY, balance INTEGER NOT NULL) -- whole euros", ()),
    ("CREATE TABLE schema_version (version INTEGER NOT NULL, applied_by TEXT NOT NULL)", ()),
    *(("INSERT INTO accounts VALUES (?, ?)", account) for account in ACCOUNTS),
)


class TransactionRefused(Exception):
    """The database did not carry out the transaction: nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What one statement answered."""

    columns: list[str]
    rows: list[list[Cell]]
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A client: one connection for each transaction."""

    port: int
    timeout_s: float = 60.0

    def transact(self, *statements: Statement) -> list[Rows]:
        """Carry out `statements` as one transaction. Raises TransactionRefused if the database refuses: nothing has
        changed then. Any other exception says nothing about whether it happened."""
        request = json.dumps({"statements": [[sql, list(parameters)] for sql, parameters in statements]})
        with socket.create_connection((server.LOOPBACK, self.port), timeout=self.timeout_s) as line:
            line.sendall(request.encode() + b"\n")
            with line.makefile("rb") as answers:
                said = answers.readline()
        if not said:
            raise ConnectionError("the database closed the line before it answered")
        answer = json.loads(said)
        if "error" in answer:
            raise TransactionRefused(answer["error"])
        return [Rows(**result) for result in answer["results"]]

    def value(self, sql: str, *parameters: Cell) -> Cell:
        """The first cell of the first row, or None if there is no row."""
        rows = self.transact((sql, parameters))[0].rows
        return rows[0][0] if rows else None


@dataclass(slots=True, kw_only=True)
class Engine:
    """The one connection to the file; transactions take turns."""

    connection: sqlite3.Connection
    late_s: float = 0.0
    _was_late: bool = False
    _turn: Lock = field(default_factory=Lock)

    def carry_out(self, statements: list[Statement]) -> list[Rows]:
        with self._turn:
            before = self.connection.total_changes
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                results = [self._one(sql, parameters) for sql, parameters in statements]
                altered = self.connection.total_changes - before
                if altered:
                    text = "; ".join(sql for sql, _ in statements)
                    self.connection.execute("INSERT INTO alterations VALUES (?, ?, ?)", (time.time(), text, altered))
                self.connection.execute("COMMIT")
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            late = bool(altered) and self.late_s > 0 and not self._was_late
            self._was_late = self._was_late or late
        if late:
            time.sleep(self.late_s)
        return results

    def _one(self, sql: str, parameters: Sequence[Cell]) -> Rows:
        cursor = self.connection.execute(sql, tuple(parameters))
        columns = [str(column[0]) for column in cursor.description or ()]
        return Rows(columns=columns, rows=[list(row) for row in cursor.fetchall()], changed=max(cursor.rowcount, 0))


class _Line(socketserver.StreamRequestHandler):
    engine: Engine

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(json.dumps(self._answer(line)).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, object]:
        try:
            asked = cast("list[tuple[str, list[Cell]]]", json.loads(line)["statements"])
            results = self.engine.carry_out([(sql, parameters) for sql, parameters in asked])
        except (sqlite3.Error, ValueError, KeyError, TypeError) as problem:
            return {"error": f"{type(problem).__name__}: {problem}"}
        return {"results": [{"columns": each.columns, "rows": each.rows, "changed": each.changed} for each in results]}


class _Listening(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--late-s", type=float, default=0.0, help="answer the first alteration this much later")
    options = parser.parse_args()
    connection = sqlite3.connect(options.file, isolation_level=None, check_same_thread=False)
    if not connection.execute("SELECT 1 FROM sqlite_schema").fetchall():
        for sql, parameters in LEGACY_SCHEMA:
            connection.execute(sql, tuple(parameters))
        connection.execute(AUDIT)
    _Line.engine = Engine(connection=connection, late_s=options.late_s)
    with _Listening((server.LOOPBACK, 0), _Line) as listening:
        server.ready(int(listening.server_address[1]))
        listening.serve_forever()


if __name__ == "__main__":
    main()
