"""The schedules of the model, on the real engine: at the end of each play its logs and its world are held against the
invariants."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from holdfast.store import Store
from holdfast.store.memory import MemoryStore
from holdfast.store.url import open_url
from tests.model.agreement import Pair
from tests.model.census import census
from tests.model.play import Play
from tests.model.troupe import HastyLoop

HAPPENS = (
    "abandon",
    "approvals",
    "crashes",
    "fork recovery",
    "fork speculative",
    "fork what-if",
    "promote",
    "verdicts",
)


def judge(seed: int, store: Store) -> Counter[str]:
    """One play, to its end."""
    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        play = Play(seed, store)
        try:
            runner.run(play.play())
            found = runner.run(census(play))
        finally:
            runner.run(store.close())
    assert not found, f"play {seed}: {found}"
    return play.tally


def on_disk(folder: Path, seed: int) -> Store:
    return open_url(f"sqlite:///{folder}/{seed}.db?anchor={folder}/{seed}.anchor").store


def test_no_play_does_anything_twice_or_leaves_anything_behind() -> None:
    happened = sum((judge(seed, MemoryStore()) for seed in range(60)), Counter[str]())
    assert not [what for what in HAPPENS if not happened[what]], "the plays do not come to everything"


def test_no_play_on_disk_does_anything_twice_or_leaves_anything_behind(tmp_path: Path) -> None:
    for seed in range(8):
        judge(seed, on_disk(tmp_path, seed))


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(40))
def test_no_play_does_anything_twice_or_leaves_anything_behind_for_long(batch: int, tmp_path: Path) -> None:
    for seed in range(batch * 100, batch * 100 + 95):
        judge(seed, MemoryStore())
    for seed in range(batch * 100 + 95, batch * 100 + 100):
        judge(seed, on_disk(tmp_path, seed))


def agree(seed: int) -> None:
    """One schedule on the model and on the engine."""
    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        pair = Pair(seed, MemoryStore())
        try:
            runner.run(pair.go())
        except AssertionError as disagreement:
            raise AssertionError(f"schedule {seed}: {disagreement}\n" + "\n".join(pair.story)) from disagreement


def test_the_model_and_the_engine_leave_the_same_world() -> None:
    for seed in range(40):
        agree(seed)


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(1, 31))
def test_the_model_and_the_engine_leave_the_same_world_for_long(batch: int) -> None:
    for seed in range(batch * 100, batch * 100 + 100):
        agree(seed)
