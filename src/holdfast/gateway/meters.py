"""What a gateway has done and has before it, in numbers.

Rules
1. A number that can be read off the runs is not kept beside them. Only what has gone by is counted.
2. No label has a value that an agent could choose.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from holdfast.errors import HoldfastError, InDoubt, NotHappened, Refused, Waiting
from holdfast.gateway.health import Metric, number, queued
from holdfast.store import Store

OUTCOMES = ("answered", "declined", "refused", "waiting", "failed", "left")


class Tally:
    """How calls and decisions at the doors were answered, since this process began."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, what: str, task: asyncio.Task[Any]) -> None:
        """Count what came of one. Whoever asked may be gone: then nobody else would look at what it raised."""
        self._counts[what, outcome_of(task)] += 1

    def metric(self, what: str, help: str) -> Metric:
        """The counts of one sort, by outcome."""
        values = {(("outcome", outcome),): float(self._counts[what, outcome]) for outcome in OUTCOMES}
        return Metric(f"holdfast_{what}s_total", help, "counter", values)


def outcome_of(task: asyncio.Task[Any]) -> str:
    """In one of the words of OUTCOMES."""
    if task.cancelled():
        return "left"
    match task.exception():
        case None:
            return "answered"
        case Refused():
            return "refused"
        case NotHappened():
            return "declined"
        case Waiting():
            return "waiting"
        case HoldfastError():
            return "failed"
        case _:
            return "failed"


class Run(Protocol):
    """A run that was taken up: what it waits for, if it does."""

    @property
    def waits_for(self) -> Waiting | None:
        """None while it goes on."""
        ...


def metrics(runs: Iterable[Run], tally: Tally, store: Store) -> list[Metric]:
    """All numbers of a gateway."""
    waiting = [run.waits_for for run in runs]
    doubts = sum(isinstance(each, InDoubt) for each in waiting)
    others = sum(each is not None for each in waiting) - doubts
    return [
        number("holdfast_runs", "Runs that are taken up.", "gauge", len(waiting)),
        number("holdfast_runs_in_doubt", "Of them those that wait for a verdict on an effect.", "gauge", doubts),
        number("holdfast_runs_waiting", "Of them those that wait for people, a word or a time.", "gauge", others),
        queued(store),
        tally.metric("call", "Calls that came to a door, by how they were answered."),
        tally.metric("decision", "Decisions that came to a door, by how they were answered."),
    ]
