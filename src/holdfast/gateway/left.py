"""What a run has done in the world, and its program has not asked for: as it is told to an agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, Happened
from holdfast.core.log import Log
from holdfast.core.slot import Slot
from holdfast.gateway.line import Line, node_of
from holdfast.shape import Shape

_ANY = Shape(object)


@dataclass(frozen=True, slots=True)
class Left:
    """An effect that was left behind. `node` is where it stands; `happened` is False while nobody knows, and `answer`
    None then; `undone`: it was taken back since."""

    node: str
    tool: str
    arguments: JSON
    happened: bool
    answer: Any
    undone: bool


async def left_behind(line: Line, *, undone: bool) -> list[Left]:
    """What the log of a line, and those of its kin, hold that its program has not asked for; with `undone`, also what
    was taken back and not asked for again."""
    kin = line.family.kin
    found = [(line.branch, slot, False) for slot in line.log.unclaimed()]
    found += [(each.branch, each.slot, False) for each in (kin.stranded(line.log) if kin else ())]
    if undone:
        gone = [slot for slot in line.log.effects if slot.undone and not _redone(line.log, slot)]
        found += [(line.branch, slot, True) for slot in gone]
        found += [(each.branch, each.slot, True) for each in (kin.undone() if kin else ())]
    return [await _told(line, *each) for each in found]


async def _told(line: Line, branch: str, slot: Slot, undone: bool) -> Left:
    assert slot.asked is not None, "an effect was asked for with arguments"
    arguments = _ANY.read(await line.payload(slot.asked), Encoding.JSON).woven
    answer: Any = None
    if isinstance(slot.outcome, Happened):
        payload = slot.outcome.answer
        answer = _ANY.read(await line.payload(payload), payload.encoding).value
    node = node_of(branch, slot.intent_seq or slot.first_seq)
    return Left(node, slot.tool, arguments, slot.outcome is not None, answer, undone)


def _redone(log: Log, slot: Slot) -> bool:
    """Whether an effect that was taken back was asked for again since."""
    return log.slots.get(log.newest_of(slot.identity, slot.n)) is not None
