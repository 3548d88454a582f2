"""MCP over streamable HTTP: each message a POST of its own, answered by one message or by a stream of them.

Rules
1. What comes back is scrubbed as whole messages, before it is read.
2. An effect has a connection of its own: one that the server has closed meanwhile would make a doubt of nothing. Reads
   share connections, and are sent once more where one breaks.
3. 408, 409, 423, 425 and 5xx never prove a refusal, nor does a redirect, which is not followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace

import aiohttp

from holdfast.core.effect import legible
from holdfast.errors import NotHappened
from holdfast.gateway.upstreams.mcp_peer import STATELESS, About, Answer, Clean, Hear, Unclear, cleaned, later, parsed
from holdfast.gateway.upstreams.mcp_wire import LARGEST, Feed, Malformed, Message

UNPROVEN = frozenset({408, 409, 423, 425})
VISIT = "Mcp-Session-Id"
GOODBYE_S = 5.0
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)  # a call's contract says how long it may take
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")


class Gone(NotHappened):
    """The server has forgotten this conversation."""


class Broken(Unclear):
    """The connection broke before an answer began."""


class HttpLink:
    """Carries messages to `url`, by what `client` makes. `headers` go with each; `clean` scrubs what comes back.
    Both may be set anew for a call with fresh credentials."""

    def __init__(self, client: Callable[[], aiohttp.ClientSession], url: str) -> None:
        self._client = client
        self._url = url
        self.headers: Mapping[str, str] = {}
        self.clean: Clean = bytes
        self._kept: aiohttp.ClientSession | None = None
        self._visit: str | None = None
        self._version = ""

    @property
    def alive(self) -> bool:
        """Always: there is nothing to lose."""
        return True

    def at_work(self, id: bytes) -> bool:
        """Never: it is not carried out here."""
        return False

    async def exchange(self, id: bytes, message: bytes, about: About, hear: Hear) -> Answer:
        """As `Link.exchange`. Raises Gone where the conversation has to be opened anew."""
        if about.reads:
            try:
                return await self._exchange(id, message, about, hear)
            except Broken:
                about = replace(about, reads=False)  # on a connection of its own
        return await self._exchange(id, message, about, hear)

    async def _exchange(self, id: bytes, message: bytes, about: About, hear: Hear) -> Answer:
        clean = self.clean
        try:
            async with self._post(message, about) as came:
                self._judge(came, clean)
                if about.method == "initialize":
                    visit = came.headers.get(VISIT)
                    self._visit = visit if visit and _TOKEN.fullmatch(visit) else None
                if came.status == 200 and came.content_type == "text/event-stream":
                    return Answer(await self._streamed(came, id, about, hear, clean))
                return self._whole(came.status, cleaned(await _read(came), clean), id)
        except aiohttp.ClientConnectorError as error:
            raise NotHappened(f"it could not be reached: {_text(error, clean)}") from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise Broken(f"{type(error).__name__}: {_text(error, clean)}") from None
        except (aiohttp.ClientError, TimeoutError, OSError, Malformed) as error:
            raise Unclear(f"{type(error).__name__}: {_text(error, clean)}") from None

    async def tell(self, message: bytes, about: About) -> None:
        """As `Link.tell`."""
        clean = self.clean
        try:
            async with self._post(message, about) as came:
                self._judge(came, clean)
                if came.status >= 400:
                    raise NotHappened(f"it was refused with {came.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unclear(f"{type(error).__name__}: {_text(error, clean)}") from None

    async def close(self) -> None:
        """End the conversation at the server, if it answers in time."""
        if self._visit is not None:
            headers = {**self.headers, VISIT: self._visit, "MCP-Protocol-Version": self._version}
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, NotHappened):
                async with asyncio.timeout(GOODBYE_S), self._client() as client:
                    await client.delete(self._url, headers=headers, allow_redirects=False)
        self._visit = None
        if self._kept is not None:
            await self._kept.close()
            self._kept = None

    @contextlib.asynccontextmanager
    async def _post(self, message: bytes, about: About) -> AsyncGenerator[aiohttp.ClientResponse]:
        headers = {
            **self.headers,
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",
        }
        if about.version:
            headers["MCP-Protocol-Version"] = self._version = about.version
        if about.version == STATELESS:
            headers["Mcp-Method"] = about.method
            if about.name.isascii() and about.name.isprintable() and about.name:
                headers["Mcp-Name"] = about.name
        elif self._visit is not None and about.method != "initialize":
            headers[VISIT] = self._visit
        async with (
            self._for(about) as client,
            client.post(self._url, data=message, headers=headers, allow_redirects=False, timeout=_NO_TIMEOUT) as came,
        ):
            yield came

    @contextlib.asynccontextmanager
    async def _for(self, about: About) -> AsyncGenerator[aiohttp.ClientSession]:
        if not about.reads:
            async with self._client() as own:
                yield own
            return
        self._kept = self._kept or self._client()
        yield self._kept

    def _judge(self, came: aiohttp.ClientResponse, clean: Clean) -> None:
        """Raise what the status alone says."""
        status = came.status
        if came.headers.get("Content-Encoding", "identity") != "identity":
            raise Unclear("what came back is compressed, although nobody asked for it")
        if status == 429:
            raise later(came.headers.get("Retry-After"))
        if status == 404 and self._visit is not None:
            self._visit = None
            raise Gone("the server has forgotten the conversation")
        if 300 <= status < 400:
            raise Unclear(f"it answered {status}: redirects are not followed")
        if status >= 500 or status in UNPROVEN:
            raise Unclear(f"it answered {status} {_text(came.reason or '', clean)}")

    @staticmethod
    def _whole(status: int, data: bytes, id: bytes) -> Answer:
        if status >= 400:
            try:
                message = parsed(data)
            except Unclear:
                message = None
            if message is None or message.method is not None or "error" not in message.places:
                raise NotHappened(f"it was refused with {status}: {legible(data.decode('utf-8', 'replace'), 300)}")
            return Answer(message, refused=True)
        message = parsed(data)
        if message.method is not None or message.id != id:
            raise Unclear("what came back is no answer to this request")
        return Answer(message)

    async def _streamed(
        self, came: aiohttp.ClientResponse, id: bytes, about: About, hear: Hear, clean: Clean
    ) -> Message:
        feed = Feed()
        async for piece in came.content.iter_any():
            for data in feed.feed(piece):
                message = parsed(cleaned(data, clean))
                if message.method is None:
                    if message.id == id:
                        return message
                    continue
                reply = hear(message)
                if reply is not None:
                    with contextlib.suppress(Unclear, NotHappened):
                        await self.tell(reply, About("", "", about.version))
        raise Unclear("the stream ended before the answer")


async def _read(came: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for piece in came.content.iter_any():
        size += len(piece)
        if size > LARGEST:
            raise Unclear(f"what came back is larger than {LARGEST} bytes")
        parts.append(piece)
    return b"".join(parts)


def _text(error: object, clean: Clean) -> str:
    return clean(legible(error, 300).encode()).decode("utf-8", "replace")
