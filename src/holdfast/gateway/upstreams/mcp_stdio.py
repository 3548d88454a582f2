"""MCP with a server that the gateway runs: one message a line, on the pipes of its process.

Rules
1. The server's environment is what its configuration declares, and nothing else.
2. A request that nobody waits for any more counts as at work until it is answered or the process has ended.
3. What the process writes is scrubbed before anybody reads it, its complaints (stderr) included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from typing import cast

from holdfast.core.effect import legible
from holdfast.errors import NotHappened
from holdfast.gateway.upstreams.kit import Running, Start
from holdfast.gateway.upstreams.mcp_peer import About, Answer, Clean, Hear, Unclear, cleaned, parsed
from holdfast.gateway.upstreams.mcp_wire import LARGEST, Message

GOODBYE_S = 2.0
_told = logging.getLogger("holdfast")


class _Plain:
    """A plain process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with what it has started


async def plainly(
    argv: Sequence[str], environment: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
) -> Running:
    """Start a program as a plain process beside the gateway: for servers that are as trusted as the gateway itself."""
    return _Plain(
        await asyncio.create_subprocess_exec(
            *argv, env=dict(environment), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
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
        self._complaining: asyncio.Task[None] | None = None
        self._complaint = ""
        self._ended = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._running is not None and not self._ended.is_set()

    def at_work(self, id: bytes) -> bool:
        """Whether a request has not been answered yet, by a process that still runs."""
        return self.alive and id in self._asked

    async def start(self, start: Start, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the server. Raises NotHappened."""
        (theirs_in, ours_in), (ours_out, theirs_out), (ours_err, theirs_err) = os.pipe(), os.pipe(), os.pipe()
        try:
            running = await start(argv, environment, stdin=theirs_in, stdout=theirs_out, stderr=theirs_err)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing runs
            for fd in (ours_in, ours_out, ours_err):
                os.close(fd)
            raise NotHappened(f"the server `{self.name}` could not be started: {legible(error, 300)}") from None
        finally:
            for fd in (theirs_in, theirs_out, theirs_err):
                os.close(fd)
        out, complaints = await _reader(ours_out, LARGEST + 2), await _reader(ours_err, 65_536)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(ours_in, "wb")
        )
        self._writer = asyncio.StreamWriter(transport, cast("asyncio.Protocol", protocol), None, loop)
        self._running = running
        self._listening = asyncio.create_task(self._listen(out, running))
        self._complaining = asyncio.create_task(self._complain(complaints))

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
            raise Unclear(f"the server `{self.name}` ended before it answered{self._complaint}")
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

    async def _complain(self, complaints: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await complaints.readline()
            except ValueError:  # too long to be read
                continue
            if not line:
                return
            if line.strip():
                text = legible(self._clean(line.strip()).decode("utf-8", "replace"), 300)
                self._complaint = f"; its last words: {text}"
                _told.info("the server `%s` says: %s", self.name, text)

    async def close(self) -> None:
        """Close its input; after a moment, end it."""
        if self._running is None or self._writer is None or self._listening is None or self._complaining is None:
            return
        self._writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._ended.wait()
        self._running.kill()
        self._complaining.cancel()
        await asyncio.wait([self._listening, self._complaining], timeout=GOODBYE_S)
        self._listening.cancel()


async def _reader(fd: int, limit: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit)
    pipe = os.fdopen(fd, "rb")
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


def _nothing(_message: Message) -> None:
    return None
