"""How the gateway reaches a system: one seam, whatever the system is.

Rules
1. An upstream sends, asks and takes back; it never writes the log and never decides whether it may.
2. What it raises means: NotHappened, it certainly changed nothing; RetryAfter, the same and come back later; anything
   else, nobody knows.
3. What it needs a credential for, it does with the receipt of the call: a vault opens for nothing else.
4. What a system says no with (`Declined`) is kept as it came: an agent gets the same answer on each resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from holdfast.core.canonical import JSON
from holdfast.core.contract import Contract
from holdfast.core.effect import Encoding, Happened, NotHappened
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, as the bytes that are sealed, and as the value that the agent sees: the same that these bytes
    give back whenever they are read again. `woven` is the JSON value of the bytes, by which they are cut into
    pieces. `cost`: what it cost (millionths of a US dollar), where that is told."""

    data: bytes
    encoding: Encoding
    value: object
    woven: JSON = None
    etag: str | None = None
    cost: int | None = None


class Declined(DidNotHappen):
    """A system said no, and changed nothing: `reply` is what it said."""

    def __init__(self, what: str, reply: Reply, *, where: str = "") -> None:
        super().__init__(what, where=where)
        self.reply = reply


class Upstream(Protocol):
    """One call's way to the outside. `args` is None for the arguments of the call as it was made, or a recorded
    canonical object."""

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """Carry it out, with its idempotency key."""
        ...

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """Ask the world whether it happened; None if that cannot be told."""
        ...

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """Take it back, or make sure that it is not there (`answer` is None when nobody knows)."""
        ...

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """The reply that these sealed bytes stand for."""
        ...

    def running(self, key: str) -> bool:
        """Whether an earlier sending under this key, for which nobody waits any more, may still be at work here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Prepared:
    """A call of a declared system, understood but not yet carried out: one for each time that it is asked for, and
    equal to no other. `contract.name` is `SYSTEM.OPERATION`. `args`: all that is needed to carry it out, as JSON
    values by name: what goes into the log, and what `Upstream.perform` is given back after a crash (never a
    credential). `chosen`: what two calls must have in common to be the same; None: all arguments. `touches`: what
    names the resource, if anything does. `blast`: how much it touches, if known. `money`: what it may cost at most
    (millionths of a US dollar)."""

    system: str
    contract: Contract
    args: Mapping[str, JSON]
    upstream: Upstream
    chosen: Mapping[str, JSON] | None = None
    touches: Mapping[str, JSON] | None = None
    blast: int | None = None
    money: int = 0
    labels: frozenset[str] = field(default_factory=frozenset[str])


class System(Protocol):
    """A declared system, as the configuration names it."""

    @property
    def name(self) -> str:
        """As it stands in holdfast.toml."""
        ...

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """Understand a call. Deny by default: raises BadCall for what is not declared, not understood or ambiguous.
        Must not touch the outside on behalf of the agent."""
        ...

    def operations(self) -> Mapping[str, JSON]:
        """What may be asked for: a JSON schema of the arguments, and a description, by the operation's name."""
        ...

    async def close(self) -> None:
        """Let go of connections and processes."""
        ...


@runtime_checkable
class Undoes(Protocol):
    """A system that can take back what was done by it, from what was written down."""

    def undoing(self, operation: str) -> tuple[Contract, Upstream] | None:
        """What an operation promises, and the way to take it back; None where there is none (any more)."""
        ...
