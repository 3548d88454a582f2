"""A primary and its streaming standby, two real servers that the tests kill, promote and start again.

Rules
1. Each listens at a Unix socket in a folder of its own, so `url` can name both.
2. Where every flush must wait for the standby, the primary says so by itself (`synchronous_standby_names`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from holdfast.store.postgres_ways import connect
from tests.postgres import Postgres

PORT = 5432  # it only names the socket
_SETTINGS = "listen_addresses = ''\nwal_writer_delay = 20ms\nshared_buffers = 16MB\nwal_level = replica\n"


class Server:
    """One server in `folder`: its data and its socket."""

    def __init__(self, programs: Postgres, folder: Path) -> None:
        assert programs.bin_path is not None, "whoever starts servers has their programs"
        assert programs.data is not None
        self._bin = programs.bin_path
        self._user = programs.data.owner() if os.geteuid() == 0 else None  # it refuses to run as root
        self.folder = folder
        self.data = folder / "data"

    def program(self, name: str, *words: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        command = [str(self._bin / name), *words]
        with (self.folder / "said").open("ab") as said:
            done = subprocess.run(command, stdout=said, stderr=said, timeout=120, user=self._user, check=False)
        assert done.returncode == 0, f"{command}: {(self.folder / 'said').read_text()[-2000:]}"

    @property
    def url(self) -> str:
        """A database of this server alone."""
        return f"postgresql:///postgres?user=postgres&host={self.folder}&port={PORT}"

    def set(self, **settings: str) -> None:
        """What the server finds in its file when it starts next."""
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        """Until it answers."""
        folder = f"unix_socket_directories = '{self.folder}'\n"
        (self.data / "here.conf").write_text(_SETTINGS + folder)
        shutil.chown(self.data / "here.conf", self._user or os.getuid())
        self.program("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "start")

    def kill(self) -> None:
        """SIGKILL, for it and all of its processes. Whoever was connected hears nothing of it but the end."""
        number = int((self.data / "postmaster.pid").read_text().split()[0])
        family = [number, *_children(number)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 60
        while any(_lives(pid) for pid in family):
            assert time.monotonic() < until, "it does not die"
            time.sleep(0.01)
        for lock in (self.data / "postmaster.pid", self.folder / f".s.PGSQL.{PORT}.lock"):
            lock.unlink(missing_ok=True)  # or a zombie is taken for a server when it is started anew

    def promote(self) -> None:
        """Make a standby the primary."""
        self.program("pg_ctl", "-D", str(self.data), "-w", "promote")

    def stop(self) -> None:
        """End it, however it stands."""
        with contextlib.suppress(AssertionError, FileNotFoundError):
            self.program("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection that commits by itself."""
        return psycopg.connect(self.url, autocommit=True)

    def says(self, sql: str) -> object:
        """One value."""
        with self.connect() as connection:
            rows = connection.execute(sql.encode()).fetchall()
        return rows[0][0] if rows else None


class Pair:
    """A primary `a`, and `b` that follows it. `synchronous`: what `a` flushes counts once `b` has it, too."""

    def __init__(self, programs: Postgres, *, synchronous: bool) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="hf-pair-"))
        self.a, self.b = (Server(programs, self._folder(name)) for name in "ab")
        user = programs.data.owner() if os.geteuid() == 0 and programs.data is not None else None
        for server in (self.a, self.b):
            shutil.chown(server.folder, user or os.getuid())
        self._root.chmod(0o755)
        self.a.program("initdb", "-D", str(self.a.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        with (self.a.data / "postgresql.conf").open("a") as file:
            file.write("include 'here.conf'\n")
        self.a.start()
        self.a.program(
            "pg_basebackup", "-h", str(self.a.folder), "-p", str(PORT), "-U", "postgres", "-D", str(self.b.data),
            "-R", "-c", "fast", "--no-sync",
        )  # fmt: skip
        self.b.set(primary_conninfo=f"host={self.a.folder} port={PORT} user=postgres application_name=b")
        self.b.start()
        wanted = "sync" if synchronous else "async"
        if synchronous:
            self.a.set(synchronous_standby_names="b")
            self.a.says("SELECT pg_reload_conf()")
        self.soon(lambda: self.a.says("SELECT sync_state FROM pg_stat_replication") == wanted)

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir()
        return folder

    @property
    def url(self) -> str:
        """Both, as a worker is told of them."""
        return f"postgresql:///postgres?user=postgres&host={self.a.folder},{self.b.folder}&port={PORT},{PORT}"

    def fail_over(self) -> None:
        """The primary is killed, and the standby takes its place; it waits for nobody."""
        self.a.kill()
        self.b.promote()

    def cut(self) -> None:
        """From now on nothing reaches the standby."""
        self.b.set(primary_conninfo="")
        self.b.says("SELECT pg_reload_conf()")
        self.soon(lambda: self.a.says("SELECT count(*) FROM pg_stat_replication") == 0)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to the one that can be written and was not left behind."""
        return connect(self.url)

    def empty(self) -> str:
        """The URL: there is nothing yet."""
        return self.url

    def soon(self, is_true: Callable[[], object]) -> None:
        """Wait until something holds."""
        until = time.monotonic() + 60
        while not is_true():
            assert time.monotonic() < until, "it never came to this"
            time.sleep(0.02)

    def close(self) -> None:
        """End both, and forget them."""
        for server in (self.a, self.b):
            server.stop()
        shutil.rmtree(self._root, ignore_errors=True)


def _children(number: int) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
