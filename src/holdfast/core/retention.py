"""What a log still needs of its payloads, once some of it was pruned.

Rules
1. What was pruned is said by place, never by digest: an entry that was not pruned keeps all that it names, whoever else
   named it before.
2. A payload is found wherever it stands in a record, so that a new record cannot hide one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import cast

from holdfast.core.effect import Payload
from holdfast.core.record import Adopted, Checkpoint, Decision, Record, Seal


class Extent(StrEnum):
    """How much of the entries up to a mark was pruned."""

    ALL = "all"  # every payload: the run has ended
    BEHIND = "behind"  # decisions, reads and states: the run goes on from a checkpoint, and remembers its effects


@dataclass(frozen=True, slots=True)
class Mark:
    """The entries of `branch` up to `upto` were pruned."""

    branch: str
    upto: int
    extent: Extent


class Marks:
    """What was pruned of a store."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._upto: dict[tuple[str, Extent], int] = {}
        for mark in marks:
            place = (mark.branch, mark.extent)
            self._upto[place] = max(mark.upto, self._upto.get(place, 0))

    def covers(self, branch: str, seq: int, extent: Extent = Extent.ALL) -> bool:
        """Whether the entry at a place was pruned to this extent."""
        return seq <= self._upto.get((branch, extent), 0)

    def needed(self, branch: str, seq: int, record: Record) -> Iterator[Payload]:
        """The payloads that the entry at a place must still have."""
        if self.covers(branch, seq) or (self.covers(branch, seq, Extent.BEHIND) and _is_behind(record)):
            return iter(())
        if isinstance(record, Adopted) and self._covers_node(branch, record.node):
            return iter(())  # it names what another branch had, which was pruned before
        return payloads_of(record)

    def _covers_node(self, branch: str, node: str) -> bool:
        name, _, seq = node.partition(":")
        return seq.isdecimal() and self.covers(f"{branch.partition('@')[0]}@{name}", int(seq))


def _is_behind(record: Record) -> bool:
    """Whether a run that goes on from a later checkpoint can do without what this record names. It cannot do without
    its input, what signals brought, and what effects asked and answered: these may be asked for again."""
    return isinstance(record, Decision | Checkpoint) or (isinstance(record, Seal) and record.intent is None)


def payloads_of(value: object) -> Iterator[Payload]:
    """The payloads that a record names."""
    if isinstance(value, Payload):
        yield value
    elif isinstance(value, tuple | list):
        for item in cast("Sequence[object]", value):
            yield from payloads_of(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from payloads_of(getattr(value, field.name))
