"""What the demo says about each step is what the log says, and changes with it."""

from dataclasses import dataclass, field

import pytest

from holdfast.core.codec import encode
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, Payload
from holdfast.core.entry import Entry
from holdfast.core.log import RETRY
from holdfast.core.record import Attempt, Claim, Decision, Finished, Intent, Record, Seal, Settled, Sleep, Started
from holdfast.demo.chronicle import Chronicle
from holdfast.demo.story import KILLED_AT, untrue

NOTHING = Payload("0" * 64, Encoding.JSON, 0)
DONE = Happened(NOTHING, None)


@dataclass
class Book:
    """A log in the making."""

    entries: list[Entry] = field(default_factory=list)
    epoch: int = 0

    def add(self, record: Record) -> int:
        seq = len(self.entries) + 1
        self.entries.append(Entry("r@main", seq, self.epoch, 0, b"", encode(record), b""))
        return seq

    def claim(self) -> None:
        self.epoch += 1
        self.add(Claim(worker=f"host:{self.epoch}", previous="none"))

    def intend(self, tool: str = "t", kind: Kind = Kind.IRREVERSIBLE) -> int:
        return self.add(
            Intent(
                tool=tool,
                kind=kind,
                identity="00" * 32,
                n=0,
                args=NOTHING,
                key="",
                contract="",
                level="none",
                resource=None,
                blast=None,
                approval=None,
                undoes=None,
            )
        )

    def seal(self, intent: int | None, outcome: Happened[Payload] | NotHappened = DONE, tool: str = "t") -> int:
        return self.add(Seal(intent=intent, tool=tool, identity="00" * 32, n=0, args=None, outcome=outcome))

    def decide(self, name: str = "agent.ask") -> int:
        return self.add(Decision(lane="main", name=name, request="", n=0, asked=NOTHING, answer=NOTHING))

    def told(self) -> Chronicle:
        chronicle = Chronicle()
        chronicle.fold(self.entries)
        return chronicle


@pytest.fixture
def book() -> Book:
    new = Book()
    new.claim()
    new.add(Started(agent="m:a", input=NOTHING))
    return new


def words(book: Book) -> list[list[str]]:
    told = book.told()
    return [[told.doing(step, epoch)[0] for epoch in told.epochs] for step in told.steps]


def test_steps_are_in_the_order_in_which_they_were_asked_for(book: Book) -> None:
    book.seal(None, tool="look")
    book.decide()
    book.seal(book.intend("make", Kind.REVERSIBLE))
    assert [(s.number, s.name, s.kind) for s in book.told().steps] == [
        (1, "look", "read"),
        (2, "ask", "decision"),
        (3, "make", "reversible"),
    ]
    assert words(book) == [["read"], ["asked the model"], ["performed"]]


def test_what_was_sealed_before_is_answered_from_the_log_once_the_run_has_finished(book: Book) -> None:
    book.seal(book.intend())
    book.claim()
    assert words(book) == [["performed", ""]], "nobody knows yet whether the second process comes so far"
    book.add(Finished(answer=NOTHING, error=None))
    assert words(book) == [["performed", "answered from the log"]]


def test_an_intent_without_a_seal_was_sent(book: Book) -> None:
    book.intend()
    book.claim()
    assert words(book) == [["sent; no seal", ""]]


def test_a_doubt_is_settled_by_whoever_settled_it(book: Book) -> None:
    intent = book.intend()
    book.claim()
    book.add(Settled(intent=intent, outcome=DONE, by="probe"))
    assert words(book) == [["sent; no seal", "settled by probe"]]


def test_what_was_sent_again_was_performed_by_the_one_who_sealed_it(book: Book) -> None:
    intent = book.intend(kind=Kind.IDEMPOTENT)
    book.claim()
    book.add(Attempt(intent=intent, number=2, why="doubt"))
    book.seal(intent)
    assert words(book) == [["sent; no seal", "performed"]]


def test_a_refusal_and_a_rate_limit_are_told(book: Book) -> None:
    book.seal(book.intend(), NotHappened("no"))
    limited = book.intend()
    book.add(Sleep(name=f"{RETRY}{limited}", n=0, until_ms=1))
    book.add(Attempt(intent=limited, number=2, why="refused"))
    book.seal(limited)
    assert words(book) == [["refused"], ["performed (429)"]]


def story(cut: int, *, resumed: bool = True) -> Book:
    """A run of 15 steps whose first process is killed in step `cut`."""
    book = Book()
    book.claim()
    for number in range(1, 16):
        intent = book.intend()
        if number == cut:
            book.claim()
        if number != cut or resumed:
            book.seal(intent)
    book.add(Finished(answer=NOTHING, error=None))
    return book


def test_the_story_is_true_only_if_the_kill_cut_step_13() -> None:
    assert untrue(story(KILLED_AT).told()) == []
    assert untrue(story(12).told()) == ["the kill cut the steps [12] instead of step 13"]


def test_a_step_without_a_seal_spoils_the_story() -> None:
    assert untrue(story(KILLED_AT, resumed=False).told()) == ["step 13 has no seal"]


def test_one_process_alone_is_not_the_story() -> None:
    assert untrue(story(99).told()) == ["1 processes advanced the run instead of 2"]


def test_a_run_that_never_finished_is_not_the_story() -> None:
    book = story(KILLED_AT)
    book.entries.pop()
    assert untrue(book.told()) == ["the second process did not finish the run"]
