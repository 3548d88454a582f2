"""HTTP/1.1 with a declared system: a request, and the whole of its answer.

Rules
1. Nothing is connected to but a declared origin, at an address that the dialer has just looked at.
2. Nothing is sent twice, no redirect is followed, no proxy is taken from the environment, no cookie is kept, nothing is
   unpacked.
3. A connection is used again only for what says so (not `fresh`), while it is young, and if nothing speaks against it
   (see `connection.py`).
4. Where not a byte was sent: `Unreached`. What fails later proves nothing: `Unanswered`.

Source: RFC 9112 §3 (requests), §9 (connections).
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from holdfast.errors import NotHappened, Refused
from holdfast.gateway.connection import Connection, Heard, Unanswered, Unreached
from holdfast.gateway.dial import Dialer
from holdfast.gateway.hosts import Origin

CONNECT_S: Final = 10.0
IDLE_S: Final = 15.0  # how long a connection is kept for the next request
CONNECTIONS: Final = 100
OWN: Final = frozenset({"host", "connection", "content-length", "transfer-encoding"})  # headers that are written here
_LINE: Final = re.compile(r"[A-Z]+ /[!-~]* HTTP/1\.1")
_NAMES: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-z]*")
_PLAIN: Final = bytes(range(0x20, 0x7F)) + b"\t"
_LATE: Final = "it does not take a connection in time"
_WITHOUT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # their body, where there is none, has no length


class Client:
    """Sends requests to `origins`, over so many connections at once. `ca`: whom to trust instead of the system's
    authorities. Close it when it is no longer needed."""

    def __init__(self, dialer: Dialer, origins: Iterable[Origin], ca: ssl.SSLContext | None = None) -> None:
        self._dialer = dialer
        self._origins = frozenset(origins)
        self._ca = ca
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._idle: dict[Origin, deque[Connection]] = {origin: deque() for origin in self._origins}
        self._answering: dict[Origin, str] = {}  # the address that took the last connection
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def exchange(
        self, origin: Origin, method: str, target: str, headers: Mapping[str, str], data: bytes | None, *,
        timeout_s: float, most: int, fresh: bool,
    ) -> Heard:  # fmt: skip
        """What is answered to a request; a body of at most `most` bytes. `target`: its path and query. `headers`: in
        lower case, without those of the connection. `fresh`: over a connection of its own, not over one that was kept
        and that may be closed at the other end already. Raises Refused, Unreached and Unanswered."""
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
            connection = None if fresh else self._taken(origin)
            if connection is None:
                connection = await self._connected(origin, min(timeout_s / 2, CONNECT_S, until_s - loop.time()))
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
        """Close all connections that are kept; those in use are closed when they have been answered."""
        self._closed = True
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

    def _taken(self, origin: Origin) -> Connection | None:
        idle = self._idle[origin]
        since_s = asyncio.get_running_loop().time() - IDLE_S
        while idle:
            connection = idle.pop()
            if connection.since_s > since_s and connection.reusable() and connection.quiet():
                return connection
            connection.drop()
        return None

    def _keep(self, origin: Origin, connection: Connection) -> None:
        if self._closed:
            connection.drop()
            return
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

    async def _connected(self, origin: Origin, within_s: float) -> Connection:
        """A new connection, to the first address that takes one: each has its share of the time."""
        loop, why = asyncio.get_running_loop(), ""
        until_s = loop.time() + within_s
        try:
            async with asyncio.timeout_at(until_s):
                found = await self._dialer.addresses(origin.host, origin.port)
                found = sorted(found, key=lambda address: address != self._answering.get(origin))
                for left, address in zip(range(len(found), 0, -1), found, strict=True):
                    try:
                        async with asyncio.timeout((until_s - loop.time()) / left):
                            connection = await self._at(origin, address)
                    except OSError as error:
                        why = _LATE if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
                    else:
                        self._answering[origin] = address
                        return connection
        except TimeoutError:
            why = _LATE
        except Refused:
            raise
        except NotHappened as error:
            why = error.what
        raise Unreached(why)

    async def _at(self, origin: Origin, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        self._dialer.look(origin.host, address, origin.port)
        plain = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)
            await loop.sock_connect(plain, (address, origin.port))
        except BaseException:
            plain.close()
            raise
        raw, connection = await loop.create_connection(lambda: Connection(plain), sock=plain)
        if origin.scheme == "https":
            if raw.is_closing():
                raise ConnectionAbortedError("it speaks before it is asked")
            connection.secured(await loop.start_tls(raw, connection, self._secured(), server_hostname=origin.host))
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
    if not OWN.isdisjoint(headers):
        raise Unreached("a header of the connection is not for others to set")
    lines = [f"{method} {target} HTTP/1.1", f"host: {origin.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if data is not None or method not in _WITHOUT:
        lines.append(f"content-length: {len(data or b'')}")
    if fresh:
        lines.append("connection: close")
    try:
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
    except UnicodeEncodeError:
        raise Unreached("it is not all ASCII") from None
    ends = head.translate(None, _PLAIN)
    named = "" not in headers and _NAMES.fullmatch("".join(headers))
    if not (named and _LINE.fullmatch(lines[0]) and ends == b"\r\n" * (len(lines) + 1)):
        raise Unreached("it cannot be written as one request")
    return head
