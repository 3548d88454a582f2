"""The crash-recovery table: how an effect that may have happened is settled.

| open intent of kind | the tool can be asked (probe) | it cannot |
|---|---|---|
| read | redo | redo |
| idempotent | redo with the same key | redo with the same key |
| idempotent, key expired | probe | ask a person |
| reversible | probe | undo, then redo |
| irreversible | probe | ask a person |

A probe is believed only after the tool's late-execution bound: before it, "not found" proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from holdfast.core.contract import Contract
from holdfast.core.effect import Kind


@dataclass(frozen=True, slots=True)
class Redo:
    """Send it again: same key, same bytes. `not_before_ms` (wall clock) where a refusal named a time; `refused`: the
    last sending certainly did not happen."""

    not_before_ms: int = 0
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the world, not before `not_before_ms` (wall clock)."""

    not_before_ms: int


@dataclass(frozen=True, slots=True)
class UndoThenRedo:
    """Take back whatever may be there, not before `not_before_ms` (wall clock), then send it again."""

    not_before_ms: int


@dataclass(frozen=True, slots=True)
class AskPerson:
    """Nobody but a person can tell; `why` says what is missing."""

    why: str


Remedy: TypeAlias = Redo | Probe | UndoThenRedo | AskPerson


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often an effect was sent, and when (wall clock, ms) for the first and for the last time."""

    count: int
    first_ms: int
    last_ms: int


_RUNNING = "the worker that sent it may still be running, and the contract names no `late_s`"


def remedy(contract: Contract, attempts: Attempts, now_ms: int, *, owner_stopped: bool = True) -> Remedy:
    """How an open intent is settled. `owner_stopped`: its dispatcher is proven to have stopped (G6)."""
    if contract.kind is Kind.READ:
        return Redo()
    if contract.kind is Kind.IDEMPOTENT and not _key_expired(contract, attempts, now_ms):
        return Redo()
    if not owner_stopped and contract.late_ms is None:
        return AskPerson(_RUNNING)
    settled_ms = attempts.last_ms + (contract.late_ms or 0)
    if contract.probe:
        return Probe(settled_ms)
    if contract.kind is Kind.REVERSIBLE:
        return UndoThenRedo(settled_ms)
    if contract.kind is Kind.IDEMPOTENT:
        return AskPerson("its idempotency key has outlived `key_ttl_s`, and it has no probe")
    return AskPerson("it is irreversible and has no probe")


def undo_remedy(contract: Contract, sent_ms: int, *, owner_stopped: bool) -> Redo | AskPerson:
    """How an undo that was sent at `sent_ms` and not sealed goes on. One that may still arrive is waited for: it would
    take back what is done anew after it."""
    if owner_stopped:
        return Redo()
    return AskPerson(_RUNNING) if contract.late_ms is None else Redo(sent_ms + contract.late_ms)


def _key_expired(contract: Contract, attempts: Attempts, now_ms: int) -> bool:
    """INVARIANT: a clock set back never makes a key young again before its first sending."""
    return contract.key_ttl_ms is not None and not 0 <= now_ms - attempts.first_ms < contract.key_ttl_ms
