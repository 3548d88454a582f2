"""What may go once a run was pruned, and what a log needs all the same."""

from __future__ import annotations

import pytest

from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, Payload
from holdfast.core.record import (
    Adopted,
    Checkpoint,
    Decision,
    Finished,
    Hold,
    Intent,
    Record,
    Seal,
    Settled,
    Signal,
    Started,
)
from holdfast.core.retention import Extent, Mark, Marks, payloads_of

ONE, TWO = Payload("1" * 64, Encoding.JSON, 1), Payload("2" * 64, Encoding.BYTES, 2)
IDENTITY = "a" * 64
STARTED = Started(agent="m:a", input=ONE)
DECISION = Decision(lane="main", name="m", request=IDENTITY, n=0, asked=ONE, answer=TWO)
INTENT = Intent(
    tool="t", kind=Kind.IRREVERSIBLE, identity=IDENTITY, n=0, args=ONE, key="k", contract="c", level="none",
    resource=None, blast=None, approval=None, undoes=None,
)  # fmt: skip
READ = Seal(intent=None, tool="t", identity=IDENTITY, n=0, args=ONE, outcome=Happened(TWO))
SEAL = Seal(intent=3, tool="t", identity=IDENTITY, n=0, args=None, outcome=Happened(TWO))
REFUSED = Seal(intent=3, tool="t", identity=IDENTITY, n=0, args=None, outcome=NotHappened("no"))
HOLD = Hold(
    tool="t",
    kind=Kind.READ,
    identity=IDENTITY,
    n=0,
    args=ONE,
    call="c",
    contract="c",
    level="one",
    why="",
    expires_ms=1,
)
SETTLED = Settled(intent=3, outcome=Happened(TWO), by="ann")
SIGNAL = Signal(name="go", value=ONE, by="ann")
ADOPTED = Adopted(
    tool="t", kind=Kind.IRREVERSIBLE, identity=IDENTITY, n=0, args=ONE, node="b2:5", undoes=None, outcome=Happened(TWO)
)
CHECKPOINT = Checkpoint(state=ONE, workspace=None, services=(), labels=())
FINISHED = Finished(answer=TWO, error=None)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (STARTED, [ONE]), (DECISION, [ONE, TWO]), (INTENT, [ONE]), (READ, [ONE, TWO]), (SEAL, [TWO]), (REFUSED, []),
        (HOLD, [ONE]), (SETTLED, [TWO]), (ADOPTED, [ONE, TWO]), (SIGNAL, [ONE]), (CHECKPOINT, [ONE]), (FINISHED, [TWO]),
        (Finished(answer=None, error="e"), []),
    ],
    ids=lambda value: type(value).__name__.lower(),
)  # fmt: skip
def test_a_payload_is_found_wherever_it_stands_in_a_record(record: Record, named: list[Payload]) -> None:
    assert list(payloads_of(record)) == named


def test_a_payload_is_found_inside_what_a_later_record_may_hold() -> None:
    assert list(payloads_of(((ONE, [Happened(TWO)]), None, "x"))) == [ONE, TWO]


def test_what_was_not_pruned_is_needed_whole() -> None:
    assert list(Marks().needed("r@main", 1, DECISION)) == [ONE, TWO]


def test_of_a_run_that_has_ended_nothing_is_needed_up_to_its_mark() -> None:
    marks = Marks([Mark("r@main", 7, Extent.ALL)])
    assert list(marks.needed("r@main", 7, SEAL)) == []
    assert list(marks.needed("r@main", 8, SEAL)) == [TWO]
    assert list(marks.needed("r@b2", 7, SEAL)) == [TWO]


@pytest.mark.parametrize("record", [DECISION, READ, CHECKPOINT], ids=lambda record: type(record).__name__)
def test_a_run_that_goes_on_from_a_checkpoint_forgets_what_it_thought_and_read_before(record: Record) -> None:
    marks = Marks([Mark("r@main", 7, Extent.BEHIND)])
    assert list(marks.needed("r@main", 7, record)) == []
    assert list(marks.needed("r@main", 8, record)) != []


@pytest.mark.parametrize(
    "record", [STARTED, INTENT, SEAL, HOLD, SETTLED, SIGNAL], ids=lambda record: type(record).__name__
)
def test_a_run_that_goes_on_never_forgets_what_it_was_given_and_what_it_did(record: Record) -> None:
    assert list(Marks([Mark("r@main", 7, Extent.BEHIND)]).needed("r@main", 7, record)) != []


def test_of_two_marks_the_further_one_counts() -> None:
    marks = Marks([Mark("r@main", 9, Extent.ALL), Mark("r@main", 4, Extent.ALL)])
    assert [marks.covers("r@main", seq) for seq in (9, 10)] == [True, False]


def test_what_was_adopted_from_a_branch_that_was_pruned_is_not_missed() -> None:
    marks = Marks([Mark("r@b2", 5, Extent.ALL), Mark("s@b2", 9, Extent.ALL)])
    assert list(marks.needed("r@b3", 7, ADOPTED)) == []
    assert list(marks.needed("r@b3", 7, SEAL)) == [TWO]
    assert list(Marks([Mark("r@b2", 4, Extent.ALL)]).needed("r@b3", 7, ADOPTED)) == [ONE, TWO]
    assert list(marks.needed("t@b3", 7, ADOPTED)) == [ONE, TWO]
