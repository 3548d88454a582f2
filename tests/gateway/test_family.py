"""A branch and its kin: each entry of another branch is taken up once, whoever asks for it and when."""

import asyncio

import pytest

from holdfast import House, Run, agent, open_store, tool
from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.gateway.family import Family
from holdfast.store import Branch, Readable


@tool(kind="irreversible", name="put", identity=["name"])
async def put(name: str) -> str:
    return name


@agent
async def wander(run: Run, task: object) -> None:
    place = await run.decide(lambda: "a")
    await put(place)
    if place == "a":
        raise RuntimeError("a dead end")


class Slow:
    """A store in which everybody who reads lets the others have a turn before and after."""

    def __init__(self, store: Readable) -> None:
        self._store = store

    async def read(
        self,
        branch: str,
        *,
        after: int = 0,
        key: bytes | None = None,
        unclaimed: bool = False,
        newest: int | None = None,
        upto: int | None = None,
    ) -> list[Entry]:
        await asyncio.sleep(0)
        found = await self._store.read(branch, after=after, upto=upto, key=key, newest=newest, unclaimed=unclaimed)
        await asyncio.sleep(0)
        return found

    async def blob(self, digest: bytes) -> Blob:
        return await self._store.blob(digest)

    async def branches(self, prefix: str = "") -> list[Branch]:
        return await self._store.branches(prefix)


def grown(house: House) -> None:
    with pytest.raises(RuntimeError):
        house.run(wander, id="r")
    for answer in ("b", "c"):
        house.fork("r@3", answers={3: answer}, by="op", kind="what-if")
    for branch in ("b2", "b3"):
        house.run(wander, id="r", branch=branch)


def test_many_who_look_at_once_take_up_each_entry_once() -> None:
    with open_store("memory://") as house:
        grown(house)

        async def look() -> Family:
            family = Family(Slow(house.store), "r@main")
            await asyncio.gather(*(family.refresh() for _ in range(5)))
            return family

        family = asyncio.run(look())
        assert list(family.tree.limbs) == ["main", "b2", "b3"]
        assert family.kin is not None
        assert sorted((each.branch, each.slot.tool) for each in family.kin) == [("r@b2", "put"), ("r@b3", "put")]
