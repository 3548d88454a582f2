"""Forks, searches, promotions and what is taken back, killed at each boundary: nothing twice, nothing lost.

The child kills itself with SIGKILL exactly at the boundary; then others go on, as in test_kill_matrix.py.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.record import Adopted, Forked, Intent, Promoted, Started
from tests.crash.nursery import Nursery
from tests.crash.test_kill_matrix import doubtful
from tests.crash.trial import KILLED, Trial

NAMES = ["a", "b"]
OTHER = ["c", "b"]  # the way of the fork: something else, then what the old way did too


def journey(ground: Path, nursery: Nursery, tool: str) -> Trial:
    return Trial(ground / "trial", nursery, "wayfarer", {"tool": tool, "names": NAMES})


def start(trial: Trial) -> str:
    return f"trial@{trial.records(Started)[0][0]}"


def fork(
    trial: Trial, tool: str, names: list[str], deaths: tuple[str, ...] = (), node: str | None = None
) -> str | None:
    """A person's fork, after which the run goes another way."""
    trial.life["task"] = None
    settings = {"input": {"tool": tool, "names": names}}
    return trial.deed("fork", deaths=deaths, node=node or start(trial), settings=settings)


def notices(trial: Trial) -> list[str]:
    return [record.branch for _, record in trial.records(Forked) if isinstance(record, Forked)]


# --- a fork ---


@pytest.mark.parametrize("boundary", ["before Forked 1", "after Forked 1", "before Forked 2", "after Forked 2"])
@pytest.mark.parametrize("tool", ["mail", "make"])
def test_a_fork_is_there_or_it_is_not(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    trial = journey(ground, nursery, tool)
    first = trial.finish()
    assert fork(trial, tool, OTHER, (boundary,)) == KILLED
    assert len(notices(trial)) == (boundary == "after Forked 2")
    if not notices(trial):
        assert trial.finish() == first, "a branch of which nobody was told is none"
        fork(trial, tool, OTHER)
    answers = trial.finish()
    assert answers[1] == first[1], "what the old way did is not done again"
    trial.consistent()
    trial.census([tool], ["b", "c"])
    assert len(trial.world.living(tool, "a")) == (0 if tool == "make" else 1)
    assert trial.doubts == []


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_fork_survives_a_death_at_any_write(nursery: Nursery, ground: Path, side: str) -> None:
    """At every write and flush that SQLite asks of the system: the store opens, the tree is whole, the run goes on."""
    trial = journey(ground, nursery, "mail")
    answers = trial.finish()
    trial.life["task"] = None
    number, ended = 0, KILLED
    while ended == KILLED:
        number += 1
        assert number < 200, "it never comes to its end"
        told = len(notices(trial))
        ended = trial.deed("fork", deaths=[f"{side} write {number}"], node=start(trial))
        assert len(notices(trial)) - told in ((0, 1) if ended == KILLED else (1,))
        assert trial.finish() == answers
    assert number > 3
    trial.census(["mail"], NAMES)


OF_THE_OLD = ["before Intent 2", "after Intent 2", "in acted 2", "before Seal 2", "after Seal 2", "before Finished 1"]


@pytest.mark.parametrize("boundary", OF_THE_OLD)
@pytest.mark.parametrize("tool", ["put", "make", "build", "mail", "pay"])
def test_a_fork_of_a_run_that_died_anywhere(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    """What the old way had in doubt is asked for on the new one, too."""
    trial = journey(ground, nursery, tool)
    trial.die(boundary)
    fork(trial, tool, OTHER)
    answers = trial.finish()
    trial.deed("clear", run="trial")
    trial.census([tool], ["b", "c"])
    assert answers == [trial.world.living(tool, name)[0] for name in OTHER]
    assert set(trial.doubts) <= {tool}
    if tool == "mail":
        assert trial.doubts == doubtful(tool, boundary)


OF_THE_NEW = [
    "before Claim 1", "after Claim 1", "before Intent 1", "after Intent 1", "in acted 1", "before Seal 1",
    "after Seal 1", "before Adopted 1", "after Adopted 1", "before Finished 1", "after Finished 1",
]  # fmt: skip


@pytest.mark.parametrize("boundary", OF_THE_NEW)
@pytest.mark.parametrize("tool", ["put", "build", "mail"])
def test_the_new_way_survives_a_death_at_any_boundary(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    trial = journey(ground, nursery, tool)
    first = trial.finish()
    fork(trial, tool, OTHER)
    trial.die(boundary)
    answers = trial.finish()
    assert answers[1] == first[1]
    trial.census([tool], ["b", "c"])
    assert len(trial.records(Adopted, branch="b2")) == 1
    assert trial.finish() == answers
    assert trial.doubts == doubtful(tool, boundary)


@pytest.mark.parametrize("tool", ["put", "make", "mail"])
def test_a_fork_at_every_place_of_a_run_that_was_killed(nursery: Nursery, ground: Path, tool: str) -> None:
    trial = journey(ground, nursery, tool)
    trial.die("after Seal 2")
    first = int(start(trial).partition("@")[2])
    for place in range(first, trial.entries()[-1].seq + 1):
        fork(trial, tool, NAMES, node=f"trial@{place}")
        trial.die("before Finished 1")
        trial.finish()
        trial.census([tool], NAMES)
    assert len({answer for name in NAMES for answer in trial.world.effects(tool, name)}) == 2


# --- what is taken back ---

OF_CLEARING = [
    "before Claim 2", "after Claim 2", "before Intent 2", "after Intent 2", "in undoing 1", "in undone 1",
    "before Seal 2", "after Seal 2", "before Intent 3", "after Intent 3", "in undoing 2", "in undone 2",
    "before Seal 3", "after Seal 3", "before Finished 1", "after Finished 1",
]  # fmt: skip


@pytest.mark.parametrize("boundary", OF_CLEARING)
@pytest.mark.parametrize("tool", ["make", "build"])
def test_what_is_taken_back_is_so_once_whatever_dies(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    trial = journey(ground, nursery, tool)
    trial.finish()
    fork(trial, tool, ["c"])
    ended, _ = trial.live(deaths=[boundary])
    assert ended == KILLED or boundary.startswith(("before Seal", "after Seal")), "the boundary was not met"
    assert trial.finish() == trial.world.living(tool, "c")
    trial.deed("clear", run="trial")
    assert trial.told == []
    assert [trial.world.living(tool, name) for name in NAMES] == [[], []]
    taken = [line["name"] for line in trial.world.lines() if line.get("took back") == tool and line["answers"]]
    assert taken == ["b", "a"], "last first"
    assert len([record for _, record in trial.records(Intent) if isinstance(record, Intent) and record.undoes]) == 2
    trial.census([tool], ["c"])


@pytest.mark.parametrize("boundary", ["before Abandoned 1", "after Abandoned 1"])
def test_a_branch_is_given_up_or_it_is_not(nursery: Nursery, ground: Path, boundary: str) -> None:
    trial = journey(ground, nursery, "make")
    trial.finish()
    trial.deed("fork", node=start(trial), kind="what-if", settings={"input": {"tool": "make", "names": ["c"]}})
    trial.life["task"] = None
    ended, result = trial.live(branch="b2")
    assert ended == "left"
    assert result["answer"] == trial.world.living("make", "c")
    assert trial.deed("abandon", deaths=[boundary], run="trial", branch="b2") == KILLED
    if boundary.startswith("before"):
        trial.deed("clear", run="trial")
        assert trial.world.living("make", "c"), "it goes on: nothing is taken back"
        trial.deed("abandon", run="trial", branch="b2")
    trial.deed("clear", run="trial")
    assert trial.told == []
    assert trial.world.living("make", "c") == []
    trial.census(["make"], NAMES)


# --- a search ---

WAYS = [["x"], ["y", "z"], ["x"]]
OF_A_SEARCH = [
    "after Seal 1",
    *(f"{side} Forked {number}" for number in range(1, 7) for side in ("before", "after")),
    *(f"{side} Planned {number}" for number in (1, 2, 4) for side in ("before", "after")),
    *(f"{side} Decision {number}" for number in (1, 3) for side in ("before", "after")),
    "before Promoted 1", "after Promoted 1", "before Intent 2", "after Intent 2", "in acted 2", "before Seal 2",
    "after Seal 2", "after Intent 4", "in acted 4", "before Seal 4", "after Seal 4", "before Finished 1",
    "after Finished 1",
]  # fmt: skip


@pytest.mark.parametrize("boundary", OF_A_SEARCH)
@pytest.mark.parametrize("tool", ["put", "make", "pay", "mail"])
def test_a_search_survives_a_death_at_any_boundary(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    trial = Trial(ground / "trial", nursery, "prospector", {"tool": tool, "ways": WAYS})
    trial.die(boundary)
    answers = trial.finish()
    trial.census([tool], ["before", "y", "z", "after"])
    assert answers == [trial.world.living(tool, name)[0] for name in ("before", "y", "z", "after")]
    assert not trial.world.effects(tool, "x"), "a branch that was not promoted has done something"
    assert len(notices(trial)) == 3
    assert len(trial.records(Promoted)) == 1
    assert trial.doubts == doubtful(tool, boundary)


@pytest.mark.parametrize("second", ["before Promoted 1", "after Promoted 1", "after Intent 1", "before Finished 1"])
@pytest.mark.parametrize("first", ["after Forked 3", "after Planned 2", "after Decision 1"])
def test_a_search_survives_two_deaths(nursery: Nursery, ground: Path, first: str, second: str) -> None:
    trial = Trial(ground / "trial", nursery, "prospector", {"tool": "pay", "ways": WAYS})
    trial.die(first)
    trial.die(second)
    trial.finish()
    trial.census(["pay"], ["before", "y", "z", "after"])
    assert not trial.world.effects("pay", "x")
    assert len(trial.records(Promoted)) == 1


# --- promotions ---


@pytest.mark.parametrize("boundary", ["before Promoted 1", "after Promoted 1"])
def test_a_promotion_by_hand_is_there_or_it_is_not(nursery: Nursery, ground: Path, boundary: str) -> None:
    trial = journey(ground, nursery, "mail")
    trial.finish()
    trial.life["task"] = None
    for name in ("c", "d"):
        settings = {"input": {"tool": "mail", "names": [name]}}
        trial.deed("fork", node=start(trial), kind="speculative", settings=settings)
    for branch in ("b2", "b3"):
        assert trial.live(branch=branch)[1]["waits"] == "Ready"
    assert trial.deed("promote", deaths=[boundary], run="trial", branch="b2") == KILLED
    if boundary.startswith("before"):
        trial.deed("promote", run="trial", branch="b2")
    assert trial.finish() == trial.world.living("mail", "c")
    trial.census(["mail"], ["a", "b", "c"])
    assert not trial.world.effects("mail", "d")


def test_of_two_searches_of_one_run_at_once_one_goes_on(nursery: Nursery, ground: Path) -> None:
    """Two workers; and whoever lost the claim comes back."""
    trial = Trial(ground / "trial", nursery, "prospector", {"tool": "mail", "ways": WAYS})
    pids = [trial.bear(patience_s=30.0, wait=True) for _ in range(3)]
    answers = [nursery.wait(pid) for pid in pids]
    assert all(ended == "left" and result == answers[0][1] for ended, result in answers), answers
    trial.census(["mail"], ["before", "y", "z", "after"])
    assert not trial.world.effects("mail", "x")


def test_of_two_promotions_of_one_group_one_wins(nursery: Nursery, ground: Path) -> None:
    for number in range(8):
        trial = Trial(ground / f"trial {number}", nursery, "prospector", {"tool": "mail", "ways": [["x"], ["y"]]})
        trial.die("before Promoted 1")
        lives = [
            {"url": trial.url, "world": str(trial.world.path), "verdict": "promote",
             "with": {"run": "trial", "branch": branch, "by": "ann"}}
            for branch in ("b2", "b3")
        ]  # fmt: skip
        results = [nursery.wait(pid)[1] for pid in [nursery.bear(**life) for life in lives]]
        assert sorted("answer" in result for result in results) == [False, True], results
        assert len(trial.records(Promoted)) == 1
        (promoted,) = [record.branch for _, record in trial.records(Promoted) if isinstance(record, Promoted)]
        trial.finish()
        won, lost = ("x", "y") if promoted == "b2" else ("y", "x")
        trial.census(["mail"], ["before", won, "after"])
        assert not trial.world.effects("mail", lost)


# --- two at once, and who wakes late ---


def test_of_many_forks_at_once_each_has_a_name_and_one_is_the_line(nursery: Nursery, ground: Path) -> None:
    trial = journey(ground, nursery, "mail")
    answers = trial.finish()
    trial.life["task"] = None
    deed = {"url": trial.url, "world": str(trial.world.path), "verdict": "fork"}
    pids = [nursery.bear(**deed, **{"with": {"node": start(trial), "by": f"{number}"}}) for number in range(6)]
    results = [nursery.wait(pid)[1] for pid in pids]
    names = [result["answer"] for result in results]
    assert len(set(names)) == len(names) == 6
    assert sorted(notices(trial)) == sorted(names)
    assert trial.finish() == answers
    adopted = [name for name in names if trial.records(Adopted, branch=name)]
    assert adopted == [notices(trial)[-1]], "the last one that the tree was told of goes on"
    trial.census(["mail"], NAMES)


@pytest.mark.parametrize("tool", ["put", "build", "mail", "pay"])
def test_a_what_if_beside_its_living_parent_sends_nothing_twice(nursery: Nursery, ground: Path, tool: str) -> None:
    """Both go for the same calls at the same time, in processes of their own."""
    for number in range(6):
        task = {"tool": tool, "names": [*"abcdef"], "slow_s": 0.02}
        trial = Trial(ground / f"trial {number}", nursery, "wayfarer", task)
        trial.die("before Decision 1")
        trial.deed("fork", node=start(trial), kind="what-if")
        trial.life["task"] = None
        pids = [trial.bear(branch=branch, wait=True) for branch in ("main", "b2")]
        answers = [nursery.wait(pid) for pid in pids]
        assert [ended for ended, _ in answers] == ["left", "left"], answers
        assert answers[0][1] == answers[1][1], answers
        trial.census([tool], task["names"])
        assert len({key for name in task["names"] for key in trial.world.sendings(tool, name)}) == 6


@pytest.mark.parametrize("boundary", ["before Intent 2", "before Decision 1", "before Intent 1"])
@pytest.mark.parametrize("tool", ["put", "make", "mail"])
def test_who_was_superseded_in_its_sleep_sends_nothing(
    nursery: Nursery, ground: Path, tool: str, boundary: str
) -> None:
    trial = journey(ground, nursery, tool)
    sleeper = trial.bear(stops=[boundary])
    assert nursery.wait(sleeper)[0] == "stopped"
    fork(trial, tool, OTHER)
    answers = trial.finish()
    before = [line for line in trial.world.lines() if "did" in line]
    nursery.signal(sleeper, signal.SIGCONT)
    ended, result = nursery.wait(sleeper)
    assert ended == "left"
    assert result.get("answer", answers) == answers, result
    assert [line for line in trial.world.lines() if "did" in line] == before, "sent by a branch that was superseded"
    trial.deed("clear", run="trial")
    trial.census([tool], ["b", "c"])


@pytest.mark.parametrize("tool", ["make", "mail"])
def test_who_was_superseded_on_a_branch_in_its_sleep_sends_nothing(nursery: Nursery, ground: Path, tool: str) -> None:
    """The news stands on main, which it does not write to."""
    trial = journey(ground, nursery, tool)
    trial.finish()
    fork(trial, tool, ["c", "d"])
    sleeper = trial.bear(stops=["before Intent 2"])
    assert nursery.wait(sleeper)[0] == "stopped"
    fork(trial, tool, OTHER)
    trial.finish()
    nursery.signal(sleeper, signal.SIGCONT)
    assert nursery.wait(sleeper)[0] == "left"
    assert not trial.world.effects(tool, "d"), "sent by a branch that was superseded"
    trial.deed("clear", run="trial")
    trial.census([tool], ["b", "c"])


@pytest.mark.parametrize("boundary", ["after Intent 2", "in acting 2", "in acted 2", "before Seal 2"])
@pytest.mark.parametrize("tool", ["put", "build", "mail"])
def test_who_sleeps_between_intent_and_seal_is_waited_for(
    nursery: Nursery, ground: Path, tool: str, boundary: str
) -> None:
    """Its intent was there before the fork: it is its own to bring to an end, and the new way takes it over."""
    trial = journey(ground, nursery, tool)
    sleeper = trial.bear(stops=[boundary])
    assert nursery.wait(sleeper)[0] == "stopped"
    fork(trial, tool, OTHER)
    ended, result = trial.live()
    assert ended == "left"
    if tool == "put":  # idempotent: sent again at once, under the same key
        assert "answer" in result
    else:
        assert result["waits"] == "InDoubt", result
    nursery.signal(sleeper, signal.SIGCONT)
    assert nursery.wait(sleeper)[0] == "left"
    trial.finish()
    trial.deed("clear", run="trial")
    trial.census([tool], ["b", "c"])
    keys: Any = set(trial.world.sendings(tool, "b"))
    assert len(keys) == 1
    assert trial.doubts == []
