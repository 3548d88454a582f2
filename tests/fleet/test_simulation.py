"""Thousands of fates of a run that workers take over from one another; and what is found when a rule is left out."""

from __future__ import annotations

import pytest

from tests.fleet.simulation import EFFECTS, Bugs, Simulation

SEEDS = 200


def fate(seed: int, bugs: Bugs) -> Simulation:
    played = Simulation(seed, bugs)
    played.run()
    return played


def harmed(played: Simulation) -> bool:
    """Whether something has happened twice."""
    return any(times > 1 for times in played.world.values())


def check(seeds: range) -> None:
    for seed in seeds:
        played = fate(seed, Bugs())
        assert not harmed(played), f"seed {seed}: {played.world}"
        assert played.database.finished, f"seed {seed}: it never came to its end"
        assert sorted(played.world) == list(range(EFFECTS)), f"seed {seed}: sealed, and never done"


def test_no_fate_does_anything_twice_and_each_comes_to_its_end() -> None:
    check(range(SEEDS))


def test_fates_are_taken_over_in_every_way() -> None:
    ways = [way for seed in range(50) for way in fate(seed, Bugs()).database.previous.values()]
    assert {"released", "dead", "unproven"} <= set(ways)


@pytest.mark.parametrize("bugs", [Bugs(no_fence=True), Bugs(log_only_fence=True), Bugs(no_drain=True)], ids=str)
def test_a_rule_that_is_left_out_is_missed(bugs: Bugs) -> None:
    assert any(harmed(fate(seed, bugs)) for seed in range(10 * SEEDS))


@pytest.mark.soak
def test_no_fate_of_a_hundred_thousand_does_anything_twice() -> None:
    check(range(100_000))
