"""Every connection that leaves the gateway: to a declared host, at an address that may be dialled.

Rules
1. A name is resolved here, once, and the address that was looked at is the one that is dialled. If one of its addresses
   may not be dialled, none is.
2. The last look is at the socket: nothing is connected to an address that was not allowed for this host.
3. An HTTP client follows no redirect, takes no proxy from the environment, keeps no cookie and unpacks nothing.
4. What is refused here was not sent: it raises Refused.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from holdfast.errors import Misuse, NotHappened, Refused
from holdfast.gateway.hosts import canonical_host, is_address, split_port
from holdfast.gateway.reach import Reach

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

PIN_S: Final = 60.0  # how long the addresses of a name are kept
PINS_MOST: Final = 1000
HEADER_MAX: Final = 32 << 10  # bytes of one header of an answer; what has a larger one is no answer

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a name, as text. Raises OSError where it has none."""

_dialling: ContextVar[tuple[str, int] | None] = ContextVar("holdfast_dialling", default=None)


@dataclass(frozen=True, slots=True)
class Pinned:
    """A host (in its one form), and the address to connect to."""

    host: str
    address: str
    port: int
    family: socket.AddressFamily


class Dialer:
    """Opens connections. `private`: hosts, `HOST:PORT`, addresses or networks that may be dialled though they are not
    public (see `reach.py`). Raises Misuse for an entry that is none of these."""

    def __init__(self, private: Sequence[str] = (), *, resolve: Resolve | None = None) -> None:
        self._private = tuple(private)
        self._reach = Reach(private)
        self._ask: Resolve = resolve or _system
        self._pins: dict[str, tuple[float, tuple[str, ...]]] = {}

    def also(self, private: Sequence[str]) -> Dialer:
        """One that may dial these, too."""
        return Dialer((*self._private, *private), resolve=self._ask) if private else self

    def check(self, host: str, port: int) -> str:
        """The one form of a host. Raises BadCall for what is no host, Refused for an address that may not be
        dialled. Asks nobody."""
        host = canonical_host(host)
        if is_address(host):
            self.look(host, host, port)
        return host

    def look(self, host: str, address: str, port: int) -> None:
        """Raise Refused unless `address` may be dialled for `host` (in its one form)."""
        why = self._reach.objection(host, ipaddress.ip_address(address), port)
        if why is not None:
            raise Refused(
                f"`{host}` is not dialled: {why}", fix="declare it under `private`, if it is meant to be reached"
            )

    async def resolve(self, host: str, port: int) -> Pinned:
        """Where to connect to for `host`: connect to this address, not to the name. Raises as `addresses`."""
        host = self.check(host, port)
        address = (await self.addresses(host, port))[0]
        return Pinned(host, address, port, _family(address))

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses of a host in its one form, all of which may be dialled. Raises Refused if one may not, and
        NotHappened where it has none."""
        found = (host,) if is_address(host) else await self._pinned(host)
        for address in found:
            self.look(host, address, port)
        return found

    async def _pinned(self, host: str) -> tuple[str, ...]:
        until_s, found = self._pins.get(host, (0.0, ()))
        if time.monotonic() < until_s:
            return found
        try:
            answer = await self._ask(host)
            found = tuple(dict.fromkeys(str(ipaddress.ip_address(address)) for address in answer))
        except (OSError, ValueError) as error:
            raise NotHappened(f"`{host}` has no address: {type(error).__name__}") from None
        if not found:
            raise NotHappened(f"`{host}` has no address")
        if len(self._pins) >= PINS_MOST:
            self._pins.clear()
        self._pins[host] = (time.monotonic() + PIN_S, found)
        return found

    def client(self, hosts: Sequence[str], *, connections: int = 100) -> aiohttp.ClientSession:
        """An HTTP client for these hosts only (`HOST` at any port, or `HOST:PORT`), which keeps connections: one may
        have been closed at the other end, and then nobody knows what became of a request (`exchange.py` tells). Pass
        `allow_redirects=False` with each request: a redirect raises Misuse. Close it when it is no longer needed."""
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_no_redirect)
        client = aiohttp.ClientSession(
            connector=_Connector(self, hosts, connections),
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            requote_redirect_url=False,
            trace_configs=[trace],
            max_line_size=HEADER_MAX,
            max_field_size=HEADER_MAX,
        )
        # aiohttp sends a PUT or DELETE once more if a kept connection breaks. Whether that may be is not for it to say.
        client._retry_connection = False  # pyright: ignore[reportPrivateUsage]
        return client


class _Connector(aiohttp.TCPConnector):
    """aiohttp's own, which looks at what it is about to dial."""

    def __init__(self, dialer: Dialer, hosts: Sequence[str], connections: int) -> None:
        self._dialer = dialer
        self._looked_at: set[tuple[str, int]] = set()
        self._declared: frozenset[tuple[str, int | None]] = frozenset(
            (canonical_host(host), port) for host, port in map(split_port, hosts)
        )
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - the tuple of a socket's address
            resolver=_Resolver(dialer),
            socket_factory=self._socket,
            use_dns_cache=False,
            limit=connections,
        )

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        host, port = (req.url.raw_host or "").strip("[]"), req.url.port or 0
        if {(host, None), (host, port)}.isdisjoint(self._declared):
            raise Refused(f"`{host}:{port}` is not dialled: it is none of the declared hosts")
        if (host, port) not in self._looked_at:  # what is found of an address follows from the configuration alone
            if is_address(host):
                self._dialer.look(host, host, port)
            self._looked_at.add((host, port))
        token = _dialling.set((host, port))
        try:
            return await super().connect(req, traces, timeout)
        finally:
            _dialling.reset(token)

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """The socket for an address that is about to be dialled. Raises OSError for one that may not be."""
        family, kind, proto, _, place = address
        host, port = _dialling.get() or ("", 0)
        try:
            if place[1] != port:
                raise Refused(f"`{host}` is not dialled at port {place[1]}")
            self._dialer.look(host, str(place[0]), port)
        except Refused as error:
            raise PermissionError(errno.EACCES, error.what) from error
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made


class _Resolver(AbstractResolver):
    """Asks the dialer for the addresses of a name."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._dialer.addresses(self._dialer.check(host, port), port)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=_family(address),
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    async def close(self) -> None:
        return None


async def _no_redirect(*_: Any) -> None:
    raise Misuse("an HTTP client of the gateway was about to follow a redirect", fix="pass allow_redirects=False")


async def _system(host: str) -> Sequence[str]:
    """As the system resolves names."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
