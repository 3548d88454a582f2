"""What is judged about a call, and what may come of it.

Rules
1. Silence denies: who judges answers `Allowed` only where a rule says so, and no rule failed.
2. A verdict names its rule and its reason: they go into the log.
3. A level can only be made stricter: by the contract, by a capability, by a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from holdfast.core.canonical import JSON
from holdfast.core.contract import Level
from holdfast.core.effect import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a policy may speak of. `agent` is the name under which the run was started, `capability` its right's id.
    `system` is the declared upstream, `tool` the full name (`SYSTEM.OPERATION`). `args`: the arguments by name.
    `blast`: how much it touches, if that is known. `labels`: marks on what the agent has read. `spent_*`: what the run
    has used up under this capability before this call (calls; millionths of a US dollar; units of blast radius).
    `unvouched` tells, when it is asked, which arguments hold what nobody trusted has said first (see `Heard`)."""

    agent: str
    run: str
    capability: str
    system: str
    tool: str
    kind: Kind
    args: Mapping[str, JSON]
    blast: int | None = None
    labels: frozenset[str] = field(default_factory=frozenset[str])
    now_ms: int = 0
    spent_calls: int = 0
    spent_money: int = 0
    spent_blast: int = 0
    unvouched: Callable[[], frozenset[str]] = frozenset[str]


@dataclass(frozen=True, slots=True)
class Allowed:
    """It may be carried out, by the rule of this name. `level`: `none`, or `notify` if people are to be told."""

    rule: str
    reason: str = ""
    level: Level = Level.NONE


@dataclass(frozen=True, slots=True)
class Held:
    """It may be carried out once so many people have agreed (`level`: `one` or `two`)."""

    rule: str
    reason: str
    level: Level = Level.ONE


@dataclass(frozen=True, slots=True)
class Denied:
    """It is not carried out."""

    rule: str
    reason: str


Verdict: TypeAlias = Allowed | Held | Denied


class Policy(Protocol):
    """Rules that turn the facts of a call into a verdict."""

    @property
    def digest(self) -> str:
        """The name (32 hex digits) of these exact rules."""
        ...

    def judge(self, facts: Facts) -> Verdict:
        """The verdict on a call. Total: whatever goes wrong is a `Denied`."""
        ...
