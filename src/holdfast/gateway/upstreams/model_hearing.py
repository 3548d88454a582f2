"""One response of a provider, heard to its end, and passed on as it comes as far as that may be.

Rules
1. Everything is scrubbed before it is passed on or kept: a whole answer at once, a stream frame by frame. A frame is
   put together before it is looked at, so it does not matter how the bytes were cut on their way.
2. It is heard to its end whether anybody still listens or not, within a bound of size.
3. An answer that is not whole is not returned: it raises Broken, or Declined with what the provider said instead.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import cast

import aiohttp

from holdfast.core.canonical import JSON
from holdfast.gateway.scrub import Scrubber, Unpackable, unpacked
from holdfast.gateway.upstreams import Declined
from holdfast.gateway.upstreams.model_answer import Answer, Frames, Listener, Mark, count, part

LARGEST_ANSWER = 64 << 20  # bytes
JSON_TYPE = "application/json"
PASSED_ON = ("x-request-id", "request-id", "retry-after", "retry-after-ms", "x-should-retry")


class Broken(Exception):
    """An answer broke off, or is none."""


@dataclass(slots=True)
class Tap:
    """What of a stream may be passed on while it comes. `begun` is how it began, once it has; `news` is set whenever
    there is more."""

    begun: Answer | None = None
    passed: bytearray = field(default_factory=bytearray)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def pour(self, frame: bytes) -> None:
        """A frame may be passed on."""
        self.passed += frame
        self.news.set()


class Hearing:
    """The answer to `operation` that comes as `response`."""

    def __init__(self, operation: str, response: aiohttp.ClientResponse, scrub: Scrubber, tap: Tap) -> None:
        self._response = response
        self._scrub = scrub
        self._tap = tap
        given = {name: response.headers.get(name) for name in PASSED_ON}
        self._begun = Answer(
            operation=operation,
            status=response.status,
            kind=scrub.text(response.headers.get("content-type", JSON_TYPE)),
            body=b"",
            headers={name: scrub.text(value) for name, value in given.items() if value is not None},
        )

    async def hear(self) -> Answer:
        """The whole answer. Raises Broken, Declined, and what the connection raises."""
        if 300 <= self._begun.status < 400:
            raise Broken(f"it answered with a redirect ({self._begun.status}), which is not followed")
        if self._begun.status == 200 and self._begun.streamed:
            return await self._stream()
        return await self._whole()

    async def _whole(self) -> Answer:
        data = bytearray()
        async for chunk in self._response.content.iter_any():
            data += chunk
            _bounded(len(data))
        try:
            plain = unpacked(bytes(data), self._response.headers.get("content-encoding", ""), LARGEST_ANSWER)
        except Unpackable as error:
            raise Broken(f"its answer cannot be read: {error.what}") from None
        answer = self._with(self._scrub.clean(plain))
        if answer.status != 200:
            raise _declined(answer)
        try:
            told = cast(JSON, json.loads(answer.body))
        except (ValueError, RecursionError):
            raise Broken("its answer is not JSON") from None
        if not isinstance(told, dict):
            raise Broken("its answer is not an object")
        if told.get("error") or told.get("status") == "failed":
            raise _declined(answer)
        return replace(answer, tokens=count(answer.operation, part(told, "usage")))

    async def _stream(self) -> Answer:
        if self._response.headers.get("content-encoding", "identity") != "identity":
            raise Broken("its stream is packed, which it was asked not to be")
        frames, listener, body, pours = Frames(), Listener(self._begun.operation), bytearray(), True
        self._tap.begun = self._begun
        async for chunk in self._response.content.iter_any():
            for frame in frames.feed(chunk):
                clean = self._scrub.clean(frame)
                mark = listener.hear(clean)
                body += clean
                if mark is Mark.FAILED:
                    raise _declined(self._with(bytes(body)))
                if mark is Mark.END:
                    return replace(self._with(bytes(body)), tokens=listener.tokens)
                pours = pours and mark is Mark.MORE
                if pours:
                    self._tap.pour(clean)
            _bounded(len(body) + len(frames.rest))
        raise Broken("its stream ended before the answer did")

    def _with(self, body: bytes) -> Answer:
        return replace(self._begun, body=body)


def _bounded(size: int) -> None:
    if size > LARGEST_ANSWER:
        raise Broken(f"its answer is larger than {LARGEST_ANSWER} bytes")


def _declined(answer: Answer) -> Declined:
    return Declined(f"the provider answered {answer.status} with an error", answer.written())
