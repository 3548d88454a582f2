"""Each kind of tool, killed at each boundary of a call: nothing is done twice, nothing is lost, doubts are named.

The child kills itself with SIGKILL exactly at the boundary; another child, then another, resumes. In between a person
ends what the design leaves to people, by looking at the world.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.core.record import Approval, Intent
from tests.crash.nursery import Nursery
from tests.crash.trial import Trial

NAMES = ["a", "b"]
# The boundaries of the first call, then those of the second, in the order in which a run comes by them.
OF_A_RUN = [
    "before Started 1",
    "after Started 1",
    "before Decision 1",
    "after Decision 1",
    "before Draw 1",
    "after Draw 1",
]
OF_ITS_END = ["before Finished 1", "after Finished 1"]
OF_A_READ = [
    "in acting 1",
    "in acted 1",
    "before Seal 1",
    "after Seal 1",
    "in acted 2",
    "before Seal 2",
    "after Seal 2",
]
OF_A_WRITE = ["before Intent 1", "after Intent 1", *OF_A_READ, "before Intent 2", "after Intent 2"]
BOUNDARIES = {"look": OF_A_RUN + OF_A_READ + OF_ITS_END} | dict.fromkeys(
    ("put", "store", "make", "build", "mail", "ring", "pay"), OF_A_WRITE + OF_ITS_END
)
# Where the world may have been changed and nobody wrote down that it was: only there may a doubt be left to a person.
IN_DOUBT = {"after Intent", "in acting", "in acted", "before Seal"}


def doubtful(tool: str, boundary: str) -> list[str]:
    """The doubts that a death at this boundary must leave to people."""
    return [tool] if tool in {"mail", "ring"} and boundary.rpartition(" ")[0] in IN_DOUBT else []


@pytest.mark.parametrize(("tool", "boundary"), [(tool, where) for tool, found in BOUNDARIES.items() for where in found])
def test_a_call_survives_a_death_at_any_boundary(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": tool, "names": NAMES})
    trial.die(boundary)
    answers = trial.finish()
    if tool != "look":
        trial.census([tool], NAMES)
        assert answers == [trial.world.living(tool, name)[0] for name in NAMES]
    trial.consistent()
    assert trial.doubts == doubtful(tool, boundary)
    assert trial.finish() == answers, "a finished run gives its answer again"


OF_A_STAGE = [
    *OF_A_WRITE,
    "before Checkpoint 1",
    "after Checkpoint 1",
    "before Checkpoint 2",
    "after Checkpoint 2",
    *OF_ITS_END,
]


def reached(boundary: str) -> list[str]:
    """The stages that were behind a run when it died here."""
    if boundary in {"after Checkpoint 2", "before Finished 1"}:
        return NAMES
    return NAMES[:1] if boundary.endswith("2") or boundary == "after Checkpoint 1" else []


@pytest.mark.parametrize("boundary", OF_A_STAGE)
@pytest.mark.parametrize("tool", ["put", "build", "mail"])
def test_a_run_goes_on_from_its_newest_checkpoint(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    trial = Trial(ground / "trial", nursery, "stages", {"tool": tool, "names": NAMES})
    trial.die(boundary)
    state = trial.finish()
    trial.census([tool], NAMES)
    assert {name: state[name][2] for name in NAMES} == {name: trial.world.living(tool, name)[0] for name in NAMES}
    assert trial.doubts == doubtful(tool, boundary)
    begins = [line["begins"] for line in trial.world.lines() if "begins" in line]
    assert begins[1:] == [reached(boundary)] * len(begins[1:]), "it did not go on from its newest checkpoint"
    asked = trial.world.asked()
    assert len(asked) == len(NAMES), f"the model was asked again: {asked}"


# What is done about an effect that may have happened has boundaries of its own; each second death is met while a
# first is dealt with. Intents, seals and points are counted in the life that recovers: it starts with the doubt.
OF_A_REDO = ["before Attempt 1", "after Attempt 1", "in acting 1", "in acted 1", "before Seal 1", "after Seal 1"]
OF_A_PROBE = ["in probing 1", "before Settled 1", "after Settled 1"]
OF_AN_UNDO = [
    "before Intent 1", "after Intent 1", "in undoing 1", "in undone 1", "before Seal 1", "after Seal 1",
    "before Attempt 1", "after Attempt 1", "in acting 1", "in acted 1", "before Seal 2", "after Seal 2",
]  # fmt: skip
RECOVERIES = [
    ("put", "in acted 1", OF_A_REDO),
    ("put", "after Intent 1", OF_A_REDO),
    ("make", "in acted 1", OF_AN_UNDO),
    ("make", "after Intent 1", OF_AN_UNDO),
    ("build", "in acted 1", OF_A_PROBE),
    ("build", "after Intent 1", ["in probing 1", *OF_A_REDO]),
    ("pay", "before Seal 1", OF_A_PROBE),
    ("pay", "in acting 1", ["in probing 1", *OF_A_REDO]),
]


@pytest.mark.parametrize(
    ("tool", "first", "second"), [(tool, first, second) for tool, first, found in RECOVERIES for second in found]
)
def test_a_recovery_survives_its_own_death(nursery: Nursery, ground: Path, tool: str, first: str, second: str) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": tool, "names": NAMES})
    trial.die(first)
    trial.die(second)
    again, _ = trial.live(deaths=[second])  # if the same boundary comes again in the next life, that one dies too
    trial.finish()
    trial.census([tool], NAMES)
    assert trial.deaths == 2 + (again == "killed by 9")
    assert not trial.doubts


@pytest.mark.parametrize("boundary", ["before Settled 1", "after Settled 1"])
@pytest.mark.parametrize("first", ["after Intent 1", "in acted 1"])
def test_a_verdict_survives_the_death_of_the_person_who_gives_it(
    nursery: Nursery, ground: Path, first: str, boundary: str
) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": "mail", "names": NAMES})
    trial.die(first)
    _, doubt = trial.live()
    assert trial.deed("settle", deaths=[boundary], **trial.verdict(doubt)) == "killed by 9"
    trial.finish()
    trial.census(["mail"], NAMES)
    assert len(trial.doubts) == (1 if boundary == "after Settled 1" else 2), (
        "a verdict that was placed is asked for once"
    )
    assert len(trial.world.sendings("mail", "a")) == 1


# A life ends where people are needed, so the first call's boundaries are met in one life and the second's in another.
OF_AN_APPROVAL = ["before Hold 1", "after Hold 1", *(where for where in OF_A_WRITE if where.endswith("1")), *OF_ITS_END]


@pytest.mark.parametrize("boundary", OF_AN_APPROVAL)
def test_an_approval_is_used_once_whatever_dies(nursery: Nursery, ground: Path, boundary: str) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": "alter", "names": NAMES})
    trial.die(boundary)
    trial.finish()
    trial.census(["alter"], NAMES)
    intents = [record for _, record in trial.records(Intent) if isinstance(record, Intent)]
    used = [intent.approval for intent in intents]
    assert len(set(used)) == len(used), "an approval was used twice"
    assert None not in used, "an effect was sent without its approval"
    assert len(trial.records(Approval)) == len(used), "people were asked more often than there was something to ask"
    assert trial.doubts == (["alter"] if boundary.rpartition(" ")[0] in IN_DOUBT else [])


@pytest.mark.parametrize("boundary", ["before Approval 1", "after Approval 1"])
def test_an_approval_survives_the_death_of_the_person_who_gives_it(
    nursery: Nursery, ground: Path, boundary: str
) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": "alter", "names": ["a"]})
    _, held = trial.live()
    assert trial.deed("approve", deaths=[boundary], node=held["where"]) == "killed by 9"
    trial.finish()
    trial.census(["alter"], ["a"])
    assert len(trial.records(Approval)) == 1


OF_A_RATE = [
    "before Intent 1", "after Intent 1", "in turned_away 1", "before Sleep 1", "after Sleep 1", "before Attempt 1",
    "after Attempt 1", "in turned_away 2", "before Sleep 2", "after Sleep 2", "before Attempt 2", "after Attempt 2",
    "in acting 1", "in acted 1", "before Seal 1", "after Seal 1",
]  # fmt: skip
# After the refusal was written down, and until it is sent again, nothing is in doubt.
REFUSED = {"before Intent 1", "after Sleep 1", "before Attempt 1", "after Sleep 2", "before Attempt 2", "after Seal 1"}


@pytest.mark.parametrize("boundary", OF_A_RATE)
def test_what_was_refused_for_now_is_no_doubt(nursery: Nursery, ground: Path, boundary: str) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": "order", "names": ["a"]})
    trial.die(boundary)
    trial.finish()
    trial.census(["order"], ["a"])
    assert trial.doubts == ([] if boundary in REFUSED else ["order"])


@pytest.mark.parametrize(
    "boundary", ["in declined 1", "before Seal 1", "after Seal 1", "before Intent 2", "in acted 1"]
)
def test_what_certainly_did_not_happen_is_tried_anew_and_once(nursery: Nursery, ground: Path, boundary: str) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": "book", "names": ["a"]})
    trial.die(boundary)
    trial.finish()
    trial.census(["book"], ["a"])
    assert len(set(trial.world.sendings("book", "a"))) == 1


@pytest.mark.parametrize("boundary", OF_A_WRITE)
@pytest.mark.parametrize("tool", ["store", "pay"])
def test_a_synchronous_agent_is_no_other(nursery: Nursery, ground: Path, tool: str, boundary: str) -> None:
    trial = Trial(ground / "trial", nursery, "plain_errand", {"tool": tool, "names": NAMES})
    trial.die(boundary)
    trial.finish()
    trial.census([tool], NAMES)
    assert not trial.doubts
