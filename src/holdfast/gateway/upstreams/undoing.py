"""An undo as an upstream of its own: to carry it out is to take another effect back.

Rules
1. An undo is sent again until it is done; it is neither asked about nor undone.
"""

from __future__ import annotations

from holdfast.core.effect import Encoding
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Reply, Upstream


class Undoing:
    """An undo as an upstream of its own: to carry it out is to take the other one back."""

    def __init__(self, upstream: Upstream, args: bytes | None, answer: Reply | None) -> None:
        self._upstream = upstream
        self._args = args
        self._answer = answer

    def running(self, key: str) -> bool:
        """As the upstream knows."""
        return self._upstream.running(key)

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """Take it back."""
        return await self._upstream.undo(self._args, self._answer, receipt)

    async def probe(self, args: bytes | None, receipt: Receipt) -> None:
        """An undo is sent again, not asked about."""
        return

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """An undo is not undone."""
        raise DidNotHappen("an undo is not undone")

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As the upstream reads it."""
        return self._upstream.read(data, encoding)
