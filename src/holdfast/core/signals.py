"""The signals of one name: which came, and which were taken."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.record import Draw, Signal
from holdfast.core.slot import place_in
from holdfast.errors import Corrupt


def sort_signals(entries: Iterable[Entry]) -> tuple[dict[int, Signal], set[int]]:
    """The signals among the entries of one signal's name, by seq, and the seqs of those that were taken."""
    signals: dict[int, Signal] = {}
    taken: set[int] = set()
    for entry in entries:
        match decode(entry.body):
            case Signal() as signal:
                signals[entry.seq] = signal
            case Draw(value=value):
                taken.add(place_in(value))
            case _:
                raise Corrupt("a signal was expected", where=f"{entry.branch}:{entry.seq}")
    return signals, taken
