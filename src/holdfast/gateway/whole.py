"""Work that is brought to its end even if whoever waits for it gives up meanwhile: half of it would be worse than none.

Rules
1. A cancellation is not lost: it is raised when the work has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T], lost: list[T] | None = None) -> T:
    """The result of `work`. If it was given up meanwhile, that is raised, and the result goes into `lost`."""
    piece = asyncio.ensure_future(work)
    given_up: asyncio.CancelledError | None = None
    while not piece.done():
        try:
            await asyncio.wait([piece])
        except asyncio.CancelledError as error:
            given_up = error
    if given_up is None:
        return piece.result()
    if not piece.cancelled() and piece.exception() is None and lost is not None:
        lost.append(piece.result())
    raise given_up
