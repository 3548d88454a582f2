"""HTTP/1.1 with a declared system: a request, and the whole of its answer.

Rules
1. Nothing is connected to but a declared origin, at an address that the dialer has just looked at.
2. Nothing is sent twice, no redirect is followed, no proxy is taken from the environment, no cookie is kept, nothing is
   unpacked.
3. A connection is used again only if the request was all sent, the answer was whole, nothing came behind it, and the
   other side wants to go on.
4. Where not a byte was sent: `Unreached`. What fails later proves nothing: `Unanswered`.

Source: RFC 9112 §6.3 (where an answer ends), §9 (connections). Answers are read by httptools, strictly.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import httptools

from holdfast.errors import Refused
from holdfast.gateway.dial import HEADER_MAX, Dialer
from holdfast.gateway.hosts import Origin

CONNECT_S: Final = 10.0
IDLE_S: Final = 15.0  # how long a connection is kept for the next request
CONNECTIONS: Final = 100
HEAD_MAX: Final = 64 << 10  # bytes of all headers of an answer
INFORMED_MAX: Final = 10  # answers that only announce another one
_LARGE: Final = 64 << 10  # bytes of a body that are not copied behind its header
_BODILESS: Final = (204, 304)
_OWN: Final = frozenset({"host", "connection", "content-length", "transfer-encoding"})
_WITHOUT: Final = frozenset(
    {"GET", "HEAD", "OPTIONS", "TRACE"}
)  # methods whose body, where there is none, has no length


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it came. `body`: None if it is larger than was allowed."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes | None


class Unreached(Exception):
    """Nothing was sent."""


class Unanswered(Exception):
    """No whole answer came. `silent`: the connection ended before a byte of one."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class Client:
    """Sends requests to `origins`, over so many connections at once. `ca`: whom to trust instead of the system's
    authorities. Close it when it is no longer needed."""

    def __init__(self, dialer: Dialer, origins: Iterable[Origin], ca: ssl.SSLContext | None = None) -> None:
        self._dialer = dialer
        self._origins = frozenset(origins)
        self._ca = ca
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._idle: dict[Origin, deque[_Connection]] = {origin: deque() for origin in self._origins}
        self._sweeping: asyncio.TimerHandle | None = None

    async def exchange(
        self, origin: Origin, method: str, target: str, headers: Mapping[str, str], data: bytes | None, *,
        timeout_s: float, most: int, fresh: bool,
    ) -> Heard:  # fmt: skip
        """What is answered to a request; a body of at most `most` bytes. `target`: its path and query. `fresh`: over a
        connection of its own, not over one that was kept and that may be closed at the other end already. Raises
        Refused, Unreached and Unanswered."""
        if origin not in self._origins:
            raise Refused(f"`{origin}` is not dialled: it is none of the declared hosts")
        head = _head(origin, method, target, headers, data, fresh)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        if self._room.locked():
            await self._admitted(timeout_s)
        else:
            await self._room.acquire()
        try:
            kept = None if fresh else self._taken(origin)
            connection = kept or await self._connected(origin, min(timeout_s / 2, CONNECT_S))
            answer = connection.ask(method, head, data or b"", most)
            late = loop.call_at(until_s, connection.end, Unanswered("Timeout"))
            try:
                return await answer
            finally:
                late.cancel()
                if fresh or not connection.reusable():
                    connection.drop()
                else:
                    self._keep(origin, connection)
        finally:
            self._room.release()

    async def close(self) -> None:
        """Close all connections that are kept."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for idle in self._idle.values():
            while idle:
                idle.pop().drop()

    async def _admitted(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._room.acquire()
        except TimeoutError:
            raise Unreached(f"{CONNECTIONS} requests are on their way already") from None

    def _taken(self, origin: Origin) -> _Connection | None:
        idle = self._idle[origin]
        while idle:
            connection = idle.pop()
            if connection.reusable():
                return connection
            connection.drop()
        return None

    def _keep(self, origin: Origin, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.since_s = loop.time()
        self._idle[origin].append(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody has used for a while."""
        loop, left = asyncio.get_running_loop(), 0
        for idle in self._idle.values():
            while idle and (idle[0].since_s + IDLE_S <= loop.time() or not idle[0].reusable()):
                idle.popleft().drop()
            left += len(idle)
        self._sweeping = loop.call_later(IDLE_S, self._sweep) if left else None

    async def _connected(self, origin: Origin, timeout_s: float) -> _Connection:
        """A new connection, to the first address that answers."""
        why: Exception = OSError("it has no address")
        try:
            async with asyncio.timeout(timeout_s):
                for address in await self._dialer.addresses(origin.host, origin.port):
                    try:
                        return await self._at(origin, address)
                    except (OSError, ssl.SSLError) as error:
                        why = error
        except TimeoutError:
            raise Unreached("it does not take a connection in time") from None
        raise Unreached(f"{type(why).__name__}: {why}") from None

    async def _at(self, origin: Origin, address: str) -> _Connection:
        loop = asyncio.get_running_loop()
        self._dialer.look(origin.host, address, origin.port)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)
            await loop.sock_connect(plain, (address, origin.port))
        except BaseException:
            plain.close()
            raise
        secure = self._secured() if origin.scheme == "https" else None
        _, connection = await loop.create_connection(
            _Connection, sock=plain, ssl=secure, server_hostname=None if secure is None else origin.host
        )
        return connection

    def _secured(self) -> ssl.SSLContext:
        if self._ca is None:
            self._ca = ssl.create_default_context()
        self._ca.set_alpn_protocols(["http/1.1"])
        return self._ca


def _head(
    origin: Origin, method: str, target: str, headers: Mapping[str, str], data: bytes | None, fresh: bool
) -> bytes:
    """The header of a request. Raises Unreached for what would be read as something else."""
    if not _OWN.isdisjoint(headers):
        raise Unreached("a header of the connection is not for others to set")
    lines = [f"{method} {target} HTTP/1.1", f"host: {origin.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if data is not None or method not in _WITHOUT:
        lines.append(f"content-length: {len(data or b'')}")
    if fresh:
        lines.append("connection: close")
    text, ends = "\r\n".join([*lines, "", ""]), len(lines) + 1
    if lines[0].count(" ") != 2 or text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
        raise Unreached("it cannot be written as one request")
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise Unreached("it is not all ASCII") from None


class _Connection(asyncio.Protocol):
    """One connection: an exchange at a time."""

    def __init__(self) -> None:
        self.since_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Heard] | None = None
        self._clean = True  # nothing has gone wrong on it, and nothing came that was not asked for
        self._parser: httptools.HttpResponseParser | None = None
        self._method, self._most, self._informed, self._raw = "", 0, 0, 0
        self._begin()

    def ask(self, method: str, head: bytes, data: bytes, most: int) -> asyncio.Future[Heard]:
        """Send a request: what will be answered. Raises Unreached if the connection is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Unreached("the connection was lost before anything was sent")
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._method, self._most = method, most
        self._informed, self._raw = 0, 0
        self._begin()
        if len(data) > _LARGE:
            transport.write(head)
            transport.write(data)
        else:
            transport.write(head + data)
        return self._answer

    def reusable(self) -> bool:
        """Whether another request may be sent on it."""
        transport = self._transport
        return (
            self._clean
            and self._parser is None
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def drop(self) -> None:
        """Close it at once."""
        self._clean = False
        if self._transport is not None:
            self._transport.abort()

    def end(self, error: Unanswered) -> None:
        """No answer comes any more."""
        self._clean = False
        answer = self._answer
        if answer is not None and not answer.done():
            answer.set_exception(error)

    # --- as asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A piece of the answer; or what nobody has asked for."""
        if self._parser is None or self._answer is None or self._answer.done():
            self.drop()
            return
        self._raw += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.end(Unanswered(f"what came is no answer: {type(error).__name__}"))
        else:
            if not self._headed and self._raw > HEAD_MAX:
                self.end(Unanswered(f"its headers are larger than {HEAD_MAX} bytes"))

    def eof_received(self) -> bool:
        """The other side has said all: where nothing else does, that ends the body."""
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if exc is None:
            self._ended()
        self.end(Unanswered("the connection was lost", silent=self._raw == 0))

    def _ended(self) -> None:
        self._clean = False
        if self._headed and self._until_end and not self._whole:
            self._done()

    # --- as httptools calls it ---

    def on_message_begin(self) -> None:
        """One more answer begins."""
        if self._whole:
            self._clean = False
        else:
            self._begin()

    def on_status(self, status: bytes) -> None:
        """A piece of the words beside the status."""
        if not self._whole:
            self._reason += status

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """A header; those behind the body are left out."""
        if len(name) + len(value or b"") > HEADER_MAX:
            self.end(Unanswered(f"a header of it is larger than {HEADER_MAX} bytes"))
        if not self._headed:
            shown = (name.decode("utf-8", "surrogateescape"), (value or b"").decode("utf-8", "surrogateescape"))
            self._headers.append(shown)

    def on_headers_complete(self) -> None:
        """The body comes now, if there is one."""
        if self._whole:
            return
        assert self._parser is not None
        self._headed = True
        self._status = self._parser.get_status_code()
        coding = [value.strip().lower() for name, value in self._headers if name.lower() == "transfer-encoding"]
        length = any(name.lower() == "content-length" for name, _ in self._headers)
        if coding not in ([], ["chunked"]):
            self.end(Unanswered("its body is coded in a way that is not known"))
        self._until_end = not coding and not length
        if self._method == "HEAD" and self._status >= 200:
            self._clean = False  # its length is that of another body, and the parser waits for one
            self._done()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._whole:
            return
        self._size += len(body)
        if self._size > self._most:
            self._clean = False
            self._done(lost=True)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """All of it is there; or of an answer that only announces another one."""
        if self._whole:
            return
        if self._status >= 200:
            self._done()
            return
        self._informed += 1
        if self._informed > INFORMED_MAX:
            self.end(Unanswered("it announces an answer again and again"))

    def _begin(self) -> None:
        self._headed = self._until_end = self._whole = False
        self._status, self._size, self._reason = 0, 0, b""
        self._headers: list[tuple[str, str]] = []
        self._pieces: list[bytes] = []

    def _done(self, *, lost: bool = False) -> None:
        assert self._parser is not None
        self._whole = True
        body = b"" if self._status in _BODILESS else b"".join(self._pieces)
        heard = Heard(self._status, self._reason.decode("utf-8", "replace"), self._headers, None if lost else body)
        self._clean = self._clean and self._parser.should_keep_alive()
        self._pieces = []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(heard)
        self._parser = None
