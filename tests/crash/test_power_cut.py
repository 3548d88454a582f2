"""The power fails at each write and each flush that SQLite asks for: what was promised as durable is there, no sealed
effect happens again, and no irreversible one is repeated blindly.

SIGKILL alone cannot see a missing flush: the last tests here prove that these can.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.power import PLANTS, FileSystem, PowerNursery, PowerTrial, cannot_mount

pytestmark = pytest.mark.root

KINDS = ["ext4", "xfs"]
SHARE = 15  # so many boundaries of a life are met by default; all of them in the soak
# Where a life begins: with no store at all, or with one that an earlier power cut has left, with an effect in doubt.
BEGINNINGS = {"afresh": None, "in a recovery": "in acted 4"}


@pytest.fixture(scope="module")
def power() -> Iterator[PowerNursery]:
    if why_not := cannot_mount():
        pytest.skip(why_not)
    bearing = PowerNursery()
    yield bearing
    bearing.close()


@pytest.fixture
def disk(request: pytest.FixtureRequest, ground: Path, power: PowerNursery) -> Iterator[FileSystem]:
    made = FileSystem(ground, power, request.param)
    why_not = made.make()
    if why_not:
        pytest.skip(f"no {made.kind} can be mounted here: {why_not}")
    yield made
    made.unmount()


def begun(name: str, ground: Path, disk: FileSystem, beginning: str, options: str) -> PowerTrial:
    trial = PowerTrial(ground / name, disk, options)
    first = BEGINNINGS[beginning]
    assert first is None or trial.cut(first), f"the run never came to {first}"
    return trial


def violations(
    ground: Path, disk: FileSystem, share: int, beginning: str = "afresh", options: str = "", **more: str
) -> tuple[int, list[str]]:
    """The number of power cuts, and what was wrong after them."""
    sound = begun("sound", ground, disk, beginning, options)
    boundaries = sound.boundaries()
    stride = max(1, boundaries // share)
    cuts, found = 0, []
    for number, nth in enumerate(range(1, boundaries + 1, stride)):
        for side in ("before", "after") if stride == 1 else ("before", "after")[number % 2 :][:1]:
            boundary = f"{side} write {nth}"
            trial = begun(boundary.replace(" ", "-"), ground, disk, beginning, options)
            cuts += trial.cut(boundary, **more)
            found += [f"{boundary}: {wrong}" for wrong in trial.wrong()]
    return cuts, found


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("disk", KINDS, indirect=True)
def test_a_power_cut_takes_nothing_that_was_promised(ground: Path, disk: FileSystem, beginning: str) -> None:
    cuts, found = violations(ground, disk, SHARE, beginning)
    assert cuts >= SHARE * 2 // 3, "hardly any boundary was reached"
    assert not found, "\n".join(found)


@pytest.mark.soak
@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("disk", KINDS, indirect=True)
def test_a_power_cut_at_any_boundary_takes_nothing_that_was_promised(
    ground: Path, disk: FileSystem, beginning: str
) -> None:
    cuts, found = violations(ground, disk, 1 << 30, beginning)
    assert cuts >= 100, "hardly any boundary was reached"
    assert not found, "\n".join(found)


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("disk", KINDS, indirect=True)
def test_a_missing_flush_is_found(ground: Path, disk: FileSystem, plant: str) -> None:
    """The proof of the tests above: they would see it, in the log and in the world. Without an anchor, which would stop
    such a store before it does harm."""
    cuts, found = violations(ground, disk, 9, options="anchor=none", planted=plant)
    for wrong in ("acknowledged as durable, and lost", "not once in the world"):
        assert any(wrong in told for told in found), f"{cuts} power cuts, and nobody saw `{wrong}`"
