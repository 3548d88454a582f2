"""MCP with a server that the gateway runs: one message a line, on a socket that is its standard input and output.

Rules
1. The server's environment is what its configuration declares, and nothing else.
2. A request that nobody waits for any more counts as at work until it is answered or the process has ended.
3. What the process writes is scrubbed before anybody reads it. Its complaints (stderr) are read by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from typing import Protocol

from holdfast.core.effect import legible
from holdfast.errors import NotHappened
from holdfast.gateway.upstreams.mcp_peer import About, Answer, Clean, Hear, Unclear, cleaned, parsed
from holdfast.gateway.upstreams.mcp_wire import LARGEST, Message

GOODBYE_S = 2.0
_told = logging.getLogger("holdfast")


class Running(Protocol):
    """A process that was started."""

    async def wait(self) -> int:
        """How it ended, once it has."""
        ...

    def kill(self) -> None:
        """End it, now. Nothing, if it has ended."""
        ...


class Start(Protocol):
    """Starts a program with exactly this environment, and this descriptor as its standard input and output. Raises
    Misuse or OSError; then nothing runs."""

    async def __call__(self, command: Sequence[str], environment: Mapping[str, str], fd: int, /) -> Running:
        """The running program."""
        ...


class _Plain:
    """A plain process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


async def plainly(command: Sequence[str], environment: Mapping[str, str], fd: int, /) -> Running:
    """Start a program as a plain process beside the gateway: for servers that are as trusted as the gateway itself."""
    return _Plain(
        await asyncio.create_subprocess_exec(
            *command, env=dict(environment), stdin=fd, stdout=fd, stderr=DEVNULL, start_new_session=True
        )
    )


class StdioLink:
    """A running server. `hear` is given what is no answer; `clean` scrubs what it says."""

    def __init__(self, name: str, clean: Clean) -> None:
        self.name = name
        self.hear: Hear = _nothing
        self._clean = clean
        self._asked: dict[bytes, asyncio.Future[Message]] = {}
        self._running: Running | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._running is not None and not self._ended.is_set()

    def at_work(self, id: bytes) -> bool:
        """Whether a request has not been answered yet, by a process that still runs."""
        return self.alive and id in self._asked

    async def start(self, start: Start, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the server. Raises NotHappened."""
        ours, theirs = socket.socketpair()
        try:
            fd = os.dup(theirs.fileno())
            try:
                self._running = await start(command, environment, fd)
            finally:
                with contextlib.suppress(OSError):  # whoever starts it may have closed it
                    os.close(fd)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing runs
            ours.close()
            raise NotHappened(f"the server `{self.name}` could not be started: {legible(error, 300)}") from None
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LARGEST + 2)
        self._listening = asyncio.create_task(self._listen(reader, self._running))

    async def exchange(self, id: bytes, message: bytes, about: About, hear: Hear) -> Answer:
        """As `Link.exchange`."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        await self._write(message, id, future)
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([future, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if not future.done():
            raise Unclear(f"the server `{self.name}` ended before it answered")
        return Answer(future.result())

    async def tell(self, message: bytes, about: About) -> None:
        """As `Link.tell`."""
        await self._write(message)

    async def _write(self, message: bytes, id: bytes = b"", future: asyncio.Future[Message] | None = None) -> None:
        async with self._lock:
            if not self.alive or self._writer is None:
                raise NotHappened(f"the server `{self.name}` does not run")
            if future is not None:
                self._asked[id] = future  # it stays when nobody waits any more: rule 2
            try:
                self._writer.write(message + b"\n")
                await self._writer.drain()
            except (OSError, RuntimeError) as error:
                raise Unclear(f"the server `{self.name}` does not listen: {legible(error, 200)}") from None

    async def _listen(self, reader: asyncio.StreamReader, running: Running) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                if line.strip():
                    await self._take(line)
        except (OSError, ValueError) as error:  # ValueError: a line that is too long
            _told.warning("the server `%s` is ended: %s", self.name, legible(error, 200))
        finally:
            running.kill()
            await running.wait()
            self._ended.set()

    async def _take(self, line: bytes) -> None:
        try:
            message = parsed(cleaned(line.strip(), self._clean))
        except Unclear as error:
            _told.warning("the server `%s` wrote what is no message: %s", self.name, error)
            return
        if message.method is not None:
            reply = self.hear(message)
            if reply is not None:
                with contextlib.suppress(Unclear, NotHappened):
                    await self._write(reply)
            return
        future = self._asked.pop(message.id or b"", None)
        if future is not None and not future.done():
            future.set_result(message)

    async def close(self) -> None:
        """Close its input; after a moment, end it."""
        if self._running is None or self._writer is None or self._listening is None:
            return
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self._writer.write_eof()
            async with asyncio.timeout(GOODBYE_S):
                await self._ended.wait()
        self._running.kill()
        await asyncio.wait([self._listening])
        self._writer.close()


def _nothing(_message: Message) -> None:
    return None
