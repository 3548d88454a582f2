"""The floor: one row, one commit, one flush, with the same SQLite on the same disk. Who is durable alone is not
faster."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import apsw

from bench.clock import Clock
from bench.text import Texts


def measure(folder: Path, texts: Texts, seconds: float, warming: bool) -> dict[str, float]:
    """Commit rows of 300 B arguments and a 1 kB result, one by one, as fast as one connection can."""
    path = folder / "floor.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL").fetchall()
    connection.execute(
        "CREATE TABLE step (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, args TEXT NOT NULL, result TEXT NOT NULL)"
    ).fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert connection.execute("PRAGMA synchronous").fetchall() == [(2,)], "a floor that does not flush is none"
    clock = Clock(path, 1, seconds, warming)
    number = 0
    while clock.cold():
        _keep(connection, texts, number)
        number += 1
    clock.ready()
    while clock.running():
        began = time.perf_counter()
        _keep(connection, texts, number)
        clock.taken_s.append(time.perf_counter() - began)
        number += 1
    connection.close()
    return clock.result()


def _keep(connection: apsw.Connection, texts: Texts, number: int) -> None:
    key = hashlib.sha256(number.to_bytes(8, "big")).digest()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "INSERT INTO step (key, args, result) VALUES (?, ?, ?)", (key, texts.argument(number), texts.answer(number))
    )
    connection.execute("COMMIT")
