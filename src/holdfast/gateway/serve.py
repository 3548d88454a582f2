"""The gateway's listeners: those inside the sandboxes of its runs, and those that are shared.

Rules
1. A listener belongs to one run, or to none: what may be asked there follows from that.
2. When a run is let go of, its listeners and their connections are gone before anything else is done about it.
3. A tunnel leads to a declared host only, and is read here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from holdfast.errors import HoldfastError
from holdfast.gateway.ca import Authority
from holdfast.gateway.doors.native import LARGEST_BODY
from holdfast.gateway.front import Front, Tunnel
from holdfast.gateway.gate import Gate, handle_in
from holdfast.gateway.names import Names

HTTP, HTTPS, NAMES = 80, 443, 53
Doors = Callable[[Gate, "str | None", int], web.Application]


@dataclass(slots=True)
class _Open:
    runner: web.AppRunner
    servers: list[asyncio.Server] = field(default_factory=list[asyncio.Server])
    names: list[asyncio.DatagramTransport] = field(default_factory=list[asyncio.DatagramTransport])
    authority: Authority | None = None


class Listeners:
    """The listeners of one gateway. `doors`: what they answer to, on a listener of a run, or on a shared one (None),
    to bodies of at most so many bytes."""

    def __init__(self, gate: Gate, doors: Doors) -> None:
        self._gate = gate
        self._doors = doors
        self._open: dict[str, _Open] = {}
        self._shared: list[_Open] = []
        self._telling: set[asyncio.Task[None]] = set()

    async def inside(self, run: str, listeners: Mapping[int, Sequence[socket.socket]], authority: Authority) -> None:
        """Serve on sockets inside a run's empty network, by port: TLS on 443, names on 53, else HTTP and tunnels."""
        opened = await self._runner(run)
        opened.authority = authority
        self._open[run] = opened
        loop = asyncio.get_running_loop()
        for port, sockets in listeners.items():
            for each in sockets:
                if port == NAMES:
                    names = Names(self._known, lambda name: self._turned_away(run, name))
                    transport, _ = await loop.create_datagram_endpoint(lambda names=names: names, sock=each)
                    opened.names.append(transport)
                    continue
                tls = None if port != HTTPS else _by_name(self._gate, authority)
                factory = self._front(opened, run, tls=tls is not None)
                opened.servers.append(await loop.create_server(factory, sock=each, ssl=tls))

    async def shared(self, at: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve agents elsewhere, on a socket that they share: who comes there shows a handle."""
        opened = await self._runner(None)
        self._shared.append(opened)
        loop = asyncio.get_running_loop()
        factory = self._front(opened, None, tls=True)
        if at.family == socket.AF_UNIX:
            opened.servers.append(await loop.create_unix_server(factory, sock=at, ssl=tls))
        else:
            opened.servers.append(await loop.create_server(factory, sock=at, ssl=tls))

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

    def _known(self, name: str) -> bool:
        return self._gate.system_at(name, HTTPS) is not None or self._gate.system_at(name, HTTP) is not None

    def _turned_away(self, run: str, name: str) -> None:
        taken = self._gate.wards.by_run.get(run)
        if taken is not None:
            why = f"`{name}` is no host of a declared system"
            task = asyncio.ensure_future(taken.ward.refuse("holdfast.name", name, "names", why))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _runner(self, run: str | None) -> _Open:
        runner = web.AppRunner(
            self._doors(self._gate, run, LARGEST_BODY),
            handle_signals=False,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.1,
            keepalive_timeout=75,
            max_line_size=16 << 10,
            max_field_size=64 << 10,
        )
        await runner.setup()
        return _Open(runner)

    def _front(self, opened: _Open, run: str | None, *, tls: bool) -> Callable[[], asyncio.Protocol]:
        serve = opened.runner.server
        assert serve is not None, "a runner that was set up has a server"
        if tls:  # no tunnel inside a tunnel, and none for those who are elsewhere
            return serve

        async def admit(tunnel: Tunnel, headers: dict[str, str]) -> ssl.SSLContext | str:
            assert run is not None
            assert opened.authority is not None
            try:
                visit = self._gate.visit(run, handle_in(headers), "http")
            except HoldfastError as error:
                return error.what
            if self._gate.system_at(tunnel.host, tunnel.port) is None:
                why = f"`{tunnel.host}:{tunnel.port}` is no host of a declared system"
                await visit.ward.refuse("holdfast.connect", f"{tunnel.host}:{tunnel.port}", "door http", why)
                return why
            return opened.authority.context(tunnel.host)

        return lambda: Front(serve, admit)


def _by_name(gate: Gate, authority: Authority) -> ssl.SSLContext:
    """A TLS context that stands for whatever declared host is asked for by name, and for no other."""
    context = authority.context("gateway.invalid")

    def choose(connection: ssl.SSLObject, name: str | None, _first: ssl.SSLContext) -> int | None:
        if name is None or gate.system_at(name, HTTPS) is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = authority.context(name)
        return None

    context.sni_callback = choose
    return context


async def _close(opened: _Open) -> None:
    for transport in opened.names:
        transport.close()
    for server in opened.servers:
        server.close()
    await opened.runner.cleanup()
