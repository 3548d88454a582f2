"""What stands before the doors on a connection: plain HTTP goes on to them; CONNECT is answered, and what follows is
read as TLS by an authority of the run. Where a connection begins with TLS, its handshake stands before them.

Rules
1. Only a declared host is connected to, and never really: what comes inside the tunnel goes through the doors.
2. A CONNECT is read exactly: one line, bounded headers, nothing behind them.
3. Whoever says nothing, or only a part of it, is not waited for; there is room for so many and no more.
4. A connection that begins with TLS is one from its first byte on: a loop may read before it is told to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, cast

LARGEST_HEAD = 8 << 10
PATIENCE_S = 20.0  # for the first words of a connection, and for its handshake
_CONNECT = re.compile(rb"CONNECT ([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5}) HTTP/1\.[01]")
_BODY = ("content-length", "transfer-encoding", "upgrade", "expect")
_BARE = re.compile(rb"(?<!\r)\n")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e\x80-\xff \t]*)")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Where a program believes that a connection leads to."""

    host: str
    port: int


Admit = Callable[[Tunnel, dict[str, str]], Coroutine[Any, Any, "ssl.SSLContext | str"]]
"""What a tunnel is answered with (by its headers): a TLS context, or why not."""

Named = Callable[[ssl.SSLObject], "Tunnel | None"]
"""The tunnel that a handshake has asked for, where it says one."""

Serve = Callable[["Tunnel | None"], asyncio.Protocol]
"""Who serves a connection, which came through a tunnel or did not."""


class Led:
    """Serves a connection. `tunnel`: that which it came through."""

    __slots__ = ()
    tunnel: Tunnel | None


_Connection = asyncio.Protocol  # one side of a connection, and no seam of ours


class Beginning(Protocol):
    """A connection that nobody serves yet."""

    def drop(self) -> None:
        """End it where it is."""
        ...


class Room:
    """Where the connections of a listener are: those that have not begun yet, and those that are served by `serve`.
    `taken`: how many those are; `most`: how many there may be of all; `tell` is given why somebody was turned away."""

    def __init__(
        self,
        serve: Serve,
        taken: Callable[[], int],
        most: int,
        tell: Callable[[str], object] = lambda why: None,
    ) -> None:
        self.serve = serve
        self.tell = tell
        self.waiting: set[Beginning] = set()
        self._taken = taken
        self._most = most
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether nobody else is let in."""
        return self._closed or len(self.waiting) + self._taken() >= self._most

    def close(self) -> None:
        """Let nobody in, and end what has not begun."""
        self._closed = True
        for each in list(self.waiting):
            each.drop()


class Front(_Connection):
    """The beginning of one connection in `room`. `admit`: tunnels may be asked for."""

    def __init__(self, room: Room, admit: Admit | None) -> None:
        self._room = room
        self._admit = admit
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._opening: asyncio.Task[None] | None = None
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is said before the other side has."""
        self._transport = cast(asyncio.Transport, transport)
        if self._room.full:
            self._transport.abort()
            return
        self._room.waiting.add(self)
        self._late = asyncio.get_running_loop().call_later(PATIENCE_S, self.drop)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone."""
        self._leave()
        if self._opening is not None:
            self._opening.cancel()

    def data_received(self, data: bytes) -> None:
        """Find out what this is going to be."""
        assert self._transport is not None
        self._head += data
        if self._opening is not None:
            self._refuse(400, "nothing may follow a CONNECT before it is answered")
        elif self._admit is None or not b"CONNECT ".startswith(self._head[:8]):
            self._leave()
            _hand_over(self._transport, self._room.serve(None), bytes(self._head))
        elif b"\r\n\r\n" in self._head:
            self._opening = asyncio.get_running_loop().create_task(self._open(self._admit))
        elif len(self._head) > LARGEST_HEAD:
            self._refuse(431, "the header of a CONNECT is too large")
        elif _BARE.search(self._head):
            self._refuse(400, "a line of the CONNECT does not end as lines do")

    def drop(self) -> None:
        """End it where it is."""
        self._leave()
        if self._opening is not None:
            self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        self._room.waiting.discard(self)
        if self._late is not None:
            self._late.cancel()

    async def _open(self, admit: Admit) -> None:
        assert self._transport is not None
        head, _, rest = bytes(self._head).partition(b"\r\n\r\n")
        asked = "something follows the CONNECT" if rest else _asked(head)
        if isinstance(asked, str):
            self._refuse(400, asked)
            return
        tunnel, found = asked
        context = await admit(tunnel, found)
        if isinstance(context, str):
            self._refuse(403, context, told=True)
            return
        self._transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._secure(context, tunnel)

    async def _secure(self, context: ssl.SSLContext, tunnel: Tunnel) -> None:
        transport, early = self._transport, _Early()
        assert transport is not None
        try:
            inside = await asyncio.get_running_loop().start_tls(
                transport, early, context, server_side=True, ssl_handshake_timeout=PATIENCE_S
            )
        except (OSError, ssl.SSLError):
            self.drop()
            return
        self._leave()
        if inside is None:
            return
        early.hand_over(inside, self._room.serve(tunnel))

    def _refuse(self, status: int, why: str, *, told: bool = False) -> None:
        assert self._transport is not None
        self._leave()
        if not told:
            self._room.tell(why)
        body = why.encode("ascii", "replace")
        head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self._transport.close()


class Handshakes:
    """Lets in who comes to `at` and begins with a handshake, which may say where it leads to (`named`)."""

    def __init__(self, room: Room, at: socket.socket, context: ssl.SSLContext, named: Named | None = None) -> None:
        self._room = room
        self._at = at
        self._context = context
        self._named = named
        at.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Let nobody else in. Those that have begun are the room's."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._at.close()  # not before: the loop still watches it

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._at)
            except OSError:  # no descriptor is left, or who came is gone: the others are still served
                await asyncio.sleep(0.1)
                continue
            if self._room.full:
                connection.close()
            else:
                _Handshake(self._room, connection, self._context, self._named)


class _Handshake:
    def __init__(self, room: Room, connection: socket.socket, context: ssl.SSLContext, named: Named | None) -> None:
        self._room = room
        room.waiting.add(self)
        self._opening = asyncio.get_running_loop().create_task(self._open(connection, context, named))
        self._opening.add_done_callback(lambda _: room.waiting.discard(self))

    def drop(self) -> None:
        """As `Beginning.drop`."""
        self._opening.cancel()

    async def _open(self, connection: socket.socket, context: ssl.SSLContext, named: Named | None) -> None:
        loop, early = asyncio.get_running_loop(), _Early()
        with contextlib.suppress(OSError):  # ssl.SSLError is one, too
            inside, _ = await loop.connect_accepted_socket(
                lambda: early, connection, ssl=context, ssl_handshake_timeout=PATIENCE_S
            )
            self._room.waiting.discard(self)
            tunnel = None if named is None else named(inside.get_extra_info("ssl_object"))
            early.hand_over(inside, self._room.serve(tunnel))


def _asked(head: bytes) -> tuple[Tunnel, dict[str, str]] | str:
    """What a CONNECT asks for, and its headers; or why it is not exactly one."""
    line, *lines = head.split(b"\r\n")
    asked, found = _CONNECT.fullmatch(line), [_HEADER.fullmatch(each) for each in lines]
    if asked is None or not all(found) or not 0 < int(asked[2]) < 65536:
        return "the CONNECT is not understood"
    headers = {each[1].decode().lower(): each[2].decode("latin-1").strip() for each in found if each}
    if len(headers) != len(lines):
        return "a header of the CONNECT is there twice"
    if not headers.keys().isdisjoint(_BODY):
        return "a CONNECT has no body and asks for no other protocol"
    tunnel = Tunnel(asked[1].decode().strip("[]").removesuffix(".").lower(), int(asked[2]))
    return (tunnel, headers) if says(headers.get("host"), tunnel) else "the CONNECT says two hosts"


def says(host: str | None, tunnel: Tunnel) -> bool:
    """Whether what a request says of its host (if anything) is where the tunnel leads to."""
    spelled = f"[{tunnel.host}]" if ":" in tunnel.host else tunnel.host
    return host is None or host.lower().removesuffix(f":{tunnel.port}").removesuffix(".") == spelled


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
