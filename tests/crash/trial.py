"""A trial: one run, one store and one world, through as many lives and deaths as it takes.

Rules
1. The census at the end is always the same: every effect that was asked for is in the world, none of them twice, and
   whatever an agent was told in one life it was told in all of them.
2. A doubt is ended here as a person would: by looking at the world, and only after the doubt has named its tool, its
   node and the way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast import open_store
from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.record import Intent, Record
from holdfast.store import Store
from tests.crash.nursery import Nursery
from tests.crash.world import World

KILLED = "killed by 9"
MOST_LIVES = 40


class Trial:
    """One run of `agent` on `task`, in `folder`."""

    def __init__(self, folder: Path, nursery: Nursery, agent: str, task: Any, options: str = "flush_s=0.2") -> None:
        folder.mkdir()
        self.nursery = nursery
        self.url = f"sqlite:///{folder}/runs.db?anchor={folder}/anchor&{options}"
        self.world = World(folder / "world")
        self.doubts: list[str] = []
        self.deaths = 0
        self.told: Any = None  # by the last deed
        self.life = {"url": self.url, "world": str(self.world.path), "agent": agent, "task": task, "id": "trial"}

    # --- lives ---

    def bear(self, **more: Any) -> int:
        """A child that advances the run; `more` as in life.py."""
        return self.nursery.bear(**self.life, **more)

    def live(self, *, seconds: float = 60.0, **more: Any) -> tuple[str | None, Any]:
        """One life to its end: how it ended, and its result."""
        ended, result = self.nursery.wait(self.bear(**more), seconds)
        self.deaths += ended == KILLED
        return ended, result

    def die(self, *boundaries: str, **more: Any) -> None:
        """One life that ends at a boundary; where people are needed first, they come."""
        for _ in range(MOST_LIVES):
            ended, result = self.live(deaths=boundaries, **more)
            if ended == KILLED:
                return
            assert "answer" not in result, f"the run ended and never came to {boundaries}"
            self.attend(result)
        raise AssertionError(f"the run never came to {boundaries}")

    def finish(self) -> Any:
        """As many lives as it takes, none of them killed; the answer of the run."""
        for _ in range(MOST_LIVES):
            ended, result = self.live()
            assert ended == "left", f"a life ended on its own: {ended}"
            if "answer" in result:
                return result["answer"]
            self.attend(result)
        raise AssertionError(f"the run does not come to an end: {result}")

    # --- people ---

    def attend(self, result: dict[str, Any]) -> None:
        """Do what the run waits for."""
        match result.get("waits"):
            case "InDoubt":
                self.deed("settle", **self.verdict(result))
            case "Held":
                assert f"holdfast approve {result['where']}" in result["fix"]
                self.deed("approve", node=result["where"])
            case _:
                raise AssertionError(f"a life ended with {result}")

    def verdict(self, result: dict[str, Any]) -> dict[str, Any]:
        """What is true about a doubt, which must name its tool, its node and the way out."""
        node = result["where"]
        branch, _, seq = node.removeprefix("trial@").rpartition(":")
        intent = next(
            record
            for place, record in self.records(Intent, branch=branch or "main")
            if isinstance(record, Intent) and place == int(seq)
        )
        assert f"`{intent.tool}` may have happened" in result["text"]
        assert f"holdfast settle {node}" in result["fix"]
        self.doubts.append(intent.tool)
        there = self.world.there(intent.tool, intent.key)
        assert len(there) <= 1, f"{intent.tool} happened {len(there)} times under one key"
        return {"node": node, "happened": there[0]} if there else {"node": node, "did_not_happen": "it is not there"}

    def deed(self, verdict: str, deaths: Sequence[str] = (), **more: Any) -> str | None:
        """A person's deed, in a process of its own: how that ended."""
        said = more if verdict == "clear" else {"by": "ann", **more}
        life = {"url": self.url, "world": str(self.world.path), "verdict": verdict, "with": said}
        ended, result = self.nursery.wait(self.nursery.bear(**life, deaths=list(deaths)))
        assert ended == KILLED or (result and "answer" in result), result
        self.told = result["answer"] if result else None
        return ended

    # --- the census ---

    def entries(self, branch: str = "main") -> list[Entry]:
        """The log of a branch of the run, read without a claim."""

        async def read(store: Store) -> list[Entry]:
            return await store.read(f"trial@{branch}")

        with open_store(self.url) as house:
            return asyncio.run(read(house.store))

    def records(self, *kinds: type[Record], branch: str = "main") -> list[tuple[int, Record]]:
        """The records of these kinds, by seq."""
        decoded = [(entry.seq, decode(entry.body)) for entry in self.entries(branch)]
        return [(seq, record) for seq, record in decoded if isinstance(record, kinds)]

    def census(self, tools: Sequence[str], names: Sequence[str]) -> None:
        """Every tool on every name: in the world once, whatever happened on the way."""
        counted = {(tool, name): len(self.world.living(tool, name)) for tool in tools for name in names}
        assert set(counted.values()) <= {1}, f"not once: { {each: n for each, n in counted.items() if n != 1} }"
        self.consistent()

    def consistent(self) -> None:
        """No agent was told two things about one, and no effect was carried out twice under one key at one time."""
        assert not self.world.changed_minds()
        twice = [done for done in self.world.done_twice() if done[0] not in {"make", "build"}]
        assert not twice, f"carried out again: {twice}"
        assert not self.world.beside_itself(), "an effect was carried out while it was there already"
