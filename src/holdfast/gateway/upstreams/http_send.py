"""One request over HTTP: credentials in at the last moment, the answer out without them.

Rules
1. All that can fail before the first byte is sent fails as NotHappened. What fails afterwards is doubt.
2. A credential goes only to the origins that it is declared for; after a redirect that is looked at again.
3. A redirect is followed for a read only, within the declared origins, never from https to http, and within the
   system itself only to what is a declared read.
4. No text that leaves here, be it an answer or an error, has not been scrubbed.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from holdfast.errors import BadCall, HoldfastError, Misuse, NotHappened, Refused
from holdfast.gateway.connection import Heard, Unanswered, Unreached
from holdfast.gateway.credential import Credential
from holdfast.gateway.exchange import Client
from holdfast.gateway.hosts import Origin, take_apart
from holdfast.gateway.minted import HANDLE
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import NOTHING, Scrubber, Unpackable
from holdfast.gateway.upstreams.http_answer import ANSWER_MAX, Answer, scrubbed
from holdfast.gateway.upstreams.http_config import HttpConfig, Inject
from holdfast.gateway.upstreams.http_path import Fields, fields_of, path_of, query_of, segments_of
from holdfast.gateway.upstreams.http_request import Form, Json, Request
from holdfast.gateway.upstreams.http_routes import Table
from holdfast.gateway.upstreams.kit import Kit

REDIRECTS_MOST: Final = 5
_MOVED: Final = (301, 302, 303, 307, 308)
_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_OVER_THERE: Final = ("accept", "accept-language", "if-none-match", "if-modified-since", "range", "user-agent")


@dataclass(frozen=True, slots=True)
class _Wire:
    """A request as it leaves for `origin`, whose query and headers carry credentials."""

    origin: Origin
    method: str
    path: str
    query: Fields
    headers: Mapping[str, str]
    data: bytes | None

    @property
    def target(self) -> str:
        """Path and query, each in its one spelling."""
        return f"{self.path}?{query_of(self.query)}" if self.query else self.path

    def __repr__(self) -> str:
        return f"<{self.method} to {self.origin}>"


class Sender:
    """Sends requests of the system `name`. Raises Misuse for a configuration that cannot be."""

    def __init__(self, name: str, config: HttpConfig, kit: Kit, table: Table) -> None:
        self._name = name
        self._config = config
        self._vault = kit.vault
        self._table = table
        try:
            self.base, path, query = take_apart(config.base)
            self._path = "" if path == "/" else path_of(segments_of(path.removesuffix("/")))
            self._others = frozenset(_origin(text) for text in config.hosts)
            self._given = {inject: {_origin(text) for text in inject.hosts} or {self.base} for inject in config.inject}
            self._dialer = kit.dialer.also(config.private)
            for origin in (self.base, *self._others):
                self._dialer.check(origin.host, origin.port)
        except (BadCall, Refused) as error:
            raise Misuse(f"the upstream `{name}` cannot be: {error.what}", fix=error.fix) from None
        if query is not None:
            raise Misuse(f"the base of `{name}` has a query", fix="leave it out")
        stray = {origin for origins in self._given.values() for origin in origins} - {self.base, *self._others}
        if stray:
            raise Misuse(f"`{name}` gives a credential to `{min(map(str, stray))}`, which is none of its hosts")
        ca = None if config.ca_file is None else _trust(kit.folder / config.ca_file)
        self._client = Client(self._dialer, (self.base, *self._others), ca)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def answer(
        self, request: Request, receipt: Receipt, timeout_s: float, *, key: str = "", again: bool = False
    ) -> Answer:
        """What the system answers. `key`: the idempotency key to send. `again`: the request may be sent again by
        whoever calls, so that a kept connection may be used for it; without a key, it is a read.

        Raises NotHappened where nothing was sent; any other error is doubt."""
        request, secrets = await self._resolved(request, receipt)
        scrubber = Scrubber(secrets) if secrets else NOTHING
        origin, path = self.base, self._path + request.path
        for _ in range(REDIRECTS_MOST + 1):
            wire, known = await self._prepared(request, origin, path, receipt, key)
            scrubber = scrubber.with_all(known)
            answer = await self._sent(wire, scrubber, timeout_s, again, read=again and not key)
            if answer.status not in _MOVED or request.method not in ("GET", "HEAD") or key:
                return answer
            origin, path, request = self._followed(answer.header("location"), wire, request)
        raise self._not_followed(f"there are more than {REDIRECTS_MOST}")

    async def _resolved(self, request: Request, receipt: Receipt) -> tuple[Request, list[Credential]]:
        """The request with kept secrets in the place of their handles. Only what the agent has asked for is looked
        at, never where a system redirects to. Raises NotHappened."""
        found = {handle: await self._vault.resolve(handle, receipt) for handle in _handles(request)}
        if not found:
            return request, []
        try:
            Scrubber(found.values())
            return request.rewritten(lambda text: HANDLE.sub(lambda m: found[m[0]].reveal(), text)), [*found.values()]
        except HoldfastError as error:
            raise NotHappened(f"it was not sent: a kept secret does not fit: {type(error).__name__}") from None

    async def _prepared(
        self, request: Request, origin: Origin, path: str, receipt: Receipt, key: str
    ) -> tuple[_Wire, Scrubber]:
        """The request with its credentials. Raises NotHappened: nothing was sent."""
        try:
            headers = {"accept": "*/*", "user-agent": "holdfast", **request.headers, "accept-encoding": "identity"}
            if key and self._config.idempotency_header:
                headers[self._config.idempotency_header.lower()] = key
            secrets: list[Credential] = []
            also: list[tuple[str, bytes]] = []
            for inject, origins in self._given.items():
                if origin in origins:
                    credential = await self._vault.open(inject.credential, receipt)
                    request, text = _injected(request, headers, inject, credential)
                    secrets.append(credential)
                    also.append((inject.credential, text.encode()))
            scrubber = Scrubber(secrets, also)
            wire = _Wire(origin, request.method, path, request.query, headers, request.data())
        except NotHappened:
            raise
        except HoldfastError as error:
            raise NotHappened(f"it was not sent: {error.what}", fix=error.fix) from None
        return wire, scrubber

    async def _sent(self, wire: _Wire, scrubber: Scrubber, timeout_s: float, again: bool, *, read: bool) -> Answer:
        try:
            try:
                heard = await self._exchanged(wire, timeout_s, fresh=not again)
            except Unanswered as error:
                if not (read and error.silent):
                    raise
                # A kept connection was closed at the other end while it was taken up: a read is asked once more.
                heard = await self._exchanged(wire, timeout_s, fresh=True)
        except Unreached as error:
            raise NotHappened(f"`{self._name}` could not be reached: {scrubber.text(str(error))}") from None
        except Unanswered as error:
            raise HoldfastError(f"no whole answer came from `{self._name}`: {error}") from None
        shown = self._config.set_cookie
        try:
            if heard.body is None:
                raise Unpackable(f"it is larger than {ANSWER_MAX} bytes")
            return scrubbed(heard.status, heard.reason, heard.headers, heard.body, scrubber, set_cookie=shown)
        except Unpackable as error:
            bare = [(name, value) for name, value in heard.headers if name.lower() != "content-encoding"]
            told = scrubbed(heard.status, heard.reason, bare, b"", scrubber, set_cookie=shown)
            return replace(told, trouble=f"the answer cannot be passed on: {error.what}")

    async def _exchanged(self, wire: _Wire, timeout_s: float, *, fresh: bool) -> Heard:
        return await self._client.exchange(
            wire.origin, wire.method, wire.target, wire.headers, wire.data,
            timeout_s=timeout_s, most=ANSWER_MAX, fresh=fresh,
        )  # fmt: skip

    def _followed(self, location: str | None, wire: _Wire, request: Request) -> tuple[Origin, str, Request]:
        """Where a redirect leads. Raises Refused, with the reason, where it is not followed."""
        try:
            if location is None:
                raise BadCall("it does not say where")
            if location.startswith("/") and not location.startswith("//"):
                path, mark, text = location.partition("#")[0].partition("?")
                origin, query = wire.origin, text if mark else None
            else:
                origin, path, query = take_apart(location.partition("#")[0])
            path, fields = path_of(segments_of(path)), fields_of(query or "", "the query")
        except BadCall as error:
            raise self._not_followed(f"it is not understood: {error.what}") from None
        if origin not in (self.base, *self._others):
            raise self._not_followed(f"`{origin}` is none of its hosts")
        if wire.origin.scheme == "https" and origin.scheme == "http":
            raise self._not_followed("it leads from https to http")
        if origin != self.base:
            kept = {name: value for name, value in request.headers.items() if name in _OVER_THERE}
            return origin, path, replace(request, query=fields, headers=kept, params={})
        below = path.removeprefix(self._path)
        match = self._table.match(request.method, segments_of(below)) if path.startswith(self._path + "/") else None
        if match is None or match[0].route.meant != "read":
            raise self._not_followed("it leads to what is no declared read")
        return origin, path, replace(request, path=below, params=match[1], query=fields)

    def _not_followed(self, why: str) -> Refused:
        return Refused(f"a redirect of `{self._name}` is not followed: {why}")


def _injected(request: Request, headers: dict[str, str], inject: Inject, credential: Credential) -> tuple[Request, str]:
    """The request with a credential (or the `headers` that it will have), and the text that carries it."""
    value = credential.reveal()
    if inject.header is not None:
        if inject.user is not None:
            pair = base64.b64encode(f"{inject.user}:{value}".encode()).decode()
            text = f"Basic {pair}"
        else:
            text = f"{inject.prefix}{value}"
        if not _VALUE.fullmatch(text):
            raise Misuse(f"the credential `{inject.credential}` cannot stand in a header")
        headers[inject.header.lower()] = text
        return request, text
    text = f"{inject.prefix}{value}"
    if inject.query is not None:
        return replace(request, query={**request.query, inject.query: text}), text
    assert inject.body is not None, "INVARIANT: a credential has one place"
    match request.body:
        case Json(value=dict() as members):
            return replace(request, body=Json({**members, inject.body: text})), text
        case Form(fields):
            return replace(request, body=Form({**fields, inject.body: text})), text
        case _:
            raise BadCall(f"`{inject.credential}` goes into a field of the body, and there is none")


def _handles(request: Request) -> list[str]:
    """The handles of kept secrets that a request names."""
    texts = (request.path, *request.headers.values())  # the path in its one spelling: there a handle is as it is
    if not (request.query or request.body or any(map(HANDLE.search, texts))):
        return []
    found: dict[str, None] = {}

    def look(text: str) -> str:
        found.update(dict.fromkeys(HANDLE.findall(text)))
        return text

    request.rewritten(look)
    return list(found)


def _origin(text: str) -> Origin:
    """An origin of the configuration. Raises BadCall."""
    origin, path, query = take_apart(text if "://" in text else f"https://{text}")
    if path != "/" or query is not None:
        raise BadCall(f"`{text}` is no origin", fix="write https://HOST")
    return origin


def _trust(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise Misuse(f"`{path}` holds no certificates: {type(error).__name__}") from None
