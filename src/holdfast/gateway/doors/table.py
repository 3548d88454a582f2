"""All doors of a listener, and how a request finds its own.

Rules
1. A system is reached by its name in the path, or, where a program believes that it speaks to a host, by that host.
2. A request that says a host (through a tunnel, or as to a proxy) is never taken for one to the gateway itself.
3. A request that says two hosts is for neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from holdfast.errors import BadCall
from holdfast.gateway.doors.native import handle_refused
from holdfast.gateway.front import Led, Tunnel, says
from holdfast.gateway.gate import Gate
from holdfast.gateway.upstreams import System

_DOORS = ("native", "agent", "mcp")
_SERVED = ("http", "model", "aws")
_KINDS = frozenset({"mcp", *_SERVED})
"""Kinds of systems that have a door of their own: `/KIND/NAME/…`. The others are reached through the native door."""

HTTP = 80
Serve = Callable[[web.Request, Gate, "str | None", System, str], Awaitable[web.StreamResponse]]


def application(gate: Gate, run: str | None, largest_body: int) -> web.Application:
    """All doors, on a listener of `run`, or on one that is shared."""
    app = web.Application(client_max_size=largest_body, middlewares=[_finding(gate, run)])
    for name in _DOORS:
        app.add_routes(import_module(f"holdfast.gateway.doors.{name}").routes(gate, run))
    for kind in _SERVED:
        serve = cast(Serve, import_module(f"holdfast.gateway.doors.{kind}").serve)
        app.router.add_route("*", f"/{kind}/{{system}}{{path:(?:/.*)?}}", _serving(gate, run, kind, serve))
    app.router.add_get("/healthz", _alive)
    return app


def _serving(gate: Gate, run: str | None, kind: str, serve: Serve) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        name = request.match_info["system"]
        system = gate.systems.get(name)
        if system is None or gate.kinds.get(name) != kind:
            why = BadCall(f"there is no system `{name[:80]}` of the kind `{kind}`", fix="holdfast config check")
            return await handle_refused(gate, run, request, why.what, why)
        path = request.raw_path.removeprefix(f"/{kind}/{name}")
        return await serve(request, gate, run, system, path if path.startswith("/") else f"/{path}")

    return handle


def _finding(gate: Gate, run: str | None) -> Middleware:
    @web.middleware
    async def find(request: web.Request, **inner: Handler) -> web.StreamResponse:
        host = _host_of(request)
        if "upgrade" in request.headers:
            why = BadCall("another protocol is asked for", fix="speak HTTP/1.1 here")
            return await handle_refused(gate, run, request, why.what, why)
        if host is None:
            if request.match_info.http_exception is None:
                return await inner["handler"](request)
            why = BadCall("there is no such door", fix="see docs/gateway.md for the paths of the doors")
            return await handle_refused(gate, run, request, f"there is no door at `{request.raw_path[:200]}`", why)
        name = gate.system_at(*host)
        if name is None or gate.kinds.get(name) not in _KINDS:
            why = BadCall(f"`{host[0]}` is no host of a declared system", fix="declare it under [upstreams]")
            return await handle_refused(gate, run, request, why.what, why)
        if not _says(request, *host):
            why = BadCall(f"the request is for `{host[0]}`, and says another host", fix="say one host")
            return await handle_refused(gate, run, request, why.what, why)
        path = request.raw_path
        path = path if path.startswith("/") else URL(path, encoded=True).raw_path_qs
        return await _again(request, f"/{gate.kinds[name]}/{name}{path}")

    return cast(Middleware, find)


async def _again(request: web.Request, path: str) -> web.StreamResponse:
    """Answer a request as if it had been for this path."""
    other = request.clone(rel_url=URL(path, encoded=True))
    found = await request.app.router.resolve(other)
    found.add_app(request.app)
    other._match_info = found  # pyright: ignore[reportPrivateUsage] - as the application itself does it
    return await found.handler(other)


async def _alive(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"alive": True})


def _says(request: web.Request, host: str, port: int) -> bool:
    """Whether all that a request says of its host is this one."""
    said = request.headers.getall("host", [])
    if not request.raw_path.startswith("/"):
        said = [*said, request.raw_path.partition("://")[2].partition("/")[0].partition("?")[0]]
    return all(says(each, Tunnel(host, port)) for each in said)


def _host_of(request: web.Request) -> tuple[str, int] | None:
    """The host that a request is for, if that is not the gateway: that of its tunnel or TLS connection, or the one that
    it names, as to a proxy or on the port of the web."""
    tunnel = request.protocol.tunnel if isinstance(request.protocol, Led) else None
    if tunnel is not None:
        return tunnel.host, tunnel.port
    own = None if request.transport is None else request.transport.get_extra_info("sockname")
    if isinstance(own, tuple) and cast("tuple[str, int]", own)[1] == HTTP:
        return request.host.partition(":")[0].rstrip(".").lower(), HTTP
    if request.raw_path.startswith("/"):
        return None
    try:
        url = URL(request.raw_path, encoded=True)
        return (url.raw_host or "").removesuffix(".").lower(), int(url.port or 80)
    except ValueError:
        return "", 0
