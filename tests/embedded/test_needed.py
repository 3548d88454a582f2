"""What a branch that goes on believes in is taken back by nobody, however it came to believe in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from holdfast import Held, Run, agent, open_store, tool
from holdfast.embedded import House

world: list[tuple[object, ...]] = []


def switch_off(name: str, size: int) -> None:
    world.append(("off", name, size))


@tool(kind="reversible", name="needed.on", undo=switch_off, resource=["name"])
def switch_on(name: str, size: int) -> str:
    world.append(("on", name, size))
    return name


@tool(kind="read", name="needed.look")
def look(at: str) -> str:
    return at


@agent
def operate(run: Run, task: object) -> str:
    look("before")
    size = run.setting("size", 1)
    if size:
        switch_on("lamp", size)
    look("after")
    return "done"


@pytest.fixture
def house() -> Iterator[House]:
    world.clear()
    with open_store("memory://") as opened:
        yield opened


def test_an_adoption_that_was_inherited_keeps_what_it_adopted(house: House) -> None:
    house.run(operate, id="r")
    house.fork("r@3", by="op")
    house.run(operate, id="r")  # b2 adopts the lamp of main
    assert house.fork("r@b2:6", kind="what-if", by="op") == "b3"  # which inherits the adoption, and goes on
    house.fork("r@3", settings={"size": 0}, by="op")
    assert house.run(operate, id="r") == "done"  # b4 wants no lamp: its end takes back what nobody needs
    assert world == [("on", "lamp", 1)]


def test_what_an_open_branch_has_inherited_is_not_undone_for_another_call_on_its_resource(house: House) -> None:
    house.run(operate, id="r")
    house.fork("r@6", kind="what-if", by="op")  # it stands on main, with the lamp
    house.fork("r@3", settings={"size": 2}, by="op")
    with pytest.raises(Held, match="the same resource was changed at 4, on the branch r@main"):
        house.run(operate, id="r", wait=False)
    assert world == [("on", "lamp", 1)]
