"""What a tool promises. The remedy table, the barriers and the approvals all follow from it.

Rules
1. Silence is strict: an unknown tool is irreversible, and no promise is assumed.
2. A contract that contradicts itself is refused when it is declared, not when a run depends on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import StrEnum

from holdfast.core.canonical import JSON, canonical
from holdfast.core.effect import Kind

POLICIES = 16  # of which the contracts that they make are remembered


class Repeat(StrEnum):
    """What a further call of the same identity means on one line of history."""

    ONCE = "once"
    ASK = "ask"
    EACH = "each"


class Drift(StrEnum):
    """What to do with the same identity and other remaining arguments."""

    ADOPT = "adopt"
    ASK = "ask"
    REFUSE = "refuse"


class Level(StrEnum):
    """How many people must agree before a call is carried out: none, none but they are told, one, or two different
    ones."""

    NONE = "none"
    NOTIFY = "notify"
    ONE = "one"
    TWO = "two"

    @property
    def people(self) -> int:
        """How many different people must agree."""
        return 2 if self is Level.TWO else 1 if self is Level.ONE else 0


_STRICTNESS = {level: place for place, level in enumerate(Level)}


def strictest(*levels: Level) -> Level:
    """The level that all of these are content with."""
    return max(levels, key=_STRICTNESS.__getitem__, default=Level.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What the tool `name` promises. Times in milliseconds; None: no bound is promised. `policy`: the digest of the
    rules by which `approval` was chosen, where there are any."""

    name: str
    kind: Kind = Kind.IRREVERSIBLE
    identity: tuple[str, ...] | None = None
    resource: tuple[str, ...] | None = None
    repeat: Repeat = Repeat.ASK
    drift: Drift = Drift.ASK
    key_ttl_ms: int | None = None
    late_ms: int | None = None
    timeout_ms: int | None = None
    probe: bool = False
    undo: bool = False
    approval: Level = Level.NONE
    secret: tuple[str, ...] = ()
    policy: str = ""

    _digest: list[str] = field(default_factory=list[str], init=False, repr=False, compare=False)
    _under: dict[tuple[Level, str], Contract] = field(
        default_factory=dict[tuple[Level, str], "Contract"], init=False, repr=False, compare=False
    )

    def under(self, approval: Level, policy: str) -> Contract:
        """The same promises, with the level that the rules of a policy ask for. Made once for each."""
        found = self._under.get((approval, policy))
        if found is None:
            if len(self._under) >= POLICIES:
                self._under.clear()
            found = self._under[approval, policy] = replace(self, approval=approval, policy=policy)
        return found

    def digest(self) -> str:
        """The name (32 hex digits) of these exact promises, as it stands in an intent. Reckoned once."""
        if not self._digest:
            self._digest.append(self._reckon())
        return self._digest[0]

    def _reckon(self) -> str:
        fields: list[JSON] = [
            self.name,
            self.kind.value,
            None if self.identity is None else [*self.identity],
            None if self.resource is None else [*self.resource],
            self.repeat.value,
            self.drift.value,
            self.key_ttl_ms,
            self.late_ms,
            self.timeout_ms,
            self.probe,
            self.undo,
            self.approval.value,
            [*self.secret],
            *([self.policy] if self.policy else ()),
        ]
        return hashlib.sha256(b"holdfast/contract/1\0" + canonical(fields)).hexdigest()[:32]


def default_repeat(kind: Kind, identity: Collection[str] | None) -> Repeat:
    """`once` where an identity is declared, `ask` for irreversible tools, else a further call is a further effect."""
    if kind is Kind.READ:
        return Repeat.EACH
    if identity is not None:
        return Repeat.ONCE
    return Repeat.ASK if kind is Kind.IRREVERSIBLE else Repeat.EACH


def default_drift(kind: Kind) -> Drift:
    """Writes ask; a read takes what is recorded."""
    return Drift.ADOPT if kind is Kind.READ else Drift.ASK


def breach(contract: Contract, parameters: Collection[str]) -> str | None:
    """Why this contract cannot hold for a function with these parameters, or None."""
    for which, names in (
        ("identity", contract.identity),
        ("resource", contract.resource),
        ("secret", contract.secret),
    ):
        for name in names or ():
            if name not in parameters:
                return f"{which} names `{name}`, which is no parameter of `{contract.name}`"
    for name in contract.secret:
        if name in (contract.identity or ()) or name in (contract.resource or ()):
            return f"`{name}` is secret and cannot be part of the identity or resource of `{contract.name}`"
    if contract.secret and contract.identity is None:
        return f"`{contract.name}` has secret arguments, so its identity must be named"
    if contract.kind is Kind.READ and (contract.undo or contract.probe):
        return f"`{contract.name}` is a read: it needs neither probe nor undo"
    if contract.kind is Kind.REVERSIBLE and not contract.undo:
        return f"`{contract.name}` is reversible but has no undo"
    if contract.kind is not Kind.IDEMPOTENT and contract.key_ttl_ms is not None:
        return f"`{contract.name}` has a key lifetime but is not idempotent"
    return None
