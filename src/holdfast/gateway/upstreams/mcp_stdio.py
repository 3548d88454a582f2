"""MCP with a server that the gateway runs: one message a line, on the pipes of its process.

Rules
1. The server's environment is what its configuration declares, and nothing else.
2. A request that nobody waits for any more counts as at work until it is answered or the process has ended.
3. What the process writes is scrubbed before anybody reads it, its complaints included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from holdfast.core.effect import legible
from holdfast.errors import NotHappened
from holdfast.gateway.upstreams.mcp_peer import About, Answer, Unclear, cleaned, parsed
from holdfast.gateway.upstreams.mcp_wire import LARGEST, Message

GOODBYE_S = 2.0
_told = logging.getLogger("holdfast")

Clean = Callable[[bytes], bytes]
Hear = Callable[[Message], bytes | None]


class Running(Protocol):
    """A process that was started."""

    async def wait(self) -> int:
        """How it ended, once it has."""
        ...

    def kill(self) -> None:
        """End it, now. Nothing, if it has ended."""
        ...


class Start(Protocol):
    """Starts a program with exactly this environment on these pipes. Raises Misuse or OSError; then nothing runs."""

    async def __call__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
    ) -> Running:
        """The running program."""
        ...


class _Plain:
    """A plain process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


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
        self.hear: Hear = lambda _message: None
        self._clean = clean
        self._asked: dict[bytes, asyncio.Future[Message]] = {}
        self._running: Running | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pieces: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()
        self._lock = asyncio.Lock()
        self._complaint = ""

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
            self._running = await start(argv, environment, stdin=theirs_in, stdout=theirs_out, stderr=theirs_err)
        except Exception as error:
            for fd in (ours_in, ours_out, ours_err):
                os.close(fd)
            raise NotHappened(f"the server `{self.name}` could not be started: {legible(error, 300)}") from None
        finally:
            for fd in (theirs_in, theirs_out, theirs_err):
                os.close(fd)
        loop = asyncio.get_running_loop()
        out, complaints = asyncio.StreamReader(LARGEST + 2), asyncio.StreamReader(65_536)
        for fd, reader in ((ours_out, out), (ours_err, complaints)):
            await loop.connect_read_pipe(lambda reader=reader: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb"))
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(ours_in, "wb")
        )
        self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        self._pieces = [loop.create_task(piece) for piece in (self._listen(out), self._complain(complaints))]

    async def exchange(self, id: bytes, message: bytes, about: About, hear: Hear) -> Answer:
        """As `Link.exchange`."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[id] = future  # it stays when nobody waits any more: rule 2
        await self._write(message)
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

    async def _write(self, message: bytes) -> None:
        if not self.alive or self._writer is None:
            raise NotHappened(f"the server `{self.name}` does not run")
        try:
            async with self._lock:
                self._writer.write(message + b"\n")
                await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise Unclear(f"the server `{self.name}` does not listen: {legible(error, 200)}") from None

    async def _listen(self, out: asyncio.StreamReader) -> None:
        try:
            while line := await out.readline():
                if line.strip():
                    await self._take(line)
        except (OSError, ValueError) as error:  # ValueError: a line that is too long
            _told.warning("the server `%s` is ended: %s", self.name, legible(error, 200))
        finally:
            self._ended.set()
            if self._running is not None:
                self._running.kill()
                await self._running.wait()

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
            except ValueError:
                continue
            if not line:
                return
            text = legible(self._clean(line.strip()).decode("utf-8", "replace"), 500)
            self._complaint = f" (it said: {text})"
            _told.info("the server `%s` says: %s", self.name, text)

    async def close(self) -> None:
        """Close its input; after a moment, end it."""
        if self._writer is not None:
            self._writer.close()
        if self._running is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._ended.wait()
            self._running.kill()
            await self._running.wait()
        for piece in self._pieces:
            piece.cancel()
        await asyncio.gather(*self._pieces, return_exceptions=True)
