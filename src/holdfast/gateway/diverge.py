"""A resumed program that asks for something new while the log holds effects that it has not asked for.

Rules
1. It never silently redoes, and never dies of it: it is recorded, and the run follows its setting.
2. Programs that call in parallel are given the chance to ask for everything before that is concluded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from holdfast.core.effect import legible
from holdfast.core.record import Divergence
from holdfast.errors import Cancelled, Held, HoldfastError, Waiting
from holdfast.gateway.line import Line

TURNS = 6  # of the event loop: enough for everything that was started together to have asked


class OnDivergence(StrEnum):
    """What a run does about it: tell the agent and go on, wait for a person, or end."""

    BRIEF = "brief"
    ASK = "ask"
    STOP = "stop"


class Divergences:
    """Watches one life of a run. It is asked before anything that the log does not know is begun."""

    def __init__(
        self,
        line: Line,
        setting: OnDivergence,
        park: Callable[[Waiting], Waiting],
        close: Callable[[HoldfastError], HoldfastError],
    ) -> None:
        self._line = line
        self._setting = setting
        self._park = park
        self._close = close
        self._told = False

    async def before(self, asked: str) -> None:
        """Called with what the program asks for. Records the divergence, once a life."""
        if not self._line.log.unclaimed():
            return
        for _ in range(TURNS):
            await asyncio.sleep(0)
        unclaimed = self._line.log.unclaimed()
        if not unclaimed:
            return
        if self._told:
            self._follow(asked, self._line.branch)
            return
        self._told = self._line.log.diverged = True
        await self.record(
            asked,
            "the program asks for something new before it has asked for these",
            [slot.first_seq for slot in unclaimed],
        )

    async def drifted(self, asked: str, seq: int) -> None:
        """A binding decision was returned although the text of its request has changed: worth a note, nothing else."""
        await self._line.write(
            Divergence(asked=legible(asked, 300), why=f"answered by the decision at {seq}, which binds", unclaimed=())
        )

    async def record(self, asked: str, why: str, unclaimed: list[int]) -> None:
        """Write it down and follow the setting."""
        (entry,) = await self._line.write(Divergence(asked=legible(asked, 300), why=why, unclaimed=tuple(unclaimed)))
        self._follow(asked, self._line.node(entry.seq))

    def _follow(self, asked: str, node: str) -> None:
        run = self._line.branch.partition("@")[0]
        match self._setting:
            case OnDivergence.BRIEF:
                return
            case OnDivergence.ASK:
                raise self._park(
                    Held(
                        f"the program took another way than its log: it asks for {asked}",
                        where=node,
                        fix=f"holdfast resume {run} --on-divergence brief | holdfast cancel {run}",
                    )
                )
            case OnDivergence.STOP:
                raise self._close(
                    Cancelled(
                        f"the program took another way than its log: it asks for {asked}",
                        where=node,
                        fix=f"mend the program, then holdfast resume {run}",
                    )
                )
