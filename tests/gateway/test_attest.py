"""What an overtaken worker was told of an effect that it had sent ends the doubt, if it still proves anything."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from holdfast.core.codec import decode, encode
from holdfast.core.contract import Contract
from holdfast.core.effect import Happened, Kind, NotHappened, key_of
from holdfast.core.log import Log
from holdfast.core.payload import pack_text
from holdfast.core.record import Attempt, Claim, Intent, Record, Settled, Started
from holdfast.errors import Claimed, Misuse
from holdfast.gateway.desk import Desk
from holdfast.gateway.line import key_for
from holdfast.store import Draft
from holdfast.store.memory import MemoryStore

BRANCH, NODE = "run@main", "run@3"
ARGS = pack_text(b"{}", None, lambda _: False)
INTENT = Intent(
    tool="bank.pay", kind=Kind.REVERSIBLE, identity="ab" * 16, n=0, args=ARGS.payload,
    key=key_of("run", b"\xab" * 16, 0),
    contract=Contract(name="bank.pay", kind=Kind.REVERSIBLE, undo=True).digest(), level=Contract(name="x").approval,
    resource=None, blast=None, approval=None, undoes=None,
)  # fmt: skip
SENT = [Claim(worker="a:1", previous="none"), Started(agent="a", input=ARGS.payload), INTENT]
TAKEN = Claim(worker="b:2", previous="unproven")
ANSWER = pack_text(b'"paid"', None, lambda _: False)
PAID, REFUSED = Happened(ANSWER.payload, None), NotHappened("no such account")


async def left(*more: Record, held: bool = False) -> MemoryStore:
    """A store in which a worker has sent, and another has taken over and done `more`."""
    store = MemoryStore()
    log = Log(BRANCH)
    for records, release in ((SENT, True), ([TAKEN, *more], not held)):
        grant = await store.claim(BRANCH)
        placed = await store.append(
            BRANCH, drafts(log, records), epoch=grant.epoch, release=release, blobs=ARGS.blobs
        )  # fmt: skip
        for entry in placed:
            log.fold(entry)
    return store


def drafts(log: Log, records: Sequence[Record]) -> list[Draft]:
    return [Draft(key_for(record, log), encode(record)) for record in records]


async def attested(store: MemoryStore, outcome: Happened | NotHappened) -> Settled:
    """The verdict that was placed."""
    packed = ANSWER if isinstance(outcome, Happened) else None
    await Desk(store).attest(NODE, outcome, packed, sent=1, by="process 1 on a, which sent it")
    found = decode((await store.read(BRANCH, newest=1))[0].body)
    assert isinstance(found, Settled)
    return found


@pytest.mark.parametrize("outcome", [PAID, REFUSED], ids=["happened", "refused"])
async def test_what_the_sender_was_told_ends_the_doubt(outcome: Happened | NotHappened) -> None:
    settled = await attested(await left(), outcome)
    assert (settled.outcome, settled.by) == (outcome, "process 1 on a, which sent it")


async def test_that_it_happened_is_true_however_often_it_was_sent_since() -> None:
    store = await left(Attempt(intent=3, number=2, why="redo"))
    assert (await attested(store, PAID)).outcome == PAID


async def test_that_it_did_not_happen_proves_nothing_once_it_was_sent_again() -> None:
    store = await left(Attempt(intent=3, number=2, why="redo"))
    with pytest.raises(Misuse, match="sent again since"):
        await attested(store, REFUSED)


async def test_a_verdict_of_people_stands() -> None:
    store = await left(Settled(intent=3, outcome=NotHappened("looked"), by="eve"))
    with pytest.raises(Misuse, match="settled already"):
        await attested(store, PAID)


async def test_while_the_new_owner_is_at_work_nothing_is_placed() -> None:
    store = await left(held=True)
    with pytest.raises(Claimed):
        await attested(store, PAID)
