"""A conversation with one MCP server, whatever carries it: opened once, asked many times.

Rules
1. The gateway offers a server nothing: what a server asks of its client (sampling, elicitation, roots) is refused. Only
   a ping is answered.
2. What is not the answer to a request is handed to whoever made that request; where nobody can tell whose it is, to
   nobody.
3. Until it is open, nothing was asked of the server that changes anything: any failure before is `NotHappened`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, cast

from holdfast.core.canonical import JSON, canonical
from holdfast.core.effect import legible
from holdfast.errors import NotHappened, RetryAfter
from holdfast.gateway.upstreams.mcp_wire import (
    NO_METHOD,
    Malformed,
    Message,
    answer,
    failure,
    load,
    members,
    parse,
    request,
    spliced,
)

STATELESS = "2026-07-28"
LATEST = "2025-11-25"
VERSIONS = ("2025-03-26", "2025-06-18", LATEST)
PAGES = 100  # of a listing
OWN_META = "io.modelcontextprotocol/"
_told = logging.getLogger("holdfast")

Heard = Callable[[bytes], object]
Hear = Callable[[Message], bytes | None]
Clean = Callable[[bytes], bytes]


class Unclear(Exception):
    """Nobody knows what came of a request."""


@dataclass(frozen=True, slots=True)
class About:
    """What a message says to those who do not read it: its method, what it names, the revision of the protocol, and
    whether it may be sent again (`reads`)."""

    method: str
    name: str
    version: str
    reads: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `refused`: whatever it says, the way on which it came proves that the server did nothing."""

    message: Message
    refused: bool = False


class Link(Protocol):
    """What carries messages to a server and back, scrubbed."""

    @property
    def alive(self) -> bool:
        """Whether it can carry anything more."""
        ...

    def at_work(self, id: bytes) -> bool:
        """Whether a request that nobody waits for any more may still be carried out here, by a process of ours."""
        ...

    async def exchange(self, id: bytes, message: bytes, about: About, hear: Hear) -> Answer:
        """Send a request, and wait for its answer. Messages that come meanwhile go to `hear`, which may answer them.
        Raises NotHappened and RetryAfter where the server certainly did nothing, else Unclear."""
        ...

    async def tell(self, message: bytes, about: About) -> None:
        """Send what has no answer. Raises as `exchange`."""
        ...

    async def close(self) -> None:
        """Say goodbye."""
        ...


class Peer:
    """An opened conversation. `opening` is what the server said of itself; `stale`: its tools may be others by now."""

    def __init__(self, name: str, link: Link) -> None:
        self.name = name
        self.link = link
        self.version = LATEST
        self.opening: dict[str, JSON] = {}
        self.stale = True
        self.listed_s = 0.0
        self._ids = itertools.count(1)
        self._sent: dict[str, bytes] = {}
        self._heard: dict[int, tuple[JSON, Heard | None]] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._heard

    async def open(self, protocol: str) -> None:
        """Get to know each other: by a handshake, or, with a server that has none, by asking what it is."""
        try:
            if protocol != STATELESS:
                wanted = LATEST if protocol == "auto" else protocol
                found = await self._result("initialize", _hello(wanted))
                if found is not None:
                    self.opening, self.version = found, str(found.get("protocolVersion"))
                    if self.version not in VERSIONS:
                        raise NotHappened(f"`{self.name}` speaks the revision `{legible(self.version, 40)}`")
                    await self.link.tell(
                        request(None, "notifications/initialized", {}), self._about("notifications/initialized")
                    )
                    return
            self.version = STATELESS
            found = await self._result("server/discover", {}) if protocol in ("auto", STATELESS) else None
        except (Unclear, Malformed) as error:
            raise NotHappened(f"`{self.name}` could not be spoken with: {legible(error, 300)}") from None
        versions = None if found is None else found.get("supportedVersions")
        if found is None or not isinstance(versions, list) or STATELESS not in versions:
            raise NotHappened(f"`{self.name}` speaks no revision of the protocol that is known here")
        self.opening = found

    async def tools(self) -> list[JSON]:
        """All tools that it lists now. Raises NotHappened."""
        found: list[JSON] = []
        if "tools" not in cast("dict[str, JSON]", self.opening.get("capabilities") or {}):
            return found
        cursor: JSON = None
        for _ in range(PAGES):
            try:
                page = await self._result("tools/list", {"cursor": cursor} if cursor else {})
            except (Unclear, Malformed) as error:
                raise NotHappened(f"the tools of `{self.name}` are not known: {legible(error, 300)}") from None
            listed = None if page is None else page.get("tools")
            if page is None or not isinstance(listed, list):
                break
            found += listed
            cursor = page.get("nextCursor")
            if not cursor:
                return found
        raise NotHappened(f"the tools of `{self.name}` are not known: it does not list them")

    async def _result(self, method: str, params: Mapping[str, JSON]) -> dict[str, JSON] | None:
        """What it answers; None where it says no."""
        try:
            said = await self.ask(method, params)
        except NotHappened:
            if method == "initialize" and self.link.alive:
                return None  # it may know no handshake
            raise
        result = said.message.value.get("result")
        return result if isinstance(result, dict) else None

    async def ask(
        self, method: str, params: Mapping[str, JSON], *, key: str = "", token: JSON = None, heard: Heard | None = None
    ) -> Answer:
        """The answer to a request. `heard` is given the notifications that belong to it, with `token` as the token of
        its progress; `key` is that of an effect, and what `running` is asked for. Raises as `Link.exchange`."""
        number = next(self._ids)
        meta = dict(cast("dict[str, JSON]", params.get("_meta") or {}))
        if token is not None:
            meta["progressToken"] = number
        if self.version == STATELESS:
            meta |= {
                f"{OWN_META}protocolVersion": STATELESS,
                f"{OWN_META}clientCapabilities": {},
                f"{OWN_META}clientInfo": _CLIENT,
            }
        whole = {**params, "_meta": meta} if meta else {name: each for name, each in params.items() if name != "_meta"}
        mark = b"%d" % number
        message = request(mark, method, whole)
        self._heard[number] = (token, heard)
        if key:
            self._sent[key] = mark
        try:
            about = replace(self._about(method, params), reads=not key)
            return await self.link.exchange(mark, message, about, lambda other: self.hear(other, number))
        finally:
            del self._heard[number]
            self.running(key)

    def running(self, key: str) -> bool:
        """Whether a request with this key may still be carried out, by a process of ours."""
        mark = self._sent.get(key)
        if mark is None or self.link.at_work(mark):
            return mark is not None
        del self._sent[key]
        return False

    def _about(self, method: str, params: Mapping[str, JSON] | None = None) -> About:
        named = (params or {}).get("name", (params or {}).get("uri", ""))
        known = bool(self.opening) or self.version == STATELESS
        return About(method, named if isinstance(named, str) else "", self.version if known else "")

    def hear(self, message: Message, number: int | None = None) -> bytes | None:
        """Take up what is no answer; what is to be said to it. `number`: the request that it came with, if it is
        known."""
        if message.method is None:
            return None
        if message.id is not None:
            if message.method == "ping":
                return answer(message.id, b'{"result":{}}')
            _told.warning("`%s` asked its client for `%s`: refused", self.name, legible(message.method, 60))
            return answer(message.id, failure(NO_METHOD, f"`{message.method}` is refused: this client offers nothing"))
        if message.method == "notifications/tools/list_changed":
            self.stale = True
        self._pass_on(message, number)
        return None

    def _pass_on(self, message: Message, number: int | None) -> None:
        data = message.data
        if message.method == "notifications/progress":
            token = message.params.get("progressToken")
            if not isinstance(token, int) or token not in self._heard or number not in (None, token):
                return
            number = token
            place = members(data, message.places["params"][0])["progressToken"]
            data = spliced(data, {place: canonical(self._heard[number][0])})
        elif number is None and len(self._heard) == 1:
            (number,) = self._heard
        heard = None if number is None else self._heard[number][1]
        if heard is not None:
            heard(data)


_CLIENT: dict[str, JSON] = {"name": "holdfast", "version": "1"}


def _hello(version: str) -> dict[str, JSON]:
    return {"protocolVersion": version, "capabilities": {}, "clientInfo": _CLIENT}


def cleaned(data: bytes, clean: Clean) -> bytes:
    """A message of a server without what has to be scrubbed, in whatever way the message spells it."""
    data = clean(data)
    if b"\\" not in data:
        return data
    with contextlib.suppress(Malformed, UnicodeError):
        plain = json.dumps(load(data), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        told = clean(plain)
        if told != plain:  # it was hidden behind escapes
            return json.dumps(json.loads(told.decode("utf-8", "surrogatepass")), separators=(",", ":")).encode()
    return data


def parsed(data: bytes) -> Message:
    """A message of a server. Raises Unclear for bytes that are none."""
    try:
        return parse(data)
    except Malformed as error:
        raise Unclear(f"what came back is no message: {error}") from None


def later(text: str | None) -> RetryAfter:
    """What `Retry-After` says, in seconds; a date is taken as one minute."""
    try:
        return RetryAfter(float(text or 1))
    except ValueError:
        return RetryAfter(60)
