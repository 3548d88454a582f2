"""The gateway's listeners: those inside the sandboxes of its runs, and those that are shared.

Rules
1. A listener belongs to one run, or to none: what may be asked there follows from that.
2. When a run is let go of, its listeners and their connections are gone before anything else is done about it.
3. A tunnel leads to a declared host only, and is read here.
4. What cannot be read as a request is refused like everything else: the answer and the log say why.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from holdfast.errors import BadCall, HoldfastError
from holdfast.gateway.ca import Authority
from holdfast.gateway.doors.native import LARGEST_BODY
from holdfast.gateway.doors.told import told
from holdfast.gateway.front import Front, Handshakes, Led, Named, Room, Tunnel
from holdfast.gateway.gate import Gate, handle_in
from holdfast.gateway.names import Names

HTTP, HTTPS, NAMES = 80, 443, 53
MOST = 256  # connections of one run at once
MOST_SHARED = 4096  # connections of all who share a listener
IDLE_S = 75  # for the next request, from its first letter to the end of its headers
Doors = Callable[[Gate, "str | None", int], web.Application]


@dataclass(slots=True)
class _Open:
    runner: web.AppRunner
    room: Room
    telling: set[asyncio.Task[None]]
    servers: list[asyncio.Server] = field(default_factory=list[asyncio.Server])
    handshakes: list[Handshakes] = field(default_factory=list[Handshakes])
    names: list[asyncio.DatagramTransport] = field(default_factory=list[asyncio.DatagramTransport])
    authority: Authority | None = None


class _Reader(web.RequestHandler, Led):
    """Reads the requests of one connection. `tell` is given what was no request."""

    __slots__ = ("_tell", "tunnel")

    def __init__(self, server: web.Server, tell: Callable[[str], None], tunnel: Tunnel | None, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._tell = tell
        self.tunnel = tunnel

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is answered to something that is no request, or that a door has failed at."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is on its way")
        error = exc or TimeoutError()
        if status < 500:
            first = (message or "it cannot be read").partition("\n")[0].rstrip(" :")
            error = BadCall(f"this is no request: {first[:200]}", fix="speak HTTP/1.1")
            self._tell(error.what)
        response = web.json_response(told(error).body(), status=status)
        response.force_close()
        return response


class Listeners:
    """The listeners of one gateway. `doors`: what they answer to, on a listener of a run, or on a shared one (None),
    to bodies of at most so many bytes."""

    def __init__(self, gate: Gate, doors: Doors) -> None:
        self._gate = gate
        self._doors = doors
        self._open: dict[str, _Open] = {}
        self._shared: list[_Open] = []

    async def inside(self, run: str, listeners: Mapping[int, Sequence[socket.socket]], authority: Authority) -> None:
        """Serve on sockets inside a run's own network, by port: TLS on 443, names on 53, else HTTP and tunnels. Raises
        BadCall if the run has its listeners already."""
        if run in self._open:
            raise BadCall("this run has its listeners already", where=run)
        opened = self._open[run] = await self._opened(run, MOST)
        opened.authority = authority
        by_name, named = _by_name(self._gate, authority)
        for port, sockets in listeners.items():
            for each in sockets:
                if port == NAMES:
                    await self._answer_names(opened, each)
                elif port == HTTPS:
                    opened.handshakes.append(Handshakes(opened.room, each, by_name, named))
                else:
                    admit = self._admitting(opened, run)
                    await _serve(opened, each, lambda admit=admit: Front(opened.room, admit))

    async def shared(self, at: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve agents elsewhere, on a socket that they share: who comes there shows a handle."""
        opened = await self._opened(None, MOST_SHARED)
        self._shared.append(opened)
        if tls is None:
            await _serve(opened, at, lambda: Front(opened.room, None))
        else:  # no tunnels for those who are elsewhere
            opened.handshakes.append(Handshakes(opened.room, at, tls))

    async def leave(self, run: str) -> None:
        """Close what was opened for a run, with its connections."""
        opened = self._open.pop(run, None)
        if opened is not None:
            await _close(opened)

    async def close(self) -> None:
        """Close everything."""
        for opened in [*self._open.values(), *self._shared]:
            await _close(opened)
        self._open.clear()
        self._shared.clear()

    async def _answer_names(self, opened: _Open, at: socket.socket) -> None:
        def known(name: str) -> bool:
            return any(self._gate.system_at(name, port) is not None for port in (HTTP, HTTPS))

        def told(name: str) -> None:
            opened.room.tell(f"`{name}` is no host of a declared system")

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Names(known, told), sock=at)
        opened.names.append(transport)

    async def _opened(self, run: str | None, most: int) -> _Open:
        settings: dict[str, Any] = {
            "access_log": None, "keepalive_timeout": IDLE_S, "max_line_size": 16 << 10, "max_field_size": 64 << 10,
            "auto_decompress": False,
        }  # fmt: skip
        doors = self._doors(self._gate, run, LARGEST_BODY)
        runner = web.AppRunner(doors, handle_signals=False, handler_cancellation=True, shutdown_timeout=0.1, **settings)
        await runner.setup()
        server, loop, telling = runner.server, asyncio.get_running_loop(), set[asyncio.Task[None]]()
        assert server is not None, "a runner that was set up has a server"

        def tell(why: str) -> None:
            taken = None if run is None else self._gate.wards.by_run.get(run)
            if taken is not None:
                task = loop.create_task(taken.ward.refuse("holdfast.door", why, "door", why))
                telling.add(task)
                task.add_done_callback(telling.discard)

        def serve(tunnel: Tunnel | None) -> asyncio.Protocol:
            return _Reader(server, tell, tunnel, loop=loop, **settings)

        return _Open(runner, Room(serve, lambda: len(server.connections), most, tell), telling)

    def _admitting(self, opened: _Open, run: str) -> Callable[..., Any]:
        async def admit(tunnel: Tunnel, headers: dict[str, str]) -> ssl.SSLContext | str:
            assert opened.authority is not None
            place = f"{tunnel.host}:{tunnel.port}"
            taken = self._gate.wards.by_run.get(run)
            try:
                self._gate.visit(run, handle_in(headers), "http")
                if self._gate.system_at(tunnel.host, tunnel.port) is None:
                    raise BadCall(f"`{place}` is no host of a declared system")
            except HoldfastError as error:
                if taken is not None:
                    await taken.ward.refuse("holdfast.connect", place, "door http", error.what)
                return error.what
            return opened.authority.context(tunnel.host)

        return admit


async def _serve(opened: _Open, at: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.create_unix_server if at.family == socket.AF_UNIX else loop.create_server
    opened.servers.append(await begin(factory, sock=at))


def _by_name(gate: Gate, authority: Authority) -> tuple[ssl.SSLContext, Named]:
    """A TLS context that stands for whatever declared host is asked for by name, and for no other; and which one that
    was."""
    context = authority.context("gateway.invalid")
    asked: weakref.WeakKeyDictionary[ssl.SSLObject, Tunnel] = weakref.WeakKeyDictionary()

    def choose(connection: ssl.SSLObject, name: str | None, _first: ssl.SSLContext) -> int | None:
        if name is None or gate.system_at(name, HTTPS) is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        asked[connection] = Tunnel(name, HTTPS)
        connection.context = authority.context(name)
        return None

    context.sni_callback = choose
    return context, asked.get


async def _close(opened: _Open) -> None:
    for transport in opened.names:
        transport.close()
    for server in opened.servers:
        server.close()
    for each in opened.handshakes:
        await each.close()
    opened.room.close()
    await opened.runner.cleanup()
    for task in opened.telling:
        task.cancel()
