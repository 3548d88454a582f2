"""The way to a branch that was given up, beside the one that is being advanced."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from holdfast.gateway.mediate import Mediator


class Aside(Protocol):
    """Opens a branch (`RUN@BRANCH`) that was given up, so that what it did can be taken back. Raises Claimed while
    somebody else is at it."""

    def __call__(self, branch: str) -> AbstractAsyncContextManager[Mediator]:
        """The mediator of that branch."""
        ...
