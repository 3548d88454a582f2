"""The floor: one row and one commit for each step, by a connection for each run.

python floor_steps.py URL RUNS SECONDS SERVER
"""

import hashlib
import threading

from window import WARM, Window, asked, text

url, window = asked()


def on_sqlite(path: str) -> None:
    """One connection: SQLite has one writer."""
    import apsw

    connection = apsw.Connection(path)
    for pragma in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
        connection.execute(pragma).fetchall()
    connection.execute("CREATE TABLE step (id INTEGER PRIMARY KEY, key BLOB UNIQUE, args TEXT, result TEXT)").fetchall()

    def commit(number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        row = (hashlib.sha256(b"%d" % number).digest(), text(number, 300), text(number, 1000))
        connection.execute("INSERT INTO step (key, args, result) VALUES (?, ?, ?)", row)
        connection.execute("COMMIT")

    _counted(window, 0, commit)


def on_postgres(run: int) -> None:
    """One of as many connections as there are runs."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:

        def commit(number: int) -> None:
            row = (hashlib.sha256(b"%d/%d" % (run, number)).digest(), text(number, 300), text(number, 1000))
            connection.execute("INSERT INTO floor (key, args, result) VALUES (%s, %s, %s)", row)

        _counted(window, run, commit)


def _counted(window: Window, run: int, commit) -> None:  # noqa: ANN001 - a function of a number
    for number in range(WARM):
        commit(number)
    window.wait(run)
    number = WARM
    while window.open():
        commit(number)
        window.counts[run] += 1
        number += 1


if url.startswith("sqlite:///"):
    assert window.runs == 1, "SQLite has one writer"
    on_sqlite(url.removeprefix("sqlite:///"))
else:
    import psycopg

    with psycopg.connect(url, autocommit=True) as one:
        one.execute("CREATE TABLE IF NOT EXISTS floor (id bigserial PRIMARY KEY, key bytea, args text, result text)")
    threads = [threading.Thread(target=on_postgres, args=(run,)) for run in range(window.runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
window.tell()
