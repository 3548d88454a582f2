"""What stands before the doors on a connection: plain HTTP goes on to them; CONNECT is answered, and what follows is
read as TLS by an authority of the run.

Rules
1. Only a declared host is connected to, and never really: what comes inside the tunnel goes through the doors.
2. A CONNECT is read exactly: one line, bounded headers, nothing behind them.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

LARGEST_HEAD = 8 << 10
_CONNECT = re.compile(rb"CONNECT ([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5}) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e\x80-\xff \t]*)")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Where a program believes that a connection leads to."""

    host: str
    port: int


Admit = Callable[[Tunnel, dict[str, str]], Coroutine[Any, Any, "ssl.SSLContext | str"]]
"""What a tunnel is answered with (by its headers): a TLS context, or why not."""

tunnels: weakref.WeakKeyDictionary[asyncio.BaseTransport, Tunnel] = weakref.WeakKeyDictionary()
"""The tunnel that a connection came through."""


class Front(asyncio.Protocol):
    """The beginning of one connection. `serve` makes the protocol of the doors."""

    def __init__(self, serve: Callable[[], asyncio.Protocol], admit: Admit) -> None:
        self._serve = serve
        self._admit = admit
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is said before the other side has."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone."""
        if self._opening is not None:
            self._opening.cancel()

    def data_received(self, data: bytes) -> None:
        """Find out what this is going to be."""
        assert self._transport is not None
        self._head += data
        if self._opening is not None:
            self._refuse(400, "nothing may follow a CONNECT before it is answered")
        elif not b"CONNECT ".startswith(self._head[:8]):
            _hand_over(self._transport, self._serve(), bytes(self._head))
        elif b"\r\n\r\n" in self._head:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        elif len(self._head) > LARGEST_HEAD:
            self._refuse(431, "the header is too large")

    async def _open(self) -> None:
        transport = self._transport
        assert transport is not None
        head, _, rest = bytes(self._head).partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        asked, headers = _CONNECT.fullmatch(line), [_HEADER.fullmatch(each) for each in lines]
        if asked is None or rest or not all(headers) or not 0 < int(asked[2]) < 65536:
            self._refuse(400, "the CONNECT is not understood")
            return
        tunnel = Tunnel(asked[1].decode().strip("[]").rstrip(".").lower(), int(asked[2]))
        found = {each[1].decode().lower(): each[2].decode("latin-1").strip() for each in headers if each}
        context = await self._admit(tunnel, found)
        if isinstance(context, str):
            self._refuse(403, context)
            return
        transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        early = _Early()
        try:
            inside = await asyncio.get_running_loop().start_tls(transport, early, context, server_side=True)
        except (OSError, ssl.SSLError):
            transport.abort()
            return
        if inside is not None:
            tunnels[inside] = tunnel
            early.hand_over(inside, self._serve())

    def _refuse(self, status: int, why: str) -> None:
        assert self._transport is not None
        body = why.encode("ascii", "replace")
        head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self._transport.close()


class _Early(asyncio.Protocol):
    """Keeps what comes between the handshake and the moment at which somebody reads it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inner: asyncio.Protocol | None = None
        self._lost = False

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            self._data += data
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def hand_over(self, transport: asyncio.Transport, inner: asyncio.Protocol) -> None:
        if not self._lost:
            self._inner = inner
            _hand_over(transport, inner, bytes(self._data))


def _hand_over(transport: asyncio.Transport, inner: asyncio.Protocol, data: bytes) -> None:
    transport.set_protocol(inner)
    inner.connection_made(transport)
    if data:
        inner.data_received(data)
